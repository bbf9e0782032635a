// Views by address: #overview, #gallery, #labels, #copies, #map; #image=ROW opens one image.

const VIEWS = [
  ['overview', 'Overview', summary, true],
  ['gallery', 'Images', gallery, images.length > 0],
  ['labels', 'Labels', labels, images.some((image) => image.issues.some(([kind]) => kind === 'label'))],
  ['copies', 'Copies', copies, data.copies.length + data.alike.length > 0],
  ['map', 'Map', map, data.map !== null],
].filter(([, , , there]) => there);
let shownView = 'overview';

function openView(focus = true) {
  const wanted = location.hash.slice(1);
  const [, row] = /^image=(\d+)$/.exec(wanted) ?? [];
  const [name, , build] = VIEWS.find(([each]) => each === (row === undefined ? wanted : shownView)) ?? VIEWS[0];
  shownView = name;
  const main = document.getElementById('main');
  main.className = `wide view-${name}`;
  main.replaceChildren(...build().filter((part) => part !== null));
  for (const link of document.querySelectorAll('#tabs a')) {
    if (link.hash === `#${name}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (name === 'gallery') drawCards();
  drawTray();
  if (row !== undefined) {
    const at = byRow.get(Number(row));
    if (at === undefined) announce(`The image of row ${row} is not on this page.`);
    else if (!document.getElementById('review').open || images[queue[turn]].row !== Number(row)) review([at], 0);
    return;
  }
  if (!focus) return;
  window.scrollTo(0, 0);
  main.querySelector('h2').focus({ preventScroll: true });
}

/** After every decision on `rows`: the tray, and their cards, with the focus where it was. */
function decisionsChanged(rows) {
  drawTray();
  if (document.getElementById('review').open) return refreshMarks(new Set(rows));
  const cards = document.getElementById('cards');
  const held = cards?.contains(document.activeElement);
  if (cards && filtersDecisions()) drawCards(); // other images may pass now
  else refreshMarks(new Set(rows));
  if (held) focusCard();
}

/** Draw the marks of those images again, wherever they are in this view. */
function refreshMarks(rows) {
  for (const each of document.querySelectorAll('main [data-at]')) {
    const image = images[each.dataset.at];
    if (!rows.has(image.row)) continue;
    each.classList.remove(...Object.keys(NAMES));
    const made = decisions.get(image.row)?.decision;
    if (made) each.classList.add(made);
    each.querySelector('.mark')?.replaceWith(mark(image));
    each.querySelector('button.frame')?.setAttribute('aria-label', spoken(image));
  }
}

function keyOf(event) {
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

/** Keys on an image outside the gallery: the same letters. */
function rowKey(event) {
  const at = event.target.closest?.('main [data-at]')?.dataset.at;
  const key = keyOf(event);
  if (key === 'u') undo();
  else if (at === undefined) return false;
  else if (key === 'k' || key === 'r') decide([images[at]], key === 'k' ? 'keep' : 'remove');
  else if (key === 'l') review([Number(at)], 0, true);
  else return false;
  return true;
}

document.getElementById('tabs').append(...VIEWS.map(([name, text]) =>
  element('li', {}, element('a', { href: `#${name}`, textContent: text }))));
document.getElementById('known-labels').append(...data.classes.map((name) => element('option', { value: name })));
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector('#zoom[open], #question[open]')) return;
  const typing = event.target instanceof HTMLInputElement && event.target.type !== 'checkbox';
  if (typing || event.target instanceof HTMLSelectElement) return;
  const done = document.getElementById('review').open ? reviewKey(event) : galleryKey(event) || rowKey(event);
  if (done) event.preventDefault();
});
document.getElementById('review').addEventListener('close', reviewClosed);
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault();
  document.getElementById('main').focus();
});
window.addEventListener('hashchange', () => {
  if (location.hash === '#unread') {
    const there = document.getElementById('unread');
    if (there) { there.open = true; there.scrollIntoView(); return; }
  }
  if (!/^#image=/.test(location.hash) && document.getElementById('review').open) {
    const wanted = location.hash;
    document.getElementById('review').close();
    window.history.replaceState(null, '', wanted);
  }
  openView();
});
openView(false);
