// Keep, remove or relabel: kept in memory, undone step by step, saved as and read from a CSV file.

const decisions = new Map(); // row -> { decision, label }
const past = []; // what each step changed, for undo
let unsaved = false;
const NAMES = { keep: 'Keep', remove: 'Remove', relabel: 'Relabel' };
const HEAD = ['row', 'path', 'sha256', 'decision', 'new_label'];

/** Decide the same for several images, in one step. */
function decide(chosen, decision, label = '') {
  decideEach(chosen.map((image) => [image, decision]), label);
  const what = NAMES[decision] + (label ? ` as ${label}` : '');
  announce(`${what}: ${chosen.length === 1 ? chosen[0].path : several(chosen.length, 'image')}. `
    + `${count(decisions.size)} decided.`);
}

/** Decide for each image what its [image, decision] says, in one step. */
function decideEach(pairs, label = '') {
  past.push(pairs.map(([image]) => [image.row, decisions.get(image.row)]));
  for (const [image, decision] of pairs) decisions.set(image.row, { decision, label });
  unsaved = true;
  announce(`${several(pairs.length, 'image')} decided, ${count(decisions.size)} in all.`);
  decisionsChanged(pairs.map(([image]) => image.row));
}

/** Take the last step back; the row of its first image, if there was one. */
function undo() {
  const last = past.pop();
  if (!last) {
    announce('Nothing to undo.');
    return undefined;
  }
  for (const [row, before] of last) {
    if (before) decisions.set(row, before);
    else decisions.delete(row);
  }
  unsaved = true;
  announce(`Undone for ${several(last.length, 'image')}. ${count(decisions.size)} decided.`);
  decisionsChanged(last.map(([row]) => row));
  return last[0]?.[0];
}

/** A label as its cell: with an apostrophe where a formula would begin, as the program writes it. */
function labelCell(label) {
  const known = data.classes.indexOf(label);
  if (known >= 0) return data.cells[known];
  return label.replace(new RegExp(data.guard[0], 'g'), "$1$2'");
}

function quoted(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function decisionsText() {
  const lines = [HEAD];
  for (const image of images) {
    const made = decisions.get(image.row);
    if (!made) continue;
    lines.push([image.row, image.cell ?? image.path, image.sha256 ?? '', made.decision,
      labelCell(made.label)]);
  }
  return lines.map((line) => line.map((cell) => quoted(String(cell))).join(',')).join('\n') + '\n';
}

function download() {
  const place = URL.createObjectURL(new Blob([decisionsText()], { type: 'text/csv' }));
  const link = element('a', { href: place, download: 'decisions.csv' });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(place), 1000);
  unsaved = false;
  announce(`decisions.csv holds ${several(decisions.size, 'decision')}.`);
}

/** Rows of a CSV text, each an array of cells. */
function csvRows(text) {
  const rows = [];
  let row = [], cell = '', inside = false;
  const source = text.replace(/^\ufeff/, '');
  for (let at = 0; at < source.length; at += 1) {
    const char = source[at];
    if (inside) {
      if (char !== '"') cell += char;
      else if (source[at + 1] === '"') { cell += '"'; at += 1; } else inside = false;
    } else if (char === '"') inside = true;
    else if (char === ',') { row.push(cell); cell = ''; } else if (char === '\n') {
      rows.push([...row, cell.replace(/\r$/, '')]);
      row = []; cell = '';
    } else cell += char;
  }
  if (cell || row.length) rows.push([...row, cell]);
  return rows;
}

/** Take over the decisions of a file for images that this page shows and that did not change. */
function readDecisions(text) {
  const [head, ...rows] = csvRows(text);
  if (!head || HEAD.some((name) => !head.includes(name))) {
    return announce('That file is no decisions.csv: its columns are others.');
  }
  const at = Object.fromEntries(HEAD.map((name) => [name, head.indexOf(name)]));
  const byRow = new Map(images.map((image) => [String(image.row), image]));
  const before = [];
  let skipped = 0;
  for (const row of rows) {
    const image = byRow.get(row[at.row]);
    const decision = row[at.decision];
    if (!image || (image.sha256 ?? '') !== row[at.sha256] || !Object.hasOwn(NAMES, decision)) {
      skipped += 1;
      continue;
    }
    const known = data.cells.indexOf(row[at.new_label]);
    const label = known >= 0 ? data.classes[known]
      : row[at.new_label].replace(new RegExp(data.guard[1], 'g'), '$1$2');
    before.push([image.row, decisions.get(image.row)]);
    decisions.set(image.row, { decision, label });
  }
  past.push(before);
  announce(`${several(before.length, 'decision')} read, ${count(skipped)} of other images skipped.`);
  decisionsChanged(before.map(([row]) => row));
}

