"""The BLISS score (Goodge, Hooi and Ng, BMVC 2024, arXiv 2407.17083), on arrays.

For image x, class c with prompt t_c, and the k external texts d nearest to x by raw cosine:

    ICS_c(x) = -(x·t_c - μ_c)/(σ_c + 1e-8)                      internal class score
    ETS_c(x) = mean over d of (x·d - μ_{c,d})/(σ_{c,d} + 1e-8)  external text score
    score(x) = min over c of ICS_c(x) + λ·ETS_c(x)

μ and σ (population, ddof 0) are over the class's reference images; higher = more anomalous.
`bliss_matrices` returns every class's terms, for small work; `bliss_scores` keeps only what a
reader needs of each image, in memory bounded by blocks of classes and chunks of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..indexer.stored_rows import Rows
from ..indexer.vectors.scratch import let_go, scratch_array
from .class_blocks import ClassBlock, class_blocks, pull_of
from .leave_one_out import NOTHING_LEFT_OUT, LeftOut
from .reference import Reference
from .retrieved import Retrieved

BEST = 3
"""How many of the best classes are kept for each image."""


@dataclass(frozen=True)
class BlissMatrices:
    """Every class's terms: float64 [n, C] each, total = ics + λ·ets."""

    ics: np.ndarray
    ets: np.ndarray
    total: np.ndarray


@dataclass(frozen=True)
class BlissScores:
    """What is kept of each of n images; all numbers float64."""

    score: np.ndarray
    """[n], min over classes of ICS + λ·ETS."""
    ics: np.ndarray
    """[n], ICS of the nearest class."""
    ets: np.ndarray
    """[n], ETS of the nearest class."""
    best_classes: np.ndarray
    """int64 [n, b], the min(3, C) classes of lowest total, best first; column 0 is the nearest."""
    best_scores: np.ndarray
    """[n, b], their totals."""
    given_ics: np.ndarray
    """[n], ICS of the class the image is filed under; NaN without one."""
    given_ets: np.ndarray
    """[n], ETS of that class; NaN without one."""
    pull: np.ndarray
    """[n, k], standardised similarity of each retrieved text for the nearest class."""

    @property
    def nearest(self) -> np.ndarray:
        """int64 [n], the class of lowest total; equal totals: the lower number."""
        return self.best_classes[:, 0]


def bliss_matrices(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    weight: float = 0.5,
    left_out: LeftOut = NOTHING_LEFT_OUT,
) -> BlissMatrices:
    """ICS, ETS and their sum for n unit rows `images` [n, d] and all C classes; `weight` is λ.

    Raises BlissError naming a class with too few images: two are needed, three where one of
    them is left out.
    """
    shape = (len(images), len(reference.classes))
    ics, ets = np.empty(shape), np.empty(shape)
    for block in class_blocks(images, retrieved, reference, left_out):
        ics[block.images, block.classes] = block.ics
        ets[block.images, block.classes] = block.ets
    return BlissMatrices(ics, ets, ics + weight * ets)


def bliss_scores(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    weight: float = 0.5,
    given: np.ndarray | None = None,
    left_out: LeftOut = NOTHING_LEFT_OUT,
) -> BlissScores:
    """Scores and their parts for n unit rows `images` [n, d]; `weight` is λ.

    `images` may lie on disk (`stored_rows.StoredRows`): they are read a chunk at a time.

    `given` int [n] is the class each image is filed under, -1 for none. `left_out` names the
    images that are themselves in the reference. Raises BlissError as `bliss_matrices` does.
    """
    n, k = len(images), retrieved.similarity.shape[1]
    best = min(BEST, len(reference.classes))
    kept = BlissScores(
        score=np.full(n, np.inf),
        ics=np.empty(n),
        ets=np.empty(n),
        best_classes=scratch_array((n, best), np.int64),
        best_scores=scratch_array((n, best), np.float64),
        given_ics=np.full(n, np.nan),
        given_ets=np.full(n, np.nan),
        pull=scratch_array((n, k), np.float64),
    )
    kept.best_classes[:], kept.best_scores[:] = 0, np.inf
    given = np.full(n, -1) if given is None else given
    for block in class_blocks(images, retrieved, reference, left_out):
        _keep_nearest(kept, block, weight)
        _keep_given(kept, block, given[block.images])
        let_go(kept.best_classes, kept.best_scores, kept.pull)
    return kept


def _keep_nearest(kept: BlissScores, block: ClassBlock, weight: float) -> None:
    total = block.ics + weight * block.ets
    here = np.arange(len(total))
    nearest = total.argmin(axis=1)
    lowest = total[here, nearest]
    better = np.flatnonzero(lowest < kept.score[block.images])
    rows = better + block.images.start
    kept.score[rows] = lowest[better]
    kept.ics[rows] = block.ics[better, nearest[better]]
    kept.ets[rows] = block.ets[better, nearest[better]]
    kept.pull[rows] = pull_of(block, nearest)[better]
    _merge_best(kept, block, total)


def _merge_best(kept: BlissScores, block: ClassBlock, total: np.ndarray) -> None:
    """Keep the lowest totals of those so far and this block's; `total` is used up."""
    best = kept.best_scores.shape[1]
    here = np.arange(len(total))
    numbers, values = [kept.best_classes[block.images]], [kept.best_scores[block.images]]
    for _ in range(min(best, total.shape[1])):
        column = total.argmin(axis=1)
        numbers.append((column + block.classes.start)[:, None])
        values.append(total[here, column][:, None])
        total[here, column] = np.inf
    all_numbers, all_values = np.hstack(numbers), np.hstack(values)
    order = np.argsort(all_values, axis=1, kind="stable")[:, :best]
    kept.best_classes[block.images] = np.take_along_axis(all_numbers, order, axis=1)
    kept.best_scores[block.images] = np.take_along_axis(all_values, order, axis=1)


def _keep_given(kept: BlissScores, block: ClassBlock, given: np.ndarray) -> None:
    here = np.flatnonzero((given >= block.classes.start) & (given < block.classes.stop))
    column = given[here] - block.classes.start
    kept.given_ics[here + block.images.start] = block.ics[here, column]
    kept.given_ets[here + block.images.start] = block.ets[here, column]
