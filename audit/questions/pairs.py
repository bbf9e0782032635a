"""Image-caption pairs: which caption does not fit its image, and which pairs to train on.

`bliss pairs`: read the captions, embed both sides or read embeddings, score
(`scorer/questions/pairs.py`), write `pairs.parquet`, the lists of kept samples
and a page with the worst pairs.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...arguments import checked_arrays
from ...artefacts import write_atomically, write_text
from ...corpora import (
    CAPTION_COLUMNS,
    NO_IMAGE_OPTIONS,
    CaptionedImages,
    CaptionList,
    CaptionRules,
    ImageList,
    ImageOptions,
    open_captioned,
)
from ...errors import BlissError, UsageError
from ...indexer import (
    CaptionIndex,
    EmbeddedImages,
    EmbedOptions,
    Encoder,
    IndexOptions,
    ModelChoice,
    OutsideRows,
    Rows,
    SelectedRows,
    Texts,
    build_index,
    check_same_model,
    column_names,
    embed_images,
    exact_search,
    is_embedding_folder,
    metadata_parts,
    nearest_searcher,
    normalise_rows,
    open_embedding_folder,
    probes_for,
    ranks,
    read_image_embeddings,
    search_index,
    slices,
    text_column,
)
from ...progress import Progress, no_progress
from ...safe_text import counted, terminal_text
from ...scorer import Pairs, PairScores, PairSettings, Search, score_pairs
from ..folder import save_answer
from ..models import Say, encoder_for
from ..report.page import card, figure, safe, save_page
from ..report.thumbnails import LARGE, SMALL, PictureShelf
from ..review.photographs import Photographs, Wanted

TABLE, PAGE = "pairs.parquet", "report.html"
UIDS, DATACOMP = "kept-uids.txt", "kept-uids.npy"
EXACT_ROWS = 200_000
"""More images or captions than this are searched through inverted lists."""
SUGGESTED = 32
"""Captions of an index that are compared for each pair."""
_LOOKED_FOR, _ROWS_AT_ONCE = 1024, 65_536
_HEX = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class PairRequest:
    """What `bliss pairs` is to do."""

    data: str
    """A collection whose images carry captions, or a folder of image embeddings."""
    captions: str | None = None
    """A file with the captions of a folder of images."""
    caption_column: str | None = None
    image_root: str | None = None
    text_embeddings: str | None = None
    """The captions' embeddings, row by row; None: in `data`."""
    image_options: ImageOptions = NO_IMAGE_OPTIONS
    index: CaptionIndex | None = None
    """Where better captions are looked for, beside the collection's own."""
    output: str = "bliss-pairs"
    model: ModelChoice = field(default_factory=ModelChoice)
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    settings: PairSettings = field(default_factory=PairSettings)
    suggest: int = 1000
    """Worst pairs for which something better is looked for, beside those that are not kept."""


@dataclass(frozen=True)
class PairCollection:
    """P pairs, their words, and how many could not be compared."""

    pairs: Pairs
    images: EmbeddedImages
    place: np.ndarray
    """int64 [P], position in `images`."""
    first: np.ndarray
    """int64 [n], position in `images` of each distinct image of `pairs`."""
    captions: Texts[str]
    """The distinct captions, by row of `pairs.texts`."""
    uids: Sequence[str | None] | None
    """Of each pair's sample."""
    counts: Mapping[str, int]
    listed: ImageList | None = None
    """The files behind the images, where they are files."""


@dataclass(frozen=True)
class PairAudit:
    """The result of `run_pairs`."""

    collection: PairCollection
    scores: PairScores
    settings: PairSettings
    corpus_caption: Mapping[int, tuple[str, float]]
    """By pair: a caption of the index that fits better, and by how much its score is lower."""

    def row(self, pair: int) -> dict[str, Any]:
        """One pair as JSON-like values."""
        made, found = self.collection, self.scores
        text, image = int(found.better_text[pair]), int(found.better_image[pair])
        better = self.corpus_caption.get(pair)
        place = int(made.place[pair])
        return {
            "row": int(made.images.rows[place]),
            "path": made.images.paths[place],
            "caption": made.captions[int(made.pairs.text[pair])],
            "uid": None if made.uids is None else made.uids[pair],
            "similarity": float(found.similarity[pair]),
            "score": float(found.score[pair]),
            "p": float(found.p[pair]),
            "q": float(found.q[pair]),
            "keep": bool(found.kept[pair]),
            "better_caption": None if text < 0 else made.captions[text],
            "better_caption_gain": None if text < 0 else float(found.better_text_gain[pair]),
            "better_image": None if image < 0 else made.images.paths[int(made.first[image])],
            "better_image_gain": None if image < 0 else float(found.better_image_gain[pair]),
            "corpus_caption": None if better is None else better[0],
            "corpus_caption_gain": None if better is None else better[1],
        }


