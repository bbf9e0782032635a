// Why an image is shown: a sentence, its standing, captions, neighbours, a heat map.

/** The text of a caption without its template; all of it as its title. */
function captionText(which, properties = {}) {
  return isolated(data.plain[which], { title: data.captions[which], ...properties });
}

/** Captions that pull an image from its class, strongest first, one for all that say the same. */
function reasons(image, most) {
  return image.reasons.map((places) => places.map((place) => image.captions[place]))
    .filter(([[, pull]]) => pull > 0).slice(0, most);
}

/** The class that an image's captions are compared with. */
function comparedWith(image) {
  return image.terms[2] === null ? image.nearest : image.label;
}

/** What another class, copy or caption an image is to be seen beside, as one sentence. */
function sentence(image, kind = image.issues[0]?.[0]) {
  const [first] = reasons(image, 1);
  const [, evidence, suggestion] = image.issues.find(([each]) => each === kind) ?? [];
  const name = (which) => isolated(className(which), { className: 'name' });
  const parts = [];
  if (evidence && !['stray', 'label'].includes(kind)) {
    return [isolated(evidence[0].toUpperCase() + evidence.slice(1))];
  }
  if (image.label !== null) parts.push('Filed under ', name(image.label));
  const better = kind === 'label' ? image.predicted_label : image.nearest;
  if (kind === 'label' && !image.is_label_issue) return [isolated(evidence[0].toUpperCase() + evidence.slice(1))];
  const unlike = kind === 'label' && suggestion === data.any_class;
  if (unlike) return [...parts, ', unlike every class; nearest to ', name(better)];
  if (kind === 'label') return [...parts, '; looks like ', name(better)];
  if (kind !== 'stray' && better !== image.label) {
    return [...parts, parts.length ? '; nearest to ' : 'Nearest to ', name(better)];
  }
  if (!parts.length) parts.push('Nearest to ', name(image.nearest));
  if (kind === 'stray') parts.push(', unlike every class');
  if (first) parts.push('; resembles ', captionText(first[0][0], { className: 'name' }));
  return parts;
}

/** '#3 of 292, more unusual than 98.9 %': where an image stands, with p or q where there is one. */
function standing(image) {
  const { scored } = data.counts;
  const lower = (100 * (scored - image.rank)) / scored;
  const what = data.by_labels ? 'label more doubtful than' : 'more unusual than';
  const sure = image.q !== undefined ? `, q = ${number(image.q, 3)}`
    : image.p !== null ? `, p = ${number(image.p, 3)}` : '';
  return `#${count(image.rank)} of ${count(scored)}, ${what} ${percent(lower)}${sure}`;
}

/** The strongest captions of an image, each with its pull: the number that the terminal prints. */
function pulls(image, most) {
  const found = reasons(image, most);
  if (!found.length) return null;
  return element('div', { className: 'pulls' },
    element('p', { className: 'quiet' }, 'Compared with ', isolated(className(comparedWith(image))), ', it is more like'),
    element('ul', {}, ...found.map(([[which, pull], ...also]) => element('li', {},
      captionText(which),
      element('span', { className: 'pull', textContent: signed(pull),
        title: `${signed(pull)} standard deviations${also.length ? `; ${several(also.length, 'caption')} like it` : ''}` })))));
}

function chips(image) {
  return element('p', { className: 'chips' }, ...kindsOf(image).map((kind) =>
    element('span', { className: `chip ${kind}`, textContent: KINDS[kind][0] })));
}

/** A path that, where it is too long, keeps its end: the file's name. */
function pathLine(image) {
  const cut = image.path.lastIndexOf('/') + 1;
  return element('p', { className: 'path quiet cut', title: image.path },
    isolated(image.path.slice(0, cut), { className: 'folder' }),
    isolated(image.path.slice(cut), { className: 'file-name' }));
}

function mark(image) {
  const made = decisions.get(image.row);
  const chip = element('span', { className: made ? `mark ${made.decision}` : 'mark none' });
  if (!made) return chip;
  chip.append(NAMES[made.decision]);
  if (made.label) chip.append(': ', isolated(made.label));
  return chip;
}

/** Everything a screen reader says of an image in one line. */
function spoken(image) {
  const made = decisions.get(image.row);
  return [
    element('p', {}, ...sentence(image)).textContent, kindsOf(image).map((kind) => KINDS[kind][0]).join(', '),
    `rank ${image.rank}`, image.path, made ? `${NAMES[made.decision]} ${made.label}` : 'undecided',
  ].filter(Boolean).join(', ');
}

/** The neighbour that an image of one kind of issue is to be compared with. */
function beside(image, kind) {
  const [found] = kind === 'label' ? image.other : image.own;
  return found ?? image.any[0];
}

/** A small picture of a neighbour with its class; it opens the image where it is on this page. */
function neighbour([which, label, path, cosine, row, file], note) {
  const at = byRow.get(row);
  const open = element('button', { type: 'button', className: 'frame', ariaLabel: `Open ${path}`, title: path },
    picture(which, ''));
  open.addEventListener('click', () => (at === undefined ? zoom(file, which, path) : visit(at)));
  return element('li', {}, open, element('p', {}, isolated(className(label)),
    element('span', { className: 'quiet', textContent: note ?? ` cosine ${number(cosine, 3)}` })));
}

