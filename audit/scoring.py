"""BLISS of many images in blocks of classes, here or in other processes.

A block holds the classes that `bliss_scores` itself takes together, so that the numbers are the
same bits wherever and in whatever order blocks are computed. They are merged in the order of the
classes: of equal totals the lower class number stays.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from ..indexer import SCRATCH, Engine, Rows, SelectedRows, slices, whole_rows
from ..scorer import (
    BEST,
    NOTHING_LEFT_OUT,
    BlissScores,
    LeftOut,
    Moments,
    Reference,
    Retrieved,
    add_images,
    bliss_scores,
    check_counts,
    classes_at_once,
    empty_moments,
)

MOMENT_BLOCKS = 256
"""Blocks that the classes of a reference are fitted in by an engine."""


@dataclass(frozen=True)
class ClassScores:
    """The arguments of `bliss_scores`; called with a block of classes, scores against these."""

    images: Rows
    retrieved: Retrieved
    reference: Reference
    weight: float
    given: np.ndarray
    left_out: LeftOut

    @functools.cached_property
    def texts(self) -> Retrieved:
        """`retrieved` with its vectors in memory."""
        return replace(self.retrieved, vectors=whole_rows(self.retrieved.vectors))

    def __call__(self, classes: slice) -> BlissScores:
        """Scores against some classes alone; best_classes are numbers of all classes."""
        first, last = classes.start, classes.stop
        pairs, some = self.left_out, self.reference.only(classes)
        given = np.where((self.given >= first) & (self.given < last), self.given - first, -1)
        here = np.flatnonzero((pairs.classes >= first) & (pairs.classes < last))
        left_out = LeftOut(pairs.images[here], pairs.classes[here] - first)
        found = bliss_scores(self.images, self.texts, some, self.weight, given, left_out)
        return replace(found, best_classes=found.best_classes + first)


def score_classes(  # noqa: PLR0913 - six positional
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    weight: float,
    given: np.ndarray,
    left_out: LeftOut = NOTHING_LEFT_OUT,
    *,
    engine: Engine | None = None,
) -> BlissScores:
    """`bliss_scores`; an `engine` computes blocks of classes elsewhere."""
    if engine is None:
        return bliss_scores(
            images, retrieved, reference, weight, given, left_out, allocator=SCRATCH
        )
    check_counts(reference.moments)
    if not len(images):
        return bliss_scores(images, retrieved, reference, weight, given, left_out)
    # Members and samples are not needed to score, and can be large.
    plain = Reference(reference.moments, reference.prompt_vectors)
    task = ClassScores(images, retrieved, plain, weight, given, left_out)
    classes = slices(len(reference.classes), classes_at_once(len(retrieved.vectors)))
    return functools.reduce(merge_scores, engine.map(task, classes))


def merge_scores(first: BlissScores, second: BlissScores) -> BlissScores:
    """Scores against the classes of both, those of `second` having higher numbers."""
    lower = second.score < first.score
    chosen = {
        name: np.where(lower, getattr(second, name), getattr(first, name))
        for name in ("score", "ics", "ets")
    }
    filed = np.isnan(first.given_ics)
    totals = np.hstack([first.best_scores, second.best_scores])
    numbers = np.hstack([first.best_classes, second.best_classes])
    order = np.argsort(totals, axis=1, kind="stable")[:, :BEST]
    return BlissScores(
        **chosen,
        best_classes=np.take_along_axis(numbers, order, axis=1),
        best_scores=np.take_along_axis(totals, order, axis=1),
        given_ics=np.where(filed, second.given_ics, first.given_ics),
        given_ets=np.where(filed, second.given_ets, first.given_ets),
        pull=np.where(lower[:, None], second.pull, first.pull),
    )


@dataclass(frozen=True)
class ClassImages:
    """Images and their class numbers; called with a block of classes, gives their moments."""

    classes: tuple[str, ...]
    dimension: int
    images: Rows
    labels: np.ndarray

    def __call__(self, classes: slice) -> Moments:
        """The moments of some classes."""
        here = np.flatnonzero((self.labels >= classes.start) & (self.labels < classes.stop))
        empty = empty_moments(self.classes[classes], self.dimension)
        images = SelectedRows(self.images, here)
        return add_images(empty, images, self.labels[here] - classes.start)


def class_moments(
    empty: Moments, images: Rows, labels: np.ndarray, engine: Engine | None
) -> Moments:
    """`add_images` to `empty` moments; an `engine` computes blocks of classes elsewhere."""
    if engine is None:
        return add_images(empty, images, labels)
    count = len(empty.classes)
    task = ClassImages(empty.classes, empty.dimension, images, labels)
    blocks = engine.map(task, slices(count, -(-count // MOMENT_BLOCKS)))
    return Moments(empty.classes, tuple(part for block in blocks for part in block.parts))
