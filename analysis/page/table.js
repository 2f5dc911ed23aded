// All points that the filters leave, a page at a time, in any order; and as CSV with every field.

const pageSize = 100;
const tableColumns = [
  ['strategy', 'strategy', (i) => data.rows.strategy[i]],
  ['key', 'key', (i) => data.rows.key[i]],
  ['layout', 'layout', (i) => data.rows.label[i]],
  ['options', 'options', (i) => data.rows.options[i]],
  ['batch', 'batch', (i) => data.rows.batch[i]],
  ['chips', 'GPUs', chips],
  ['ttl', 'TTL ms', (i) => data.rows.ttl[i] / 1e3],
  ['p95', 'p95 ms', (i) => data.rows.p95[i] === null ? null : data.rows.p95[i] / 1e3],
  ['x', 'tokens/s/user', (i) => data.rows.x[i]],
  ['y', 'tokens/s/GPU', (i) => data.rows.y[i]],
  ['share', 'of floor', (i) => data.rows.floor_share[i]],
  ['exposed', 'exposed ms', (i) => data.rows.exposed_us[i] === null ? null : data.rows.exposed_us[i] / 1e3],
  ['launches', 'launches', (i) => data.rows.repeats[i]],
  ['error', 'max rel err', (i) => data.rows.max_rel_err[i]],
  ['proof', 'verified', (i) => data.rows.proof[i]],
  ['frontier', 'frontier', () => null],  // filled by drawTable
];
const wordColumns = new Set(['strategy', 'layout', 'options', 'proof', 'key']);

function foundRows(view) {
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  const {strategy, label, options: chosen, key, batch} = data.rows;
  return view.rows.filter((i) => !state.hide.includes(strategy[i]) && (!words.length || words.every((word) =>
    `${strategy[i]} ${label[i]} b${batch[i]} ${chosen[i]} ${key[i]}`.toLowerCase().includes(word))));
}

function sorted(rows, value) {
  const sign = state.down ? -1 : 1;
  const keyed = rows.map((i) => [value(i), i]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === 'string' ? a.localeCompare(b) : a - b);
  });
  return keyed.map(([, i]) => i);
}

function cellText(name, value) {
  if (value === null || value === undefined) return '–';
  if (name === 'share') return percent(value);
  if (name === 'error') return value.toExponential(1);
  if (name === 'frontier') return value ? '●' : '';
  return typeof value === 'number' ? digits(value) : value;
}

function tableRow(i, standing) {
  return element('tr', {}, ...tableColumns.map(([name, , value]) => {
    const shown = name === 'frontier' ? standing.has(i) : value(i);
    const cell = element('td', {className: wordColumns.has(name) ? 'word' : ''});
    if (name === 'strategy') cell.append(swatch(shown), ` ${shown}`);
    else if (name === 'key') cell.append(element('button', {type: 'button', title: 'Pin this point',
      onclick: () => togglePin(i)}, element('code', {}, shown)));
    else cell.append(cellText(name, shown));
    return cell;
  }));
}

function drawTable(view) {
  const standing = new Set(view.curves.flatMap((curve) => curve.frontier));
  const entry = tableColumns.find(([name]) => name === state.sort) ?? tableColumns.find(([name]) => name === 'y');
  const value = entry[0] === 'frontier' ? (i) => +standing.has(i) : entry[2];
  const rows = sorted(foundRows(view), value);
  const pages = Math.max(1, Math.ceil(rows.length / pageSize));
  state.page = Math.min(state.page, pages - 1);
  const unit = unitOf(view);
  const head = tableColumns.map(([name, title]) => element('th', {
    className: wordColumns.has(name) ? 'word' : '', scope: 'col',
    'aria-sort': name !== entry[0] ? 'none' : state.down ? 'descending' : 'ascending',
  }, element('button', {type: 'button', 'data-sort': name, onclick: () => {
    update({sort: name, down: name === state.sort ? !state.down : !wordColumns.has(name), page: 0});
    document.querySelector(`[data-sort="${name}"]`).focus();
  }}, title.replace('GPUs', unit === 'GPU' ? 'GPUs' : 'ranks').replace('/GPU', `/${unit}`) +
    (name === entry[0] ? (state.down ? ' ↓' : ' ↑') : ''))));
  byName('table').replaceChildren(element('thead', {}, element('tr', {}, ...head)),
    element('tbody', {}, ...rows.slice(state.page * pageSize, (state.page + 1) * pageSize)
      .map((i) => tableRow(i, standing))));
  byName('page').textContent = `${grouped.format(rows.length)} points, page ${state.page + 1} of ${pages}`;
  byName('back').disabled = state.page === 0;
  byName('next').disabled = state.page + 1 >= pages;
}

// RFC 4180; a spreadsheet must take no text for a formula.
function csvCell(value) {
  if (value === null || value === undefined) return '';
  const text = typeof value === 'string' && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
function toCsv(rows) {
  const panelFields = ['model', 'context', 'precision', 'routing', 'kind', 'executor', 'machine', 'hardware', 'unit'];
  const fields = Object.keys(data.rows).filter((name) => !['panel', 'id'].includes(name));
  const head = [...panelFields, ...fields, ...data.tasks.flatMap(({name}) => [`tasks_us.${name}`, `floor_us.${name}`])];
  const lines = rows.map((i) => [...panelFields.map((name) => panelOf(i)[name]), ...fields.map((name) => data.rows[name][i]),
    ...data.tasks.flatMap((task) => [task.us[i], task.floor[i]])].map(csvCell).join(','));
  return [head.map(csvCell).join(','), ...lines].join('\n') + '\n';
}

function listenToTable() {
  byName('find').addEventListener('input', (event) => update({find: event.target.value, page: 0}));
  byName('back').addEventListener('click', () => update({page: state.page - 1}));
  byName('next').addEventListener('click', () => update({page: state.page + 1}));
}
