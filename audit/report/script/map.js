// The map: images as points by their embeddings; a click opens one, a rectangle filters the gallery.

const HUES = ['#2f6fd0', '#d9661f', '#2e8b57', '#a13d9c', '#b0892a', '#c23b4b', '#3a9aa8', '#7a5cc7', '#7d8a2c', '#8a5a44'];
const POINTS_A_FRAME = 2500;
let colouring = 'rank';

function map() {
  const { method, images: total, x } = data.map;
  const canvas = element('canvas', { id: 'map', width: 10, height: 10 });
  const area = element('div', { className: 'map-area', tabIndex: 0, role: 'application', id: 'map-area',
    ariaLabel: 'Map of the images. Arrow keys go to the nearest image in a direction, Enter opens it.' }, canvas,
  element('div', { id: 'map-tip', hidden: true }));
  const redraw = () => drawMap(canvas, area);
  new ResizeObserver(redraw).observe(area);
  mapEvents(canvas, area);
  return [
    element('h2', { textContent: 'Map', tabIndex: -1 }),
    element('p', { className: 'quiet', textContent: `${x.length < total ? `${count(x.length)} of ${several(total, 'image')}` : several(total, 'image')} `
      + `by embedding (${method}): alike images are near each other. Click a point to open it, drag a rectangle to see its images.` }),
    element('div', { className: 'fields' }, select('Colour', [['rank', data.by_labels ? 'How doubtful the label is' : 'How unusual'],
      ['class', filed ? 'Class filed under' : 'Nearest class'], ['issue', 'Kind of issue'], ['decision', 'Decision']], colouring,
    (value) => { colouring = value; redraw(); })),
    area,
    element('p', { className: 'legend-line quiet', id: 'map-legend' }),
  ];
}

/** Colour of each point, and what the colours mean. */
function colours() {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const faint = dark ? '#6b7278' : '#a9aeb4';
  const { at, rank, class: of } = data.map;
  if (colouring === 'class') {
    const sizes = new Map();
    of.forEach((which) => sizes.set(which, (sizes.get(which) ?? 0) + 1));
    const largest = [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a)).slice(0, HUES.length);
    return [of.map((which) => HUES[largest.indexOf(which)] ?? faint),
      [...largest.map((which, place) => [HUES[place], className(which)]), ...(sizes.size > HUES.length ? [[faint, 'other classes']] : [])]];
  }
  if (colouring === 'issue') {
    const kinds = Object.keys(data.issues).filter((kind) => data.issues[kind][0]);
    return [at.map((which) => (which < 0 ? faint : HUES[kinds.indexOf(images[which].issues[0]?.[0])] ?? faint)),
      [...kinds.map((kind, place) => [HUES[place], KINDS[kind][0]]), [faint, 'no issue']]];
  }
  if (colouring === 'decision') {
    const hue = { keep: '#2e8b57', remove: '#c23b4b', relabel: '#7a5cc7' };
    return [at.map((which) => (which < 0 ? faint : hue[decisions.get(images[which].row)?.decision] ?? faint)),
      [...Object.entries(hue).map(([name, colour]) => [colour, NAMES[name]]), [faint, 'undecided']]];
  }
  const shade = (share) => { // from grey to orange: the worst tenth stands out
    const t = Math.max(0, 1 - share / 0.3) ** 1.5;
    const [from, to] = dark ? [[86, 93, 101], [255, 150, 90]] : [[176, 181, 188], [200, 70, 10]];
    return `rgb(${from.map((each, channel) => Math.round(each + t * (to[channel] - each))).join(' ')})`;
  };
  return [rank.map((each) => shade((each - 1) / data.counts.scored)),
    [[shade(0), data.by_labels ? 'most doubtful' : 'most unusual'], [shade(0.1), 'worst tenth'], [shade(1), 'usual']]];
}

function drawLegend(legend) {
  document.getElementById('map-legend')?.replaceChildren(...legend.flatMap(([colour, text]) => {
    const dot = element('span', { className: 'dot', ariaHidden: 'true' });
    dot.style.background = colour;
    return [dot, isolated(text), ' '];
  }));
}

/** The radius of a point without an issue, in CSS pixels. */
function pointSize() {
  return data.map.x.length > 1500 ? 3 : 5;
}

/** Where point i is drawn in an area, in CSS pixels, as a function of i. */
function places(area) {
  const [wide, high] = [area.clientWidth - 24, area.clientHeight - 24];
  const { x, y } = data.map;
  return (i) => [12 + (x[i] / 1000) * wide, 12 + (1 - y[i] / 1000) * high];
}

let focused = -1; // the point that the keyboard is on
let brushing = null; // the rectangle that is drawn

function drawMap(canvas, area) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(area.clientWidth * ratio), Math.round(area.clientHeight * ratio)];
  if (!wide || !high) return;
  const points = document.createElement('canvas');
  for (const each of [canvas, points]) Object.assign(each, { width: wide, height: high });
  canvas.points = points;
  const [hues, legend] = colours();
  drawPoints(canvas, area, hues);
  drawLegend(legend);
}

