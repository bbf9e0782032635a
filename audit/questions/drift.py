"""What is new in a collection: two sets of images compared in words.

`bliss drift`: embed or read both sets, retrieve captions, test them (`scorer/questions/drift.py`),
write `captions.parquet` and a page with examples of both sets side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...arguments import checked, checked_fields
from ...artefacts import write_atomically
from ...corpora import NO_IMAGE_OPTIONS, ImageList, ImageOptions, open_images
from ...errors import BlissError, UsageError
from ...indexer import (
    SCRATCH,
    CaptionIndex,
    EmbeddedImages,
    EmbedOptions,
    Encoder,
    Hits,
    ModelChoice,
    SelectedRows,
    check_same_model,
    check_same_preprocessing,
    embed_images,
    is_embedding_folder,
    read_image_embeddings,
    text_column,
)
from ...progress import Progress, no_progress
from ...safe_text import counted, terminal_text
from ...scorer import (
    CaptionCounts,
    ShareShift,
    benjamini_hochberg,
    count_captions,
    gather_texts,
    images_needed,
    largest_captions,
    shifted_shares,
    smallest_p,
)
from ..folder import RUN, open_run, save_answer
from ..models import Say, encoder_for
from ..report.page import figure, safe, save_page
from ..report.thumbnails import SMALL, PictureShelf
from ..request import column_of
from ..retrieval import HITS, HitsCache, retrieve
from ..review.photographs import Photographs, Wanted, run_photographs
from .pairs import photographs_of

TABLE, PAGE = "captions.parquet", "report.html"
EXAMPLES = 6
LEAST_IN_CLASS = 5
"""Images of each set that a class needs to be compared by itself."""
DIRECTIONS = ("gained", "lost")


@checked_fields
@dataclass(frozen=True)
class DriftSettings:
    """What the comparison depends on besides the images and the captions."""

    k: int = 10
    """Captions retrieved for each image."""
    fdr: float = 0.1
    """Captions of q at most this are reported as gained or lost."""
    permutations: int = 999
    classes: bool = True
    """Whether membership is permuted within classes, where all images have labels."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.permutations < 0 or not 0 < self.fdr < 1:
            raise UsageError(
                f"k = {self.k}, {self.permutations} permutations and a rate of {self.fdr} given",
                "k of 1 or more, no negative number, and a rate between 0 and 1",
                "Correct them",
            )


DEFAULTS = DriftSettings()


@dataclass(frozen=True)
class ClassDrift:
    """The captions of one class alone."""

    name: str
    old: int
    new: int
    counts: CaptionCounts
    q: np.ndarray
    """float64 [u], over the captions of all classes together; NaN where not tested."""


@dataclass(frozen=True)
class DriftResult:
    """What changed between n₀ old and n₁ new images."""

    old: EmbeddedImages
    new: EmbeddedImages
    index: CaptionIndex
    settings: DriftSettings
    counts: CaptionCounts
    captions: np.ndarray
    """int64 [n, c], the captions of each image, old images first."""
    z: np.ndarray
    """float64 [n, c]."""
    classes: tuple[str, ...]
    """Of both sets; empty where membership was permuted over all images."""
    shares: ShareShift | None
    by_class: tuple[ClassDrift, ...]
    in_both: int
    """New images whose content is among the old ones."""

    @property
    def is_new(self) -> np.ndarray:
        """bool [n]."""
        return np.arange(len(self.captions)) >= len(self.old.rows)

    def examples(self, caption: int, new: bool) -> list[int]:
        """Positions in `new` or `old` of at most EXAMPLES images, those with its largest z."""
        first = len(self.old.rows) if new else 0
        side = slice(first, None) if new else slice(0, len(self.old.rows))
        image, at = np.nonzero(self.captions[side] == caption)
        order = np.argsort(-self.z[side][image, at], kind="stable")
        return image[order][:EXAMPLES].tolist()


