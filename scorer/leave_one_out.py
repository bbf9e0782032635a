"""Leave-one-out: the statistics of a class without one of its own images, in closed form.

A reference image x pulls the mean and variance of its own class towards itself, which hides
strays. With n images in the class, s = x·d, and μ, v the mean and variance (ddof 0) with x in it,
the statistics without x are

    μ' = μ + (μ - s)/(n - 1)
    v' = n/(n - 1) · (v - (s - μ)²/(n - 1))

This is the centred form; n(v + μ²) - s² would lose digits to cancellation. Where nearly all the
variance is due to x (v' < 1e-6 v) even it loses them, and the class is refitted without x as long
as its centred rows are kept (n <= d). With a scatter, σ' is then good to about 1e-8 of σ.

The row that is left out is the stored one nearest to x: the same image embedded again in another
batch differs by float32 rounding, which v' would magnify.

    >>> import numpy as np
    >>> similarity = np.array([0.2, 0.4, 0.9])
    >>> mean, variance = leave_one_out(3, similarity.mean(), similarity.var(), similarity[2])
    >>> round(float(mean), 12), round(float(variance), 12)  # of 0.2 and 0.4
    (0.3, 0.01)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .moments import ClassMoments
from .statistics import class_std_float64

PAIRS_AT_ONCE = 1024
"""Images whose texts are gathered at once."""

CANCELLED = 1e-6
"""The share of v below which v' is computed again from the centred rows."""


@dataclass(frozen=True)
class LeftOut:
    """Which scored images are in which reference class, and so are left out of it: p pairs."""

    images: np.ndarray
    """int64 [p], positions among the scored images."""
    classes: np.ndarray
    """int64 [p], the class each is in; an image may occur with several classes."""

    @property
    def ascending(self) -> LeftOut:
        """The pairs in the order of their images."""
        if (self.images[1:] >= self.images[:-1]).all():
            return self
        order = np.argsort(self.images, kind="stable")
        return LeftOut(self.images[order], self.classes[order])


NOTHING_LEFT_OUT = LeftOut(np.zeros(0, np.int64), np.zeros(0, np.int64))


def leave_one_out(
    count: int, mean: np.ndarray, variance: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """μ' and v' from n `count`, μ `mean`, v `variance` and s `similarity`; all arrays broadcast.

    n is at least 3, so that two images remain.
    """
    apart = similarity - mean
    left = count - 1
    variance_left = (count / left) * (variance - np.square(apart) / left)
    return mean - apart / left, np.maximum(variance_left, 0)


@dataclass(frozen=True)
class ClassTexts:
    """A class and its statistics for the u texts that its images are compared with."""

    part: ClassMoments
    texts: np.ndarray
    """float64 [u, d], unit rows."""
    mean: np.ndarray
    """float64 [u], with all images of the class."""
    variance: np.ndarray
    """float64 [u]."""


def class_texts(part: ClassMoments, texts: np.ndarray) -> ClassTexts:
    """The statistics of a class for unit rows `texts` [u, d]."""
    texts = texts.astype(np.float64)
    return ClassTexts(part, texts, texts @ part.mean, np.square(class_std_float64(part, texts)))


def left_out_statistics(
    statistics: ClassTexts, images: np.ndarray, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of a class without each of p of its images: float64 mean and std, [p, k] each.

    `images` are their unit rows [p, d]; image i is compared with the texts `position`[i] of
    `statistics`, int [p, k].
    """
    part, texts = statistics.part, statistics.texts
    mean, variance = statistics.mean[position], statistics.variance[position]
    apart = np.empty(position.shape)
    own = np.empty(len(images), np.int64)
    for start in range(0, len(images), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        rows = images[block].astype(np.float64) - part.mean
        if part.centred is not None:
            own[block] = _nearest_rows(rows, part.centred)
            rows = part.centred[own[block]]
        apart[block] = np.einsum("pkd,pd->pk", texts[position[block]], rows)
    mean_left, variance_left = leave_one_out(part.count, mean, variance, mean + apart)
    std_left = np.sqrt(variance_left)
    if part.centred is not None:
        for i in np.flatnonzero((variance_left < CANCELLED * variance).any(axis=1)):
            rest = np.delete(part.centred, own[i], axis=0)
            rest -= rest.mean(axis=0)
            left = ClassMoments(len(rest), part.mean, rest, None)
            std_left[i] = class_std_float64(left, texts[position[i]])
    return mean_left, std_left


def _nearest_rows(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """int64 [p], the row of `among` [n, d] nearest to each of `rows` [p, d]."""
    return (np.square(among).sum(axis=1) - 2 * rows @ among.T).argmin(axis=1)
