"""Run over images in chunks, so that no score's memory grows with their number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..slices import slices

ENTRIES = 4_000_000
"""Float64 entries of one chunk's largest array: 32 MB."""


def in_chunks(
    images: np.ndarray, width: int, score: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """float64 [n], `score` of one chunk of `images` [n, d] after another.

    `score` gets float64 [b, d] and gives [b]; `width` is how many numbers it holds for an image.
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
