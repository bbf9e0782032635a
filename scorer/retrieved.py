"""The external texts that the images at hand retrieved, each distinct one once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..indexer.nearest import Hits
from ..indexer.vectors.scratch import let_go, scratch_array
from .slices import slices

IMAGES_AT_ONCE = 16_384


@dataclass(frozen=True)
class Retrieved:
    """k texts for each of n images, u of them distinct."""

    similarity: np.ndarray
    """float32 [n, k], raw cosines, descending in each row."""
    rows: np.ndarray
    """int64 [n, k], rows of the caption index."""
    position: np.ndarray
    """int32 [n, k], where in `vectors` each retrieved text is."""
    vectors: np.ndarray
    """float32 [u, d], unit rows of the distinct texts."""


def gather_texts(hits: Hits, vectors_of: Callable[[np.ndarray], np.ndarray]) -> Retrieved:
    """Fetch each distinct text of `hits` once; `vectors_of` maps rows int64 [u] to [u, d]."""
    blocks = list(slices(len(hits.rows), IMAGES_AT_ONCE))
    distinct = np.zeros(0, np.int64)
    for some in blocks:
        distinct = np.union1d(distinct, hits.rows[some])
    position = scratch_array(hits.rows.shape, np.int32)
    for some in blocks:
        position[some] = np.searchsorted(distinct, hits.rows[some])
        let_go(position, hits.rows)
    return Retrieved(hits.similarity, hits.rows, position, vectors_of(distinct))
