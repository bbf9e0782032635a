// The first view: what is wrong, the worst of each kind, what to do next; everything else folded.

const WORST = 3; // of each kind

function summary() {
  const { counts } = data;
  const wrong = images.filter((image) => image.issues.length);
  const kinds = Object.entries(data.issues);
  const total = kinds.reduce((sum, [, [issues]]) => sum + issues, 0);
  const first = images.map((_, at) => at).sort((a, b) => images[a].first - images[b].first)
    .filter((at) => !wrong.length || images[at].issues.length).slice(0, 20);
  const unusual = !data.issues.stray?.[0] && !data.by_labels;
  return [
    element('div', { className: 'heading-line' },
      element('div', {},
        element('h2', { tabIndex: -1, textContent: total
          ? `${several(total, 'issue')} of ${several(data.with_issues, 'image')}` : `${several(counts.scored, 'image')}, no issue found` }),
        element('p', { className: 'quiet' }, `${several(counts.scored, 'image')} scored. Review the first ones: `,
          ...['K keep, ', 'R remove, ', 'L relabel. '].flatMap((each) => [element('kbd', { textContent: each[0] }), each.slice(1)]),
          'Then download the decisions and run ', element('code', { textContent: 'bliss apply' }), '.')),
      first.length ? button(`Review the first ${first.length}`, () => review(first, 0), { className: 'strong', id: 'start-review' }) : null),
    element('ul', { className: 'tiles' }, ...kinds.map(([kind, [issues]]) => element('li', {}, tile(kind, issues))),
      counts.failed ? element('li', {}, element('a', { className: 'tile', href: '#unread' },
        element('b', { textContent: count(counts.failed) }), ' could not be read')) : null),
    ...leftOut(),
    element('div', { className: 'worst-of-all' },
      ...kinds.filter(([, [issues]]) => issues).map(([kind, [issues]]) => findings(kind, issues)),
      unusual ? mostUnusual() : null),
    ...groups(),
    element('details', { className: 'sheet', id: 'settings' },
      element('summary', { textContent: `${data.spread.of}, settings` }),
      element('div', { className: 'overview-grid' },
        element('section', { 'aria-labelledby': 'spread-title' }, ...spread()),
        element('section', { 'aria-labelledby': 'facts-title' },
          element('h3', { id: 'facts-title', textContent: 'How it was made' }),
          element('dl', { className: 'facts' }, ...data.facts.flatMap(([name, value]) => [
            element('dt', { textContent: name }), element('dd', {}, isolated(value))]))))),
    data.failures.length ? failures() : null,
  ];
}

/** A count that leads to its images. */
function tile(kind, issues) {
  const [name] = KINDS[kind];
  const made = button('', () => showKind(kind), { className: `tile ${kind}`, disabled: !issues });
  made.append(element('b', { textContent: count(issues) }), ` ${several(issues, name.toLowerCase()).replace(/^[\d,]+ /, '')}`);
  return made;
}

function showKind(kind) {
  if (kind === 'label') location.hash = '#labels';
  else if (['copy', 'near-copy', 'leak'].includes(kind) && data.copies.length) location.hash = '#copies';
  else openGallery({ show: kind });
}

/** The worst images of one kind of issue, each beside what it is to be compared with. */
function findings(kind, issues) {
  const severity = (at) => images[at].issues.find(([each]) => each === kind)[3];
  const here = images.map((_, at) => at)
    .filter((at) => images[at].issues.some(([each]) => each === kind))
    .sort((a, b) => severity(b) - severity(a) || images[a].first - images[b].first);
  const [name, text] = KINDS[kind];
  const heading = several(issues, name.toLowerCase());
  const of = data.issues[kind][1] === issues ? '' : ` in ${several(data.issues[kind][1], 'image')}`;
  return element('section', { className: 'findings', 'aria-labelledby': `worst-${kind}` },
    element('div', { className: 'heading-line' },
      element('div', {},
        element('h3', { id: `worst-${kind}`, textContent: heading + of }),
        element('p', { className: 'quiet', textContent: text })),
      button('See all', () => showKind(kind), { className: 'plain', ariaLabel: `See all ${heading}` })),
    element('ul', { className: 'worst' }, ...here.slice(0, WORST).map((at, place) => finding(at, kind, here, place))));
}

