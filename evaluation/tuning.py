"""`bliss index tune`: measure every candidate setting of one index and choose one of them.

Each structure is built once and searched with every parameter. Scores, which only serve to compare
ways of searching, are against the collection itself as reference.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..indexer import (
    CaptionIndex,
    EmbeddedImages,
    FolderIndex,
    Hits,
    MadeStructure,
    Rows,
    candidate_settings,
    check_k,
    check_same_model,
    default_parameters,
    make_structure,
    numbers_of,
    read_kind,
    row_lengths,
    search_index,
    with_structure,
)
from ..progress import Progress, no_progress
from ..safe_text import counted
from ..scorer import LeftOut, Reference, bliss_scores, fit_moments, gather_texts
from .index_tuning import (
    CONFIDENCE,
    EXACT,
    TOP,
    WORTH,
    Candidate,
    Measured,
    Queries,
    choose,
    exact_truth,
    facts_of,
    halves,
    least_queries,
    measure,
    setting_text,
    with_dominated,
)

MIB = 2**20
HEAD = (
    ("", ""),
    ("", "setting"),
    ("recall of", "images"),
    ("", "at least"),
    ("", "captions"),
    ("|Δ score|", "max"),
    ("", "mean"),
    ("rank", "corr."),
    (f"top {TOP}", "kept"),
    ("MiB on", "disk"),
    ("MiB to", "search"),
    ("queries", "a second"),
    ("seconds", "to build"),
)


def tuning_lines(found: Tuning) -> list[str]:
    """The table, its key, and the choice."""
    options, queries = found.options, found.queries
    held_out = int((~queries.first_half).sum())
    lines = [
        f"the {options.k} nearest captions of {counted(len(queries.images), 'image')} against "
        "exact search: "
        f"chosen on {int(queries.first_half.sum()):,} of them, recall of the {held_out:,} held out",
        "",
        *table_lines(found),
        "",
        f"* chosen   - dominated: another is as good and faster   at least: with {CONFIDENCE:.0%} "
        "confidence",
        f"captions: {len(queries.texts):,} of the index's own, each left out of its own answer"
        if len(queries.texts)
        else "captions: none were searched with",
        f"scores: BLISS against {found.reference}, each image left out",
        chosen_line(found),
    ]
    return lines


def table_lines(found: Tuning) -> list[str]:
    """One line a setting, under a head of two."""
    rows = [_cells(one, one is _same(found)) for one in found.measured]
    columns = list(zip(*[head for head in zip(*HEAD, strict=True)], *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in [*zip(*HEAD, strict=True), *rows]:
        shown = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(shown).rstrip())
    return lines


def chosen_line(found: Tuning) -> str:
    """What was chosen and why, in a sentence or two."""
    target, chosen = found.options.least_recall, found.chosen
    held_out = int((~found.queries.first_half).sum())
    if chosen.kind != EXACT:
        return (
            f"chosen: {setting_text(chosen.kind, chosen.parameters)}, the fastest whose recall is "
            f"{target:g} or more: {chosen.recall:.4f} held out, at least {chosen.recall_bound:.4f}"
        )
    if held_out < found.least_queries:
        return (
            f"chosen: exact. {held_out:,} held-out images cannot show a recall of {target:g}: "
            f"that needs {found.least_queries:,}, even where each finds all its captions"
        )
    least = WORTH * chosen.queries_per_second
    if not any(one.queries_per_second >= least for one in found.measured):
        return f"chosen: exact. No other setting is {WORTH:g} times as fast"
    return f"chosen: exact. No faster setting has shown a recall of {target:g}"


def _same(found: Tuning) -> Measured:
    chosen = found.chosen.kind, dict(found.chosen.parameters)
    return next(one for one in found.measured if (one.kind, dict(one.parameters)) == chosen)


def _cells(one: Measured, chosen: bool) -> list[str]:
    return [
        "*" if chosen else "-" if one.dominated else "",
        setting_text(one.kind, one.parameters),
        f"{one.recall:.4f}",
        f"{one.recall_bound:.4f}",
        "" if math.isnan(one.text_recall) else f"{one.text_recall:.4f}",
        f"{one.score_max:.3g}",
        f"{one.score_mean:.2g}",
        f"{one.rank_correlation:.4f}",
        f"{one.top_in_common}",
        f"{one.stored_bytes / MIB:,.1f}",
        "" if one.peak_bytes is None else f"{one.peak_bytes / MIB:,.1f}",
        f"{one.queries_per_second:,.0f}",
        f"{one.build_seconds:.1f}",
    ]


@dataclass(frozen=True)
class TuningOptions:
    """What an index is tuned for."""

    least_recall: float = 0.99
    k: int = 10
    image_queries: int = 4000
    """At most so many of the images are searched with; the same for every setting."""
    text_queries: int = 1000
    weight: float = 0.5
    """λ of the scores that are compared."""
    seed: int = 0
    """Of every sample."""

    def __post_init__(self) -> None:
        if not 0 < self.least_recall <= 1:
            raise UsageError(
                f"a recall of {self.least_recall} was asked for",
                "a number above 0 and at most 1",
                "Correct --min-recall",
            )
        if not 0 <= self.weight < math.inf:
            raise UsageError(
                f"a weight of {self.weight} was given", "a finite number, 0 or more", "Try 0.5"
            )
        if self.image_queries < 2 or self.text_queries < 0:
            raise UsageError(
                f"{self.image_queries} image and {self.text_queries} text queries were asked for",
                "2 images or more, half of them held out, and 0 texts or more",
                "Correct --image-queries or --text-queries",
            )


@dataclass(frozen=True)
class Tuning:
    """What was measured and what was chosen."""

    measured: tuple[Measured, ...]
    chosen: Measured
    options: TuningOptions
    queries: Queries
    reference: str
    """What the scores are against, in a line."""

    @property
    def least_queries(self) -> int:
        """How many held-out images are needed before any setting but exact can be chosen."""
        return least_queries(self.options.least_recall)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON values."""
        held_out = int((~self.queries.first_half).sum())
        return {
            "k": self.options.k,
            "min_recall": self.options.least_recall,
            "confidence": CONFIDENCE,
            "image_queries": {
                "chosen_on": int(self.queries.first_half.sum()),
                "held_out": held_out,
            },
            "text_queries": len(self.queries.texts),
            "least_held_out": self.least_queries,
            "reference": self.reference,
            "settings": [facts_of(one) for one in self.measured],
            "chosen": {"kind": self.chosen.kind, "parameters": dict(self.chosen.parameters)},
        }


