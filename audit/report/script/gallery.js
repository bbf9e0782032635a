// The images as cards, sixty at a time; one card is in the tab order, arrow keys move among them.

let shownNow = []; // positions of the images that pass the filters
let active = 0; // which card of this page takes the focus

function gallery() {
  const many = (name, key) => {
    const used = new Set(images.map((image) => image[key]));
    const options = [...used].filter((which) => which !== null)
      .sort((a, b) => (className(a) < className(b) ? -1 : 1))
      .map((which) => [String(which), className(which)]);
    return select(name, [['', 'All'], ...options, ...(used.has(null) ? [['null', 'no class']] : [])],
      view[key], (value) => refilter({ [key]: value }));
  };
  const search = element('input', { type: 'search', id: 'search', value: view.search, placeholder: 'e.g. drawing' });
  search.addEventListener('input', () => refilter({ search: search.value }));
  const shows = [['all', 'All'], ['undecided', 'Undecided'], ['keep', 'Keep'], ['remove', 'Remove'], ['relabel', 'Relabel']];
  if (images.some((image) => image.flagged)) shows.splice(1, 0, ['flagged', 'Flagged']);
  if (asksLabels) shows.splice(1, 0, ['issues', 'Label issues']);
  return [
    element('div', { className: 'heading-line' },
      element('h2', { textContent: 'Gallery', tabIndex: -1 }),
      button('Review one by one', () => review(shownNow, 0), { className: 'strong', id: 'start-review' })),
    element('details', { className: 'filters', open: matchMedia('(min-width: 761px)').matches },
      element('summary', { textContent: 'Search, filter and sort' }),
      element('div', { className: 'fields', role: 'search', ariaLabel: 'Images' },
      element('div', { className: 'field grow' },
        element('label', { htmlFor: 'search', textContent: 'Search captions and paths' }), search),
      select('Sort', SORTS.map(([name, text]) => [name, text]), view.sort, (sort) => refilter({ sort })),
      filed ? many('Class', 'label') : null,
      many('Nearest class', 'nearest'),
      data.groups.length ? select('Group', [['', 'All'],
        ...data.groups.map((group, at) => [String(at), groupTitle(group, at)]), ['none', 'in no group']],
      view.group, (group) => refilter({ group })) : null,
      select('Show', shows, view.show, (show) => refilter({ show })))),
    element('div', { className: 'heading-line' },
      element('p', { id: 'found', className: 'quiet' }),
      element('div', { className: 'actions', id: 'bulk' })),
    element('p', { className: 'quiet keys', id: 'keys' }, 'With an image in focus: ',
      ...[['←→', 'move'], ['Enter', 'open'], ['K', 'keep'], ['R', 'remove'], ['L', 'relabel'], ['U', 'undo']]
        .flatMap(([key, what]) => [element('kbd', { textContent: key }), ` ${what}  `])),
    element('ul', { className: 'cards', id: 'cards', 'aria-label': 'Images', 'aria-describedby': 'keys' }),
    element('nav', { className: 'pages', 'aria-label': 'Pages of images', id: 'pages' }),
  ];
}

/** Change what is looked at and draw the first page of it. */
function refilter(change) {
  Object.assign(view, change, { page: 0 });
  active = 0;
  drawCards();
  announce(document.getElementById('found').textContent);
}

function openGallery(change) {
  Object.assign(view, { label: '', nearest: '', group: '', show: 'all', search: '', page: 0 }, change);
  active = 0;
  if (location.hash === '#gallery') openView();
  else location.hash = '#gallery';
}

function drawCards() {
  shownNow = listed();
  const pages = Math.max(1, Math.ceil(shownNow.length / PAGE));
  view.page = Math.min(view.page, pages - 1);
  const first = view.page * PAGE;
  const here = shownNow.slice(first, first + PAGE);
  active = Math.max(0, Math.min(active, here.length - 1));
  document.getElementById('cards').replaceChildren(...here.map((at, place) => card(at, place)));
  document.getElementById('found').textContent = shownNow.length
    ? `${several(shownNow.length, 'image')}${pages > 1 ? `, page ${count(view.page + 1)} of ${count(pages)}` : ''}`
    : 'No image passes these filters.';
  document.getElementById('start-review').disabled = !shownNow.length;
  drawBulk();
  drawPages(pages);
}

