// The frontier plot. `sight` is what draw() has put where, for hover and the keyboard.

let inks;  // the theme's colours
const ink = () => inks;
function readInk() {
  const style = getComputedStyle(document.documentElement);
  inks = Object.fromEntries(['ink', 'quiet', 'grid', 'line', 'panel', 'hull', 'accent']
    .map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function axisTitles(view) {
  const relative = state.relative === 'yes';
  const unit = unitOf(view);
  const x = {user: 'Interactivity (tokens/s/user)', user_p90: 'Interactivity by p90 TTL (tokens/s/user)',
    ttl: 'TTL (ms), better to the left'}[state.x];
  return relative ?
    [`${state.x === 'ttl' ? 'TTL' : 'Interactivity'} (× best of Baseline)`, `Throughput per ${unit} (× best of Baseline)`] :
    [x, `Output token throughput per ${unit} (tokens/s/${unit})`];
}

// Functions of a row: its place on both axes. Without a Baseline a relative plot has no place.
function placesOf(view) {
  const {of} = xColumns[state.x];
  if (state.relative === 'no') return {x: of, y: (i) => data.rows.y[i], has: () => true};
  const best = new Map(view.hulls.map((hull) => [hull.panel, baselineBest(hull)]));
  return {
    x: (i) => of(i) / best.get(panelOf(i)).x,
    y: (i) => data.rows.y[i] / best.get(panelOf(i)).y,
    has: (i) => best.has(panelOf(i)),
  };
}

class Plot {
  constructor(view, width, height) {
    Object.assign(this, {view, width, height, place: placesOf(view)});
    this.curves = view.curves.filter(visible);
    this.rows = this.curves.flatMap((curve) => state.all ? curve.rows : curve.frontier)
      .concat(state.all ? [] : this.curves.flatMap((curve) => curve.rows.filter((i) => !proven(i))))
      .filter(this.place.has);
    this.empty = !this.rows.length;
    if (this.empty) return;
    const hulled = view.hulls.flatMap((hull) => hull.rows).filter(this.place.has);
    const all = this.rows.concat(hulled);
    this.xAxis = new Axis(all.map(this.place.x), state.xscale === 'log', 62, width - 14,
      state.x === 'ttl' ? [.12, .06] : [.05, width > 600 ? .14 : .06]);
    this.yAxis = new Axis(all.map(this.place.y), state.yscale === 'log', height - 46, 12, [.06, .09]);
  }
  px(i) { return this.xAxis.pixel(this.place.x(i)); }
  py(i) { return this.yAxis.pixel(this.place.y(i)); }

  draw(surface, highlighted = '') {
    const colors = ink();
    this.drawGrid(surface, colors);
    if (this.empty) return;
    this.view.hulls.forEach((hull) => this.drawHull(surface, hull, colors));
    const dim = (curve) => highlighted && curve.strategy !== highlighted ? .25 : 1;
    if (state.all) this.curves.forEach((curve) => this.drawOthers(surface, curve, dim(curve)));
    this.curves.forEach((curve) => this.drawUnproven(surface, curve, dim(curve)));
    surface.within([62, 0, this.width, this.height - 46], () => this.curves.forEach((curve) =>
      curve.frontier.filter(this.place.has).forEach((i) => this.drawRepeats(surface, i, colorOf(curve.strategy), dim(curve) * .6))));
    this.drawPromise(surface, colors);
    this.curves.forEach((curve) => this.drawFrontier(surface, curve, dim(curve), colors));
    if (state.labels) this.drawLabels(surface, colors);
  }

  drawGrid(surface, colors) {
    const {width, height} = this;
    const [xTitle, yTitle] = axisTitles(this.view);
    surface.text((62 + width) / 2, height - 10, xTitle, {fill: colors.quiet, align: 'center', size: 12.5});
    surface.text(11, (height - 46) / 2 + 6, yTitle,
      {fill: colors.quiet, align: 'center', size: height < 400 ? 11 : 12.5, turn: -Math.PI / 2});
    if (this.empty) return;
    for (const tick of this.xAxis.ticks(90)) {
      const x = this.xAxis.pixel(tick);
      surface.path([[x, 12], [x, height - 46]], {stroke: colors.grid});
      surface.text(x, height - 32, tickText(tick), {fill: colors.quiet, align: 'center'});
    }
    for (const tick of this.yAxis.ticks(60)) {
      const y = this.yAxis.pixel(tick);
      surface.path([[62, y], [width - 14, y]], {stroke: colors.grid});
      surface.text(56, y, tickText(tick), {fill: colors.quiet, align: 'right'});
    }
    surface.path([[62, 12], [62, height - 46], [width - 14, height - 46]], {stroke: colors.line});
  }

  // Corners of a step line through points ordered from the left: between two the better one holds.
  steps(rows) {
    const corners = [];
    rows.forEach((i, n) => {
      if (n) corners.push(state.x === 'ttl' ? [this.px(i), this.py(rows[n - 1])] : [this.px(rows[n - 1]), this.py(i)]);
      corners.push([this.px(i), this.py(i)]);
    });
    return corners;
  }
  // The same out to where the ends hold.
  reach(rows) {
    const first = rows[0];
    const last = rows[rows.length - 1];
    const bottom = this.height - 46;
    return state.x === 'ttl' ?
      [[this.px(first), bottom], ...this.steps(rows), [this.width - 14, this.py(last)]] :
      [[62, this.py(first)], ...this.steps(rows), [this.px(last), bottom]];
  }

  drawHull(surface, hull, colors) {
    const rows = hull.rows.filter(this.place.has);
    if (!rows.length) return;
    const corner = state.x === 'ttl' ? [this.width - 14, this.height - 46] : [62, this.height - 46];
    surface.path([...this.reach(rows), corner], {fill: colors.hull, alpha: .16, closed: true});
  }

  drawOthers(surface, curve, alpha) {
    const standing = new Set(curve.frontier);
    const rest = curve.rows.filter((i) => !standing.has(i) && proven(i) && this.place.has(i));
    const many = this.rows.length > 3000;
    surface.dots(rest.map((i) => [this.px(i), this.py(i)]), many ? 2.5 : 4.5,
      {fill: colorOf(curve.strategy), alpha: alpha * (many ? .35 : .45)});
  }

  // Hollow: nothing was proven; hollow and crossed: the logits were wrong.
  drawUnproven(surface, curve, alpha) {
    const [, kind] = styleOf(curve.strategy);
    const style = {stroke: colorOf(curve.strategy), width: 1.4, alpha};
    for (const i of curve.rows) {
      if (proven(i) || !this.place.has(i)) continue;
      const [x, y] = [this.px(i), this.py(i)];
      marker(surface, kind, x, y, 5, style);
      if (data.rows.proof[i] !== 'failed') continue;
      surface.path([[x - 4, y - 4], [x + 4, y + 4]], style);
      surface.path([[x - 4, y + 4], [x + 4, y - 4]], style);
    }
  }

  drawFrontier(surface, curve, alpha, colors) {
    const rows = curve.frontier.filter(this.place.has);
    if (!rows.length) return;
    const [, kind] = styleOf(curve.strategy);
    const color = colorOf(curve.strategy);
    surface.path(this.reach(rows), {stroke: color, width: 1, dash: [1.5, 3.5], alpha: alpha * .7});
    surface.path(this.steps(rows), {stroke: color, width: 2.2, dash: curve.dashed ? [7, 4] : [], alpha});
    for (const i of rows)
      marker(surface, kind, this.px(i), this.py(i), 5.2, {fill: color, stroke: colors.panel, width: 1.2, alpha});
  }

  // From the slowest to the fastest launch. Both axes follow the TTL, so the bar leans.
  drawRepeats(surface, i, color, alpha) {
    const {repeats, ttl, low, high} = data.rows;
    if (repeats[i] < 2 || low[i] === high[i]) return;
    const ends = [high[i], low[i]].map((us) => {
      const faster = ttl[i] / us;
      return [this.xAxis.pixel(this.place.x(i) * (state.x === 'ttl' ? 1 / faster : faster)),
        this.yAxis.pixel(this.place.y(i) * faster)];
    });
    const [[x0, y0], [x1, y1]] = ends;
    const across = 4 / (Math.hypot(x1 - x0, y1 - y0) || 1);
    const [dx, dy] = [(y1 - y0) * across, (x0 - x1) * across];
    surface.path(ends, {stroke: color, width: 1.6, alpha});
    for (const [x, y] of ends) surface.path([[x - dx, y - dy], [x + dx, y + dy]], {stroke: color, width: 1.6, alpha});
  }

  drawPromise(surface, colors) {
    const least = promise(this.view);
    if (!(least > 0) || state.relative === 'yes') return;
    const x = this.xAxis.pixel(state.x === 'ttl' ? 1e3 / least : least);
    if (x < 62 || x > this.width - 14) return;
    surface.path([[x, 12], [x, this.height - 46]], {stroke: colors.ink, width: 1.2, dash: [5, 4], alpha: .75});
    const left = x > this.width * .7;
    surface.text(x + (left ? -6 : 6), this.height - 58, `≥ ${digits(least)} tokens/s/user`,
      {fill: colors.quiet, size: 11.5, align: left ? 'right' : 'left', halo: colors.panel});
  }

  // Up and to the right of its point, where nothing of its own curve is; else not at all.
  drawLabels(surface, colors) {
    const size = this.width > 600 ? 11 : 10;
    const points = this.curves.flatMap((curve) => curve.frontier.filter(this.place.has));
    // Of many points only Helix's say their layout; hovering says the rest.
    const wordy = (i) => this.width > 600 && (points.length < 26 || data.rows.strategy[i] === 'helix');
    const marks = points.map((i) => ({x: this.px(i) - 6, y: this.py(i) - 6, w: 12, h: 12}));
    const taken = [];
    const overlaps = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
    for (const i of points.sort((a, b) => this.px(b) - this.px(a)).slice(0, 150)) {
      const full = layoutOf(i);
      for (const words of wordy(i) ? [full, `B${data.rows.batch[i]}`] : [`B${data.rows.batch[i]}`]) {
        const w = surface.widthOf(words, size);
        const spots = [[9, -9, 'left'], [10, 0, 'left'], [0, -14, 'center'], [9, 11, 'left'], [-9, 12, 'right']];
        const fitting = spots.map(([dx, dy, align]) => {
          const x = this.px(i) + dx;
          const y = this.py(i) + dy;
          return {x: x - {left: 0, center: w / 2, right: w}[align], y: y - size / 2, w, h: size, at: [x, y], align};
        }).find((box) => box.x > 64 && box.x + w < this.width - 6 && box.y > 4 && box.y + size < this.height - 48 &&
          !taken.some((other) => overlaps(box, other)) && !marks.some((other) => overlaps(box, other)));
        if (!fitting) continue;
        taken.push(fitting);
        surface.text(...fitting.at, words, {fill: colors.ink, size, align: fitting.align, halo: colors.panel});
        break;
      }
    }
  }
}
