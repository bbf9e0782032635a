// Why an image scored as it did: terms of its score, captions, neighbours.

/** What the strongest caption of any image adds: all captions' bars are on one scale. */
const strongest = Math.max(0, ...images.flatMap((image) => image.captions.map(([, added]) => Math.abs(added))));

/** Captions and what each adds to the score, the largest first; at most `most` of them. */
function pulls(image, most) {
  const captions = image.captions.slice(0, most);
  return element('ul', { className: 'pulls' },
    ...captions.map(([which, added, z, similarity]) => contribution(
      isolated(caption(which)), added, strongest,
      `${caption(which)} — z ${number(z)}, cosine ${number(similarity, 3)}`)));
}

/** What its captions add to the BLISS score of an image. */
function fromCaptions(image) {
  return image.captions.reduce((sum, [, added]) => sum + added, 0);
}

/** Whether the images are ranked by BLISS; its terms are shown beside other scores too. */
function rankedByBliss(image) {
  const sum = (image.ics ?? 0) + fromCaptions(image);
  return Math.abs(sum - image.score) <= 0.01 + 0.001 * Math.abs(sum);
}

/** The two terms that the BLISS score is the sum of. */
function terms(image) {
  const own = image.ics ?? 0;
  const captions = fromCaptions(image);
  const largest = Math.max(Math.abs(own), Math.abs(captions));
  return element('ul', { className: 'pulls' },
    contribution(element('span', {}, 'unlike the name of ', isolated(className(image.nearest))), own, largest),
    contribution('like captions that its class is not like', captions, largest));
}

/** 'boat → key': what an image is filed under and what it is nearest to. */
function filing(image) {
  const line = element('p', { className: 'filing' });
  if (image.label !== null) {
    line.append(isolated(className(image.label), { title: className(image.label) }));
    if (image.label === image.nearest) return line;
    line.append(element('span', { className: 'quiet', textContent: ' · nearest ' }));
  } else line.append(element('span', { className: 'quiet', textContent: 'nearest ' }));
  line.append(isolated(className(image.nearest), { title: className(image.nearest) }));
  return line;
}

/** A path that, where it is too long, keeps its end: the file's name. */
function pathLine(image) {
  const cut = image.path.lastIndexOf('/') + 1;
  return element('p', { className: 'path quiet', title: image.path },
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
    `Rank ${image.rank}`, image.path, `score ${number(image.score)}`,
    image.label === null ? null : `filed under ${className(image.label)}`,
    `nearest ${className(image.nearest)}`,
    image.flagged ? 'flagged' : null,
    image.captions.length ? `resembles ${caption(image.captions[0][0])}` : null,
    made ? `${NAMES[made.decision]} ${made.label}` : 'undecided',
  ].filter(Boolean).join(', ');
}

function statistics(image) {
  const lines = [['Score', number(image.score)], ['Rank', `${count(image.rank)} of ${count(data.counts.scored)}`]];
  if (image.p !== null) lines.push(['p', number(image.p, 4)]);
  if (image.q !== undefined) lines.push(['q', number(image.q, 4)]);
  if (image.flagged) lines.push(['Flagged', 'yes']);
  if (image.margin !== undefined) lines.push(['Label margin', number(image.margin)]);
  if (image.cosine_margin !== undefined) lines.push(['Cosine margin', number(image.cosine_margin, 3)]);
  if (image.label_quality !== undefined) lines.push(['Label quality', number(image.label_quality, 3)]);
  if (image.group !== undefined) lines.push(['Group', `${image.group + 1}`]);
  return element('dl', { className: 'statistics' }, ...lines.map(([name, value]) =>
    element('div', {}, element('dt', { textContent: name }), element('dd', { textContent: value }))));
}

function neighbours(image) {
  if (!image.near.length) return [];
  return [element('h3', { textContent: 'Nearest reference images' }),
    element('ul', { className: 'neighbours' }, ...image.near.map(([which, label, path, cosine]) =>
      element('li', {}, picture(which, `Reference image ${path}`),
        element('p', {}, isolated(className(label), { title: path }),
          element('span', { className: 'quiet', textContent: ` cosine ${number(cosine, 3)}` })))))];
}

function bestClasses(image) {
  return [element('h3', { textContent: 'Classes it fits best' }),
    element('ol', { className: 'best' }, ...image.best.map(([which, score]) =>
      element('li', {}, isolated(className(which)),
        element('span', { className: 'quiet', textContent: ` score ${number(score)}` }))))];
}
