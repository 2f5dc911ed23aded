// Looking at points: pointer, touch and keyboard.

let plot;  // the Plot on the screen
let seen = -1;  // the row under the pointer or reached by keys

function nearest(x, y) {
  let best = -1;
  let least = 26 ** 2;
  const standing = new Set(plot.curves.flatMap((curve) => curve.frontier));
  for (const i of plot.rows) {
    // A frontier point wins over the cloud around it.
    const distance = (plot.px(i) - x) ** 2 + (plot.py(i) - y) ** 2 - (standing.has(i) ? 60 : 0);
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

function range(i, value, digitsOf = digits) {
  const {repeats, ttl, low, high} = data.rows;
  const middle = digitsOf(value);
  if (repeats[i] < 2) return middle;
  return `${middle} (${digitsOf(value * ttl[i] / high[i])} to ${digitsOf(value * ttl[i] / low[i])}, ${repeats[i]} launches)`;
}

function proofOf(i) {
  const r = data.rows;
  if (r.proof[i] === 'simulated') return 'simulated, nothing executed';
  if (r.proof[i] === 'unverified') return 'not verified';
  const error = r.max_rel_err[i] === null ? 'no number' : r.max_rel_err[i].toExponential(1);
  return `${r.proof[i] === 'failed' ? 'WRONG' : 'exact'}: ${error} of ${digits(r.tolerance[i])} allowed`;
}

function shortFacts(i) {
  const r = data.rows;
  const unit = panelOf(i).unit;
  const memory = ['weight_bytes', 'kv_bytes', 'buffer_bytes'].map((name) => r[name][i]);
  return [
    ['batch', digits(r.batch[i])], ['context', panelOf(i).context],
    [unit === 'GPU' ? 'GPUs' : 'ranks', digits(chips(i))],
    ['TTL', `${time(r.ttl[i])} median, ${time(r.p95[i])} p95`],
    ['tokens/s/user', range(i, r.x[i])], [`tokens/s/${unit}`, range(i, r.y[i])],
    ['of floor', percent(r.floor_share[i])],
    ['exchange exposed', time(r.exposed_us[i])],
    [`memory a ${unit}`, memory.every((b) => b === null) ? '–' : bytes(memory.reduce((a, b) => a + (b ?? 0), 0))],
    ['verified', proofOf(i)], ['key', r.key[i]],
  ];
}

function heading(i) {
  return element('strong', {}, swatch(data.rows.strategy[i]),
    `${data.rows.strategy[i]}  ${data.rows.label[i]}${data.rows.options[i] ? `, ${data.rows.options[i]}` : ''}`);
}

function look(i) {
  seen = i;
  const tip = byName('tip');
  tip.hidden = i < 0;
  if (i >= 0) {
    const pinned = state.pins.includes(data.rows.id[i]);
    tip.replaceChildren(heading(i), facts(shortFacts(i)),
      element('span', {className: 'quiet'}, pinned ? 'Pinned below' : 'Click or Enter pins it'));
    const [x, y] = [plot.px(i), plot.py(i)];
    const right = x + 16 + tip.offsetWidth < plot.width;
    tip.style.left = `${Math.max(0, right ? x + 16 : x - 16 - tip.offsetWidth)}px`;
    tip.style.top = `${Math.max(0, Math.min(y - 20, plot.height - tip.offsetHeight))}px`;
  }
  drawRings();
}

function speak(i) {
  byName('spoken').textContent = `${data.rows.strategy[i]} ${layoutOf(i)}: ` +
    shortFacts(i).slice(3, 6).map(([name, value]) => `${name} ${value}`).join(', ');
}

function togglePin(i) {
  const id = data.rows.id[i];
  const pins = state.pins.includes(id) ? state.pins.filter((pin) => pin !== id) : [...state.pins, id];
  update({pins: pins.slice(-6)});
  if (seen === i) look(i);
}

// Along a curve with left and right, to the neighbouring curve with up and down.
function step(key) {
  const curves = plot.curves.map((curve) => curve.frontier.filter(plot.place.has)).filter((rows) => rows.length);
  if (!curves.length) return;
  let c = Math.max(0, curves.findIndex((rows) => rows.includes(seen)));
  let n = curves[c].indexOf(seen);
  if (key === 'ArrowLeft') n = Math.max(0, n - 1);
  else if (key === 'ArrowRight') n = Math.min(curves[c].length - 1, n + 1);
  else {
    if (n >= 0) c = (c + (key === 'ArrowUp' ? 1 : curves.length - 1)) % curves.length;
    const x = seen >= 0 ? plot.px(seen) : 0;
    n = curves[c].reduce((best, i, m) =>
      Math.abs(plot.px(i) - x) < Math.abs(plot.px(curves[c][best]) - x) ? m : best, 0);
  }
  look(curves[c][n]);
  speak(seen);
}

function listenToPlot() {
  const canvas = byName('plot');
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    return nearest(event.clientX - box.left, event.clientY - box.top);
  };
  canvas.addEventListener('pointermove', (event) => {
    const i = under(event);
    canvas.style.cursor = i >= 0 ? 'pointer' : 'default';
    if (i !== seen) look(i);
  });
  canvas.addEventListener('pointerleave', () => look(-1));
  canvas.addEventListener('click', (event) => {
    const i = under(event);
    if (i >= 0) togglePin(i);
  });
  canvas.addEventListener('keydown', (event) => {
    if (event.key.startsWith('Arrow')) step(event.key);
    else if (event.key === 'Escape') look(-1);
    else if ((event.key === 'Enter' || event.key === ' ') && seen >= 0) togglePin(seen);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener('blur', () => look(-1));
}