def tune(
    index: CaptionIndex,
    images: EmbeddedImages,
    candidates: Candidates,
    options: TuningOptions,
    prompts: Prompts | None = None,
    progress: Progress = no_progress,
) -> Tuning:
    """Measure exact search, as `index` must be open for, and each candidate against it.

    `candidates` find live rows of the index; they are made, measured and let go one by one.
    Raises BlissError for images of another model, UsageError for fewer than two images or a k
    that the index does not hold twice over.
    """
    check_same_model(images.model, images.source, index.model, str(index.folder))
    check_k(options.k + 1, index.count)
    queries, own = ask(index, images, options, prompts)
    rescore = rescorer(own, index.vectors, options.weight)

    def exact(vectors: np.ndarray, k: int) -> Any:
        return search_index(index, vectors, k)

    truth = exact_truth(exact, queries, rescore)
    itself = measure(Candidate(EXACT, {}, exact, 0, 0.0), queries, truth, rescore)
    found = [replace(itself, recall_bound=1.0)]  # by definition, not by measuring
    for candidate in candidates.made(queries.images[queries.first_half]):
        found.append(measure(candidate, queries, truth, rescore))
        progress("settings measured", len(found), 1 + len(candidates))
    found = with_dominated(found)
    chosen = choose(found, options.least_recall)
    return Tuning(tuple(found), chosen, options, queries, own.described)


def ask(
    index: CaptionIndex,
    images: EmbeddedImages,
    options: TuningOptions,
    prompts: Prompts | None,
) -> tuple[Queries, OwnReference]:
    """The queries, and the image queries as their own reference."""
    n = len(images.rows)
    if n < 2:
        raise UsageError(
            f"{images.source} has {n} image", "2 or more: half of them are held out", "Add some"
        )
    rng = np.random.default_rng(options.seed)
    some = np.sort(rng.choice(n, min(n, options.image_queries), replace=False))
    own_rows = np.sort(
        rng.choice(index.count, min(index.count, options.text_queries), replace=False)
    )
    vectors = images.vectors[some]
    queries = Queries(
        vectors,
        halves(len(some), options.seed),
        index.vectors[own_rows],
        own_rows,
        options.k,
    )
    return queries, own_reference(vectors, [images.labels[i] for i in some], prompts)


PROBES = tuple(2**power for power in range(10))
BREADTHS = (32, 64, 128, 256, 512)

Setting = tuple[str, Mapping[str, int]]


@dataclass(frozen=True)
class MadeStructures:
    """Structures over one index by kind, on disk, so that what was measured can be installed."""

    folder: Path
    made: dict[str, MadeStructure] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """What building each took."""


