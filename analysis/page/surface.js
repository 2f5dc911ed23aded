// Where a plot is drawn: a canvas for the screen and PNG, or text for SVG. Both have
// path(points, style), circle, dots, text, within(box): one drawing, three outputs.

const fontFamily = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

class CanvasSurface {
  constructor(context) { this.context = context; }

  paint({fill, stroke, width = 1, dash = [], alpha = 1}) {
    const c = this.context;
    if (fill) { c.globalAlpha = alpha; c.fillStyle = fill; c.fill(); }
    if (stroke) {
      c.globalAlpha = alpha; c.strokeStyle = stroke; c.lineWidth = width; c.setLineDash(dash); c.stroke();
    }
    c.globalAlpha = 1;
  }
  path(points, style) {
    this.context.beginPath();
    points.forEach(([x, y], i) => i ? this.context.lineTo(x, y) : this.context.moveTo(x, y));
    if (style.closed) this.context.closePath();
    this.paint(style);
  }
  circle(x, y, radius, style) {
    this.context.beginPath();
    this.context.arc(x, y, radius, 0, 2 * Math.PI);
    this.paint(style);
  }
  // Squares in one stroke of the brush: 50 000 of them are drawn in some milliseconds.
  dots(points, size, style) {
    this.context.beginPath();
    for (const [x, y] of points) this.context.rect(x - size / 2, y - size / 2, size, size);
    this.paint(style);
  }
  text(x, y, words, {fill, size = 12, align = 'left', weight = 400, halo, turn = 0}) {
    const c = this.context;
    c.save();
    c.translate(x, y);
    c.rotate(turn);
    c.font = `${weight} ${size}px ${fontFamily}`;
    c.textAlign = align;
    c.textBaseline = 'middle';
    if (halo) { c.strokeStyle = halo; c.lineWidth = 3; c.lineJoin = 'round'; c.strokeText(words, 0, 0); }
    c.fillStyle = fill;
    c.fillText(words, 0, 0);
    c.restore();
  }
  within([left, top, right, bottom], drawing) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(left, top, right - left, bottom - top);
    this.context.clip();
    drawing();
    this.context.restore();
  }
  widthOf(words, size, weight = 400) {
    this.context.font = `${weight} ${size}px ${fontFamily}`;
    return this.context.measureText(words).width;
  }
}

const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const at = (value) => +value.toFixed(2);

class SvgSurface {
  constructor(width, height, ruler) {
    Object.assign(this, {width, height, ruler, parts: []});
  }
  style({fill, stroke, width = 1, dash = [], alpha = 1}) {
    return `fill="${fill || 'none'}"` + (stroke ? ` stroke="${stroke}" stroke-width="${width}"` : '') +
      (dash.length ? ` stroke-dasharray="${dash.join(' ')}"` : '') + (alpha < 1 ? ` opacity="${alpha}"` : '');
  }
  path(points, style) {
    const d = points.map(([x, y], i) => `${i ? 'L' : 'M'}${at(x)} ${at(y)}`).join('');
    this.parts.push(`<path d="${d}${style.closed ? 'Z' : ''}" ${this.style(style)}/>`);
  }
  circle(x, y, radius, style) {
    this.parts.push(`<circle cx="${at(x)}" cy="${at(y)}" r="${radius}" ${this.style(style)}/>`);
  }
  dots(points, size, style) {
    const square = `h${size}v${size}h-${size}z`;
    const d = points.map(([x, y]) => `M${at(x - size / 2)} ${at(y - size / 2)}${square}`).join('');
    if (d) this.parts.push(`<path d="${d}" ${this.style(style)}/>`);
  }
  text(x, y, words, {fill, size = 12, align = 'left', weight = 400, halo, turn = 0}) {
    const anchor = {left: 'start', center: 'middle', right: 'end'}[align];
    const place = `translate(${at(x)} ${at(y)})${turn ? ` rotate(${turn * 180 / Math.PI})` : ''}`;
    const glow = halo ? ` stroke="${halo}" stroke-width="3" stroke-linejoin="round" paint-order="stroke"` : '';
    this.parts.push(`<text transform="${place}" fill="${fill}" font-size="${size}" font-weight="${weight}" ` +
      `text-anchor="${anchor}" dominant-baseline="central"${glow}>${escaped(words)}</text>`);
  }
  within([left, top, right, bottom], drawing) {
    this.parts.push(`<clipPath id="frame"><rect x="${left}" y="${top}" width="${right - left}" ` +
      `height="${bottom - top}"/></clipPath>`, '<g clip-path="url(#frame)">');
    drawing();
    this.parts.push('</g>');
  }
  widthOf(...words) { return this.ruler.widthOf(...words); }
  document() {
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${this.width} ${this.height}" ` +
      `width="${this.width}" height="${this.height}" font-family="${escaped(fontFamily)}">\n` +
      `${this.parts.join('\n')}\n</svg>\n`;
  }
}

// The shapes of matplotlib's markers, as polygons of radius 1; "o" is a circle.
const outlines = {
  s: [[-.85, -.85], [.85, -.85], [.85, .85], [-.85, .85]],
  '^': [[0, -1.05], [1, .8], [-1, .8]],
  v: [[0, 1.05], [1, -.8], [-1, -.8]],
  D: [[0, -1.15], [1.15, 0], [0, 1.15], [-1.15, 0]],
  P: [[-.35, -1], [.35, -1], [.35, -.35], [1, -.35], [1, .35], [.35, .35], [.35, 1], [-.35, 1],
    [-.35, .35], [-1, .35], [-1, -.35], [-.35, -.35]],
  X: [[-1, -.5], [-.5, -1], [0, -.5], [.5, -1], [1, -.5], [.5, 0], [1, .5], [.5, 1], [0, .5],
    [-.5, 1], [-1, .5], [-.5, 0]],
};
function marker(surface, kind, x, y, radius, style) {
  if (!outlines[kind]) surface.circle(x, y, radius, style);
  else surface.path(outlines[kind].map(([dx, dy]) => [x + dx * radius, y + dy * radius]),
    {...style, closed: true});
}
// The same as an element, for legends and tables.
function swatch(strategy) {
  const [, kind] = styleOf(strategy);
  const fill = colorOf(strategy);
  const mark = outlines[kind] ?
    shape('polygon', {points: outlines[kind].map(([x, y]) => `${x * 5 + 7},${y * 5 + 7}`).join(' '), fill}) :
    shape('circle', {cx: 7, cy: 7, r: 5, fill});
  return shape('svg', {viewBox: '0 0 14 14', class: 'swatch', 'aria-hidden': 'true'}, mark);
}