@checked
def compare_collections(
    old: EmbeddedImages,
    new: EmbeddedImages,
    index: CaptionIndex,
    settings: DriftSettings = DEFAULTS,
    progress: Progress = no_progress,
    *,
    hits: HitsCache | None = None,
) -> DriftResult:
    """Which captions of `index` new images have more, or less, often than old ones.

    Where every image of both sets has a label, membership is permuted within classes and classes
    are also compared one by one. Raises UsageError where both sets hold the same images, BlissError
    where images and index are not of one model.
    """
    for images in (old, new):
        check_same_model(images.model, images.source, index.model, str(index.folder))
    check_same_model(old.model, old.source, new.model, new.source)
    check_same_preprocessing(old.model, old.source, new.model, new.source)
    contents = set(old.hashes)
    in_both = sum(content in contents for content in new.hashes)
    if in_both == len(new.rows) and contents == set(new.hashes):
        raise UsageError(
            f"{old.source} and {new.source} hold the same {counted(len(contents), 'image')}",
            "two different collections",
            "Correct OLD or NEW",
        )
    k = min(settings.k, index.count)
    found = [retrieve(index, images.vectors, k, progress, hits) for images in (old, new)]
    joined = Hits(*(np.concatenate([getattr(each, name) for each in found])
                    for name in ("similarity", "rows")))  # fmt: skip
    both = _Joined(old, new)
    captions, z = largest_captions(both, gather_texts(joined, index.vectors, SCRATCH))
    is_new = np.arange(len(both)) >= len(old.rows)
    names, groups = _groups(old, new) if settings.classes else ((), None)
    counts = count_captions(captions, is_new, groups, settings.permutations)
    shares: ShareShift | None = None
    by_class: tuple[ClassDrift, ...] = ()
    if groups is not None:
        shares = shifted_shares(groups, is_new)
        by_class = _by_class(names, groups, captions, is_new)
    return DriftResult(
        old, new, index, settings, counts, captions, z, names, shares, by_class, in_both
    )


class _Joined:
    """The vectors of both sets, old images first, read where they are."""

    def __init__(self, old: EmbeddedImages, new: EmbeddedImages) -> None:
        self._sides, self._first = (old.vectors, new.vectors), len(old.rows)

    def __len__(self) -> int:
        return self._first + len(self._sides[1])

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        if isinstance(wanted, slice):
            wanted = np.arange(*wanted.indices(len(self)))
        is_new = wanted >= self._first
        old, new = self._sides[0][wanted[~is_new]], self._sides[1][wanted[is_new] - self._first]
        made = np.empty((len(wanted), old.shape[1]), np.float32)
        made[~is_new], made[is_new] = old, new
        return made


def _groups(old: EmbeddedImages, new: EmbeddedImages) -> tuple[tuple[str, ...], np.ndarray | None]:
    """The classes of both sets and int64 [n], or None where an image has no label or all one."""
    labels = [*old.labels, *new.labels]
    if any(label is None for label in labels):
        return (), None
    names, numbers = np.unique(np.array(labels, object).astype(str), return_inverse=True)
    return (tuple(map(str, names)), numbers) if len(names) > 1 else ((), None)


def _by_class(
    names: Sequence[str], groups: np.ndarray, captions: np.ndarray, is_new: np.ndarray
) -> tuple[ClassDrift, ...]:
    """Each class of enough images in both sets, its q-values adjusted over all of them."""
    made = []
    for number, name in enumerate(names):
        mine = groups == number
        sizes = int((mine & ~is_new).sum()), int((mine & is_new).sum())
        if min(sizes) >= LEAST_IN_CLASS:
            made.append((name, *sizes, count_captions(captions[mine], is_new[mine])))
    tested = [counts.two_sided[counts.tested] for *_, counts in made]
    q = benjamini_hochberg(np.concatenate(tested)) if tested else np.zeros(0)
    result, first = [], 0
    for (name, olds, news, counts), p in zip(made, tested, strict=True):
        own = np.full(len(counts.text), np.nan)
        own[counts.tested] = q[first : first + len(p)]
        first += len(p)
        result.append(ClassDrift(name, olds, news, counts, own))
    return tuple(result)


@dataclass(frozen=True)
class DriftRequest:
    """What `bliss drift` is to do."""

    old: str
    """A collection of images, a folder of embeddings, or the output folder of an audit."""
    new: str | None
    index: CaptionIndex
    column: str | None = None
    """A column of `old` whose values tell old from new images, where `new` is not given."""
    values: tuple[str, str] | None = None
    """Of old and new images."""
    image_options: ImageOptions = NO_IMAGE_OPTIONS
    output: str = "bliss-drift"
    model: ModelChoice = field(default_factory=ModelChoice)
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    settings: DriftSettings = field(default_factory=DriftSettings)

    def __post_init__(self) -> None:
        if (self.new is None) == (self.column is None):
            given = "neither" if self.new is None else "both"
            raise UsageError(
                f"{given} of NEW and --column were given",
                "one of them: a second collection, or a column that splits the first",
                "Give two collections, or one with --column NAME --old VALUE --new VALUE",
            )
        if (self.column is None) != (self.values is None):
            raise UsageError(
                "--column, --old and --new go together", "all of them or none",
                "Give --column NAME --old VALUE --new VALUE",
            )  # fmt: skip


