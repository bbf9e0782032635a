// The first view: counts, how the scores are spread, what the run was made with.

const CLASSES_SHOWN = 24;

function overview() {
  const { counts } = data;
  const figures = [
    ['Images scored', counts.scored],
    counts.flagged === null ? ['Shown here', images.length] : ['Flagged', counts.flagged],
    ['Kinds of stray', data.groups.length],
    ['Could not be read', counts.failed],
    ['Copies', counts.copies],
  ];
  if (asksLabels) {
    figures.splice(2, 0, ['Label issues', images.filter((image) => image.is_label_issue).length]);
  }
  return [
    element('h2', { textContent: 'Overview', tabIndex: -1 }),
    element('dl', { className: 'figures' }, ...figures.map(([name, of]) =>
      element('div', {}, element('dt', { textContent: name }),
        element('dd', { textContent: count(of) })))),
    ...leftOut(),
    element('div', { className: 'overview-grid' },
      element('section', { className: 'sheet', 'aria-labelledby': 'spread-title' }, ...spread()),
      element('section', { className: 'sheet', 'aria-labelledby': 'facts-title' },
        element('h3', { id: 'facts-title', textContent: 'How it was made' }),
        element('dl', { className: 'facts' }, ...data.facts.flatMap(([name, value]) => [
          element('dt', { textContent: name }), element('dd', {}, isolated(value))])))),
    ...(data.groups.length ? [element('section', { className: 'preview' },
      element('div', { className: 'heading-line' },
        element('h3', { textContent: 'Largest kinds of stray' }),
        element('a', { href: '#groups', textContent: 'All groups' })),
      element('ul', { className: 'group-grid' },
        ...data.groups.slice(0, 4).map((group, at) => groupCard(group, at, 'h4', 6))))] : []),
  ];
}

function leftOut() {
  const left = data.left_out;
  const lines = [];
  if (left.images) {
    lines.push(`The ${several(images.length, 'most anomalous image')} can be looked at one by one; `
      + `the other ${count(left.images)} are counted here and listed in scores.parquet.`);
  }
  if (left.pictures) lines.push(`${several(left.pictures, 'picture')} would not fit into this file.`);
  const without = images.filter((image) => image.picture === null).length;
  if (without) {
    lines.push(`${several(without, 'image')} without a picture: the file could not be read when `
      + 'this page was made.');
  }
  if (left.embeddings) {
    lines.push('The embeddings were not where the audit had them: no groups, neighbours or content hashes.');
  }
  return lines.length ? [element('p', { className: 'notice', textContent: lines.join(' ') })] : [];
}

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
    element('h3', { id: 'spread-title', textContent: 'Scores' }),
    element('p', { className: 'quiet' }, 'Higher is more anomalous. Heights are square roots, so that single images show. ',
      threshold === null ? '' : `The line is the threshold, ${number(threshold)}.`),
    histogram(all, 120, 'All scores'),
    element('p', { className: 'ends', 'aria-hidden': 'true' },
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
