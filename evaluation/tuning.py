"""`bliss index tune`: every candidate setting of one index measured, and one of them chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import UsageError
from ..indexer.caption_index import CaptionIndex, search
from ..indexer.embedded_images import EmbeddedImages
from ..indexer.encode.encoder import check_same_model
from ..indexer.nearest import check_k
from ..progress import Progress, no_progress
from .index_tuning import (
    EXACT,
    Candidate,
    Measured,
    Queries,
    choose,
    exact_truth,
    facts_of,
    halves,
    measure,
    with_dominated,
)
from .own_reference import OwnReference, Prompts, own_reference, rescorer
from .recall_bound import CONFIDENCE, least_queries


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
    rescore = rescorer(own, index.vectors.fetch, options.weight)

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
        index.vectors.fetch(own_rows),
        own_rows,
        options.k,
    )
    return queries, own_reference(vectors, [images.labels[i] for i in some], prompts)