Opened = tuple[EmbeddedImages, Photographs]
"""Images, and where their pictures are."""


def run_drift(
    request: DriftRequest, progress: Progress = no_progress, say: Say = lambda line: None
) -> tuple[DriftResult, tuple[Photographs, Photographs]]:
    """Open, embed what is not embedded, compare; also where the pictures of both sets are.

    Errors as of `open_images`, `embed_images`, `read_image_embeddings`, `open_run` and
    `compare_collections`.
    """

    @cache
    def encoder() -> Encoder:
        return encoder_for(request.model, request.index, None, say)

    opened = partial(_open, request=request, encoder=encoder, progress=progress, say=say)
    if request.new is not None:
        sides = opened(request.old, "old"), opened(request.new, "new")
    else:
        assert request.column is not None and request.values is not None
        images, pictures = opened(request.old, "images")
        values = _values(request.old, images, request.column, request.image_options)
        chosen = [np.flatnonzero(values == value) for value in request.values]
        for value, places in zip(request.values, chosen, strict=True):
            if not len(places):
                there = sorted({str(v) for v in values if v is not None})[:10]
                raise UsageError(
                    f"no image of {request.old} has {request.column} = {value!r}",
                    f"a value that is there, such as {', '.join(there) or 'none'}",
                    "Correct --old or --new",
                )
        first, second = (_part(images, places, request, value)
                         for places, value in zip(chosen, request.values, strict=True))  # fmt: skip
        sides = (first, pictures), (second, pictures)
    for images, _ in sides:
        for failure in images.failures:
            say(f"{failure.path}: {failure.reason}")
    hits = HitsCache(Path(request.output) / HITS)
    result = compare_collections(
        sides[0][0], sides[1][0], request.index, request.settings, progress, hits=hits
    )
    hits.delete_unused()
    return result, (sides[0][1], sides[1][1])


def _open(
    spec: str,
    name: str,
    request: DriftRequest,
    encoder: Callable[[], Encoder],
    progress: Progress,
    say: Say,
) -> Opened:
    if is_embedding_folder(Path(spec), "img"):
        images = read_image_embeddings(spec)
        return images, photographs_of(images, None, {})
    if (Path(spec) / RUN).is_file():
        run = open_run(spec)
        stored = run.folder / "images"
        given = run.facts.get("request", {}).get("embeddings")
        if not is_embedding_folder(stored, "img") and given is None:
            raise BlissError(
                f"the embeddings that {spec} scored are gone",
                "its folder images/, or the embeddings it was given",
                "Run the same audit again",
            )
        own = is_embedding_folder(stored, "img")
        return read_image_embeddings(stored if own else given), run_photographs(run)
    listed = open_images(spec, request.image_options)
    folder = Path(request.output) / name
    images = embed_images(listed, encoder(), folder, request.embed, progress, say)
    facts = {**vars(request.image_options), "images": spec}
    return images, photographs_of(images, listed if isinstance(listed, ImageList) else None, facts)


def _values(spec: str, images: EmbeddedImages, column: str, options: ImageOptions) -> np.ndarray:
    """object [n], the value of a column of each image, as text: of a run, or see `column_of`."""
    found: list[Any] | None = None
    there: Sequence[str] = ()
    if (Path(spec) / RUN).is_file():
        run = open_run(spec)
        there = sorted(run.names)
        if column in there:
            found = run.columns([column])[column].to_pylist()
    elif column == "label" and not is_embedding_folder(Path(spec), "img"):
        found = list(images.labels)
    else:
        found = column_of(spec, images, column, options)
    if found is None:
        raise UsageError(
            f"{spec} has no column {column!r}",
            f"one of {', '.join(there)}",
            "Name a column of the run",
        )
    made = np.empty(len(found), object)
    made[:] = [None if value is None else str(value) for value in found]
    return made


def _part(
    images: EmbeddedImages, places: np.ndarray, request: DriftRequest, value: str
) -> EmbeddedImages:
    """Some of the images; they have no label where that is what parts them."""
    labels = text_column(images.labels).take(places)
    if request.column == "label":
        labels = text_column([None] * len(places))
    return replace(
        images,
        vectors=SelectedRows(images.vectors, places),
        rows=images.rows[places],
        paths=text_column(images.paths).take(places),
        labels=labels,
        hashes=text_column(images.hashes).take(places),
        failures=images.failures if value == (request.values or ("",))[0] else (),
        source=f"{request.old} ({request.column} = {value})",
        fingerprint="",
    )


