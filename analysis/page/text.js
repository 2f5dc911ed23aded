// Elements and numbers. Text from results enters the page as text nodes alone.

const byName = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== 'list') made[name] = value;
    else made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const SVG = 'http://www.w3.org/2000/svg';
function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const grouped = new Intl.NumberFormat('en', {maximumFractionDigits: 0});
// Three digits, and all of them before the point: 0.0123, 1.20, 12.3, 1,234; whole numbers as they are.
function digits(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  if (size >= 99.95) return grouped.format(value);
  if (Number.isInteger(value)) return String(value);
  if (size >= 0.001) return value.toPrecision(3);
  return value.toExponential(1);
}
function bytes(value) {
  if (value === null || value === undefined) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  for (; value >= 999.5 && unit < 4; ++unit) value /= 1000;
  return `${digits(value)} ${units[unit]}`;
}
function time(us) {
  if (us === null || us === undefined) return '–';
  return us >= 1e6 ? `${digits(us / 1e6)} s` : us >= 1e3 ? `${digits(us / 1e3)} ms` : `${digits(us)} µs`;
}
const percent = (share) => share === null || share === undefined ? '–' : `${digits(share * 100)} %`;
const times = (ratio) => `${ratio >= 99.95 ? digits(ratio) : ratio >= 9.995 ? ratio.toFixed(1) : ratio.toFixed(2)}×`;

function facts(pairs) {
  return element('dl', {}, ...pairs.filter(([, value]) => value !== '–' && value !== '')
    .flatMap(([name, value]) => [element('dt', {}, name), element('dd', {}, value)]));
}

async function copyText(text, button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // no clipboard for pages from a file in some browsers
    const area = element('textarea', {value: text});
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  button.textContent = 'Copied';
  button.dataset.copied = text;
  setTimeout(() => { button.textContent = said; }, 1200);
}

function save(name, blob) {
  const url = URL.createObjectURL(blob);
  element('a', {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
