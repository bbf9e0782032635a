// Histograms as SVG: bars of one colour, those beyond the threshold of another.

/** A histogram of `row.bins`, heights by square root so that single images show. */
function histogram(row, height, describedBy) {
  const { edges, threshold } = data.spread;
  const highest = Math.max(1, ...row.bins);
  const bars = row.bins.map((of, at) => {
    const tall = Math.sqrt(of / highest) * (height - 2);
    const beyond = threshold !== null && edges[at + 1] > threshold;
    return shape('rect', {
      x: at * 10 + 1, y: height - tall, width: 8, height: tall, rx: Math.min(1.5, tall / 2),
      class: beyond ? 'bar beyond' : 'bar',
    });
  });
  const wide = row.bins.length * 10;
  const [least, , median, , greatest] = row.quartiles;
  const drawing = shape('svg', {
    viewBox: `0 0 ${wide} ${height}`, preserveAspectRatio: 'none', class: 'histogram', role: 'img',
    'aria-label': `${describedBy}: ${several(row.images, 'image')}, scores from ${number(least)} to `
      + `${number(greatest)}, median ${number(median)}, ${count(row.flagged)} flagged`,
  }, ...bars, shape('line', { x1: 0, x2: wide, y1: height, y2: height, class: 'axis' }));
  if (threshold !== null && threshold >= edges[0] && threshold <= edges.at(-1)) {
    const at = ((threshold - edges[0]) / (edges.at(-1) - edges[0])) * wide;
    drawing.append(shape('line', { x1: at, x2: at, y1: 0, y2: height, class: 'threshold' }));
  }
  return drawing;
}

/** A bar as long as |value| / largest, with what it stands for and its number. */
function contribution(text, value, largest, note) {
  const bar = element('span', { className: value < 0 ? 'fill against' : 'fill' });
  bar.style.inlineSize = `${largest > 0 ? (100 * Math.abs(value)) / largest : 0}%`;
  return element('li', { className: 'pull', title: note ?? '' },
    element('span', { className: 'pull-text' }, text),
    element('span', { className: 'pull-value', textContent: (value < 0 ? '' : '+') + number(value) }),
    element('span', { className: 'track', 'aria-hidden': 'true' }, bar));
}
