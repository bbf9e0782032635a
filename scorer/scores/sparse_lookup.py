"""Look an image up among the references: what they cannot compose is anomalous."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...indexer.nearest import ROUNDING
from ..slices import slices
from .contract import Fitted, Fitting, Query, Score
from .parameters import positive

IMAGES_AT_ONCE = 128
"""Few enough that their candidates are a small part of the references."""

PAIRS_AT_ONCE = 4096


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """DictAS's lookup on whole images, with none of its trained generators: key = value = image.

    Published logits are q·k/√d on layer-normalised rows, whose length is √d: √d times the cosine.
    So it is here, times `sharpness`. References more than 1/(sharpness·√d) of cosine behind the
    nearest get no weight at all.
    """
    references = np.ascontiguousarray(fitting.normals.images, np.float32)
    scale = positive(parameters, "sharpness") * np.sqrt(references.shape[1])

    def scores(query: Query) -> np.ndarray:
        made = np.empty(len(query.images))
        for rows in slices(len(made), IMAGES_AT_ONCE):
            made[rows] = _unlike(query.images[rows].astype(np.float64), references, scale)
        return made

    return scores


def _unlike(images: np.ndarray, references: np.ndarray, scale: float) -> np.ndarray:
    """float64 [b], 1 − the cosine of each image [b, d] to what the references compose of it.

    Float32 cosines only choose the candidates, those that may get a weight; theirs are made again
    in float64.
    """
    rough = images.astype(np.float32) @ references.T
    near = rough >= rough.max(axis=1, keepdims=True) - np.float32(1 / scale + ROUNDING)
    image, reference = np.nonzero(near)
    logits = np.empty(len(image))
    for pairs in slices(len(image), PAIRS_AT_ONCE):
        vectors = references[reference[pairs]].astype(np.float64)
        logits[pairs] = scale * np.einsum("pd,pd->p", vectors, images[image[pairs]])
    weights = sparsemax(logits, image)
    kept = weights > 0
    used, column = np.unique(reference[kept], return_inverse=True)
    spread = np.zeros((len(images), len(used)))
    spread[image[kept], column] = weights[kept]
    composed = spread @ references[used].astype(np.float64)
    length = np.linalg.norm(images, axis=1) * np.linalg.norm(composed, axis=1)
    # Opposite references can cancel out; what is left of them resembles nothing.
    return 1 - np.einsum("nd,nd->n", images, composed) / np.maximum(length, 1e-12)


def sparsemax(logits: np.ndarray, row: np.ndarray) -> np.ndarray:
    """float64 [p], the `logits` [p] of each row projected onto the probability simplex.

    `row` int [p] is ascending and leaves no row out. Weights are max(0, z − t) with t such that
    they sum to 1 (Martins and Astudillo, ICML 2016, arXiv 1602.02068). Newton's method from
    t = max z − 1, where the sum is 1 or more, only rises and ends once no more logits fall away.
    """
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    z = logits - np.maximum.reduceat(logits, starts)[row]
    above = z > -1
    while True:
        total = np.add.reduceat(np.where(above, z, 0), starts) - 1
        weights = z - (total / np.add.reduceat(above, starts, dtype=np.int64))[row]
        still = above & (weights > 0)
        if np.array_equal(still, above):
            return np.where(above, weights, 0)
        above = still


SPARSE_LOOKUP = Score(
    name="sparse_lookup",
    formula="1 − cos(x, Σ_j w_j x_j) over the m reference images x_j, w = sparsemax(√d·x·x_j)",
    source="the lookup of Qu et al., DictAS: A Framework for Class-Generalizable Few-Shot Anomaly "
    "Segmentation via Dictionary Lookup, ICCV 2025, arXiv 2508.13560, without its training",
    fit=_fit,
    defaults={"sharpness": 1.0},
    needs_normals=True,
)
