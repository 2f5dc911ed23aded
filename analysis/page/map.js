// The crossover map: at each batch and context the strategy whose best layout wins, and by how much.

function winners() {
  const column = state.metric === 'chip' ? data.rows.y : data.rows.x;
  const panels = new Set(data.panels.filter((panel) => layerShown(panel) &&
    panel.model === state.model && panel.precision === state.precision));
  // Only one kind of number is compared: that of the first panel of the load.
  const unit = panelsOfLoad().find(layerShown)?.layer;
  const cells = new Map();
  for (let i = 0; i < data.count; ++i) {
    const panel = panelOf(i);
    if (!panels.has(panel) || panel.layer !== unit || !passes(i) || !proven(i) || state.hide.includes(data.rows.strategy[i])) continue;
    const name = `${panel.context}\n${data.rows.batch[i]}`;
    if (!cells.has(name)) cells.set(name, new Map());
    const cell = cells.get(name);
    const known = cell.get(data.rows.strategy[i]);
    if (known === undefined || column[i] > column[known]) cell.set(data.rows.strategy[i], i);
  }
  return {cells, column};
}

// Whether the launches of two points overlap.
function unclear(a, b) {
  const {repeats, low, high} = data.rows;
  return repeats[a] > 1 && repeats[b] > 1 && low[a] <= high[b] && low[b] <= high[a];
}

function mapCell(cell, column) {
  if (!cell) return element('td', {}, '–');
  const ranked = [...cell.values()].sort((a, b) => column[b] - column[a]);
  const [first, second] = ranked;
  const strategy = data.rows.strategy[first];
  const margin = second === undefined ? null : column[first] / column[second];
  const doubtful = margin !== null && unclear(first, second);
  const made = element('td', {title: `${ranked.map((i) =>
    `${data.rows.strategy[i]} ${layoutOf(i)}: ${digits(column[i])}`).join('\n')}`},
  element('b', {}, margin === null ? 'alone' : `${doubtful ? '≈ ' : ''}${times(margin)}`),
  swatch(strategy), ` ${strategy}`);
  const strength = margin === null ? 12 : Math.min(60, 10 + 80 * Math.log2(margin));
  made.style.backgroundColor = `color-mix(in srgb, ${colorOf(strategy)} ${strength.toFixed(0)}%, var(--panel))`;
  return made;
}

function drawMap(view) {
  const {cells, column} = winners();
  const names = [...cells.keys()].map((name) => name.split('\n'));
  const contexts = inOrder([...new Set(names.map(([context]) => context))]);
  const batches = [...new Set(names.map(([, batch]) => +batch))].sort((a, b) => a - b);
  byName('map').replaceChildren(
    element('thead', {}, element('tr', {}, element('th', {}, 'batch \\ context'),
      ...contexts.map((context) => element('th', {scope: 'col'}, context)))),
    element('tbody', {}, ...batches.map((batch) => element('tr', {}, element('th', {scope: 'row'}, digits(batch)),
      ...contexts.map((context) => mapCell(cells.get(`${context}\n${batch}`), column))))));
  if (!batches.length) byName('map').replaceChildren(element('tbody', {}, element('tr', {},
    element('td', {}, `No proven point ${view.rows.length ? 'here' : 'is left by the filters'}.`))));
}
