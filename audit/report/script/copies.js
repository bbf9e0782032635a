// Copies: groups side by side, the image to keep first.

const HOW = { exact: 'the same file', 'same-pixels': 'the same pixels', near: 'the same picture', 'look-alike': 'looks alike' };
const GROUPS_AT_ONCE = 40;
let groupsDrawn = GROUPS_AT_ONCE;

const groupOf = new Map(data.copies.flatMap((group) => group.filter((copy) => copy.at !== null).map((copy) => [copy.at, group])));

/** The copy that is suggested to be kept of the image at `at`, or of the kept one another. */
function copyOf(at) {
  const others = groupOf.get(at)?.filter((copy) => copy.at !== at) ?? [];
  return others.find((copy) => copy.keep || copy.other) ?? others[0];
}

/** From an image to its copies. */
function copyLink(at) {
  const group = groupOf.get(at);
  if (!group) return [];
  return [element('h3', { textContent: 'Its copies' }), element('ul', { className: 'neighbours' },
    ...group.filter((copy) => copy.at !== at).slice(0, 6).map((copy) => element('li', {}, copyFrame(copy),
      element('p', {}, isolated(copy.path)))))];
}

function copyFrame(copy) {
  const open = button('', () => (copy.at === null ? zoom(copy.file, copy.picture, copy.path) : visit(copy.at)),
    { className: 'frame', ariaLabel: `Open ${copy.path}` });
  open.append(picture(copy.picture, ''));
  return open;
}

function copies() {
  const shown = data.copies.slice(0, groupsDrawn);
  const left = data.left_out.copies;
  return [
    element('h2', { textContent: 'Copies', tabIndex: -1 }),
    element('p', { className: 'quiet', textContent: `${several(data.copies.length + left, 'group')} of images that are there more than once. `
      + 'The largest is suggested to be kept, and of equal ones the first by name.'
      + (left ? ` The first ${count(data.copies.length)} are shown; copies.parquet has all.` : '') }),
    element('div', { className: 'actions' }, button('Remove all but the suggested ones', () => decideMany(data.copies.flatMap((group) =>
      group.filter((copy) => copy.at !== null && !copy.keep && !copy.leak).map((copy) => images[copy.at])), 'remove'),
    { className: 'plain', disabled: !data.copies.some((group) => !group[0].leak) })),
    element('ul', { className: 'copy-groups' }, ...shown.map(copyGroup)),
    data.copies.length > shown.length ? button(`Show ${count(data.copies.length - shown.length)} more`, () => {
      groupsDrawn = Infinity;
      openView();
    }, { className: 'plain' }) : null,
    data.alike.length ? element('details', { className: 'sheet' },
      element('summary', { textContent: `${several(data.alike.length, 'pair')} only look alike` }),
      element('p', { className: 'quiet', textContent: 'Other photographs of the same scene, by their embeddings; these are no issues.' }),
      element('ul', { className: 'copy-groups' }, ...data.alike.map(copyGroup))) : null,
  ];
}

function copyGroup(group) {
  const ordered = [...group].sort((a, b) => Number(b.keep) - Number(a.keep));
  const keepOnly = (kept) => {
    const mine = ordered.filter((copy) => copy.at !== null);
    decideEach(mine.map((copy) => [images[copy.at], copy === kept ? 'keep' : 'remove']));
  };
  const labels = new Set(group.map((copy) => copy.label).filter((label) => label !== null));
  return element('li', { className: 'sheet copy-group' },
    labels.size > 1 ? element('p', { className: 'chips' }, element('span', { className: 'chip label', textContent: 'In several classes' })) : null,
    element('ul', { className: 'side-by-side' }, ...ordered.map((copy) => {
      const made = element('li', {}, copyFrame(copy),
        element('p', { className: 'copy-how' }, element('b', { textContent: copy.keep ? (copy.other ? 'In the other collection' : 'Suggested to keep') : HOW[copy.kind] }),
          element('span', { className: 'quiet', textContent: [copy.split, copy.size ? copy.size.join(' × ') : '', copy.mirrored && !copy.keep ? 'mirrored' : '', copy.kind === 'look-alike' ? `cosine ${number(copy.cosine, 3)}`
            : copy.correlation === null || copy.keep ? '' : `fit ${number(copy.correlation, 3)}`].filter(Boolean).join(', ') })),
        element('p', { className: 'path quiet', title: copy.path }, isolated(copy.path)),
        copy.at === null ? null : mark(images[copy.at]),
        copy.at !== null && copy.kind !== 'look-alike' && !copy.leak ? button('Keep only this', () => keepOnly(copy),
          { className: 'plain', ariaLabel: `Keep only ${copy.path} of its copies` }) : null,
        copy.at !== null && copy.leak ? button('Remove', () => decide([images[copy.at]], 'remove'), { className: 'plain', ariaLabel: `Remove ${copy.path}` }) : null);
      if (copy.at !== null) made.dataset.at = copy.at;
      return made;
    })));
}