/** One image with its sentence, beside a neighbour or its copy. */
function finding(at, kind, order, place) {
  const image = images[at];
  const open = button('', () => review(order, place), { className: 'pair', ariaLabel: spoken(image) });
  open.append(element('span', { className: 'frame' }, picture(image.picture, '')));
  const other = kind.includes('copy') || kind === 'leak' ? copyOf(at)
    : kind === 'quality' ? null : beside(image, kind);
  if (other) open.append(element('span', { className: 'frame' }, picture(other.picture ?? other[0], '')));
  const made = element('li', { className: 'finding' }, open,
    element('p', {}, ...sentence(image, kind)), pathLine(image), mark(image));
  made.dataset.at = at;
  return made;
}

function mostUnusual() {
  const here = images.map((_, at) => at).sort((a, b) => images[a].rank - images[b].rank);
  return element('section', { className: 'findings', 'aria-labelledby': 'worst-unusual' },
    element('div', { className: 'heading-line' },
      element('div', {},
        element('h3', { id: 'worst-unusual', textContent: 'Most unusual' }),
        element('p', { className: 'quiet' }, 'Nothing was flagged as a stray: a number (', element('code', { textContent: '--flag 20' }),
          ') or clean images (', element('code', { textContent: '--calibration' }), ') decide that. The most unusual first.')),
      button('See all', () => openGallery({}, 'worst'), { className: 'plain' })),
    element('ul', { className: 'worst' }, ...here.slice(0, WORST).map((at, place) => finding(at, '', here, place))));
}

function groupTitle(group, at) {
  const name = group.captions.length ? data.plain[group.captions[0]] : `group ${at + 1}`;
  return `${several(group.size, 'image')}: ${name}`;
}

/** The flagged or most unusual images by what they show; only flagged ones are removed at once. */
function groups() {
  if (data.groups.length < 2) return [];
  return [element('section', { className: 'findings', 'aria-labelledby': 'groups-title' },
    element('h3', { id: 'groups-title', textContent: `The ${data.grouped}, by what they show` }),
    element('ul', { className: 'group-grid' }, ...data.groups.map((group, at) => groupCard(group, at))))];
}

function groupCard(group, at) {
  const members = images.map((_, place) => place).filter((place) => images[place].group === at);
  return element('li', { className: 'sheet group' },
    element('h4', {}, element('span', { className: 'size', textContent: `${several(group.size, 'image')}: ` }),
      group.captions.length ? captionText(group.captions[0]) : 'no caption pulls on them'),
    element('ul', { className: 'strip' }, ...group.examples.map((which) => {
      const open = button('', () => review(members, members.indexOf(which)), { className: 'frame', ariaLabel: spoken(images[which]) });
      open.append(picture(images[which].picture, ''));
      return element('li', {}, open);
    })),
    members.length ? element('div', { className: 'actions' },
      button('Show', () => openGallery({ group: String(at) }), { className: 'plain', ariaLabel: `Show group ${at + 1} in the gallery` }),
      data.grouped === 'flagged images' ? button('Remove all', () => decideMany(members.map((place) => images[place]), 'remove'),
        { className: 'plain', ariaLabel: `Remove all of group ${at + 1}` }) : null) : null);
}

function leftOut() {
  const left = data.left_out;
  const lines = [];
  if (left.images) {
    lines.push(`${several(images.length, 'image')} can be looked at here, the worst of each kind; `
      + `the other ${count(left.images)} are counted and listed in scores.parquet.`);
  }
  if (left.pictures) lines.push(`${several(left.pictures, 'picture')} would not fit into this file.`);
  const without = images.filter((image) => image.picture === null).length;
  if (without) {
    lines.push(`${several(without, 'image')} without a picture: the file could not be read when `
      + 'this page was made.');
  }
  if (left.embeddings) {
    lines.push('The embeddings were not where the audit had them: no groups, map, neighbours or content hashes.');
  }
  return lines.length ? [element('p', { className: 'notice', textContent: lines.join(' ') })] : [];
}

function failures() {
  return element('details', { className: 'sheet', id: 'unread' },
    element('summary', { textContent: `${several(data.counts.failed, 'file')} could not be read` }),
    element('p', { className: 'quiet', textContent: data.left_out.failures
      ? `${several(data.left_out.failures, 'more file')} are in failures.csv.`
      : 'These files were not scored. failures.csv lists the same.' }),
    element('div', { className: 'table', tabIndex: 0, role: 'region', 'aria-label': 'Files that could not be read' },
      element('table', {},
        element('thead', {}, element('tr', {}, ...['Row', 'Path', 'Reason'].map((name) =>
          element('th', { textContent: name, scope: 'col' })))),
        element('tbody', {}, ...data.failures.map(([row, path, reason]) => element('tr', {},
          element('td', { textContent: count(row) }), element('td', {}, isolated(path)),
          element('td', {}, isolated(reason))))))));
}
