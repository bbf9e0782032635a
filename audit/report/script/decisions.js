// Keep, remove or relabel: kept in memory, undone step by step, saved as and read from a CSV file.

const decisions = new Map(); // row -> { decision, label }
const history = [];
let unsaved = false;
const NAMES = { keep: 'Keep', remove: 'Remove', relabel: 'Relabel' };
const HEAD = ['row', 'path', 'sha256', 'decision', 'new_label'];

/** Decide for several images at once; `decision` null takes a decision back. */
function decide(chosen, decision, label = '') {
  history.push(chosen.map((image) => [image.row, decisions.get(image.row)]));
  for (const image of chosen) {
    if (decision) decisions.set(image.row, { decision, label });
    else decisions.delete(image.row);
  }
  unsaved = true;
  const what = decision ? NAMES[decision] + (label ? ` as ${label}` : '') : 'Undecided';
  announce(`${what}: ${chosen.length === 1 ? chosen[0].path : several(chosen.length, 'image')}. `
    + `${count(decisions.size)} decided.`);
  decisionsChanged(chosen.map((image) => image.row));
}

/** Take the last step back; the row of its first image, if there was one. */
function undo() {
  const last = history.pop();
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
  history.push(before);
  announce(`${several(before.length, 'decision')} read, ${count(skipped)} of other images skipped.`);
  decisionsChanged(before.map(([row]) => row));
}

/** The bar at the foot of the page. */
function drawTray() {
  const tally = { keep: 0, remove: 0, relabel: 0 };
  for (const { decision } of decisions.values()) tally[decision] += 1;
  const file = element('input', { type: 'file', accept: '.csv,text/csv', id: 'decisions-file' });
  file.addEventListener('change', async () => {
    if (file.files[0]) readDecisions(await file.files[0].text());
    file.value = '';
  });
  const tray = document.getElementById('tray');
  tray.hidden = !(decisions.size || history.length || document.getElementById('cards'));
  tray.replaceChildren(element('div', { className: 'wide tray-line' },
    element('p', { className: 'tally' },
      ...Object.entries(tally).map(([name, of]) => element('span', { className: `mark ${name}` },
        element('b', { textContent: count(of) }), ` ${name}`)),
      element('span', { className: 'quiet', textContent: `${count(images.length - decisions.size)} undecided` })),
    element('div', { className: 'actions' },
      button('Undo', undo, { disabled: !history.length, className: 'plain' }),
      element('label', { className: 'plain file', htmlFor: 'decisions-file' }, 'Load', file),
      button('Download decisions', download, { disabled: !decisions.size, className: 'strong' }))));
}

window.addEventListener('beforeunload', (event) => {
  if (unsaved && decisions.size) event.preventDefault();
});
