// Where the numbers come from: each environment, what did not run and why, how points were verified.

function tree(value) {
  if (value === null || value === '') return '–';
  if (Array.isArray(value)) {
    if (value.every((entry) => typeof entry !== 'object')) return value.join(' ');
    return element('div', {}, ...value.map(tree));
  }
  if (typeof value !== 'object') return String(value);
  return element('dl', {}, ...Object.entries(value).flatMap(([name, inner]) =>
    [element('dt', {}, name), element('dd', {}, tree(inner))]));
}

function environmentCard([hash, facts]) {
  const rows = [];
  for (let i = 0; i < data.count; ++i) if (data.rows.environment[i] === hash) rows.push(i);
  const count = (proof) => rows.filter((i) => data.rows.proof[i] === proof).length;
  const words = ['verified', 'simulated', 'unverified', 'failed'].filter(count).map((proof) => `${grouped.format(count(proof))} ${proof}`);
  const machine = facts?.machine?.gpus?.length ? `${facts.machine.gpus.length} × ${facts.machine.gpus[0]}` : facts?.machine?.cpu ?? 'unknown hardware';
  const build = facts?.build ?? {};
  return element('details', {}, element('summary', {}, `${machine}, commit ${String(build.commit ?? 'unknown').slice(0, 12)}${build.dirty ? '+' : ''}: ${words.join(', ')}`),
    facts ? tree({environment: hash, ...facts}) : element('p', {className: 'quiet'}, 'No environment.json beside these results.'));
}

function drawRuns() {
  const parts = Object.entries(data.environments).map(environmentCard);
  for (const {status, reason, count, key} of data.unmeasured)
    parts.push(element('p', {}, element('b', {}, `${grouped.format(count)} ${status}: `), reason ?? 'no reason given',
      count > 1 ? ' and the like, as ' : ' ', element('code', {}, key)));
  if (!data.unmeasured.length) parts.push(element('p', {className: 'quiet'}, 'No point was skipped, none failed.'));
  for (const note of data.notes) parts.push(element('p', {className: 'warning'}, note));
  parts.push(element('p', {className: 'quiet'}, 'Read from ', ...data.sources.flatMap((source) => [element('code', {}, source), ' ']),
    'by ', element('code', {}, data.command)));
  byName('runs').replaceChildren(...parts);
}
