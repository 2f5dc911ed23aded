// In short: what the frontier says, and what a promise of speed to every user costs.

// The promise in tokens/s/user: as typed, else a round number in the middle of what is reached.
function promise(view) {
  if (state.slo !== '') return parseFloat(state.slo);
  const xs = view.curves.flatMap((curve) => curve.frontier.map((i) => data.rows.x[i]));
  if (!xs.length) return NaN;
  return Number(Math.sqrt(Math.min(...xs) * Math.max(...xs)).toPrecision(2));
}

// Of the first kind of line that is shown: [{strategy, rows}], Baseline last as a strategy of its own.
function contenders(view) {
  const panel = view.shown.find((p) => view.curves.some((curve) => curve.panel === p && visible(curve)));
  const curves = view.curves.filter((curve) => curve.panel === panel && visible(curve))
    .map((curve) => ({strategy: curve.strategy, rows: curve.frontier}));
  const hull = view.hulls.find((h) => h.panel === panel);
  return {panel, curves, baseline: hull ? hull.rows : []};
}

const best = (rows, column) => rows.reduce((b, i) => b < 0 || column[i] > column[b] ? i : b, -1);

function gain(value, base) {
  return base > 0 ? value / base : null;
}

function card(title, value, words, tone = '') {
  return element('div', {className: 'card'}, element('span', {className: 'quiet'}, title),
    element('b', {className: tone}, value), element('p', {className: 'quiet'}, words));
}
// Of a demo no figure is good or bad.
const tone = (ratio, panel) => ratio === null || panel.oversubscribed ? '' : ratio > 1.005 ? 'good' : ratio < .995 ? 'bad' : '';

function drawHeadline(view) {
  const {panel, curves, baseline} = contenders(view);
  const r = data.rows;
  const cards = [];
  const helix = curves.find((curve) => curve.strategy === 'helix')?.rows ?? [];
  const rival = best(baseline, r.x);
  if (helix.length) {
    const fastest = best(helix, r.x);
    const ratio = rival < 0 ? null : gain(r.x[fastest], r.x[rival]);
    cards.push(card('Helix, fastest a user', ratio === null ? `${digits(r.x[fastest])}` : times(ratio),
      ratio === null ? `tokens/s/user, ${layoutOf(fastest)}; no Baseline here` :
        `${digits(r.x[fastest])} against ${digits(r.x[rival])} tokens/s/user of Baseline (${r.strategy[rival]})`, tone(ratio, panel)));
    const least = promise(view);
    const ours = bestAtLeast(helix, r.x, r.y, least);
    const theirs = bestAtLeast(baseline, r.x, r.y, least);
    if (ours >= 0) {
      const more = theirs < 0 ? null : gain(r.y[ours], r.y[theirs]);
      cards.push(card(`Helix at ≥ ${digits(least)} tokens/s/user`, more === null ? 'alone' : times(more),
        more === null ? 'Baseline does not reach it' :
          `${digits(r.y[ours])} against ${digits(r.y[theirs])} tokens/s/${panel.unit} of Baseline (${r.strategy[theirs]})`, tone(more, panel)));
    }
  } else if (curves.length) {
    const all = curves.flatMap((curve) => curve.rows);
    const fastest = best(all, r.x);
    if (fastest >= 0) cards.push(card('Fastest a user', digits(r.x[fastest]), `tokens/s/user: ${r.strategy[fastest]} ${layoutOf(fastest)}`));
  }
  const counts = {verified: 0, simulated: 0, unverified: 0, failed: 0};
  let error = 0;
  for (const i of view.rows) {
    counts[r.proof[i]]++;
    if (r.proof[i] === 'verified') error = Math.max(error, r.max_rel_err[i] ?? 0);
  }
  const executed = view.rows.length - counts.simulated;
  cards.push(executed ? card('Exact', `${grouped.format(counts.verified)} of ${grouped.format(executed)}`,
    counts.verified ? `held against the float64 judge; largest error ${error.toExponential(1)}` : 'points held against the judge',
    counts.failed ? 'bad' : '') :
    card('Simulated', grouped.format(counts.simulated), 'points priced on a machine description; nothing executed'));
  const standing = curves.reduce((sum, curve) => sum + curve.rows.length, 0);
  cards.push(card('On a frontier', `${grouped.format(standing)}`, `of ${grouped.format(view.rows.length)} points; the others are worse both ways`));
  byName('headline').replaceChildren(...cards);
}

function drawPromiseTable(view) {
  const input = byName('slo');
  const least = promise(view);
  if (document.activeElement !== input || state.slo === '') input.value = Number.isFinite(least) ? least : '';
  byName('slo-ttl').textContent = least > 0 ? `(a token every ${time(1e6 / least)} or less)` : '';
  const {panel, curves, baseline} = contenders(view);
  const r = data.rows;
  const table = byName('slo-table');
  if (!panel) {
    table.replaceChildren();
    return;
  }
  const reference = bestAtLeast(baseline, r.x, r.y, least);
  const rows = [...curves.map((curve) => [curve.strategy, bestAtLeast(curve.rows, r.x, r.y, least)]),
    ...(baseline.length ? [['Baseline', reference]] : [])]
    .sort((a, b) => (b[1] < 0 ? -1 : r.y[b[1]]) - (a[1] < 0 ? -1 : r.y[a[1]]));
  const head = ['strategy', 'best layout', 'batch', panel.unit === 'GPU' ? 'GPUs' : 'ranks', 'tokens/s/user', `tokens/s/${panel.unit}`, 'against Baseline'];
  table.replaceChildren(
    element('thead', {}, element('tr', {}, ...head.map((name, n) => element('th', {className: n < 2 ? 'word' : '', scope: 'col'}, name)))),
    element('tbody', {}, ...rows.map(([strategy, i]) => {
      const name = element('td', {className: 'word'}, ...(strategy === 'Baseline' ? [] : [swatch(strategy), ' ']), strategy);
      if (i < 0) return element('tr', {}, name, element('td', {className: 'word quiet'}, 'does not reach it'),
        ...Array.from({length: 5}, () => element('td', {}, '–')));
      const ratio = reference < 0 ? null : gain(r.y[i], r.y[reference]);
      return element('tr', {}, name,
        element('td', {className: 'word'}, (strategy === 'Baseline' ? `${r.strategy[i]} ` : '') + r.label[i] + (r.options[i] ? `, ${r.options[i]}` : '')),
        element('td', {}, digits(r.batch[i])), element('td', {}, digits(chips(i))),
        element('td', {}, digits(r.x[i])), element('td', {}, digits(r.y[i])),
        element('td', {}, ratio === null ? '–' : times(ratio)));
    })));
}