SCHEMA = pa.schema(
    [
        ("row", pa.int64()), ("path", pa.string()), ("caption", pa.string()), ("uid", pa.string()),
        ("similarity", pa.float64()), ("score", pa.float64()), ("p", pa.float64()),
        ("q", pa.float64()), ("keep", pa.bool_()), ("better_caption", pa.string()),
        ("better_caption_gain", pa.float64()), ("better_image", pa.string()),
        ("better_image_gain", pa.float64()), ("corpus_caption", pa.string()),
        ("corpus_caption_gain", pa.float64()),
    ]
)  # fmt: skip
"""The columns of `pairs.parquet`, one row a pair in the order of the collection."""


@checked_arrays(vectors=("images", "texts"), numbers=("image", "text"))
def audit_pairs(
    images: np.ndarray,
    texts: np.ndarray,
    settings: PairSettings | None = None,
    image: np.ndarray | None = None,
    text: np.ndarray | None = None,
) -> PairScores:
    """Score the pairs of `images` [n, d] and `texts` [M, d], row by row.

    With `image` and `text` int [P], pair i is of images[image[i]] and texts[text[i]]. Rows are
    normalised; equal ones count as one image or one caption, so that an image's other captions are
    not its rivals. Rows of the result's suggestions are those given. Raises BlissError for rows
    that are zero or not finite, or of different dimensions; UsageError for fewer than two pairs.
    """
    sides, firsts, numbers = [], [], []
    if image is None and text is None and len(images) != len(texts):
        raise _different_counts("images", len(images), "texts", len(texts))
    for name, rows, chosen in (("images", images, image), ("texts", texts, text)):
        made = normalise_rows(np.asarray(rows))
        if made.unusable.size:
            raise BlissError(
                f"row {made.unusable[0]} of {name} is zero or not finite",
                "finite embeddings",
                "Leave such pairs out",
            )
        first, number = _distinct(row.tobytes() for row in made.unit)
        sides.append(made.unit[first])
        firsts.append(first)
        if chosen is not None and chosen.size and not 0 <= chosen.min() <= chosen.max() < len(rows):
            raise UsageError(
                f"pairs name {name} from row {chosen.min():,} to {chosen.max():,}",
                f"rows from 0 to {len(rows) - 1:,}" if len(rows) else f"{name} of some rows",
                "Check the rows of the pairs",
            )
        numbers.append(number if chosen is None else number[chosen])
    _check_dimensions(sides[0], "images", sides[1], "texts")
    found = score_pairs(Pairs(sides[0], sides[1], *numbers), settings or PairSettings())
    better = [np.where(rows < 0, -1, first[rows]) for rows, first in
              ((found.better_text, firsts[1]), (found.better_image, firsts[0]))]  # fmt: skip
    return PairScores(
        found.similarity, found.score, found.text_bias, found.p, found.q, found.kept,
        better[0], found.better_text_gain, better[1], found.better_image_gain,
    )  # fmt: skip


def run_pairs(
    request: PairRequest, progress: Progress = no_progress, say: Say = lambda line: None
) -> PairAudit:
    """Open, embed, score; nothing but embeddings is written yet.

    Errors as of `open_captioned`, `embed_images` and `read_image_embeddings`; UsageError where no
    image has a caption or only one pair is left.
    """
    if is_embedding_folder(Path(request.data), "img"):
        collection = _embedded_pairs(request, say)
    else:
        if request.text_embeddings is not None:
            raise UsageError(
                f"--text-embeddings was given with {request.data}",
                "it with a folder of image embeddings",
                "Leave it out: the captions are embedded with the images",
            )
        collection = _captioned_pairs(request, progress, say)
    pairs = collection.pairs
    texts: Search | None = None
    images: Search | None = None
    if max(len(pairs.images), len(pairs.texts)) > EXACT_ROWS and not request.settings.full:
        texts, images = (
            nearest_searcher(rows, probes_for(len(rows))).search
            for rows in (pairs.texts, pairs.images)
        )
    scores = score_pairs(pairs, request.settings, texts, images, request.suggest)
    found: dict[int, tuple[str, float]] = {}
    if request.index is not None:
        found = _corpus_captions(pairs, scores, request, images or _exact(pairs.images))
    return PairAudit(collection, scores, request.settings, found)


