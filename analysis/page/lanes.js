// The lanes of one step: compute above exchange, as a trace recorded them, or as a line's task times
// predict them. HOP-B is seen where an exchange lies under attention.

const laneColors = {attention: '#0072B2', exchange: '#D55E00', merge: '#009E73'};
function laneColor(name) {
  const kind = Object.keys(laneColors).find((word) => name.startsWith(word));
  return kind ? laneColors[kind] : '#8a94a0';
}

// lanes: [{title, spans: [{name, begin, end}]}], in µs from the left edge.
function drawLanes(lanes, label, until) {
  const narrow = innerWidth < 560;  // the letters keep their size
  const [width, rowHeight, left] = narrow ? [340, 22, 84] : [560, 22, 90];
  const height = lanes.length * rowHeight + 20;
  const per = (width - left - 4) / until;
  const parts = [shape('title', {}, label)];
  lanes.forEach(({title, spans}, n) => {
    const y = n * rowHeight;
    parts.push(shape('text', {x: 0, y: y + 14, class: 'axis'}, title));
    for (const {name, begin, end, about = ''} of spans) {
      const w = Math.max(.6, (end - begin) * per - .4);
      const x = left + begin * per;
      parts.push(shape('rect', {x, y: y + 2, width: w, height: rowHeight - 5, rx: 2, fill: laneColor(name)},
        shape('title', {}, `${name}${about}: ${time(end - begin)}, from ${time(begin)}`)));
      if (w > name.length * 5.6 + 6)
        parts.push(shape('text', {x: x + 4, y: y + 14, 'pointer-events': 'none', class: 'on-bar'}, name));
    }
  });
  for (const tick of ticksOf(0, until, false, narrow ? 3 : 5))
    parts.push(shape('text', {x: left + tick * per, y: height - 5, class: 'axis',
      'text-anchor': tick > until * .92 ? 'end' : 'middle'}, time(tick)));
  return shape('svg', {viewBox: `0 0 ${width} ${height}`, class: 'lanes', role: 'img', 'aria-label': label}, ...parts);
}

// One layer (or all of them: -1) of the first ranks of a trace.
function tracedLanes(trace, layer, ranks = 2) {
  const lanes = [];
  let [from, until] = [Infinity, 0];
  const wanted = trace.begin.map((_, n) => n).filter((n) => layer < 0 || trace.layer[n] === layer);
  for (const n of wanted) {
    from = Math.min(from, trace.begin[n]);
    until = Math.max(until, trace.begin[n] + trace.us[n]);
  }
  const shown = [...new Set(wanted.map((n) => trace.rank[n]))].sort((a, b) => a - b).slice(0, ranks);
  for (const rank of shown)
    for (const lane of [0, 1]) {
      const spans = wanted.filter((n) => trace.rank[n] === rank && trace.lane[n] === lane).map((n) => ({
        name: trace.names[trace.name[n]], begin: trace.begin[n] - from, end: trace.begin[n] + trace.us[n] - from,
        about: trace.chunk[n] === null ? '' : `, chunk ${trace.chunk[n]}`}));
      if (spans.length || lane === 0) lanes.push({title: `rank ${rank} ${lane ? 'exchange' : 'compute'}`, spans});
    }
  return drawLanes(lanes, 'Lanes of a traced step', until - from);
}

// All layers together, every chunk an equal part: attention[c], then exchange[c] on its own lane (or,
// in one chunk, after it), then merge[c].
function predictedLanes(tasks, chunks) {
  const exchange = tasks.filter((task) => task.name.startsWith('exchange'));
  const first = tasks.findIndex((task) => /^attention(\+|$)/.test(task.name));  // or a cover of it
  if (first < 0 || !exchange.length) return null;
  const a = tasks[first].us / chunks;
  const e = exchange.reduce((sum, task) => sum + task.us, 0) / chunks;
  const m = tasks.filter((task) => task.name === 'merge').reduce((sum, task) => sum + task.us, 0) / chunks;
  const isBody = (task) => task === tasks[first] || exchange.includes(task) || task.name === 'merge';
  const total = (list) => list.filter((task) => !isBody(task)).reduce((sum, task) => sum + task.us, 0);
  const [before, after] = [total(tasks.slice(0, first)), total(tasks.slice(first))];
  const [compute, exchanges] = [[{name: 'before', begin: 0, end: before}], []];
  let [now, free] = [before, before];
  for (let c = 0; c < chunks; ++c) {
    const about = chunks > 1 ? `, chunk ${c}` : '';
    compute.push({name: 'attention', begin: now, end: now += a, about});
    free = Math.max(now, free) + e;
    exchanges.push({name: 'exchange', begin: free - e, end: free, about});
  }
  exchanges.forEach(({end}) => {
    if (!m) return;
    compute.push({name: 'merge', begin: Math.max(now, end), end: now = Math.max(now, end) + m});
  });
  now = Math.max(now, free);
  compute.push({name: 'after', begin: now, end: now + after});
  return {lanes: [{title: 'compute', spans: compute}, {title: 'exchange', spans: exchanges}], us: now + after};
}

// The section of a pinned point.
function lanesOf(i) {
  const trace = data.traces.find((t) => t.key === data.rows.key[i]);
  const title = element('h3', {}, trace ? `Lanes of one step (${trace.file})` : 'Lanes of one step, predicted from task times');
  if (trace) {
    const layers = [...new Set(trace.layer)].sort((a, b) => a - b);
    const holder = element('div');
    const show = (layer) => holder.replaceChildren(tracedLanes(trace, layer));
    const pick = element('select', {'aria-label': 'layer', onchange: (event) => show(+event.target.value)});
    const start = layers.find((layer) => layer > 0) ?? layers[0];
    options(pick, [[-1, 'whole step'], ...layers.map((layer) => [layer, layer < 0 ? 'outside the layers' : `layer ${layer}`])], start);
    pick.value = String(start);
    show(start);
    return [title, pick, holder];
  }
  const tasks = tasksOf(i);
  const chunks = Math.min(256, data.rows.hop_b[i] ? data.rows.chunks[i] : Math.min(4, data.rows.batch[i]));
  const off = predictedLanes(tasks, 1);
  const on = predictedLanes(tasks, chunks);
  if (!off) return [];
  const until = Math.max(off.us, on.us);
  const parts = [title, element('p', {className: 'quiet'}, 'HOP-B off' + (data.rows.hop_b[i] ? '' : ', as this point ran')),
    drawLanes(off.lanes, 'Lanes with HOP-B off', until)];
  if (chunks > 1)
    parts.push(element('p', {className: 'quiet'}, `HOP-B in ${chunks} chunks${data.rows.hop_b[i] ? ', as this point ran' : ''}: ` +
      `${percent(1 - on.us / off.us)} less`), drawLanes(on.lanes, `Lanes with HOP-B in ${chunks} chunks`, until));
  parts.push(element('p', {className: 'quiet'}, 'Layers together, chunks equal, tasks as timed one after another. ',
    'A trace shows what happened: add ', element('code', {}, '--trace DIR/trace.json'), ' to the command below.'));
  return parts;
}
