// What the page knows: the run's data, and how it is being looked at.

const data = JSON.parse(document.getElementById('data').textContent);
const images = data.images;
const filed = images.some((image) => image.label !== null);
const asksLabels = images.some((image) => 'is_label_issue' in image);
const PAGE = 60;

const view = {
  sort: 'worst', label: '', nearest: '', group: '', show: 'all', search: '', page: 0,
};

const SORTS = [
  ['worst', 'Most anomalous', (a, b) => a.rank - b.rank],
  ['best', 'Least anomalous', (a, b) => b.rank - a.rank],
  ['path', 'Path', (a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0)],
  ['nearest', 'Nearest class', (a, b) => a.nearest - b.nearest || a.rank - b.rank],
];
if (filed) {
  SORTS.push(['label', 'Class', (a, b) => (a.label ?? -1) - (b.label ?? -1) || a.rank - b.rank]);
}
if (images.some((image) => image.label_quality !== undefined)) {
  const quality = (image) => image.label_quality ?? 2;
  SORTS.push(['quality', 'Worst label', (a, b) => quality(a) - quality(b) || a.rank - b.rank]);
}

function className(which) {
  return which === null || which === undefined ? 'no class' : data.classes[which];
}

function caption(which) {
  return data.captions[which];
}

/** Lower-case text that the search looks through, made once an image. */
function searchable(image) {
  image.text ??= [image.path, ...image.captions.map(([which]) => caption(which))]
    .join('\n').toLowerCase();
  return image.text;
}

/** Positions of the images that pass the filters, in the order asked for. */
function listed() {
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const passes = (image) =>
    (view.label === '' || String(image.label) === view.label)
    && (view.nearest === '' || String(image.nearest) === view.nearest)
    && (view.group === '' || String(image.group ?? 'none') === view.group)
    && shows(image)
    && words.every((word) => searchable(image).includes(word));
  const order = SORTS.find(([name]) => name === view.sort)[2];
  return images.map((_, at) => at)
    .filter((at) => passes(images[at]))
    .sort((a, b) => order(images[a], images[b]));
}

function shows(image) {
  const decision = decisions.get(image.row)?.decision;
  switch (view.show) {
    case 'all': return true;
    case 'flagged': return image.flagged;
    case 'issues': return Boolean(image.is_label_issue);
    case 'undecided': return !decision;
    default: return decision === view.show;
  }
}

/** The picture element of an image or neighbour; its bytes are read only now. */
function picture(which, alternative) {
  const stored = which === null || which === undefined
    ? null : document.getElementById(`picture-${which}`);
  if (!stored) return element('span', { className: 'no-picture', textContent: 'no picture' });
  return element('img', {
    src: `data:image/webp;base64,${stored.textContent}`,
    alt: alternative, decoding: 'async', draggable: false,
  });
}