/** All points, the worst on top, some thousands a frame. */
function drawPoints(canvas, area, hues) {
  const { points } = canvas;
  const pen = points.getContext('2d');
  const ratio = window.devicePixelRatio || 1;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  const { at, rank, x } = data.map;
  const size = pointSize();
  const place = places(area);
  const order = x.map((_, i) => i).sort((a, b) => rank[b] - rank[a]);
  const draw = () => {
    if (canvas.points !== points) return; // drawn anew meanwhile
    for (const i of order.splice(0, POINTS_A_FRAME)) {
      const [left, top] = place(i);
      const issue = at[i] >= 0 && images[at[i]].issues.length;
      pen.globalAlpha = at[i] < 0 ? 0.45 : 0.9;
      pen.fillStyle = hues[i];
      pen.beginPath();
      pen.arc(left, top, issue ? size + 1 : size, 0, 7);
      pen.fill();
    }
    drawMarks(canvas, area);
    if (order.length) afterFrame(draw);
  };
  draw();
}

/** The points as they were drawn last, the ring of the focused one and the rectangle. */
function drawMarks(canvas, area) {
  const ratio = window.devicePixelRatio || 1;
  const pen = canvas.getContext('2d');
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(canvas.points, 0, 0);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.strokeStyle = getComputedStyle(area).color;
  pen.lineWidth = 2;
  if (focused >= 0) {
    const [left, top] = places(area)(focused);
    pen.beginPath();
    pen.arc(left, top, pointSize() + 4, 0, 7);
    pen.stroke();
  }
  if (brushing) {
    const [a, b, c, d] = brushing;
    pen.lineWidth = 1;
    pen.strokeRect(Math.min(a, c), Math.min(b, d), Math.abs(c - a), Math.abs(d - b));
  }
}

/** The point nearest to a place in the canvas, -1 where none is near. */
function nearPoint(left, top, area, most = 14) {
  let [best, least] = [-1, most ** 2];
  const place = places(area);
  data.map.x.forEach((_, i) => {
    const [x, y] = place(i);
    const far = (x - left) ** 2 + (y - top) ** 2;
    if (far < least) [best, least] = [i, far];
  });
  return best;
}

function showPoint(i, canvas, area) {
  focused = i;
  drawMarks(canvas, area);
  const tip = document.getElementById('map-tip');
  const which = data.map.at[i] ?? -1;
  tip.hidden = i < 0;
  if (i < 0) return;
  const [left, top] = places(area)(i);
  tip.style.insetInlineStart = `${Math.min(left + 12, area.clientWidth - 210)}px`;
  tip.style.insetBlockStart = `${Math.min(top + 12, area.clientHeight - 190)}px`;
  tip.replaceChildren(...(which < 0
    ? [element('p', {}, isolated(className(data.map.class[i])), `, #${count(data.map.rank[i])}: only in scores.parquet`)]
    : [picture(images[which].picture, ''), element('p', {}, ...sentence(images[which]))]));
  announce(which < 0 ? `rank ${data.map.rank[i]}` : spoken(images[which]));
}

function mapEvents(canvas, area) {
  const here = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const open = (i) => { if (data.map.at[i] >= 0) review([data.map.at[i]], 0); };
  canvas.addEventListener('pointerdown', (event) => {
    brushing = [...here(event), ...here(event)];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (brushing) {
      brushing = [brushing[0], brushing[1], ...here(event)];
      drawMarks(canvas, area);
    } else {
      const i = nearPoint(...here(event), area);
      if (i !== focused) showPoint(i, canvas, area);
    }
  });
  canvas.addEventListener('pointerup', (event) => {
    const [a, b, c, d] = brushing ?? [0, 0, 0, 0];
    brushing = null;
    if (Math.hypot(c - a, d - b) < 6) return open(nearPoint(...here(event), area));
    const place = places(area);
    const inside = data.map.at.filter((which, i) => {
      const [x, y] = place(i);
      return which >= 0 && x >= Math.min(a, c) && x <= Math.max(a, c) && y >= Math.min(b, d) && y <= Math.max(b, d);
    });
    if (inside.length) openGallery({ only: new Set(inside) });
    else drawMarks(canvas, area);
  });
  area.addEventListener('keydown', (event) => {
    const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.key === 'Enter' && focused >= 0) open(focused);
    else if (Object.hasOwn(steps, event.key)) showPoint(focused < 0 ? 0 : nextPoint(steps[event.key], area), canvas, area);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

/** The nearest point that lies in a direction from the focused one. */
function nextPoint([right, down], area) {
  const place = places(area);
  const [x, y] = place(focused);
  let [best, least] = [focused, Infinity];
  data.map.x.forEach((_, i) => {
    const [left, top] = place(i);
    const along = (left - x) * right + (top - y) * down;
    const aside = Math.abs((left - x) * down) + Math.abs((top - y) * right);
    if (along > 0.5 && aside <= along && along + aside < least) [best, least] = [i, along + aside];
  });
  return best;
}
