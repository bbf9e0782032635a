// One image at a time, in a dialog: all the evidence, and the decision.

let queue = []; // positions of the images under review, in order
let turn = 0;

/** Open the dialog on the image at `start` of `order`; `relabel` goes straight to the new label. */
function review(order, start, relabel = false) {
  if (!order.length) return;
  queue = [...order];
  turn = start;
  drawReview();
  if (relabel) document.getElementById('new-label').focus();
}

/** Open one image; within a review, as the next one. */
function visit(at) {
  if (!document.getElementById('review').open) return review([at], 0);
  const place = queue.indexOf(at);
  if (place < 0) queue.splice(turn + 1, 0, at);
  turn = place < 0 ? turn + 1 : place;
  drawReview();
}

function current() {
  return images[queue[turn]];
}

function drawReview() {
  const image = current();
  const dialog = document.getElementById('review');
  const step = (by) => () => go(by);
  const frame = element('button', { type: 'button', className: 'frame', id: 'full-size', ariaLabel: `Enlarge ${image.path}` },
    picture(image.picture, ''));
  frame.addEventListener('click', () => zoom(image.file, image.picture, image.path));
  const [toggle, legend] = image.map ? heatMap(image, frame) : [];
  dialog.replaceChildren(
    element('header', { className: 'review-head' },
      element('h2', { id: 'review-title', tabIndex: -1 },
        element('span', { className: 'quiet', textContent: `${count(turn + 1)} / ${count(queue.length)} ` }),
        isolated(image.path)),
      element('div', { className: 'actions' },
        element('a', { className: 'plain', href: `#image=${image.row}`, textContent: 'Link', title: 'Address of this image on this page' }),
        original(image.file),
        button('Close', () => dialog.close(), { className: 'plain', id: 'review-close' }))),
    element('div', { className: 'review-body', tabIndex: 0, role: 'region', ariaLabel: 'Evidence' },
      element('div', { className: 'review-picture' },
        element('figure', {}, frame, legend ?? null),
        toggle ?? null,
        image.no_picture ? element('p', { className: 'quiet' }, isolated(image.no_picture)) : null,
        chips(image),
        element('p', { className: 'sentence' }, ...sentence(image)),
        element('p', { className: 'quiet', textContent: standing(image) }),
        pulls(image, 3),
        image.issues.length ? element('ul', { className: 'evidence' }, ...image.issues.map(([, evidence, suggestion]) =>
          element('li', {}, isolated(evidence), element('span', { className: 'quiet' }, ' → ', isolated(suggestion))))) : null,
        ...copyLink(queue[turn])),
      element('div', { className: 'review-evidence' },
        ...neighbours([[image.label === null ? 'Nearest class: ' : 'Filed under: ', isolated(className(image.own[0]?.[1]))], image.own],
          [[image.is_label_issue ? 'Looks like: ' : 'Nearest class: ', isolated(className(image.other[0]?.[1]))], image.other]),
        ...captionTable(image),
        ...neighbours([['Nearest of all'], image.any]),
        ...scoreParts(image))),
    element('footer', { className: 'review-foot' },
      element('div', { className: 'actions' },
        button('Previous', step(-1), { className: 'plain', disabled: turn === 0, ariaKeyShortcuts: 'ArrowLeft' }),
        button('Next', step(1), { className: 'plain', disabled: turn === queue.length - 1, ariaKeyShortcuts: 'ArrowRight' }),
        button('Undo', undoHere, { className: 'plain', disabled: !past.length, ariaKeyShortcuts: 'u' }),
        mark(image)),
      relabelForm(image),
      element('div', { className: 'actions choices' },
        button('Keep', () => settle('keep'), { className: 'choice keep', ariaKeyShortcuts: 'k' }),
        button('Remove', () => settle('remove'), { className: 'choice remove', ariaKeyShortcuts: 'r' }))));
  if (!dialog.open) dialog.showModal(); // filled first: it is laid out once
  window.history.replaceState(null, '', `#image=${image.row}`);
  document.getElementById('review-title').focus({ preventScroll: true });
  dialog.querySelector('.review-body').scrollTop = 0;
}

