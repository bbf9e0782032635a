"""A collection as its own reference, for scores that only serve to compare ways of searching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..indexer.nearest import Hits
from ..indexer.vectors.unit_rows import row_lengths
from ..scorer.bliss import bliss_scores
from ..scorer.leave_one_out import LeftOut
from ..scorer.moments import fit_moments
from ..scorer.reference import Reference
from ..scorer.retrieved import gather_texts

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
        described = f"{len(classes):,} class{'es' * (len(classes) != 1)} as labelled"
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


def rescorer(
    own: OwnReference, fetch: Callable[[np.ndarray], np.ndarray], weight: float
) -> Callable[[Hits], np.ndarray]:
    """The hits of all images, in rows that `fetch` takes, to their BLISS scores, float64 [n]."""
    filed = np.flatnonzero(own.labels >= 0)
    left_out = LeftOut(filed, own.labels[filed])

    def rescore(hits: Hits) -> np.ndarray:
        retrieved = gather_texts(hits, fetch)
        return bliss_scores(
            own.images, retrieved, own.reference, weight, own.labels, left_out
        ).score

    return rescore
