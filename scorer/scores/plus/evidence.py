"""The four kinds of evidence of bliss+ for images, as they are and without their own class.

Higher = more anomalous; b and r are zeros where there is no spread. The columns of float64 [n, 4]:

    b  BLISS with moderated variances
    n  log Σ_j w_j e^{r_j/τ} − log Σ_i e^{(s_i − α·h_i)/τ}
    r  relative Mahalanobis distance to the nearest class
    g  the mean label cosine minus the largest; of one label, the mean text's minus its
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....indexer.vectors import SCRATCH, Rows, slices
from ...bliss import Retrieved, class_blocks
from ...leave_one_out import LeftOut
from ...reference import Reference, Sample
from ...statistics import VariancePrior
from .pooled_distance import SAME_IMAGE, Pooled, relative, squared_distances, without_own_classes
from .text_weights import (
    Own,
    Tail,
    TextWeights,
    label_weights,
    log_sums,
    log_sums_without_classes,
    own_cosines,
    truncated_log_sums,
)

LABELS_AT_ONCE = 2048
IMAGES_AT_ONCE = 8192
"""Images read at once, 16 MiB of 512 dimensions."""
PAIRS_AT_ONCE = 2048


@dataclass(frozen=True)
class Normal:
    """What bliss+ keeps of the normal images."""

    reference: Reference
    sample: Sample
    """Reference images of classes with at least two: what everything is calibrated on."""
    texts: TextWeights
    tail: Tail | None
    """For texts too many to be summed over; None: all of them are."""
    spread: tuple[VariancePrior, Pooled] | None
    """None where no class's images differ, so that only labels and texts count."""
    weight: float
    """λ of BLISS."""


@dataclass(frozen=True)
class Pairs:
    """Which of n images are left out of which class, and whether the sample holds them."""

    left_out: LeftOut
    """Images ascending."""
    inside: np.ndarray
    """bool [p]."""

    def within(self, rows: slice) -> Pairs:
        """The pairs of the images `rows`, numbered from the first of these."""
        first, last = np.searchsorted(self.left_out.images, [rows.start, rows.stop])
        images = self.left_out.images[first:last] - rows.start
        return Pairs(LeftOut(images, self.left_out.classes[first:last]), self.inside[first:last])


def pairs_of(sample: Sample, images: Rows, left_out: LeftOut) -> Pairs:
    """`left_out` in the order of its images, and which of its pairs `sample` holds."""
    left_out = left_out.ascending
    rows, classes = left_out.images, left_out.classes
    inside = np.zeros(len(rows), bool)
    for number in np.unique(classes):
        pairs = np.flatnonzero(classes == number)
        among = sample.images[sample.labels == number].astype(np.float64)
        if not len(among):
            continue
        for few in slices(len(pairs), PAIRS_AT_ONCE):
            cosines = images[rows[pairs[few]]].astype(np.float64) @ among.T
            inside[pairs[few]] = 2 - 2 * cosines.max(axis=1) < SAME_IMAGE
    return Pairs(left_out, inside)


def evidence(
    normal: Normal,
    images: Rows,
    retrieved: Retrieved,
    pairs: Pairs,
    against: np.ndarray | None = None,
) -> np.ndarray:
    """float64 [n, 4] of unit rows `images` [n, d], in memory or on disk, with retrieved texts.

    `against` [n] are the log-sums over texts, nobody left out, where they are known already.
    """
    bliss, _ = _least_totals(normal, images, retrieved, pairs)
    found = np.empty((len(images), 4))
    for rows in slices(len(images), IMAGES_AT_ONCE):
        some, part = np.asarray(images[rows]), pairs.within(rows)
        known = None if against is None else against[rows]
        texts = _against_texts(normal, some, retrieved.only(rows), part, known)
        labels, margin = _labels(normal, some)
        distance = _distances(normal, some, part)
        found[rows] = np.column_stack([bliss[rows], texts - labels, distance, margin])
    return found


