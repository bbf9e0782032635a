// What the page knows: the run's data, and how it is being looked at.

const data = JSON.parse(document.getElementById('data').textContent);
const images = data.images;
const pictures = document.getElementById('pictures').content; // apart from what is laid out
const byRow = new Map(images.map((image, at) => [image.row, at]));
const filed = images.some((image) => image.label !== null);
const PAGE = 48;

const KINDS = {
  stray: ['Stray', 'flagged as unlike every class'],
  label: ['Wrong label', 'another class fits better than the one they are filed under'],
  copy: ['Copy', 'the same file, or the same pixels, as another image'],
  'near-copy': ['Near-copy', 'the same picture as another: resized, cropped, mirrored or saved again'],
  leak: ['Leak', 'also in another collection or split'],
  quality: ['Bad picture', 'dark, bright, blurred, empty, or of an odd size or shape'],
};

/** The kinds of issue that an image has, each once. */
function kindsOf(image) {
  return [...new Set(image.issues.map(([kind]) => kind))];
}

const view = {
  sort: 'first', label: '', nearest: '', group: '', show: 'all', search: '', only: null, page: 0,
};
const NOTHING_FILTERED = { label: '', nearest: '', group: '', show: 'all', search: '', only: null };

const SORTS = [
  ['first', 'Read first', (a, b) => a.first - b.first],
  ['worst', data.by_labels ? 'Most doubtful label' : 'Most unusual', (a, b) => a.rank - b.rank],
  ['best', data.by_labels ? 'Least doubtful label' : 'Least unusual', (a, b) => b.rank - a.rank],
  ['path', 'Path', (a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0)],
  ['nearest', 'Nearest class', (a, b) => a.nearest - b.nearest || a.rank - b.rank],
];
if (filed) {
  SORTS.push(['label', 'Class', (a, b) => (a.label ?? -1) - (b.label ?? -1) || a.rank - b.rank]);
}

function className(which) {
  return which === null || which === undefined ? 'no class' : data.classes[which];
}

/** Lower-case text that the search looks through, made once an image. */
function searchable(image) {
  image.text ??= [image.path, ...image.captions.map(([which]) => data.captions[which])]
    .join('\n').toLowerCase();
  return image.text;
}

/** Positions of the images that pass the filters, in the order asked for. */
function listed() {
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const passes = (image, at) =>
    (view.label === '' || String(image.label) === view.label)
    && (view.nearest === '' || String(image.nearest) === view.nearest)
    && (view.group === '' || String(image.group ?? 'none') === view.group)
    && (view.only === null || view.only.has(at))
    && shows(image)
    && words.every((word) => searchable(image).includes(word));
  const order = SORTS.find(([name]) => name === view.sort)[2];
  return images.map((_, at) => at)
    .filter((at) => passes(images[at], at))
    .sort((a, b) => order(images[a], images[b]));
}

/** Whether a decision changes which images pass the filters. */
function filtersDecisions() {
  return view.show in NAMES || view.show === 'undecided';
}

function shows(image) {
  const decision = decisions.get(image.row)?.decision;
  switch (view.show) {
    case 'all': return true;
    case 'issues': return image.issues.length > 0;
    case 'undecided': return !decision;
    default: return view.show in KINDS
      ? image.issues.some(([kind]) => kind === view.show) : decision === view.show;
  }
}

/** The data: address of a picture of this page, null where there is none. */
function pictureAddress(which) {
  const stored = which === null || which === undefined
    ? null : pictures.getElementById(`picture-${which}`);
  return stored && `data:image/webp;base64,${stored.textContent}`;
}

/** The picture element of an image or neighbour; its bytes are read only now. */
function picture(which, alternative) {
  const src = pictureAddress(which);
  if (!src) return element('span', { className: 'no-picture', textContent: 'no picture' });
  return element('img', { src, alt: alternative, decoding: 'async', draggable: false });
}