/** Every caption with its pull from the class it is filed under, and from the nearest one. */
function captionTable(image) {
  if (!image.captions.length) return [];
  const own = comparedWith(image);
  const two = own !== image.nearest;
  const head = ['Caption', `pull from ${className(own)}`, ...(two ? [`from ${className(image.nearest)}, the nearest`] : []), 'cosine'];
  return [element('h3', { textContent: 'What it resembles' }),
    element('p', { className: 'quiet', textContent: 'A pull is by how many standard deviations it is more like a caption than the images of a class are.' }),
    element('table', { className: 'captions' },
      element('thead', {}, element('tr', {}, ...head.map((text) => element('th', { scope: 'col' }, isolated(text))))),
      element('tbody', {}, ...image.captions.map(([which, pull, nearest, cosine]) => element('tr', {},
        element('td', {}, isolated(data.captions[which])),
        ...[signed(pull), ...(two ? [signed(nearest)] : []), number(cosine, 3)].map((text) => element('td', { textContent: text }))))))];
}

/** The numbers: the score's terms for its classes, label margins, the classes that fit best. */
function scoreParts(image) {
  const [ics, ets, givenIcs, givenEts] = image.terms;
  const bliss = (a, b) => a + data.weight * b;
  const line = (which, a, b) => element('li', {}, isolated(className(which)), element('span', { className: 'quiet',
    textContent: ` ${number(bliss(a, b))} = ${number(a)} unlike its name ${signed(data.weight * b, 2)} like other captions` }));
  const facts = [[data.score === 'bliss' ? 'Score' : `Score (${data.score})`, number(image.score)]];
  if (image.p !== null) facts.push(['p', number(image.p, 4)]);
  if (image.q !== undefined) facts.push(['q', number(image.q, 4)]);
  if (image.margin !== undefined) facts.push(['Label margin', number(image.margin, 3)]);
  if (image.cosine_margin !== undefined) facts.push(['Cosine margin', number(image.cosine_margin, 3)]);
  if (image.label_quality !== undefined) facts.push(['Label quality', number(image.label_quality, 3)]);
  return [element('details', { id: 'numbers' }, element('summary', { textContent: 'All numbers' }),
    element('dl', { className: 'statistics' }, ...facts.map(([name, value]) =>
      element('div', {}, element('dt', { textContent: name }), element('dd', { textContent: value })))),
    element('h3', { textContent: 'BLISS, by class' }),
    element('ul', { className: 'best' }, line(image.nearest, ics ?? 0, ets ?? 0),
      givenIcs !== null && image.label !== image.nearest ? line(image.label, givenIcs, givenEts) : null),
    element('h3', { textContent: 'Classes it fits best' }),
    element('ol', { className: 'best' }, ...image.best.map(([which, score]) =>
      element('li', {}, isolated(className(which)), element('span', { className: 'quiet', textContent: ` score ${number(score)}` })))))];
}

function relabelForm(image) {
  const guess = image.is_label_issue ? image.predicted_label : image.nearest !== image.label ? image.nearest : image.best[1]?.[0];
  const made = decisions.get(image.row);
  const field = labelField('new-label', made?.label || (guess === undefined || guess === null ? '' : className(guess)));
  const form = element('form', { className: 'new-label-form', method: 'dialog' },
    element('label', { htmlFor: 'new-label', textContent: 'New label' }), field,
    element('button', { type: 'submit', className: 'choice relabel', textContent: 'Relabel', ariaKeyShortcuts: 'l' }));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const label = checkedLabel(field);
    if (label !== null) settle('relabel', label);
  });
  return form;
}

function settle(decision, label = '') {
  decide([current()], decision, label);
  if (turn < queue.length - 1) go(1, false);
  else drawReview();
}

/** Undo, and back to the image whose decision was taken back if it is under review. */
function undoHere() {
  const row = undo();
  const place = queue.findIndex((at) => images[at].row === row);
  if (place >= 0) turn = place;
  drawReview();
}

function go(by, speak = true) {
  const to = turn + by;
  if (to < 0 || to >= queue.length) return;
  turn = to;
  drawReview();
  if (speak) announce(spoken(current()));
}

function reviewKey(event) {
  if (!document.getElementById('review').open || event.target instanceof HTMLInputElement) return false;
  const acts = {
    ArrowRight: () => go(1), ArrowLeft: () => go(-1), k: () => settle('keep'),
    r: () => settle('remove'), u: undoHere,
    l: () => { document.getElementById('new-label').focus(); document.getElementById('new-label').select(); },
  };
  const key = keyOf(event);
  if (!Object.hasOwn(acts, key)) return false;
  acts[key]();
  return true;
}

/** Back in the view; in the gallery the focus goes to the image that was looked at last. */
function reviewClosed() {
  window.history.replaceState(null, '', `#${shownView}`);
  if (!document.getElementById('cards')) return;
  if (filtersDecisions()) drawCards(); // other images may pass now
  const place = shownNow.indexOf(queue[turn]);
  if (place >= 0) moveTo(place);
  else focusCard();
}
