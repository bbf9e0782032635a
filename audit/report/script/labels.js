// Wrong labels, the most certain first, with pictures of both classes.

const LABELS_AT_ONCE = 30;
const labelView = { pair: '', most: LABELS_AT_ONCE };

/** Positions of the images whose label is an issue, the most certain first. */
function labelIssues() {
  const sure = (image) => image.margin ?? -Infinity;
  return images.map((_, at) => at)
    .filter((at) => images[at].issues.some(([kind]) => kind === 'label'))
    .sort((a, b) => sure(images[b]) - sure(images[a]) || images[a].first - images[b].first);
}

function pairOf(image) {
  return image.is_label_issue ? `${image.label} ${image.predicted_label}` : 'other';
}

function labels() {
  const all = labelIssues();
  const pairs = new Map();
  for (const at of all) pairs.set(pairOf(images[at]), [...(pairs.get(pairOf(images[at])) ?? []), at]);
  if (!pairs.has(labelView.pair)) labelView.pair = '';
  const here = labelView.pair ? pairs.get(labelView.pair) : all;
  const title = (key) => (key === 'other' ? 'Copies in several classes' : key.split(' ').map((which) => className(Number(which))).join(' → '));
  const redraw = (change) => { Object.assign(labelView, change); openView(); };
  const better = images[here[0]]?.predicted_label;
  return [
    element('h2', { textContent: 'Wrong labels', tabIndex: -1 }),
    element('p', { className: 'quiet', textContent: `${several(data.issues.label[0], 'label')} in doubt, the most certain first. `
      + 'Each image is beside the nearest images of the class it is filed under and of the class it looks like.' }),
    element('div', { className: 'fields' },
      select('Filed under → looks like', [['', `All ${count(all.length)}`], ...[...pairs].sort((a, b) => b[1].length - a[1].length)
        .map(([key, places]) => [key, `${title(key)} (${count(places.length)})`])], labelView.pair,
      (pair) => redraw({ pair, most: LABELS_AT_ONCE })),
      element('div', { className: 'actions' },
        button('Review', () => review(here, 0), { className: 'plain', ariaLabel: 'Review these labels' }),
        labelView.pair && better !== undefined && labelView.pair !== 'other'
          ? button(`Relabel all ${count(here.length)} as ${className(better)}`, () => decideMany(here.map((at) => images[at]), 'relabel', className(better)), { className: 'plain' }) : null)),
    element('ul', { className: 'label-rows' }, ...here.slice(0, labelView.most).map((at, place) => labelRow(at, here, place))),
    here.length > labelView.most ? button(`Show ${count(here.length - labelView.most)} more`, () => redraw({ most: here.length }), { className: 'plain' }) : null,
  ];
}

function labelRow(at, order, place) {
  const image = images[at];
  const open = button('', () => review(order, place), { className: 'frame', ariaLabel: spoken(image) });
  open.append(picture(image.picture, ''));
  const some = (title, found) => element('div', { className: 'class-pictures' },
    element('p', { className: 'quiet' }, title, isolated(className(found[0]?.[1]))),
    element('ul', {}, ...found.map((each) => neighbour(each, ''))));
  const better = className(image.predicted_label);
  const made = element('li', { className: 'sheet label-row' }, open,
    element('div', { className: 'label-text' },
      element('p', { className: 'sentence' }, ...sentence(image, 'label')),
      element('p', { className: 'quiet', textContent: image.margin === undefined ? standing(image)
        : `margin ${signed(image.margin, 2)}, more doubtful than ${percent(image.issues.find(([kind]) => kind === 'label')[3] - 100 / data.counts.scored)} of the labels` }),
      pathLine(image), mark(image),
      element('div', { className: 'actions' },
        image.is_label_issue ? button(`File under ${better}`, () => decide([image], 'relabel', better), { className: 'plain' }) : null,
        button('Keep', () => decide([image], 'keep'), { className: 'plain' }),
        button('Remove', () => decide([image], 'remove'), { className: 'plain' }))),
    image.own.length ? some('filed under ', image.own) : null,
    image.other.length ? some('looks like ', image.other) : null);
  made.dataset.at = at;
  return made;
}