def _exact(rows: Rows) -> Search:
    return lambda queries, k: exact_search(queries, rows, k)


def _corpus_captions(
    pairs: Pairs, scores: PairScores, request: PairRequest, nearest_images: Search
) -> dict[int, tuple[str, float]]:
    """Captions of the index that fit better, for the pairs that are not kept and the worst ones.

    Their sums have the k nearest images.
    """
    index, settings = request.index, request.settings
    assert index is not None
    k = min(SUGGESTED, index.count)
    asked = np.union1d(np.flatnonzero(~scores.kept), scores.order[: request.suggest])
    made: dict[int, tuple[str, float]] = {}
    for some in slices(len(asked), _LOOKED_FOR):
        few = asked[some]
        hits = search_index(index, pairs.images[pairs.image[few]], k)
        rows, place = np.unique(hits.rows, return_inverse=True)
        near = nearest_images(index.vectors[rows], min(settings.k, len(pairs.images)))
        top = near.similarity.astype(np.float64) / settings.temperature
        most = top.max(axis=1)
        sums = np.log(np.exp(top - most[:, None]).sum(axis=1)) + most
        corrected = (
            hits.similarity - settings.temperature / 2 * sums[place.reshape(hits.rows.shape)]
        )
        best = corrected.argmax(axis=1)
        own = scores.similarity[few] - scores.text_bias[few]
        gain = corrected[np.arange(len(few)), best] - own
        words = index.captions_of(hits.rows[np.arange(len(few)), best])
        for number, word, more in zip(few.tolist(), words, gain.tolist(), strict=True):
            if more > 0:
                made[number] = (word, more)
    return made


def _embedded_pairs(request: PairRequest, say: Say) -> PairCollection:
    """Pairs of two embedding folders, row by row."""
    folder = request.text_embeddings or request.data
    images = read_image_embeddings(request.data)
    if not is_embedding_folder(Path(folder), "text"):
        raise UsageError(
            f"{folder} has no text_emb folder",
            "the embeddings of the captions, row by row",
            "Give their folder with --text-embeddings, or the images themselves to embed both",
        )
    layout = open_embedding_folder(Path(folder), "text")
    listed = len(images.rows) + len(images.failures)
    if layout.count != listed:
        raise _different_counts(request.data, listed, folder, layout.count)
    stored = OutsideRows(layout.vectors)
    _check_dimensions(images.vectors, request.data, stored, folder)
    if request.index is not None:
        check_same_model(images.model, request.data, request.index.model, str(request.index.folder))
    names = column_names(layout.metadata[0])
    named = request.caption_column or next((n for n in CAPTION_COLUMNS if n in names), None)
    words: Texts[str | None] | None = None
    if named is not None:
        words = text_column(
            value if isinstance(value, str) else None
            for table in metadata_parts(layout, [named])
            for value in table[named].to_pylist()
        )
    else:
        say(f"{folder} has no column of captions: equal captions are those of equal embeddings")
    uid = next((name for name in ("uid", "key") if name in names), None)
    uids = None
    if uid is not None:
        uids = [v for table in metadata_parts(layout, [uid]) for v in table[uid].to_pylist()]
    first_texts = stored[images.rows[:_LOOKED_FOR]]
    if len(first_texts) and np.allclose(images.vectors[: len(first_texts)], first_texts, atol=1e-6):
        raise UsageError(
            f"the captions in {folder} have the embeddings of the images",
            "embeddings of texts: an image always fits itself",
            "Give the folder with the captions' embeddings as --text-embeddings",
        )
    usable = np.concatenate(
        [(np.abs(stored[some]).max(axis=1) > 0) for some in slices(len(stored), _ROWS_AT_ONCE)]
    )
    if words is not None:
        usable &= np.fromiter((bool(word and word.strip()) for word in words), bool, len(words))
    kept = np.flatnonzero(usable[images.rows])
    rows = images.rows[kept]
    if words is None:
        contents = (stored[np.array([row])].tobytes() for row in rows.tolist())
    else:
        contents = (str(words[row]).encode() for row in rows.tolist())
    first, number = _distinct(contents)
    captions = text_column(
        f"row {row}" if words is None else words[row] for row in rows[first].tolist()
    )
    counts = {"pairs": listed, "unreadable": len(images.failures),
              "without_caption": int(len(images.rows) - len(kept))}  # fmt: skip
    return _collection(
        request, images, kept, SelectedRows(stored, rows[first]), number, captions,
        None if uids is None else [uids[row] for row in rows.tolist()], counts, None,
    )  # fmt: skip


