"""Statistics of a class without one of its own images, in closed form.

A reference image x pulls its own class's mean and variance towards itself, which hides strays.
With n images in the class, s = x·d, and μ, v the mean and variance with x in it, the statistics
without x are

    μ' = μ + (μ - s)/(n - 1)
    v' = n/(n - 1) · (v - (s - μ)²/(n - 1))

the centred form, which does not lose digits as n(v + μ²) - s² does. Where nearly all variance was
x's own (v' < 1e-6 v) even that form loses them, and the class is refitted without x as long as its
centred rows are kept (n <= d). With a scatter, σ' is then good to about 1e-8 of σ and no better.

x's own stored row is left out, found as the nearest one: the same image embedded again in another
batch differs by float32 rounding, which v' would magnify.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .moments import ClassMoments
from .statistics import class_std_float64

PAIRS_AT_ONCE = 1024
CANCELLED = 1e-6


@dataclass(frozen=True)
class LeftOut:
    """Which scored images sit in which reference class, and so must be left out of it."""

    images: np.ndarray
    """int64 [p], positions among the scored images."""
    classes: np.ndarray
    """int64 [p], the class each is filed under; an image may occur with several classes."""


NOTHING_LEFT_OUT = LeftOut(np.zeros(0, np.int64), np.zeros(0, np.int64))


def leave_one_out(
    count: int, mean: np.ndarray, variance: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance without one image, from those with it and its own `similarity`.

    All arrays broadcast; `count` is n, at least 3 so that two images remain.
    """
    apart = similarity - mean
    left = count - 1
    variance_left = (count / left) * (variance - np.square(apart) / left)
    return mean - apart / left, np.maximum(variance_left, 0)


@dataclass(frozen=True)
class ClassTexts:
    """A class and the texts its images are compared with: what is the same for every image."""

    part: ClassMoments
    texts: np.ndarray
    """float64 [u, d], unit rows."""
    mean: np.ndarray
    """float64 [u], of the class with all its images."""
    variance: np.ndarray
    """float64 [u]."""


def class_texts(part: ClassMoments, texts: np.ndarray) -> ClassTexts:
    """A class and unit rows `texts` [u, d]."""
    texts = texts.astype(np.float64)
    return ClassTexts(part, texts, texts @ part.mean, np.square(class_std_float64(part, texts)))


def left_out_statistics(
    known: ClassTexts, images: np.ndarray, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For p members of a class, the statistics of the class without each of them.

    `images` are the members' unit rows [p, d]; image i is compared with texts[position[i, j]] for
    j < k, `position` int [p, k]. Returns float64 mean and std, both [p, k].
    """
    part, texts = known.part, known.texts
    mean, variance = known.mean[position], known.variance[position]
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
    """int64 [p], which row of `among` [n, d] each of `rows` [p, d] is, or is nearest to."""
    return (np.square(among).sum(axis=1) - 2 * rows @ among.T).argmin(axis=1)