def sample_evidence(normal: Normal, retrieved: Retrieved, pairs: Pairs) -> list[np.ndarray]:
    """The sample's evidence [m, 4] as it is, and twice without the class of each image.

    Without their class its images are anomalies of the nearest kind: once the label is nowhere, and
    once it is among the external texts, as the names of real anomalies often are. Neither the text
    weights nor the covariance of all images know the class then. Of one class, only the first.
    """
    images, labels = normal.sample.images, normal.sample.labels
    texts = _against_texts(normal, images, retrieved, pairs)
    unknown = texts
    if normal.tail is None:
        cosines = own_cosines(images, labels, normal.reference.prompt_vectors)
        unknown = log_sums_without_classes(normal.texts, images, labels, cosines)
    with_own, margin = _labels(normal, images)
    bliss, apart = _least_totals(normal, images, retrieved, pairs, labels)
    distance = _distances(normal, images, pairs)
    whole = np.column_stack([bliss, texts - with_own, distance, margin])
    prompts = normal.reference.prompt_vectors
    if len(prompts) == 1:
        return [whole]
    others, doubt = _labels(normal, images, labels)
    away = np.zeros(len(images))
    if normal.spread is not None and len(np.unique(labels)) > 1:
        away = without_own_classes(normal.spread[1], normal.sample)
    own = own_cosines(images, labels, prompts) / normal.texts.tau - normal.texts.labels[labels]
    own += np.log(label_weights(normal.texts, images, labels, prompts))[labels]
    named = np.logaddexp(unknown, own)
    return [
        whole,
        np.column_stack([apart, unknown - others, away, doubt]),
        np.column_stack([apart, named - others, away, doubt]),
    ]


def _against_texts(
    normal: Normal,
    images: np.ndarray,
    retrieved: Retrieved,
    pairs: Pairs,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """float64 [n], log of the weighted sum over texts, over all of them or by the tail."""
    rows, classes = pairs.left_out.images[pairs.inside], pairs.left_out.classes[pairs.inside]
    own = Own(rows, own_cosines(images[rows], classes, normal.reference.prompt_vectors))
    if normal.tail is None:
        return log_sums(normal.texts, images, own, known)
    return truncated_log_sums(normal.texts, normal.tail, images, retrieved, own).estimate


def _labels(
    normal: Normal, images: np.ndarray, gone: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """float64 [n] each, log Σ_i e^{(s_i − α·h_i)/τ} and the margin, without the labels `gone`."""
    tau, prompts = normal.texts.tau, normal.reference.prompt_vectors.astype(np.float64)
    log_sum, margin = np.empty(len(images)), np.empty(len(images))
    for rows in slices(len(images), LABELS_AT_ONCE // max(1, len(prompts) // 256)):
        some = images[rows].astype(np.float64)
        cosines = some @ prompts.T
        hubs = np.broadcast_to(normal.texts.labels, cosines.shape)
        if gone is not None:
            kept = np.arange(len(prompts)) != gone[rows, None]
            cosines, hubs = (each[kept].reshape(len(some), -1) for each in (cosines, hubs))
        middle = some @ normal.texts.mean if len(prompts) == 1 else cosines.mean(axis=1)
        margin[rows] = middle - cosines.max(axis=1)
        log_sum[rows] = np.logaddexp.reduce(cosines / tau - hubs, axis=1)
    return log_sum, margin


def _least_totals(
    normal: Normal,
    images: Rows,
    retrieved: Retrieved,
    pairs: Pairs,
    gone: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Least BLISS total over all classes and over all but `gone`, float64 [n] each.

    The second is zeros where no class goes, and both are without spread.
    """
    n = len(images)
    if normal.spread is None:
        return np.zeros(n), np.zeros(n)
    bliss, apart = np.full(n, np.inf), np.full(n, np.inf if gone is not None else 0.0)
    for block in class_blocks(
        images, retrieved, normal.reference, pairs.left_out, normal.spread[0], allocator=SCRATCH
    ):
        total = block.ics + normal.weight * block.ets
        bliss[block.images] = np.minimum(bliss[block.images], total.min(axis=1))
        if gone is not None:
            own = gone[block.images] - block.classes.start
            here = np.flatnonzero((own >= 0) & (own < total.shape[1]))
            total[here, own[here]] = np.inf
            apart[block.images] = np.minimum(apart[block.images], total.min(axis=1))
    return bliss, apart


def _distances(normal: Normal, images: np.ndarray, pairs: Pairs) -> np.ndarray:
    """float64 [n], relative distance to the nearest class; zeros without spread."""
    distance, itself = np.zeros(len(images)), np.zeros(len(images), bool)
    if normal.spread is None:
        return distance
    pooled = normal.spread[1]
    itself[pairs.left_out.images[pairs.inside]] = True
    for rows, squared in squared_distances(pooled, images, pairs.left_out, pairs.inside):
        distance[rows] = relative(pooled, squared, images[rows], itself[rows])
    return distance
