// Which rows are shown, what they are called, and which stand on a frontier.

let data;  // of data.js
const loadFields = ['model', 'context', 'precision'];

const panelOf = (i) => data.panels[data.rows.panel[i]];
const proven = (i) => data.rows.proof[i] === 'verified' || data.rows.proof[i] === 'simulated';
const chips = (i) => data.rows.gpus[i] ?? data.rows.ranks[i];
const isBaseline = (i) => data.baseline.includes(data.rows.strategy[i]);

// Where a point stands: larger is better on both, except for TTL, whose axis is turned by `sign`.
const xColumns = {
  user: {of: (i) => data.rows.x[i], sign: 1},
  user_p90: {of: (i) => data.rows.user_p90[i] ?? data.rows.x[i], sign: 1},
  ttl: {of: (i) => data.rows.ttl[i] / 1e3, sign: -1},
};

function styleOf(strategy) {
  return Object.hasOwn(data.styles, strategy) ? data.styles[strategy] : data.other;
}
function colorOf(strategy) {
  const [color] = styleOf(strategy);
  return color === '#000000' ? ink().ink : color;
}

// The panels whose load is chosen; their rows are what facets and filters divide.
function panelsOfLoad() {
  return data.panels.filter((panel) => loadFields.every((name) => panel[name] === state[name]));
}
function layersOfLoad() {
  return [...new Set(panelsOfLoad().map((panel) => panel.layer))];
}

// A load that exists: what does not exist with the other choices gives way, the last chosen stays.
function settleLoad(kept = 'model') {
  const order = [kept, ...loadFields.filter((name) => name !== kept)];
  // First the longest context, where the question lies; of those what has most points.
  let left = [...data.panels].sort((a, b) => contextOrder(b.context) - contextOrder(a.context) || b.count - a.count);
  for (const name of order) {
    if (!left.some((panel) => panel[name] === state[name])) state[name] = left[0][name];
    left = left.filter((panel) => panel[name] === state[name]);
  }
  state.layers = state.layers.filter((layer) => layersOfLoad().includes(layer));
}

function passes(i) {
  const {ranks, hop} = state;
  return (!ranks.length || ranks.includes(String(chips(i)))) &&
    (hop === 'any' || data.rows.hop_b[i] === (hop === 'on'));
}
const layerShown = (panel) => !state.layers.length || state.layers.includes(panel.layer);

// {rows, ofLoad, curves: [{panel, strategy, rows, frontier, dashed}], hulls, narrowed}
function select() {
  const shown = new Set(panelsOfLoad().filter(layerShown));
  const ofLoad = [];
  for (let i = 0; i < data.count; ++i) if (shown.has(panelOf(i))) ofLoad.push(i);
  const rows = ofLoad.filter(passes);
  const narrowed = rows.length < ofLoad.length || state.x === 'user_p90';
  const groups = new Map();
  for (const i of rows) {
    const name = `${data.rows.panel[i]} ${data.rows.strategy[i]}`;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(i);
  }
  const curves = [...groups.values()].map((members) => ({
    panel: panelOf(members[0]), strategy: data.rows.strategy[members[0]], rows: members,
    frontier: frontierOf(members, 'frontier', narrowed),
    dashed: panelOf(members[0]).kind === 'simulated',
  }));
  const hulls = [...shown].map((panel) => {
    const rivals = rows.filter((i) => panelOf(i) === panel && isBaseline(i));
    return {panel, rows: frontierOf(rivals, 'hull', narrowed)};
  }).filter((hull) => hull.rows.length);
  return {rows, ofLoad, curves, hulls, narrowed, shown: [...shown]};
}

function frontierOf(members, mark, narrowed) {
  const {of, sign} = xColumns[state.x];
  const marked = narrowed ?
    strictFrontier(members, ...columnsFor(members, (i) => sign * of(i))) :
    members.filter((i) => data.rows[mark][i]);
  return marked.sort((a, b) => of(a) - of(b) || sign * (data.rows.y[b] - data.rows.y[a]));
}

// strictFrontier takes arrays by row: only those of `members` are filled.
let scratch;
function columnsFor(members, x) {
  scratch ??= {x: new Float64Array(data.count), proven: new Uint8Array(data.count)};
  for (const i of members) {
    scratch.x[i] = x(i);
    scratch.proven[i] = proven(i) ? 1 : 0;
  }
  return [scratch.x, data.rows.y, scratch.proven];
}

// The best of a panel's Baseline on each axis; null where nothing of it was proven.
function baselineBest(hull) {
  if (!hull) return null;
  const {of, sign} = xColumns[state.x];
  const xs = hull.rows.map(of);
  return {x: sign > 0 ? Math.max(...xs) : Math.min(...xs),
    y: Math.max(...hull.rows.map((i) => data.rows.y[i]))};
}

const visible = (curve) => !state.hide.includes(curve.strategy);
const unitOf = (view) => [...new Set(view.shown.map((panel) => panel.unit))].join(' or ') || 'GPU';

function layoutOf(i) {
  const {label, batch, options} = data.rows;
  return [label[i], `B${batch[i]}`, options[i]].filter(Boolean).join(', ');
}
