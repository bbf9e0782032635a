"""Cosines of n images to many vectors and work in blocks of images, in bounded memory.

Cosines are float64, a block of images against a block of vectors at a time, and only two numbers
an image are kept: its largest cosine and the logarithm of Σ e^{cosine/τ}, which cannot overflow.
Softmax scores are differences of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...indexer.vectors import slices

ENTRIES = 4_000_000
"""Float64 entries of the largest array of one block of images: 32 MB."""

IMAGES_AT_ONCE = 1024
VECTORS_AT_ONCE = 4096
"""Together they bound a block of cosines: 32 MB."""


@dataclass(frozen=True)
class Similarity:
    """n images against one set of vectors; -inf where the set is empty."""

    largest: np.ndarray
    """float64 [n], the largest cosine."""
    log_sum: np.ndarray
    """float64 [n], log Σ e^{cosine/τ}."""


def similarity(images: np.ndarray, vectors: np.ndarray, tau: float) -> Similarity:
    """Unit rows `images` [n, d] against unit rows `vectors` [v, d] at temperature `tau`."""
    largest, log_sum = np.full(len(images), -np.inf), np.full(len(images), -np.inf)
    for rows in slices(len(images), IMAGES_AT_ONCE):
        for _, cosines in cosine_blocks(images[rows], vectors):
            top = cosines.max(axis=1)
            cosines -= top[:, None]
            cosines /= tau
            np.exp(cosines, out=cosines)
            block = top / tau + np.log(cosines.sum(axis=1))
            log_sum[rows] = np.logaddexp(log_sum[rows], block)
            largest[rows] = np.maximum(largest[rows], top)
    return Similarity(largest, log_sum)


def hubness(vectors: np.ndarray, images: np.ndarray, nearest: int) -> np.ndarray:
    """float64 [v], the mean of the `nearest` largest cosines of `images` [m, d] to each vector.

    Of all of them where there are fewer (Chowdhury et al., EMNLP 2024, arXiv 2410.24114).
    """
    k = min(nearest, len(images))
    largest = np.full((k, len(vectors)), -np.inf)
    for rows in slices(len(images), IMAGES_AT_ONCE):
        for block, cosines in cosine_blocks(images[rows], vectors):
            some = np.concatenate([largest[:, block], cosines])
            largest[:, block] = np.partition(some, len(cosines), axis=0)[len(cosines) :]
    return largest.mean(axis=0)


def cosine_blocks(images: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Cosines of a few `images` [b, d] to each block of `vectors`: its place, float64 [b, v]."""
    wide = np.asarray(images, np.float64)
    for block in slices(len(vectors), VECTORS_AT_ONCE):
        yield block, wide @ np.asarray(vectors[block], np.float64).T


def share_of(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """P/(P + R) from log P and log R, without overflow; not both may be 0."""
    return np.exp(-np.logaddexp(0, rest - part))


def in_chunks(
    images: np.ndarray, width: int, score: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """float64 [n], `score` of `images` [n, d], a block at a time.

    `score` maps float64 [b, d] to [b]; `width` is how many numbers it holds for an image.
    """
    step = ENTRIES // max(1, width)
    scores = np.empty(len(images))
    for chunk in slices(len(images), step):
        scores[chunk] = score(images[chunk].astype(np.float64))
    return scores


def second_moment(rows: np.ndarray) -> np.ndarray:
    """float64 [d, d], the mean of x xᵀ over `rows` [m, d], not centred."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    step = ENTRIES // max(1, rows.shape[1])
    for block in slices(len(rows), step):
        chunk = rows[block].astype(np.float64)
        total += chunk.T @ chunk
    return total / len(rows)
