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
    'aria-label': `${describedBy}: ${several(row.images, 'image')}, from ${number(least)} to `
      + `${number(greatest)}, median ${number(median)}, ${count(row.flagged)} flagged`,
  }, ...bars, shape('line', { x1: 0, x2: wide, y1: height, y2: height, class: 'axis' }));
  if (threshold !== null && threshold >= edges[0] && threshold <= edges.at(-1)) {
    const at = ((threshold - edges[0]) / (edges.at(-1) - edges[0])) * wide;
    drawing.append(shape('line', { x1: at, x2: at, y1: 0, y2: height, class: 'threshold' }));
  }
  return drawing;
}

const CLASSES_SHOWN = 24;

function spread() {
  const [all, ...each] = data.spread.rows;
  const { edges, threshold } = data.spread;
  const rows = [...each].sort((a, b) => b.flagged - a.flagged || b.quartiles[4] - a.quartiles[4]);
  const list = element('ul', { className: 'class-rows' });
  const draw = (most) => list.replaceChildren(...rows.slice(0, most).map(classRow));
  draw(CLASSES_SHOWN);
  const more = rows.length > CLASSES_SHOWN
    ? [button(`Show all ${count(rows.length)} classes`, (event) => {
      draw(rows.length);
      event.target.remove();
    }, { className: 'plain' })] : [];
  return [
    element('h3', { id: 'spread-title', textContent: data.spread.of }),
    element('p', { className: 'quiet' }, 'Higher is worse. Heights are square roots, so that single images show. ',
      threshold === null ? '' : `The line is the threshold, ${number(threshold)}.`),
    histogram(all, 120, `All ${data.spread.of.toLowerCase()}`),
    element('p', { className: 'ends', ariaHidden: 'true' },
      ...[0, 0.25, 0.5, 0.75, 1].map((share) => element('span', {
        textContent: number(edges[0] + share * (edges.at(-1) - edges[0])) }))),
    element('h4', { textContent: `By class, ${data.spread.by}` }),
    list,
    ...more,
  ];
}

function classRow(row) {
  const name = row.name ?? 'no class';
  const which = row.name === null ? null : data.classes.indexOf(row.name);
  const key = filed ? 'label' : 'nearest';
  const among = images.some((image) => image[key] === which);
  const title = among
    ? button('', () => openGallery({ [key]: String(which) }), { className: 'link', title: name })
    : element('span', { className: 'link-less', title: name });
  title.append(isolated(name));
  return element('li', {},
    title,
    histogram(row, 30, name),
    element('span', { className: 'class-count' },
      element('b', { textContent: row.flagged ? count(row.flagged) : '' }),
      element('span', { className: 'quiet', textContent: (row.flagged ? ' of ' : '') + count(row.images) })));
}
