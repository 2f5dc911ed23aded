// Points looked at closely: all facts, tasks against their floors, lanes, the command to run it again.

function tasksOf(i) {
  return data.tasks.filter((task) => task.us[i] !== null)
    .map((task) => ({name: task.name, us: task.us[i], floor: task.floor[i]}));
}

function taskBars(i) {
  const tasks = tasksOf(i);
  if (!tasks.length) return [element('p', {className: 'quiet'}, 'This line has no task times.')];
  const longest = Math.max(...tasks.map((task) => Math.max(task.us, task.floor ?? 0)));
  // The small ones together, so that the large ones are seen.
  const large = tasks.filter((task) => task.us >= longest / 200 || task.floor >= longest / 200);
  const small = tasks.filter((task) => !large.includes(task));
  if (small.length > 1)
    large.push({name: `${small.length} smaller`, us: small.reduce((sum, task) => sum + task.us, 0), floor: null});
  else large.push(...small);
  const bars = large.flatMap(({name, us, floor}) => {
    const fill = element('i');
    fill.style.width = `${100 * us / longest}%`;
    const bar = element('div', {className: 'bar'}, fill);
    if (floor > 0) {
      const mark = element('u', {title: `floor ${time(floor)}`});
      mark.style.left = `calc(${100 * floor / longest}% - 1px)`;
      bar.append(mark);
    }
    return [element('span', {}, name), bar,
      element('span', {}, time(us) + (floor > 0 ? `, floor ${time(floor)} (${percent(floor / us)})` : ''))];
  });
  const floored = tasks.some((task) => task.floor > 0);
  const total = tasks.reduce((sum, task) => sum + task.us, 0);
  return [element('div', {className: 'bars'}, ...bars), element('p', {className: 'quiet'},
    `Timed one after another ${time(total)} in all; a step takes ${time(data.rows.ttl[i])}` +
    (data.rows.floor_us[i] === null ? '.' : `, its floor is ${time(data.rows.floor_us[i])}.`) +
    (floored ? ' Upright marks: the floor, bytes and FLOPs at this machine\'s own rates.' : ' This line has no floors of tasks.'))];
}

function commandOf(i) {
  const r = data.rows;
  const from = `${quoted(`${r.file[i]}#${r.key[i]}`)} -o results/again-${quoted(r.key[i])}`;
  const panel = panelOf(i);
  if (panel.executor === 'simulate') {
    // "gb200-nvl72, HOP-B as in the paper"
    const [machine, accounting] = panel.machine.split(', ');
    return `build/helix-bench simulate --from ${from} --machine ${quoted(machine)}${accounting ? ' --accounting paper' : ''}`;
  }
  const executor = panel.executor === 'cpu' ? '' : ` --executor ${quoted(panel.executor)}`;
  return `tests/mpirun.sh -n ${r.ranks[i]} build/helix-bench run --from ${from}${executor}`;
}
// A word for the shell, whatever a file holds.
function quoted(word) {
  return /^[\w@%+=:,./#-]+$/.test(word) && !word.startsWith('#') ? word : `'${String(word).replaceAll("'", "'\\''")}'`;
}

function allFacts(i) {
  const r = data.rows;
  const panel = panelOf(i);
  return [...shortFacts(i),
    ['p05, p90, p99', [r.p05[i], r.p90[i], r.p99[i]].map(time).join(', ')],
    ['exchange alone', time(r.alone_us[i])], ['exchange hidden', time(r.hidden_us[i])],
    ['weights, KV, buffers', [r.weight_bytes[i], r.kv_bytes[i], r.buffer_bytes[i]].map(bytes).join(', ')],
    ['experts touched', digits(r.touched[i])],
    ['steps', `${digits(r.steps[i])} after ${digits(r.warmup[i])} warm-up`], ['threads a rank', digits(r.threads[i])],
    ['KV interval', digits(r.interval[i])], ['exchange by', r.exchange[i] ?? '–'], ['part', r.shard[i] ?? '–'],
    ['model', panel.model], ['precision', panel.precision], ['executed', panel.layer],
    ['line', r.line[i]], ['environment', r.environment[i] ?? '–'], ['started', r.started[i] ?? '–']];
}

function pinCard(i) {
  const command = commandOf(i);
  const table = facts(allFacts(i));
  table.classList.add('facts');
  return element('article', {className: 'panel pin'},
    element('div', {className: 'title'}, heading(i),
      element('button', {type: 'button', onclick: () => togglePin(i), 'aria-label': `Unpin ${layoutOf(i)}`}, 'Unpin')),
    element('h3', {}, 'Tasks against their floors'), ...taskBars(i), ...lanesOf(i),
    element('h3', {}, 'Run it again'),
    element('div', {className: 'command'}, element('code', {}, command),
      element('button', {type: 'button', className: 'copy', onclick: (event) => copyText(command, event.target)}, 'Copy')),
    element('details', {}, element('summary', {}, 'Everything about it'), table));
}

let pinned = null;  // what is drawn
function drawPins() {
  const rows = state.pins.map((id) => data.byId.get(id)).filter((i) => i !== undefined);
  byName('unpin').hidden = !rows.length;
  const wanted = rows.join(' ');
  if (wanted === pinned) return;  // keeps what is open, and saves time
  pinned = wanted;
  byName('pins').replaceChildren(...(rows.length ? rows.map(pinCard) :
    [element('p', {className: 'quiet'}, 'Click a point of the frontier, or a key in the table: its tasks against their floors, ' +
      'the lanes of its step and the command that runs it again appear here.')]));
}
