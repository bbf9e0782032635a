// One image at a time, in a dialog: all the evidence, and the decision.

let queue = []; // positions of the images under review, in order
let turn = 0;

/** Open the dialog on the image at `start` of `order`; `relabel` goes straight to the new label. */
function review(order, start, relabel = false) {
  if (!order.length) return;
  queue = [...order];
  turn = start;
  const dialog = document.getElementById('review');
  if (!dialog.open) dialog.showModal();
  drawReview();
  if (relabel) document.getElementById('new-label').focus();
}

function current() {
  return images[queue[turn]];
}

function drawReview() {
  const image = current();
  const dialog = document.getElementById('review');
  const step = (by) => () => go(by);
  dialog.replaceChildren(
    element('header', { className: 'review-head' },
      element('h2', { id: 'review-title', tabIndex: -1 },
        element('span', { className: 'quiet', textContent: `${count(turn + 1)} / ${count(queue.length)} ` }),
        isolated(image.path)),
      button('Close', () => dialog.close(), { className: 'plain', id: 'review-close' })),
    element('div', { className: 'review-body', tabIndex: 0, role: 'region', ariaLabel: 'Evidence' },
      element('div', { className: 'review-picture' },
        element('div', { className: 'frame' }, picture(image.picture, `Image ${image.path}`)),
        image.no_picture ? element('p', { className: 'quiet' }, isolated(image.no_picture)) : null,
        filing(image), element('p', { className: 'path quiet' }, isolated(image.path)),
        statistics(image), ...bestClasses(image)),
      element('div', { className: 'review-evidence' },
        element('h3', { textContent: rankedByBliss(image) ? 'What the score is made of'
          : 'What BLISS makes of it (the ranking is another)' }),
        terms(image),
        element('h4', { textContent: `The ${several(image.captions.length, 'caption')}, one by one` }),
        pulls(image, image.captions.length),
        ...neighbours(image))),
    element('footer', { className: 'review-foot' },
      element('div', { className: 'actions' },
        button('Previous', step(-1), { className: 'plain', disabled: turn === 0, ariaKeyShortcuts: 'ArrowLeft' }),
        button('Next', step(1), { className: 'plain', disabled: turn === queue.length - 1, ariaKeyShortcuts: 'ArrowRight' }),
        button('Undo', undoHere, { className: 'plain', disabled: !history.length, ariaKeyShortcuts: 'u' }),
        mark(image)),
      relabelForm(image),
      element('div', { className: 'actions choices' },
        button('Keep', () => settle('keep'), { className: 'choice keep', ariaKeyShortcuts: 'k' }),
        button('Remove', () => settle('remove'), { className: 'choice remove', ariaKeyShortcuts: 'r' }))));
  document.getElementById('review-title').focus({ preventScroll: true });
  dialog.querySelector('.review-body').scrollTop = 0;
}

/** A field for the new label that offers the known classes. */
function relabelForm(image) {
  const known = element('datalist', { id: 'known-labels' },
    ...data.classes.map((name) => element('option', { value: name })));
  const guess = image.predicted_label ?? (image.nearest !== image.label ? image.nearest : image.best[1]?.[0]);
  const made = decisions.get(image.row);
  const field = element('input', {
    type: 'text', id: 'new-label', autocomplete: 'off', maxLength: 200,
    value: made?.label || (guess === undefined || guess === null ? '' : className(guess)),
  });
  field.setAttribute('list', 'known-labels');
  const form = element('form', { className: 'new-label-form', method: 'dialog' },
    element('label', { htmlFor: 'new-label', textContent: 'New label' }), field, known,
    element('button', { type: 'submit', className: 'choice relabel', textContent: 'Relabel', ariaKeyShortcuts: 'l' }));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const label = field.value.trim();
    if (!label || /[\u0000-\u001f\u007f/\\]/.test(label) || label.startsWith('.')) {
      field.setAttribute('aria-invalid', 'true');
      announce('A label is a plain name: no slash, no leading dot.');
      field.focus();
    } else settle('relabel', label);
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
  const dialog = document.getElementById('review');
  if (!dialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target instanceof HTMLInputElement) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const acts = {
    ArrowRight: () => go(1), ArrowLeft: () => go(-1), k: () => settle('keep'),
    r: () => settle('remove'), u: undoHere,
    l: () => { document.getElementById('new-label').focus(); document.getElementById('new-label').select(); },
  };
  if (!Object.hasOwn(acts, key)) return;
  event.preventDefault();
  acts[key]();
}

/** Back in the gallery, the focus goes to the image that was looked at last. */
function reviewClosed() {
  if (!document.getElementById('cards')) return;
  const place = shownNow.indexOf(queue[turn]);
  if (place >= 0) {
    view.page = Math.floor(place / PAGE);
    active = place % PAGE;
  }
  drawCards();
  focusCard();
}
