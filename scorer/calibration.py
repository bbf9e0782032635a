"""Calibration: from scores to p-values and false discovery rates.

With m held-out clean images of scores s_i (split conformal; Bates et al., Ann. Statist. 2023,
arXiv 2104.08279), class by class where the shares of the classes may differ, and adjusted for n
tests (Benjamini and Hochberg, J. R. Stat. Soc. B 1995):

    p(x)   = (1 + #{i: s_i >= s(x)})/(m + 1)
    p_c(x) = (1 + #{i of class c: s_{i,c} >= s_c(x)})/(m_c + 1),  p(x) = max over c of p_c(x)
    q_(i)  = min over j >= i of n·p_(j)/j,  p_(1) <= … <= p_(n)

A clean image of class y has p >= p_y, and p_y is valid, so the largest p_c is valid whatever the
shares of the classes are. The price is resolution: p is at least 1/(m_c + 1) for the class with
the fewest calibration images.

Holding images out costs most of the power where there are few. The images of the whole reference
can calibrate instead, each scored without itself in its own class (leave_one_out.py). Their scores
come from n - 1 images of the class and those of audited images from n, so that nothing is proven
(the argument of the jackknife+ bounds the error rate of one p by 2α; Barber, Candès, Ramdas and
Tibshirani, Ann. Statist. 2021, arXiv 1905.02928). benchmarks/calibrated.py measures the rate.

A collection that is its own reference has no clean scores. If most images are normal, the middle
of the scores is theirs: a normal distribution with the median and the upper quartile of the scores
stands for them (after Efron's empirical null, J. Amer. Statist. Assoc. 2004; the lower half would
make it too narrow, since scores are skewed to the right). Real tails are heavier, and with many
anomalies they reach the quartile: nothing is guaranteed, and docs/decisions.md measures the error.

    >>> import numpy as np
    >>> p = conformal_p_values(np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.2, 0.9]))
    >>> p.tolist(), benjamini_hochberg(p).tolist()
    ([1.0, 0.75, 0.25], [1.0, 1.0, 0.75])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from ..indexer.vectors import Rows
from .bliss import IN_MEMORY, Allocator, Retrieved, class_blocks
from .leave_one_out import LeftOut
from .reference import Reference


def conformal_p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """float64 [n], p of each of `scores` [n] from the `calibration` [m] scores of clean images.

    Valid when clean images and calibration images are exchangeable.
    """
    ordered = np.sort(calibration)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least) / (len(ordered) + 1)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """float64 [n], the q-values of p-values `p` [n].

    Flagging every q <= α keeps the expected share of false flags below α·π₀ for independent
    p-values, and for conformal ones with a shared calibration sample, which are PRDS (Bates et al.
    2023). Raises UsageError where `p` is not [n] or not all from 0 to 1.
    """
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise UsageError(
            f"p-values of shape {p.shape} were given, not all of them from 0 to 1",
            "one number from 0 to 1 for each image",
            "Check how they were computed",
        )
    order = np.argsort(p)[::-1]
    q = np.empty(len(p))
    q[order] = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1))
    return q


def least_flagged(images: int, calibration: int, level: float) -> int:
    """r, how many of n `images` must have the smallest p-value before any q is at most `level`.

    The smallest p is 1/(m + 1) with m `calibration` images, so r >= n/(level·(m + 1)).
    """
    return math.ceil(images / (level * (calibration + 1)) - 1e-9)


def calibration_needed(images: int, level: float, flagged: int = 1) -> int:
    """m, the fewest calibration images with which `flagged` of n images can have q <= `level`."""
    return max(0, math.ceil(images / (level * flagged) - 1e-9) - 1)


def hold_out(labels: np.ndarray, contents: np.ndarray, share: float) -> np.ndarray:
    """bool [n], which images to keep out of the moments for calibration.

    In each class of `labels` int [n] about `share` of its images, those of the lowest `contents`
    int [n], so that the choice does not depend on the order of the images. Equal contents are
    copies of one image: they stay together, even under several labels. Two images of every class
    are left in; images with label -1 are never chosen. Raises UsageError for an impossible share.
    """
    if not 0 <= share < 1:
        raise UsageError(
            f"a calibration share of {share} was given", "0 or more and below 1", "Try 0.2"
        )
    held = np.zeros(len(labels), bool)
    if not share:
        return held
    for number in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == number)
        members = members[np.argsort(contents[members], kind="stable")]
        count = min(int(share * len(members)), len(members) - 2)
        held[members[: max(0, count)]] = True
    left_in = contents[~held & (labels >= 0)]
    return held & ~np.isin(contents, left_in)


def class_p_values(  # noqa: PLR0913 - six positional
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    weight: float,
    left_out: LeftOut,
    calibration: tuple[np.ndarray, np.ndarray],
    *,
    allocator: Allocator = IN_MEMORY,
) -> np.ndarray:
    """float64 [n], the largest over classes of each image's p-value for the class.

    `calibration` is the classes int [m] and the own-class scores float64 [m] of the clean images;
    a class without any gives every image p = 1. The other parameters are those of `bliss_scores`.
    """
    labels, scores = calibration
    p = np.zeros(len(images))
    for block in class_blocks(images, retrieved, reference, left_out, allocator=allocator):
        total = block.ics + weight * block.ets
        for column, number in enumerate(range(block.classes.start, block.classes.stop)):
            own = conformal_p_values(scores[labels == number], total[:, column])
            p[block.images] = np.maximum(p[block.images], own)
    return p


UPPER_QUARTILE = 0.6744897501960817
"""Of the standard normal distribution."""


@dataclass(frozen=True)
class EmpiricalNull:
    """The normal distribution that stands for the scores of clean images."""

    centre: float
    spread: float


def fit_empirical_null(scores: np.ndarray) -> EmpiricalNull:
    """The null whose median and upper quartile are those of `scores` [n]."""
    middle, upper = np.quantile(scores, [0.5, 0.75])
    return EmpiricalNull(float(middle), float((upper - middle) / UPPER_QUARTILE))


def null_p_values(null: EmpiricalNull, scores: np.ndarray) -> np.ndarray:
    """float64 [n], the probability under the null of a score at least as high as each [n].

    Without any spread it is 1 up to the centre and 0 above it.
    """
    if null.spread <= 0:
        return np.where(scores > null.centre, 0.0, 1.0)
    return upper_tail((scores - null.centre) / null.spread)


def upper_tail(z: np.ndarray) -> np.ndarray:
    """float64, 1 - Φ(z) of the standard normal distribution."""
    return np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in np.ravel(z)]).reshape(
        np.shape(z)
    )
