// The frontier of what a filter or another axis leaves, by the program's rule: a proven point stands
// on it unless another proven one is at least as good on both axes and better on one. Equal points
// stand together. With all points and the program's axes its own marks are shown, not these.

function strictFrontier(indices, x, y, proven) {
  const order = indices.filter((i) => proven[i]).sort((a, b) => x[b] - x[a] || y[b] - y[a]);
  const marked = [];
  let right = -Infinity;  // the most y of all points further to the right
  for (let i = 0; i < order.length;) {
    const bestX = x[order[i]];
    const bestY = y[order[i]];
    for (; i < order.length && x[order[i]] === bestX; ++i)
      if (bestY > right && y[order[i]] === bestY) marked.push(order[i]);
    right = Math.max(right, bestY);
  }
  return marked;
}

// The most y of `indices` with at least `least` on x; -1 where none reaches it.
function bestAtLeast(indices, x, y, least) {
  let best = -1;
  for (const i of indices) if (x[i] >= least && (best < 0 || y[i] > y[best])) best = i;
  return best;
}
