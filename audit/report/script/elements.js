// Elements made from text alone: nothing here, or anywhere in the page, parses a string as HTML.

const SVG = 'http://www.w3.org/2000/svg';

/** An element with `properties` (set as properties; aria and role as attributes). */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (/^(aria|role$)/.test(name)) {
      made.setAttribute(name.replace(/^aria(?=[A-Z])/, 'aria-').toLowerCase(), String(value));
    } else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An SVG element; every value becomes an attribute. */
function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** Untrusted text: isolated, so that right-to-left text leaves its surroundings alone. */
function isolated(text, properties = {}) {
  return element('bdi', { textContent: text, dir: 'auto', ...properties });
}

function button(text, action, properties = {}) {
  const made = element('button', { type: 'button', textContent: text, ...properties });
  made.addEventListener('click', action);
  return made;
}

/** A labelled select; `options` are [value, text] pairs. */
function select(text, options, value, action) {
  const id = `field-${text.toLowerCase().replace(/[^a-z]+/g, '-')}`;
  const box = element('select', { id }, ...options.map(([each, shown]) =>
    element('option', { value: each, textContent: shown, selected: each === value })));
  box.addEventListener('change', () => action(box.value));
  return element('div', { className: 'field' }, element('label', { htmlFor: id, textContent: text }), box);
}

function number(value, digits = 2) {
  return value === null || value === undefined ? '–' : value.toFixed(digits).replace('-', '−');
}

function count(value) {
  return value.toLocaleString('en');
}

/** '98.9 %', of a share from 0 to 100, never rounded up to 100. */
function percent(value) {
  return `${value === 100 ? 100 : (Math.floor(value * 10) / 10).toFixed(1)} %`;
}

function signed(value, digits = 1) {
  return value === null || value === undefined ? '–' : (value < 0 ? '' : '+') + number(value, digits);
}

/** '1 image', '2 images', '2 near-copies' */
function several(value, noun) {
  return `${count(value)} ${value === 1 ? noun : `${noun.replace(/([^aeiou])y$/, '$1ie')}s`}`;
}

/** Do something once the browser has drawn what there is: in the frame after the next. */
function afterFrame(act) {
  requestAnimationFrame(() => requestAnimationFrame(act));
}

/** Tell a screen reader, without moving the focus. */
function announce(text) {
  document.getElementById('status').textContent = text;
}
