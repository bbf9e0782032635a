"""`bliss index tune`: measure every candidate setting of one index and choose one of them.

Each structure is built once and searched with every parameter. Scores, which only serve to compare
ways of searching, are against the collection itself as reference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import UsageError
from ..indexer.encode.encoder import check_same_model
from ..indexer.images.embedded import EmbeddedImages
from ..indexer.search.captions import CaptionIndex, search
from ..indexer.search.index import FolderIndex, with_structure
from ..indexer.search.install import MadeStructure, make_structure
from ..indexer.search.kinds import candidate_settings, default_parameters, read_kind
from ..indexer.vectors.nearest import Hits, check_k
from ..indexer.vectors.unit_rows import Rows, row_lengths
from ..progress import Progress, no_progress
from ..safe_text import counted
from ..scorer.bliss import bliss_scores, gather_texts
from ..scorer.leave_one_out import LeftOut
from ..scorer.moments import fit_moments
from ..scorer.reference import Reference
from .index_tuning import (
    CONFIDENCE,
    EXACT,
    Candidate,
    Measured,
    Queries,
    choose,
    exact_truth,
    facts_of,
    halves,
    least_queries,
    measure,
    with_dominated,
)


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
        if self.image_queries < 2 or self.text_queries < 0:
            raise UsageError(
                f"{self.image_queries} image and {self.text_queries} text queries were asked for",
                "2 images or more, half of them held out, and 0 texts or more",
                "Correct --image-queries or --text-queries",
            )


class ToMeasure(Protocol):
    """Candidates, counted beforehand and made one by one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Candidate]: ...


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
    candidates: ToMeasure,
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
        return search(index, vectors, k)

    truth = exact_truth(exact, queries, rescore)
    itself = measure(Candidate(EXACT, {}, exact, 0, 0.0), queries, truth, rescore)
    found = [replace(itself, recall_bound=1.0)]  # by definition, not by measuring
    for candidate in candidates:
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

    def __iter__(self) -> Iterator[Candidate]:
        index = self.index
        for kind, group in groupby(self.settings, key=lambda setting: setting[0]):
            if kind not in self.keep.made:
                start = time.perf_counter()
                path = self.keep.folder / f"{len(self.keep.made)}.faiss"
                made = make_structure(index.stored, index.model["dimension"], kind, path)
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
        return search(opened[0], queries, k)

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
    counts: dict[str, int] = {}
    for label in labels:
        if label is not None:
            counts[label] = counts.get(label, 0) + 1
    classes = tuple(sorted(name for name, count in counts.items() if count >= LEAST))
    if classes:
        numbers = {name: number for number, name in enumerate(classes)}
        filed = np.array([numbers.get(label, -1) for label in labels], np.int64)  # type: ignore[arg-type]
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
