// An axis: from values to pixels, linear or logarithmic, with round ticks.

function ticksOf(low, high, log, wanted) {
  if (!log) {
    const rough = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const first = Math.ceil(low / step);
    return Array.from({length: Math.floor(high / step) - first + 1}, (_, i) => (first + i) * step);
  }
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7], Array.from({length: 90}, (_, i) => 1 + i / 10)]) {
    const found = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); ++decade)
      for (const step of steps) {
        const tick = step * 10 ** decade;
        if (tick >= low && tick <= high) found.push(tick);
      }
    if (found.length >= Math.min(4, wanted)) {
      const stride = Math.ceil(found.length / (wanted * 1.6));
      return found.filter((_, i) => i % stride === 0);
    }
  }
  return [low, high];
}

// Round numbers, without the zeros that floating point leaves.
const tickText = (value) => value >= 1e4 ? grouped.format(value) : String(Number(value.toPrecision(6)));

class Axis {
  // `room`: margins (before, after) as a share of the range. Pixels run from `start` to `end`.
  constructor(values, log, start, end, room) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    Object.assign(this, {log, start, end});
    const to = log ? Math.log : (value) => value;
    const back = log ? Math.exp : (value) => value;
    let width = to(high) - to(low);
    const least = log ? Math.log(1.6) : Math.abs(high) * .4 || 1;
    if (width < least) {
      const middle = (to(low) + to(high)) / 2;
      [low, high, width] = [back(middle - least / 2), back(middle + least / 2), least];
    }
    this.low = log ? back(to(low) - width * room[0]) : Math.max(0, low - width * room[0]);
    this.high = back(to(high) + width * room[1]);
    this.from = to(this.low);
    this.per = (end - start) / (to(this.high) - this.from);
  }
  pixel(value) {
    return this.start + ((this.log ? Math.log(value) : value) - this.from) * this.per;
  }
  ticks(spacing) {
    return ticksOf(this.low, this.high, this.log, Math.max(2, Math.abs(this.end - this.start) / spacing));
  }
}
