// Views by address: #overview, #gallery, #groups, #labels, #failures.

const VIEWS = [
  ['overview', 'Overview', overview, true],
  ['gallery', 'Gallery', gallery, images.length > 0],
  ['groups', 'Groups', groups, data.groups.length > 0],
  ['labels', 'Labels', labels, asksLabels],
  ['failures', 'Unreadable', failures, data.failures.length > 0],
].filter(([, , , there]) => there);

function openView(focus = true) {
  const wanted = location.hash.slice(1);
  const [name, , build] = VIEWS.find(([each]) => each === wanted) ?? VIEWS[0];
  const main = document.getElementById('main');
  main.className = `wide view-${name}`;
  main.replaceChildren(...build().filter((part) => part !== null));
  for (const link of document.querySelectorAll('#tabs a')) {
    if (link.hash === `#${name}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (name === 'gallery') drawCards();
  drawTray();
  if (!focus) return;
  window.scrollTo(0, 0);
  main.querySelector('h2').focus({ preventScroll: true });
}

/** After every decision: the tray, and the cards with the focus where it was. */
function decisionsChanged() {
  drawTray();
  const cards = document.getElementById('cards');
  if (!cards || document.getElementById('review').open) return;
  const held = cards.contains(document.activeElement);
  drawCards();
  if (held) focusCard();
}

document.getElementById('tabs').append(...VIEWS.map(([name, text]) =>
  element('li', {}, element('a', { href: `#${name}`, textContent: text }))));
document.addEventListener('keydown', galleryKey);
document.addEventListener('keydown', reviewKey);
document.getElementById('review').addEventListener('close', reviewClosed);
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault();
  document.getElementById('main').focus();
});
window.addEventListener('hashchange', () => openView());
openView(false);