def settings_of(kinds: Sequence[str], count: int, dimension: int) -> list[Setting]:
    """What to measure for M = `count` vectors: of the kinds named, or of those worth a try.

    A kind that was named and is not among those is tried with its default parameters, and with
    other breadths of search where it has one. Exact search is always measured and not listed.
    UsageError for a kind that is unknown.
    """
    usual: list[Setting] = [s for s in candidate_settings(count, dimension) if s[0] != EXACT]
    if not kinds:
        return usual
    found: list[Setting] = []
    for kind in dict.fromkeys(kinds):
        if kind != EXACT:
            found += [s for s in usual if s[0] == kind] or _breadths(kind)
    return found


def _breadths(name: str) -> list[Setting]:
    kind = read_kind(name)
    plain = default_parameters(kind)
    if kind.lists:
        return [(name, {**plain, "nprobe": n}) for n in PROBES if n <= kind.lists]
    if kind.links:
        return [(name, {**plain, "efSearch": n}) for n in BREADTHS]
    return [(name, plain)]


@dataclass(frozen=True)
class Candidates:
    """Each setting ready to be searched with; a structure is built when its first one comes."""

    index: FolderIndex
    settings: Sequence[Setting]
    keep: MadeStructures

    def __len__(self) -> int:
        return len(self.settings)

    def made(self, images: np.ndarray) -> Iterator[Candidate]:
        """One by one; `images` float32 [n, d] lay out those that images lay out."""
        index = self.index
        for kind, group in groupby(self.settings, key=lambda setting: setting[0]):
            if kind not in self.keep.made:
                start = time.perf_counter()
                path = self.keep.folder / f"{len(self.keep.made)}.faiss"
                dimension = index.model["dimension"]
                made = make_structure(index.stored, dimension, kind, path, images=images)
                self.keep.made[kind] = made
                self.keep.seconds[kind] = time.perf_counter() - start
            for _, parameters in group:
                yield _candidate(index, self.keep, kind, parameters)


def _candidate(
    index: FolderIndex, keep: MadeStructures, kind: str, parameters: Mapping[str, int]
) -> Candidate:
    made = keep.made[kind]
    opened: list[FolderIndex] = []

    def find(queries: np.ndarray, k: int) -> Hits:
        # Read at the first search, so that its memory is counted with it.
        if not opened:
            opened.append(with_structure(index, made, parameters))
        return search_index(opened[0], queries, k)

    return Candidate(kind, parameters, find, made.bytes, keep.seconds[kind])


Prompts = Callable[[Sequence[str]], np.ndarray | None]
"""C class names -> float32 [C, d], a unit row for each; None where they cannot be had."""

LEAST = 3
"""Images that a class needs: two must remain when one is left out."""
ONE_CLASS = "all images"


@dataclass(frozen=True)
class OwnReference:
    """n images, and what they are compared with."""

    images: np.ndarray
    """float32 [n, d], unit rows."""
    reference: Reference
    labels: np.ndarray
    """int64 [n], -1 for images in no class."""
    described: str
    """In a line, for the reader."""


def own_reference(
    images: np.ndarray, labels: Sequence[str | None], prompts: Prompts | None
) -> OwnReference:
    """The classes of unit rows [n, d], each image left out of its own when it is scored.

    Without labels all images are one class. Where `prompts` gives none, and for the one class, the
    mean image stands in for the label's prompt. Classes of fewer than three images are left out.
    """
    counts = Counter(label for label in labels if label is not None)
    classes = tuple(sorted(name for name, count in counts.items() if count >= LEAST))
    if classes:
        filed = numbers_of(labels, classes)
        described = f"{counted(len(classes), 'class', 'classes')} as labelled"
    else:
        classes, filed, prompts = (ONE_CLASS,), np.zeros(len(images), np.int64), None
        described = "one class of all images, for want of labels"
    used = filed >= 0
    moments = fit_moments(classes, images[used], filed[used])
    vectors = None if prompts is None else prompts(classes)
    if vectors is None:
        means = np.stack([part.mean for part in moments.parts])
        vectors = (means / row_lengths(means)[:, None]).astype(np.float32)
        described += ", their mean images in place of prompts"
    return OwnReference(images, Reference(moments, vectors), filed, described)


def rescorer(own: OwnReference, texts: Rows, weight: float) -> Callable[[Hits], np.ndarray]:
    """The hits of all images, in rows of `texts`, to their BLISS scores, float64 [n]."""
    filed = np.flatnonzero(own.labels >= 0)
    left_out = LeftOut(filed, own.labels[filed])

    def rescore(hits: Hits) -> np.ndarray:
        retrieved = gather_texts(hits, texts)
        return bliss_scores(
            own.images, retrieved, own.reference, weight, own.labels, left_out
        ).score

    return rescore
