// PNG and SVG of the plot as it is shown, with what a reader of the picture must know.

function pictureLines(view) {
  const panels = view.shown;
  const words = [`${state.model}, context ${state.context}, ${state.precision}`,
    panels.map((panel) => `${panel.layer}, commit ${panel.commits.join(', ')}`).join('; ')];
  if (panels.some((panel) => panel.oversubscribed)) words.push('exactness demo, not performance: more ranks than cores');
  return words;
}

// The plot with title and legend above it, on either kind of surface.
function drawPicture(surface, view, width, height) {
  const colors = ink();
  const top = 92;
  surface.path([[0, 0], [width, 0], [width, height + top], [0, height + top]], {fill: colors.panel, closed: true});
  pictureLines(view).forEach((line, n) => surface.text(16, 20 + n * 19, line.slice(0, 150),
    {fill: n ? colors.quiet : colors.ink, size: n ? 12 : 15, weight: n ? 400 : 700}));
  let x = 22;
  for (const strategy of new Set(view.curves.filter(visible).map((curve) => curve.strategy))) {
    marker(surface, styleOf(strategy)[1], x, top - 12, 5, {fill: colorOf(strategy)});
    surface.text(x + 10, top - 12, strategy, {fill: colors.ink});
    x += surface.widthOf(strategy, 12) + 34;
  }
  return top;
}

function pictureCanvas(view, width, height, scale) {
  const canvas = element('canvas', {width: width * scale, height: (height + 92) * scale});
  const context = canvas.getContext('2d');
  context.scale(scale, scale);
  const surface = new CanvasSurface(context);
  context.translate(0, drawPicture(surface, view, width, height));
  new Plot(view, width, height).draw(surface);
  return canvas;
}

// SvgSurface has no transform of its own: the plot is a nested document.
function pictureSvg(view, width, height) {
  const ruler = new CanvasSurface(document.createElement('canvas').getContext('2d'));
  const outer = new SvgSurface(width, height + 92, ruler);
  const top = drawPicture(outer, view, width, height);
  const inner = new SvgSurface(width, height, ruler);
  new Plot(view, width, height).draw(inner);
  outer.parts.push(`<g transform="translate(0 ${top})">\n${inner.parts.join('\n')}\n</g>`);
  return outer.document();
}

const fileName = (kind) => `${[state.model, state.context, state.precision].join('-')}.${kind}`.replace(/[^\w.-]+/g, '-');

function listenToDownloads(currentView) {
  byName('png').addEventListener('click', () =>
    pictureCanvas(currentView(), 1200, 700, 2).toBlob((blob) => save(fileName('png'), blob)));
  byName('svg').addEventListener('click', () =>
    save(fileName('svg'), new Blob([pictureSvg(currentView(), 1200, 700)], {type: 'image/svg+xml'})));
  byName('csv').addEventListener('click', () => {
    const view = currentView();
    save(fileName('csv'), new Blob([toCsv(foundRows(view))], {type: 'text/csv'}));
  });
}