def _captioned_pairs(request: PairRequest, progress: Progress, say: Say) -> PairCollection:
    """Pairs of a collection with captions, both sides embedded."""
    captioned = open_captioned(request.data, request.captions, request.caption_column,
                               request.image_root, request.image_options)  # fmt: skip
    for line in captioned.notices:
        say(line)
    rows, words, uids, empty = _read_captions(captioned)
    if not len(rows):
        raise UsageError(
            f"no image of {request.data} has a caption",
            "captions in .txt or .json files beside the images, in a table, or in tar shards",
            "Name their file with --captions, or their column with --caption-column",
        )
    encoder = encoder_for(request.model, request.index, None, say)
    output = Path(request.output)
    images = embed_images(
        captioned.source, encoder, output / "images", request.embed, progress, say
    )
    place = np.searchsorted(images.rows, rows)
    place[place == len(images.rows)] = 0
    usable = np.flatnonzero(images.rows[place] == rows)
    first, number = _distinct(words[int(pair)].encode() for pair in usable)
    counts = {
        "pairs": len(rows) + empty,
        "empty": empty,
        "unreadable": int(len(rows) - len(usable)),
        "without_caption": int(len(images.rows) - len(np.unique(place[usable]))),
    }
    if len(first) < 2:
        raise _too_few(request.data, len(usable), len(first))
    captions = text_column(words[int(pair)] for pair in usable[first])
    texts = _embed_captions(captions, encoder, output / "captions", request.embed, progress)
    listed = captioned.source if isinstance(captioned.source, ImageList) else None
    named = None if uids is None else [uids[pair] for pair in usable.tolist()]
    return _collection(
        request, images, place[usable], texts, number, captions, named, counts, listed
    )


def _read_captions(
    captioned: CaptionedImages,
) -> tuple[np.ndarray, Texts[str], list[str | None] | None, int]:
    """Source rows int64 [P], captions and uids of all pairs, and how many captions were empty."""
    rows, uids, empty = array("q"), [], 0

    def texts() -> Iterator[str]:
        nonlocal empty
        for each in captioned.captions():
            if not each.text:
                empty += 1
                continue
            rows.append(each.row)
            uids.append(each.uid)
            yield each.text

    words: Texts[str] = text_column(texts())
    return (
        np.array(rows, np.int64), words,
        uids if any(uid is not None for uid in uids) else None, empty,
    )  # fmt: skip


def _embed_captions(
    captions: Texts[str], encoder: Encoder, folder: Path, embed: EmbedOptions, progress: Progress
) -> Rows:
    """The vectors of distinct captions, kept as an index in `folder`; a run continues there."""
    digest = hashlib.sha256()
    for caption in captions:
        digest.update(caption.encode() + b"\0")
    rules = CaptionRules(
        unicode_form=None, collapse_whitespace=False, max_characters=1 << 20, deduplicate=False
    )
    options = IndexOptions(rules, overwrite=embed.overwrite, engine=embed.engine)
    source = CaptionList(captions, digest.hexdigest())
    index = build_index(source, encoder, folder, options, progress)
    if index.count != len(captions):
        raise BlissError(
            f"{counted(len(captions) - index.count, 'caption')} without a finite embedding",
            "a model that embeds every caption",
            "Leave these captions out, or choose another model",
        )
    return index.vectors


