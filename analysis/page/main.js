// Reads the data, draws everything, and again after each change of `state`.

let view;
let stageWidth = 0;  // asked for where nothing has changed, as the browser lays out the page to answer

function update(changes) {
  Object.assign(state, changes);
  const began = performance.now();
  draw();
  writeHash();
  // Until it is seen.
  requestAnimationFrame(() => setTimeout(() => performance.measure('update', {start: began})));
}

function draw() {
  if (document.documentElement.dataset.theme !== state.theme) {
    document.documentElement.dataset.theme = state.theme;
    byName('theme').textContent = `Theme: ${state.theme}`;
    readInk();
  }
  view = select();
  drawFilters(view);
  drawControls(view);
  drawLegend(view);
  drawPlot();
  drawHeadline(view);
  drawPromiseTable(view);
  drawPins();
  drawMap(view);
  drawTable(view);
  byName('demo').hidden = !view.shown.some((panel) => panel.oversubscribed);
  byName('under').textContent = pictureLines(view).slice(0, 2).join(' · ');
  byName('how').textContent = view.narrowed ?
    'Frontiers found anew for these filters and axes, by the program\'s rule of strict dominance.' :
    'Frontiers as helix-bench frontier has them.';
}

// The canvas of this name, in the screen's pixels, empty.
function cleared(id, width, height) {
  const canvas = byName(id);
  const scale = window.devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext('2d');
  context.scale(scale, scale);
  return new CanvasSurface(context);
}

function drawPlot(highlighted = '') {
  const width = stageWidth;
  const height = Math.round(Math.min(600, Math.max(330, width * .58)));
  plot = new Plot(view, width, height);
  plot.draw(cleared('plot', width, height), highlighted);
  const nothing = byName('nothing');
  nothing.hidden = !plot.empty;
  nothing.textContent = plot.empty ? whyEmpty() : '';
  if (seen >= 0 && !plot.rows.includes(seen)) look(-1);
  else drawRings();
}

function whyEmpty() {
  if (!view.ofLoad.length) return 'Nothing was measured or simulated here: choose what is shown.';
  if (!view.rows.length) return 'No point is left by these filters: GPUs, HOP-B and the kinds of line exclude each other. Reset shows all.';
  if (!view.curves.some(visible)) return 'All strategies are hidden: click one above.';
  if (state.relative === 'yes') return 'No Baseline point (tp, dp_ep, medha) is here to be relative to.';
  return 'No point here is on a frontier: tick “all points”.';
}

// Rings around pinned points and the one that is looked at, on a canvas of their own above the plot.
function drawRings() {
  const surface = cleared('rings', plot.width, plot.height);
  if (plot.empty) return;
  const colors = ink();
  for (const id of state.pins) {
    const i = data.byId.get(id);
    if (i === undefined || !plot.rows.includes(i)) continue;
    surface.circle(plot.px(i), plot.py(i), 9, {stroke: colors.ink, width: 1.6});
  }
  if (seen < 0) return;
  surface.circle(plot.px(seen), plot.py(seen), 10, {stroke: colors.accent, width: 2.5});
}

function listen() {
  listenToControls();
  listenToPlot();
  listenToTable();
  listenToDownloads(() => view);
  byName('unpin').addEventListener('click', () => update({pins: []}));
  byName('copy-view').addEventListener('click', (event) => copyText(location.href, event.target));
  byName('theme').addEventListener('click', () => {
    const themes = Object.keys(choices.theme);
    update({theme: themes[(themes.indexOf(state.theme) + 1) % themes.length]});
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readInk(); draw(); });
  addEventListener('hashchange', () => { readHash(); settleLoad(); draw(); });
  new ResizeObserver(() => {
    if (byName('stage').clientWidth === stageWidth) return;
    stageWidth = byName('stage').clientWidth;
    drawPlot();
  }).observe(byName('stage'));
}

async function start() {
  readHash();
  data = await loadData();
  byName('subtitle').textContent = data.subtitle;
  settleLoad();
  stageWidth = byName('stage').clientWidth;
  listen();
  draw();
  drawRuns();
  // For tests, and for whoever opens the console.
  window.helixBench = {data, state, update, strictFrontier, bestAtLeast, currentView: () => view,
    currentPlot: () => plot, pictureSvg, toCsv};
  document.documentElement.dataset.ready = 'yes';
}

start().catch((error) => {
  const trouble = byName('trouble');
  trouble.hidden = false;
  trouble.textContent = typeof DecompressionStream === 'undefined' ?
    'This browser is too old to unpack the data (DecompressionStream is missing): any of 2023 or later does.' :
    `This page could not be drawn: ${error.message}`;
  throw error;
});