SCHEMA = pa.schema(
    [
        ("class", pa.string()), ("row", pa.int64()), ("caption", pa.string()),
        ("direction", pa.string()), ("old", pa.int64()), ("new", pa.int64()),
        ("expected_new", pa.float64()), ("p", pa.float64()), ("q", pa.float64()),
        ("old_examples", pa.list_(pa.string())), ("new_examples", pa.list_(pa.string())),
    ]
)  # fmt: skip
"""The columns of `captions.parquet`: every tested caption, then those of each class."""


def _rows(
    result: DriftResult, counts: CaptionCounts, q: np.ndarray, name: str | None
) -> list[dict[str, Any]]:
    """The tested captions, those that gained first, each direction by its excess."""
    made = []
    for direction in DIRECTIONS:
        order = [c for c in counts.order(direction == "gained").tolist() if counts.tested[c]]
        words = result.index.captions_of(counts.text[order])
        for c, caption in zip(order, words, strict=True):
            row = int(counts.text[c])
            made.append(
                {
                    "class": name,
                    "row": row,
                    "caption": caption,
                    "direction": direction,
                    "old": int(counts.old[c]),
                    "new": int(counts.new[c]),
                    "expected_new": float(counts.expected[c]),
                    "p": float(counts.two_sided[c]),
                    "q": float(q[c]),
                    "old_examples": [result.old.paths[i] for i in result.examples(row, False)],
                    "new_examples": [result.new.paths[i] for i in result.examples(row, True)],
                }
            )
    return made


def save_drift(
    result: DriftResult,
    pictures: tuple[Photographs, Photographs],
    folder: str | Path,
    request: Mapping[str, Any],
    page: int = 20,
) -> list[Path]:
    """Write the table, the page with `page` captions a direction (0: none), and `run.json` last.

    Returns the files. Raises BlissError where the folder cannot be written.
    """
    folder = Path(folder)
    rows = _rows(result, result.counts, result.counts.q, None)
    for each in result.by_class:
        rows += _rows(result, each.counts, each.q, each.name)
    for row in rows:
        for name in ("old_examples", "new_examples"):
            row[name] = [p.encode("utf-8", "backslashreplace").decode() for p in row[name]]
    table = pa.Table.from_pylist(rows, SCHEMA)
    write_atomically(folder / TABLE, lambda file: pq.write_table(table, file))
    written = [TABLE]
    if page:
        _save_page(result, pictures, folder / PAGE, page)
        written.append(PAGE)
    else:
        (folder / PAGE).unlink(missing_ok=True)
    facts = {"settings": vars(result.settings), "model": dict(result.old.model)}
    return save_answer(folder, "drift", request, {**facts, **drift_summary(result, 0)}, written)


def drift_summary(result: DriftResult, top: int) -> dict[str, Any]:
    """Counts, the p-value of everything, and the `top` captions a direction, as JSON values."""
    counts, settings = result.counts, result.settings
    sizes = len(result.old.rows), len(result.new.rows)
    tested = int(counts.tested.sum())
    level = settings.fdr / max(1, 2 * tested)
    rows = _rows(result, counts, counts.q, None) if top else []
    found: dict[str, Any] = {
        "old": sizes[0],
        "new": sizes[1],
        "failed": len(result.old.failures) + len(result.new.failures),
        "in_both": result.in_both,
        "captions_tested": tested,
        "p": None if math.isnan(counts.p) else counts.p,
        "permutations": counts.permutations,
        "within_classes": bool(result.classes),
        "significant": int((counts.q <= settings.fdr).sum()),
        "smallest_p_of_5_images": smallest_p(*sizes, 5) if sizes[1] >= 5 else None,
        "images_needed": images_needed(*sizes, level),
    }
    for direction in DIRECTIONS:
        found[direction] = [row for row in rows if row["direction"] == direction][:top]
    if result.shares is not None:
        order = np.argsort(result.shares.p, kind="stable")
        found["class_shares"] = [
            {
                "class": result.classes[c],
                "old": int(result.shares.old[c]),
                "new": int(result.shares.new[c]),
                "p": float(result.shares.p[c]),
                "q": float(result.shares.q[c]),
            }
            for c in order.tolist()
        ]
        found["by_class"] = [
            {name: row[name] for name in ("class", "caption", "direction", "old", "new", "q")}
            for each in result.by_class
            for row in _rows(result, each.counts, each.q, each.name)
            if row["q"] <= settings.fdr
        ]
    return found


