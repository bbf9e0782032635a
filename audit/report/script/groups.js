// Kinds of stray, wrong labels by pair, and files that could not be read.

function groupTitle(group, at) {
  const name = group.captions.length ? caption(group.captions[0]) : `group ${at + 1}`;
  return `${several(group.size, 'image')}: ${name}`;
}

function thumbnails(places, most) {
  return element('ul', { className: 'strip' }, ...places.slice(0, most).map((at, which) => {
    const open = button('', () => review(places, which), { className: 'frame', ariaLabel: spoken(images[at]) });
    open.append(picture(images[at].picture, ''));
    return element('li', {}, open);
  }));
}

function groupCard(group, at, heading, most) {
  const members = () => images.map((_, place) => place).filter((place) => images[place].group === at);
  return element('li', { className: 'sheet group' },
    element(heading, {}, element('span', { className: 'size', textContent: `${several(group.size, 'image')}: ` }),
      isolated(group.captions.length ? caption(group.captions[0]) : 'no caption pulls on them')),
    thumbnails(group.examples, most),
    group.captions.length > 1 ? element('ul', { className: 'also quiet' },
      ...group.captions.slice(1, 4).map((which) => element('li', {}, isolated(caption(which))))) : null,
    group.shown ? element('div', { className: 'actions' },
      button('Show', () => openGallery({ group: String(at) }), { className: 'plain', ariaLabel: `Show group ${at + 1} in the gallery` }),
      button('Review', () => review(members(), 0), { className: 'plain', ariaLabel: `Review group ${at + 1}` }),
      button('Remove all', () => decide(members().map((place) => images[place]), 'remove'), { className: 'plain', ariaLabel: `Remove all of group ${at + 1}` }))
      : null);
}

function groups() {
  return [
    element('h2', { textContent: 'Kinds of stray', tabIndex: -1 }),
    element('p', { className: 'quiet' }, `The ${data.grouped}, grouped by how alike they are. Each group is named by the `
      + 'captions that pull hardest on its images.'),
    element('ul', { className: 'group-grid' }, ...data.groups.map((group, at) => groupCard(group, at, 'h3', 6))),
  ];
}

/** Label issues, by the pair of given and suggested label, the commonest pair first. */
function labels() {
  const pairs = new Map();
  images.forEach((image, at) => {
    if (!image.is_label_issue) return;
    const key = `${image.label} ${image.predicted_label}`;
    if (!pairs.has(key)) pairs.set(key, []);
    pairs.get(key).push(at);
  });
  const worst = (places) => places.sort((a, b) => (images[a].label_quality ?? 0) - (images[b].label_quality ?? 0));
  const rows = [...pairs.values()].map(worst).sort((a, b) => b.length - a.length);
  return [
    element('h2', { textContent: 'Labels that look wrong', tabIndex: -1 }),
    element('p', { className: 'quiet', textContent: rows.length
      ? 'Images that another class fits better than their own, the worst label first in each pair.'
      : 'Among the images shown, no label looks wrong.' }),
    element('ul', { className: 'group-grid' }, ...rows.map((places) => pairCard(places))),
  ];
}

function pairCard(places) {
  const { label, predicted_label: predicted } = images[places[0]];
  const chosen = () => places.map((at) => images[at]);
  return element('li', { className: 'sheet group' },
    element('h3', {}, 'Labelled ', isolated(className(label)), ', looks like ', isolated(className(predicted)),
      element('span', { className: 'quiet', textContent: ` ${several(places.length, 'image')}` })),
    thumbnails(places, 6),
    element('div', { className: 'actions' },
      button('Review', () => review(places, 0), { className: 'plain', ariaLabel: `Review ${className(label)} that look like ${className(predicted)}` }),
      button('Relabel all', () => decide(chosen(), 'relabel', className(predicted)),
        { className: 'plain', ariaLabel: `Relabel all as ${className(predicted)}` })));
}

function failures() {
  return [
    element('h2', { textContent: 'Could not be read', tabIndex: -1 }),
    element('p', { className: 'quiet', textContent: data.left_out.failures
      ? `${several(data.left_out.failures, 'more file')} are in failures.csv.`
      : 'These files were not scored. failures.csv lists the same.' }),
    element('div', { className: 'sheet table', tabIndex: 0, role: 'region', 'aria-label': 'Files that could not be read' },
      element('table', {},
        element('thead', {}, element('tr', {}, ...['Row', 'Path', 'Reason'].map((name) =>
          element('th', { textContent: name, scope: 'col' })))),
        element('tbody', {}, ...data.failures.map(([row, path, reason]) => element('tr', {},
          element('td', { textContent: count(row) }), element('td', {}, isolated(path)),
          element('td', {}, isolated(reason))))))),
  ];
}