const AT_ONCE = 20; // more images than these are decided only after a question

/** Decide for several images, after a question where they are many. */
function decideMany(chosen, decision, label = '') {
  const what = `${NAMES[decision]} ${several(chosen.length, 'image')}${label ? ` as ${label}` : ''}`;
  if (chosen.length <= AT_ONCE) decide(chosen, decision, label);
  else ask(`${what}?`, 'Undo takes it back in one step.', what, () => decide(chosen, decision, label));
}

/** A question with one answer that acts; `field` adds the field of a label. */
function ask(title, text, act, action, field = false) {
  const dialog = document.getElementById('question');
  const input = field ? labelField('question-label', '') : null;
  const form = element('form', { method: 'dialog' },
    element('h2', { id: 'question-title', textContent: title }),
    text ? element('p', { className: 'quiet', textContent: text }) : null,
    input && element('p', { className: 'field' },
      element('label', { htmlFor: 'question-label', textContent: 'New label' }), input),
    element('div', { className: 'actions' },
      element('button', { type: 'submit', className: 'strong', textContent: act }),
      button('Cancel', () => dialog.close(), { className: 'plain' })));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const label = input ? checkedLabel(input) : '';
    if (label === null) return;
    dialog.close();
    action(label);
  });
  dialog.replaceChildren(form);
  dialog.showModal();
  (input ?? form.querySelector('button')).focus();
}

/** A field for a label that offers the known classes. */
function labelField(id, value) {
  const field = element('input', { type: 'text', id, autocomplete: 'off', maxLength: 200, value });
  field.setAttribute('list', 'known-labels');
  return field;
}

/** The label in a field, or null, said and shown, where it is none. */
function checkedLabel(field) {
  const label = field.value.trim();
  if (label && !/[\u0000-\u001f\u007f/\\]/.test(label) && !label.startsWith('.')) return label;
  field.setAttribute('aria-invalid', 'true');
  announce('A label is a plain name: no slash, no leading dot.');
  field.focus();
  return null;
}

/** The bar at the foot of the page: what is decided, what is selected, and what to do with it. */
function drawTray() {
  const tally = { keep: 0, remove: 0, relabel: 0 };
  for (const { decision } of decisions.values()) tally[decision] += 1;
  const file = element('input', { type: 'file', accept: '.csv,text/csv', id: 'decisions-file' });
  file.addEventListener('change', async () => {
    if (file.files[0]) readDecisions(await file.files[0].text());
    file.value = '';
  });
  const chosen = [...selected].map((at) => images[at]);
  document.getElementById('tray').replaceChildren(element('div', { className: 'wide tray-line' },
    chosen.length ? element('div', { className: 'actions', id: 'chosen' },
      element('b', { textContent: `${count(chosen.length)} selected` }),
      ...['keep', 'remove'].map((decision) => button(NAMES[decision], () => decideMany(chosen, decision),
        { className: `choice ${decision}`, ariaLabel: `${NAMES[decision]} the selected images` })),
      button('Relabel', () => ask(`Relabel ${several(chosen.length, 'image')}`, '', 'Relabel',
        (label) => decideMany(chosen, 'relabel', label), true),
      { className: 'choice relabel', ariaLabel: 'Relabel the selected images' }),
      button('Clear', clearSelection, { className: 'plain', ariaLabel: 'Clear the selection' }))
      : element('p', { className: 'tally' },
        ...Object.entries(tally).map(([name, of]) => element('span', { className: `mark ${name}` },
          element('b', { textContent: count(of) }), ` ${name}`)),
        element('span', { className: 'quiet', textContent: `${count(images.length - decisions.size)} undecided` })),
    element('div', { className: 'actions' },
      button('Undo', undo, { disabled: !past.length, className: 'plain' }),
      element('label', { className: 'plain file', htmlFor: 'decisions-file' }, 'Load', file),
      button('Download decisions', download, { disabled: !decisions.size, className: 'strong' }))));
}

window.addEventListener('beforeunload', (event) => {
  if (unsaved && decisions.size) event.preventDefault();
});