def summary_lines(facts: Mapping[str, Any], settings: DriftSettings) -> list[str]:
    """What was compared, whether anything changed, and what could have been found."""
    lines = [
        f"{counted(facts['old'], 'old image')} and {counted(facts['new'], 'new image')}, "
        f"{counted(facts['captions_tested'], 'caption')} tested"
        + (", within classes" if facts["within_classes"] else "")
        + (f"; {counted(facts['failed'], 'image')} could not be read" if facts["failed"] else ""),
    ]
    if facts["in_both"]:
        verb = "is" if facts["in_both"] == 1 else "are"
        lines.append(f"{counted(facts['in_both'], 'new image')} {verb} among the old ones")
    if facts["p"] is not None:
        least = 1 / (1 + facts["permutations"])
        lines.append(
            f"p of no difference at all: {facts['p']:.3g} ({facts['permutations']:,} permutations: "
            f"the smallest possible is {least:.2g})"
        )
    lines.append(f"{counted(facts['significant'], 'caption')} with a q-value of at most "
                 f"{settings.fdr:g}")  # fmt: skip
    if facts["images_needed"] is None:
        reach = "so few new images cannot reach that, however new they are"
    else:
        reach = (
            f"something entirely new takes about {counted(facts['images_needed'], 'new image')} "
            "to be found"
        )
    if facts["smallest_p_of_5_images"] is not None:
        reach += f"; 5 cannot have a p-value below {facts['smallest_p_of_5_images']:.2g}"
    lines.append(reach)
    shifted = [each for each in facts.get("class_shares", ()) if each["q"] <= settings.fdr]
    if shifted:
        lines.append(
            "classes of another share: "
            + ", ".join(f"{terminal_text(s['class'])} ({s['old']} to {s['new']})" for s in shifted)
        )
    return lines


def drift_text(result: DriftResult, top: int) -> str:
    """The captions that gained and lost, and the summary."""
    facts = drift_summary(result, top)
    lines = []
    for direction in DIRECTIONS:
        lines += [f"{direction}:", f"{'q':>9} {'old':>6} {'new':>6} {'expected':>9}  caption"]
        for row in facts[direction]:
            shown = terminal_text(row["caption"], 80)
            numbers = f"{row['q']:9.2g} {row['old']:6,} {row['new']:6,} {row['expected_new']:9.1f}"
            lines.append(f"{numbers}  {shown}")
        lines.append("")
    for row in facts.get("by_class", ())[:top]:
        lines.append(
            f"{row['q']:9.2g} {row['old']:6,} {row['new']:6,}  in {terminal_text(row['class'])}: "
            f"{row['direction']} {terminal_text(row['caption'], 80)}"
        )
    return "\n".join([*lines, *summary_lines(facts, result.settings)])


def _save_page(
    result: DriftResult, pictures: tuple[Photographs, Photographs], path: Path, count: int
) -> None:
    shelf = PictureShelf()
    facts = drift_summary(result, count)
    sides = (("old", result.old), ("new", result.new))
    shown = {
        (name, row["row"]): result.examples(row["row"], name == "new")
        for direction in DIRECTIONS
        for row in facts[direction]
        for name, _ in sides
    }
    for (name, _), examples in shown.items():
        images = result.old if name == "old" else result.new
        for i in examples:
            shelf.request(name, Wanted(int(images.rows[i]), images.paths[i]), SMALL)
    shelf.fill(dict(zip(("old", "new"), pictures, strict=True)))
    body = []
    for direction in DIRECTIONS:
        body.append(f"<h2>Captions that {direction}</h2>")
        for row in facts[direction]:
            tone = "good" if row["q"] <= result.settings.fdr else "bad"
            body.append(
                f'<h3>{safe(row["caption"])}</h3><p class="note"><b class="{tone}">q '
                f"{row['q']:.2g}</b>, p {row['p']:.2g}: {row['old']:,} old and {row['new']:,} new "
                f"images, {row['expected_new']:.1f} new ones expected</p>"
            )
            made = []
            for name, images in sides:
                figures = [
                    figure(shelf, name, int(images.rows[i]), images.paths[i])
                    for i in shown[name, row["row"]]
                ]
                made.append(f"<div><p>{name}</p><div class=row>{''.join(figures)}</div></div>")
            body.append(f'<section class="card">{"".join(made)}</section>')
    title = f"{result.old.source} and {result.new.source}"
    save_page(path, f"What is new: {title}", summary_lines(facts, result.settings), "".join(body))
