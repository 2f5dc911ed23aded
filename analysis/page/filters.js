// The controls: what can be chosen, how much each choice would show.

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, words]) =>
    element('option', {value, selected: value === chosen}, words)));
}

const contextOrder = (text) => parseFloat(text) || 0;
const inOrder = (words) => words.sort((a, b) => contextOrder(a) - contextOrder(b) || a.localeCompare(b));

function chooseLoad(name) {
  const values = inOrder([...new Set(data.panels.map((panel) => panel[name]))]);
  // With the other two as they are; a choice without points there moves them.
  const count = (value) => data.panels.filter((panel) => loadFields.every((other) =>
    panel[other] === (other === name ? value : state[other]))).reduce((sum, panel) => sum + panel.count, 0);
  options(byName(name), values.map((value) => [value, `${value || '(none)'} (${count(value)})`]), state[name]);
  byName(name).disabled = values.length < 2;
}

function checkboxes(id, entries, chosen, name) {
  const set = byName(id);
  set.querySelectorAll('label').forEach((label) => label.remove());
  set.hidden = entries.length < 2 && !chosen.length;
  for (const [value, words] of entries) {
    const box = element('input', {type: 'checkbox', value, checked: !chosen.length || chosen.includes(value)});
    box.addEventListener('change', () => {
      const on = [...set.querySelectorAll('input:checked')].map((input) => input.value);
      update({[name]: on.length === entries.length ? [] : on.length ? on : ['none']});
      byName(id).querySelector(`input[value="${CSS.escape(value)}"]`)?.focus();
    });
    set.append(element('label', {}, box, words));
  }
}

function drawFilters(view) {
  loadFields.forEach(chooseLoad);
  checkboxes('layers', layersOfLoad().map((layer) => [layer, layer]), state.layers, 'layers');
  const sizes = new Map();
  let onCount = 0;
  for (const i of view.ofLoad) {
    sizes.set(chips(i), (sizes.get(chips(i)) || 0) + 1);
    onCount += data.rows.hop_b[i];
  }
  const unit = unitOf(view);
  byName('ranks').querySelector('legend').textContent = unit === 'GPU' ? 'GPUs' : 'Ranks';
  checkboxes('ranks', [...sizes].sort((a, b) => a[0] - b[0]).map(([n, count]) => [String(n), `${n} (${count})`]),
    state.ranks, 'ranks');
  const hop = byName('hop');
  const counts = {any: '', off: ` (${view.ofLoad.length - onCount})`, on: ` (${onCount})`};
  hop.querySelectorAll('input').forEach((input) => {
    input.checked = input.value === state.hop;
    input.nextSibling.textContent = choices.hop[input.value] + counts[input.value];
  });
  byName('shown').textContent = `${grouped.format(view.rows.length)} of ${grouped.format(data.count)} points`;
}

function drawLegend(view) {
  const strategies = [...new Set(view.curves.map((curve) => curve.strategy))];
  const buttons = strategies.map((strategy) => {
    const shown = !state.hide.includes(strategy);
    const ofIts = view.curves.filter((curve) => curve.strategy === strategy)
      .reduce((sum, curve) => sum + curve.frontier.length, 0);
    return element('button', {
      type: 'button', 'aria-pressed': shown, title: `${ofIts} points on its frontier; click hides or shows it`,
      onclick: () => update({hide: shown ? [...state.hide, strategy] : state.hide.filter((s) => s !== strategy)}),
      onpointerenter: () => drawPlot(shown ? strategy : ''), onpointerleave: () => drawPlot(),
    }, swatch(strategy), strategy);
  });
  const notes = [];
  notes.push(view.hulls.length ? 'shaded: what the Baseline reaches' : 'no Baseline point here');
  if (view.curves.some((curve) => curve.dashed)) notes.push('dashed: simulated');
  const standing = view.curves.flatMap((curve) => curve.frontier);
  if (standing.some((i) => data.rows.repeats[i] > 1)) notes.push('bars: slowest to fastest launch');
  if (state.all && standing.length < view.rows.length) notes.push('pale: dominated');
  if (view.rows.some((i) => data.rows.proof[i] === 'unverified')) notes.push('hollow: not verified');
  if (view.rows.some((i) => data.rows.proof[i] === 'failed')) notes.push('crossed: wrong');
  byName('legend').replaceChildren(...buttons, ...notes.map((words) => element('span', {}, words)));
}

function listenToControls() {
  for (const name of loadFields)
    byName(name).addEventListener('change', (event) => {
      state[name] = event.target.value;
      settleLoad(name);
      update({ranks: [], pins: state.pins});
    });
  for (const value of Object.keys(choices.hop)) {
    const radio = element('input', {type: 'radio', name: 'hop', value,
      onchange: () => update({hop: value})});
    byName('hop').append(element('label', {}, radio, choices.hop[value]));
  }
  for (const name of ['x', 'xscale', 'yscale', 'relative', 'metric'])
    byName(name).addEventListener('change', (event) => update({[name]: event.target.value}));
  for (const name of ['all', 'labels'])
    byName(name).addEventListener('change', (event) => update({[name]: event.target.checked}));
  byName('slo').addEventListener('input', (event) => update({slo: event.target.value}));
  byName('reset').addEventListener('click', () => {
    Object.assign(state, defaults, {theme: state.theme, layers: [], ranks: [], hide: [], pins: []});
    settleLoad();
    update({});
  });
  byName('filters').open = innerWidth > 900;
}

// What the controls of the plot show, after a change by link or button.
function drawControls(view) {
  const base = view.hulls.length > 0;
  for (const name of ['x', 'xscale', 'yscale', 'relative', 'metric'])
    options(byName(name), Object.entries(choices[name]).map(([value, words]) =>
      [value, words.replace('GPU', unitOf(view))]), state[name]);
  byName('relative').disabled = !base && state.relative === 'no';
  byName('relative').title = base ? '' : 'no Baseline point (tp, dp_ep, medha) is shown';
  byName('all').checked = state.all;
  byName('labels').checked = state.labels;
}