def _collection(  # noqa: PLR0913 - the columns of one table
    request: PairRequest,
    images: EmbeddedImages,
    place: np.ndarray,
    texts: Rows,
    text: np.ndarray,
    captions: Texts[str],
    uids: Sequence[str | None] | None,
    counts: Mapping[str, int],
    listed: ImageList | None,
) -> PairCollection:
    """Merge images of equal content; UsageError where fewer than two pairs can be compared."""
    _, first, number = np.unique(
        ranks(images.hashes)[place], return_index=True, return_inverse=True
    )
    first = place[first]
    if min(len(first), len(captions)) < 2:
        raise _too_few(request.data, len(place), min(len(first), len(captions)))
    counts = {**counts, "compared": len(place), "images": len(first), "captions": len(captions)}
    pairs = Pairs(SelectedRows(images.vectors, first), texts, number, text)
    if len(first) * texts[:1].shape[1] * 4 <= 1 << 28:
        pairs = Pairs(images.vectors[first], texts[:], number, text)
    return PairCollection(pairs, images, place, first, captions, uids, counts, listed)


def _distinct(contents: Iterator[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """First positions int64 [M] of distinct contents, in order, and the number of each [P]."""
    digests = np.frombuffer(
        b"".join(hashlib.blake2b(each, digest_size=16).digest() for each in contents), "S16"
    )
    _, first, number = np.unique(digests, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[number]


def _too_few(data: str, pairs: int, distinct: int) -> UsageError:
    return UsageError(
        f"{data} has {counted(pairs, 'pair')} of {distinct} different images or captions",
        "at least two pairs of different images and different captions: a caption is compared "
        "with those of other images",
        "Give a larger collection",
    )


def _different_counts(first: str, images: int, second: str, texts: int) -> BlissError:
    return BlissError(
        f"{first} has {counted(images, 'image')} and {second} {counted(texts, 'caption')}",
        "row j of one belonging to row j of the other",
        "Give two folders of the same pairs",
    )


def _check_dimensions(images: Rows, first: str, texts: Rows, second: str) -> None:
    one, other = images[:1].shape[1], texts[:1].shape[1]
    if one != other:
        raise BlissError(
            f"{first} has embeddings of {one} dimensions and {second} of {other}",
            "images and captions embedded by one model",
            "Embed one of them again",
        )


def save_pairs(
    found: PairAudit, folder: str | Path, request: Mapping[str, Any], page: int = 200
) -> list[Path]:
    """Write the table, the kept uids, the page of the `page` worst pairs (0: none) and `run.json`.

    Returns the files; `run.json` comes last and has the checksums of the others. Raises BlissError
    where the folder cannot be written.
    """
    folder = Path(folder)
    count = len(found.scores.score)
    write_atomically(folder / TABLE, lambda file: _write_table(found, file))
    written = [TABLE, *_write_uids(found, folder)]
    for name in {UIDS, DATACOMP, PAGE} - set(written):
        (folder / name).unlink(missing_ok=True)
    if page:
        _save_page(found, folder / PAGE, request, min(page, count))
        written.append(PAGE)
    facts = {"settings": vars(found.settings), "model": dict(found.collection.images.model)}
    return save_answer(folder, "pairs", request, {**facts, **pairs_summary(found, 0)}, written)


def _write_table(found: PairAudit, file: Any) -> None:
    with pq.ParquetWriter(file, SCHEMA) as writer:
        for some in slices(len(found.scores.score), _ROWS_AT_ONCE):
            rows = [found.row(pair) for pair in range(some.start, some.stop)]
            for row in rows:
                for name in ("path", "better_image"):
                    row[name] = None if row[name] is None else _valid(row[name])
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _write_uids(found: PairAudit, folder: Path) -> list[str]:
    """The uids of samples of which a pair is kept; DataComp's npy where all have 32 hex digits."""
    uids = found.collection.uids
    if uids is None:
        return []
    kept = sorted({uids[i] or "" for i in np.flatnonzero(found.scores.kept).tolist()} - {""})
    write_text(folder / UIDS, "".join(f"{uid}\n" for uid in kept))
    if not kept or not all(_HEX.fullmatch(uid) for uid in kept):
        return [UIDS]
    halves = np.array([(int(u[:16], 16), int(u[16:], 16)) for u in kept], np.dtype("u8,u8"))
    write_atomically(folder / DATACOMP, lambda file: np.save(file, halves, allow_pickle=False))
    return [UIDS, DATACOMP]


def pairs_summary(found: PairAudit, top: int) -> dict[str, Any]:
    """Counts, the keep list in numbers, and the `top` worst pairs, as JSON-like values."""
    scores = found.scores
    return {
        "counts": dict(found.collection.counts),
        "kept": int(scores.kept.sum()),
        "level": found.settings.level,
        "fit_no_better_than_random": scores.random_share,
        "worst": [found.row(int(pair)) for pair in scores.order[:top]],
    }


def summary_lines(found: PairAudit) -> list[str]:
    """What was compared, kept and left out, in sentences."""
    counts, scores = found.collection.counts, found.scores
    left = [
        f"{counts[name]:,} {words}"
        for name, words in (
            ("empty", "empty captions"),
            ("unreadable", "of unreadable images"),
            ("without_caption", "images without a caption"),
        )
        if counts.get(name)
    ]
    lines = [
        f"{counted(counts['compared'], 'pair')} of {counted(counts['images'], 'image')} and "
        f"{counted(counts['captions'], 'caption')}"
        + (f"; left out: {', '.join(left)}" if left else ""),
        f"kept: {int(scores.kept.sum()):,} ({scores.kept.mean():.1%}), of which at most "
        f"{found.settings.level:.0%} are expected to be random captions",
        f"share of captions that fit no better than random ones: {scores.random_share:.1%} (a "
        "lower bound of wrong captions: a near miss is not counted)",
    ]
    if len(scores.score) < 1 / found.settings.level:
        lines.append("with so few pairs no p-value means much")
    return lines


def pairs_text(found: PairAudit, top: int) -> str:
    """The worst pairs, a few lines each, and the summary."""
    lines = []
    for pair in found.scores.order[:top]:
        row = found.row(int(pair))
        lines.append(
            f"{row['score']:7.3f}  p {row['p']:.2g}  {terminal_text(row['path'])}  "
            f'"{terminal_text(row["caption"], 100)}"'
        )
        for name, what in (("better_caption", "better caption"), ("corpus_caption", "from the "
                           "index"), ("better_image", "better image")):  # fmt: skip
            if row[name] is not None:
                shown = terminal_text(row[name], 100)
                lines.append(f"{'':9}{what} ({-row[f'{name}_gain']:+.3f}): {shown}")
    return "\n".join([*lines, "", *summary_lines(found)])


def _save_page(found: PairAudit, path: Path, request: Mapping[str, Any], count: int) -> None:
    made = found.collection
    worst = [int(pair) for pair in found.scores.order[:count]]
    shelf = PictureShelf()
    places = {pair: int(made.place[pair]) for pair in worst}
    better = {pair: int(made.first[found.scores.better_image[pair]]) for pair in worst
              if found.scores.better_image[pair] >= 0}  # fmt: skip
    for place, side in [*((p, LARGE) for p in places.values()), *((p, SMALL)
                        for p in better.values())]:  # fmt: skip
        shelf.request("pairs", Wanted(int(made.images.rows[place]), made.images.paths[place]), side)
    shelf.fill({"pairs": photographs_of(made.images, made.listed, request)})
    cards = []
    for pair in worst:
        row = found.row(pair)
        pictures = [figure(shelf, "pairs", int(row["row"]), row["path"])]
        text = [
            f'<p><b class="{"good" if row["keep"] else "bad"}">{safe(row["caption"])}</b></p>',
            f"<p>score {row['score']:.3f}, cosine {row['similarity']:.3f}, p {row['p']:.2g}, "
            f"{'kept' if row['keep'] else 'not kept'}</p>",
        ]
        for name, what in (("better_caption", "Fits better"), ("corpus_caption", "Of the index")):
            if row[name] is not None:
                text.append(f"<p>{what}: {safe(row[name])} ({-row[f'{name}_gain']:+.3f})</p>")
        if pair in better:
            at = int(made.images.rows[better[pair]])
            pictures.append(figure(shelf, "pairs", at, f"this caption fits better: "
                                   f"{row['better_image']}"))  # fmt: skip
        cards.append(card(pictures, "".join(text)))
    notes = [*summary_lines(found), f"The {count} worst pairs, worst first."]
    save_page(path, "Image-caption pairs", notes, "".join(cards))


def photographs_of(
    images: EmbeddedImages, listed: ImageList | None, request: Mapping[str, Any]
) -> Photographs:
    """Where the pictures of embedded images are."""
    if listed is not None:
        return Photographs(listed.root, {}, request.get("follow_links") is True)
    if is_embedding_folder(Path(images.source), "img"):
        return Photographs(str(request.get("image_root") or images.source), {})
    return Photographs(None, {**request, "images": images.source})