/** Neighbours under a heading each, side by side. */
function neighbours(...lists) {
  const there = lists.filter(([, found]) => found.length);
  return there.length ? [element('div', { className: 'neighbour-lists' }, ...there.map(([title, found]) =>
    element('section', {}, element('h3', {}, ...title),
      element('ul', { className: 'neighbours' }, ...found.map((each) => neighbour(each))))))] : [];
}

/** Where in a picture its score is: cells over it, orange where they add and blue where they take. */
function heatMap(image, frame) {
  const { rows, cols, values, total, title, method, box = [0, 0, 1, 1] } = image.map;
  const largest = Math.max(...values.map(Math.abs), 1e-12);
  const legend = element('figcaption', { className: 'legend', hidden: true },
    element('b', {}, isolated(title)),
    element('span', { className: 'ramp', ariaHidden: 'true' }),
    element('span', { className: 'ends' },
      ...[-largest, 0, largest].map((value) => element('span', { textContent: signed(value, 2) }))),
    element('span', { className: 'quiet' }, `Blue takes away, orange adds. All cells add up to ${signed(total, 2)}. `,
      isolated(method)));
  const toggle = button('Heat map', () => {
    const on = toggle.getAttribute('aria-pressed') === 'true';
    toggle.setAttribute('aria-pressed', String(!on));
    legend.hidden = on;
    frame.querySelector('canvas')?.remove();
    if (!on) frame.append(drawn());
  }, { className: 'plain', ariaPressed: 'false' });
  const drawn = () => {
    const under = frame.querySelector('img');
    const canvas = element('canvas', { className: 'heat', width: under?.naturalWidth || 320, height: under?.naturalHeight || 320 });
    const pen = canvas.getContext('2d');
    const [left, top, right, bottom] = box;
    const [wide, high] = [(right - left) / cols * canvas.width, (bottom - top) / rows * canvas.height];
    values.forEach((value, at) => {
      pen.fillStyle = value < 0 ? `rgb(40 110 220 / ${0.75 * -value / largest})` : `rgb(240 110 20 / ${0.75 * value / largest})`;
      pen.fillRect(left * canvas.width + (at % cols) * wide, top * canvas.height + Math.floor(at / cols) * high, wide, high);
    });
    return canvas;
  };
  return [toggle, legend];
}

/** The original file, or the picture on this page where it is not there, as large as the window. */
function zoom(file, which, path) {
  const dialog = document.getElementById('zoom');
  const shown = element('img', { alt: path, draggable: false, src: file ?? pictureAddress(which) ?? '' });
  if (file) shown.addEventListener('error', () => { shown.src = pictureAddress(which) ?? ''; }, { once: true });
  const window_ = element('div', { className: 'zoom-area', tabIndex: 0, role: 'region', ariaLabel: 'Picture' }, shown);
  let scale = 0; // 0: as large as fits
  const set = (to) => {
    scale = to && Math.max(0.05, Math.min(16, to));
    shown.style.inlineSize = scale ? `${scale * shown.naturalWidth}px` : '';
    shown.classList.toggle('fits', !scale);
    announce(scale ? `${Math.round(100 * scale)} %` : 'Fits the window');
  };
  const fit = () => Math.min(window_.clientWidth / shown.naturalWidth, window_.clientHeight / shown.naturalHeight);
  const step = (by) => set((scale || fit()) * by);
  shown.addEventListener('click', () => set(scale ? 0 : Math.max(1, 2 * fit())));
  window_.addEventListener('wheel', (event) => {
    if (!event.ctrlKey) { event.preventDefault(); step(event.deltaY < 0 ? 1.25 : 0.8); }
  }, { passive: false });
  dialog.onkeydown = (event) => {
    const acts = { '+': () => step(1.25), '=': () => step(1.25), '-': () => step(0.8), 0: () => set(0), 1: () => set(1) };
    if (Object.hasOwn(acts, event.key)) { event.preventDefault(); acts[event.key](); }
    event.stopPropagation();
  };
  dialog.replaceChildren(
    element('div', { className: 'review-head' },
      element('h2', { id: 'zoom-title' }, isolated(path)),
      element('div', { className: 'actions' },
        button('−', () => step(0.8), { className: 'plain', ariaLabel: 'Smaller', ariaKeyShortcuts: '-' }),
        button('+', () => step(1.25), { className: 'plain', ariaLabel: 'Larger', ariaKeyShortcuts: '+' }),
        button('1:1', () => set(1), { className: 'plain', ariaLabel: 'Pixel by pixel', ariaKeyShortcuts: '1' }),
        original(file),
        button('Close', () => dialog.close(), { className: 'plain', id: 'zoom-close' }))), window_);
  dialog.showModal();
  shown.classList.add('fits');
  window_.focus();
}

/** A link to the original file, which the browser opens in another tab. */
function original(file) {
  return file ? element('a', { href: file, target: '_blank', rel: 'noreferrer noopener', className: 'plain', textContent: 'Original' }) : null;
}