function drawBulk() {
  const all = () => shownNow.map((at) => images[at]);
  document.getElementById('bulk').replaceChildren(
    element('span', { className: 'quiet', textContent: `All ${count(shownNow.length)}:` }),
    ...['keep', 'remove'].map((decision) => button(NAMES[decision], () => decide(all(), decision),
      { className: 'plain', disabled: !shownNow.length, ariaLabel: `${NAMES[decision]} all ${shownNow.length} listed images` })));
}

function drawPages(pages) {
  const to = (page) => () => {
    view.page = page;
    active = 0;
    drawCards();
    document.getElementById('cards').scrollIntoView({ block: 'start' });
    focusCard();
    announce(document.getElementById('found').textContent);
  };
  document.getElementById('pages').replaceChildren(...(pages > 1 ? [
    button('First', to(0), { disabled: view.page === 0, className: 'plain' }),
    button('Previous', to(view.page - 1), { disabled: view.page === 0, className: 'plain' }),
    element('span', { textContent: `${count(view.page + 1)} / ${count(pages)}` }),
    button('Next', to(view.page + 1), { disabled: view.page === pages - 1, className: 'plain' }),
    button('Last', to(pages - 1), { disabled: view.page === pages - 1, className: 'plain' }),
  ] : []));
}

function card(at, place) {
  const image = images[at];
  const reach = place === active ? 0 : -1;
  const act = (decision) => () => { active = place; decide([image], decision); };
  const open = element('button', {
    type: 'button', className: 'frame', tabIndex: reach, ariaLabel: spoken(image),
  }, picture(image.picture, ''));
  open.addEventListener('click', () => review(shownNow, view.page * PAGE + place));
  open.addEventListener('focus', () => setActive(place));
  return element('li', { className: `card ${decisions.get(image.row)?.decision ?? ''}` }, open,
    element('div', { className: 'card-text' },
      element('div', { className: 'card-head' },
        element('span', { className: 'score', textContent: number(image.score) }),
        element('span', { className: 'quiet', textContent: `#${count(image.rank)}` }),
        image.q !== undefined || image.p !== null ? element('span', {
          className: 'quiet', textContent: image.q !== undefined ? `q ${number(image.q, 3)}` : `p ${number(image.p, 3)}` }) : null,
        mark(image)),
      filing(image),
      pulls(image, 3),
      pathLine(image),
      element('div', { className: 'card-actions' },
        button('Keep', act('keep'), { tabIndex: reach, className: 'plain' }),
        button('Remove', act('remove'), { tabIndex: reach, className: 'plain' }),
        button('Relabel', () => review(shownNow, view.page * PAGE + place, true), { tabIndex: reach, className: 'plain' }))));
}

function setActive(place) {
  active = place;
  [...document.getElementById('cards').children].forEach((each, which) => {
    for (const control of each.querySelectorAll('button')) control.tabIndex = which === place ? 0 : -1;
  });
}

function focusCard() {
  document.getElementById('cards')?.children[active]?.querySelector('.frame').focus();
}

/** Focus the image at `place` of those that pass the filters, on another page if it is there. */
function moveTo(place) {
  if (place < 0 || place >= shownNow.length) return focusCard();
  const page = Math.floor(place / PAGE);
  active = place % PAGE;
  if (page !== view.page) {
    view.page = page;
    drawCards();
  } else setActive(active);
  focusCard();
}

/** Keys that act on the card in focus. */
function galleryKey(event) {
  const cards = document.getElementById('cards');
  if (!cards?.contains(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  const here = [...cards.children];
  const image = images[shownNow[view.page * PAGE + active]];
  const across = here.filter((each) => each.offsetTop === here[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (Object.hasOwn(steps, key)) moveTo(view.page * PAGE + active + steps[key]);
  else if (key === 'k' || key === 'r') {
    const at = view.page * PAGE + active;
    decide([image], key === 'k' ? 'keep' : 'remove');
    moveTo(images[shownNow[at]] === image ? at + 1 : at); // a filter may have taken it away
  } else if (key === 'l') review(shownNow, view.page * PAGE + active, true);
  else if (key === 'u') {
    const row = undo();
    const place = shownNow.findIndex((at) => images[at].row === row);
    moveTo(place < 0 ? view.page * PAGE + active : place);
  } else return;
  event.preventDefault();
}
