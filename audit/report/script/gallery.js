// The images as cards, a page at a time; one card is in the tab order, arrow keys move among them.

let shownNow = []; // positions of the images that pass the filters
let active = 0; // which card of this page takes the focus
const selected = new Set(); // positions of the images that are selected
let anchor = 0; // place in `shownNow` from which shift selects
const BATCH = 8; // cards that are made before the browser draws
let drawings = 0; // how often cards were drawn: a batch of an earlier time is not made

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
  const kinds = Object.entries(data.issues).filter(([, [issues]]) => issues)
    .map(([kind]) => [kind, several(2, KINDS[kind][0]).slice(2)]);
  const shows = [['all', 'All'], ...(kinds.length ? [['issues', 'With an issue'], ...kinds] : []),
    ['undecided', 'Undecided'], ['keep', 'Keep'], ['remove', 'Remove'], ['relabel', 'Relabel']];
  return [
    element('div', { className: 'heading-line' },
      element('h2', { textContent: 'Images', tabIndex: -1 }),
      button('Review one by one', () => review(shownNow, 0), { className: 'strong', id: 'start-review' })),
    element('details', { className: 'filters', open: matchMedia('(min-width: 761px)').matches },
      element('summary', { textContent: 'Search, filter and sort' }),
      element('div', { className: 'fields', role: 'search', ariaLabel: 'Images' },
        element('div', { className: 'field grow' },
          element('label', { htmlFor: 'search', textContent: 'Search captions and paths' }), search),
        select('Show', shows, view.show, (show) => refilter({ show })),
        select('Sort', SORTS.map(([name, text]) => [name, text]), view.sort, (sort) => refilter({ sort })),
        filed ? many('Class', 'label') : null,
        many('Nearest class', 'nearest'),
        data.groups.length > 1 ? select('Group', [['', 'All'],
          ...data.groups.map((group, at) => [String(at), groupTitle(group, at)]), ['none', 'in no group']],
        view.group, (group) => refilter({ group })) : null)),
    element('div', { className: 'heading-line' },
      element('p', { id: 'found', className: 'quiet' }),
      element('div', { className: 'actions', id: 'bulk' })),
    element('p', { className: 'quiet keys', id: 'keys' }, 'With an image in focus: ',
      ...[['←→', 'move'], ['Enter', 'open'], ['X', 'select'], ['Shift ←→', 'select several'], ['K', 'keep'], ['R', 'remove'], ['L', 'relabel'], ['U', 'undo']]
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

function openGallery(change, sort = view.sort) {
  Object.assign(view, NOTHING_FILTERED, { sort, page: 0 }, change);
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
  makeCards(here);
  document.getElementById('found').textContent = shownNow.length
    ? `${several(shownNow.length, 'image')}${pages > 1 ? `, page ${count(view.page + 1)} of ${count(pages)}` : ''}`
    : 'No image passes these filters.';
  document.getElementById('start-review').disabled = !shownNow.length;
  drawBulk();
  drawPages(pages);
}

/** Cards of `here`: the active one and those before it at once, the others after the next frames. */
function makeCards(here) {
  const list = document.getElementById('cards');
  const some = (from, to) => here.slice(from, to).map((at, place) => card(at, from + place));
  const drawing = ++drawings;
  let made = Math.max(BATCH, active + 1);
  if (list.children.length) list.style.minBlockSize = `${list.offsetHeight}px`; // keeps the scroll position
  list.setAttribute('aria-busy', 'true');
  list.replaceChildren(...some(0, made));
  const next = () => {
    if (drawing !== drawings) return;
    list.append(...some(made, made + BATCH));
    made += BATCH;
    if (made < here.length) return afterFrame(next);
    list.style.minBlockSize = '';
    list.removeAttribute('aria-busy');
  };
  afterFrame(next);
}

function drawBulk() {
  const all = () => shownNow.map((at) => images[at]);
  document.getElementById('bulk').replaceChildren(
    view.only ? button(`${count(view.only.size)} from the map ×`, () => refilter({ only: null }), { className: 'plain', ariaLabel: 'Show the others again' }) : '',
    element('span', { className: 'quiet', textContent: `All ${count(shownNow.length)}:` }),
    button('Select', () => { shownNow.forEach((at) => selected.add(at)); selectionChanged(); },
      { className: 'plain', disabled: !shownNow.length, ariaLabel: `Select all ${shownNow.length} listed images` }),
    ...['keep', 'remove'].map((decision) => button(NAMES[decision], () => decideMany(all(), decision),
      { className: 'plain', disabled: !shownNow.length, ariaLabel: `${NAMES[decision]} all ${shownNow.length} listed images` })));
}

/** Select or release the image at `place` of those listed; with `range`, all from the last one. */
function pick(place, range) {
  const on = range || !selected.has(shownNow[place]);
  const [from, to] = range ? [Math.min(anchor, place), Math.max(anchor, place)] : [place, place];
  for (const at of shownNow.slice(from, to + 1)) {
    if (on) selected.add(at);
    else selected.delete(at);
  }
  if (!range) anchor = place;
  selectionChanged();
}

function clearSelection() {
  selected.clear();
  selectionChanged();
  focusCard();
}

function selectionChanged() {
  for (const each of document.querySelectorAll('.card')) {
    const on = selected.has(Number(each.dataset.at));
    each.classList.toggle('selected', on);
    each.querySelector('.pick').checked = on;
  }
  drawTray();
  announce(`${count(selected.size)} selected`);
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
  const here = () => view.page * PAGE + place;
  const act = (decision) => () => { setActive(place); decide([image], decision); };
  const open = element('button', { type: 'button', className: 'frame', tabIndex: reach, ariaLabel: spoken(image) },
    picture(image.picture, ''));
  open.addEventListener('click', (event) => (event.shiftKey ? pick(here(), true) : review(shownNow, here())));
  open.addEventListener('focus', () => setActive(place));
  const box = element('input', { type: 'checkbox', className: 'pick', tabIndex: reach, checked: selected.has(at), ariaLabel: `Select ${image.path}` });
  box.addEventListener('click', (event) => { setActive(place); pick(here(), event.shiftKey); });
  const [own] = image.own;
  const made = element('li', { className: `card ${decisions.get(image.row)?.decision ?? ''} ${selected.has(at) ? 'selected' : ''}` },
    element('div', { className: 'pair' }, open,
      own ? element('div', { className: 'own' }, element('div', { className: 'frame' }, picture(own[0], '')),
        element('p', { className: 'quiet' }, 'nearest ', isolated(className(own[1])))) : null),
    element('div', { className: 'card-text' },
      element('div', { className: 'card-head' }, box, chips(image), mark(image)),
      element('p', { className: 'sentence' }, ...sentence(image)),
      element('p', { className: 'quiet', textContent: standing(image) }),
      pulls(image, 3),
      pathLine(image),
      element('div', { className: 'card-actions' },
        button('Keep', act('keep'), { tabIndex: reach, className: 'plain' }),
        button('Remove', act('remove'), { tabIndex: reach, className: 'plain' }),
        button('Relabel', () => review(shownNow, here(), true), { tabIndex: reach, className: 'plain' }))));
  made.dataset.at = at;
  return made;
}

function setActive(place) {
  active = place;
  [...document.getElementById('cards').children].forEach((each, which) => {
    for (const control of each.querySelectorAll('button, input')) control.tabIndex = which === place ? 0 : -1;
  });
}

function focusCard() {
  document.getElementById('cards')?.children[active]?.querySelector('button.frame').focus();
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

/** Keys that act on the card in focus, or on the selected images. */
function galleryKey(event) {
  const cards = document.getElementById('cards');
  if (!cards?.contains(event.target)) return false;
  const here = [...cards.children];
  const at = view.page * PAGE + active;
  const image = images[shownNow[at]];
  const across = here.filter((each) => each.offsetTop === here[0].offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
  const key = keyOf(event);
  if (Object.hasOwn(steps, key)) {
    if (event.shiftKey && !selected.has(shownNow[at])) pick(at, false);
    moveTo(at + steps[key]);
    if (event.shiftKey) pick(view.page * PAGE + active, true);
  } else if (key === 'k' || key === 'r') {
    const decision = key === 'k' ? 'keep' : 'remove';
    if (selected.size) decideMany([...selected].map((each) => images[each]), decision);
    else {
      decide([image], decision);
      moveTo(images[shownNow[at]] === image ? at + 1 : at); // a filter may have taken it away
    }
  } else if (key === 'l') review(shownNow, at, true);
  else if (key === 'x') pick(at, event.shiftKey);
  else if (key === 'u') {
    const row = undo();
    const place = shownNow.findIndex((each) => images[each].row === row);
    moveTo(place < 0 ? at : place);
  } else return false;
  return true;
}
