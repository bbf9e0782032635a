"""Distance to the nearest normal over distance to the nearest outlier: a baseline of OECL."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...indexer.nearest import Vectors, array_vectors, nearest_texts
from ..slices import slices
from .contract import Fitted, Fitting, Query, Score
from .image_chunks import ENTRIES
from .trained_arrays import trained_arrays


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Against the images that the head was trained on; no parameter."""
    known = trained_arrays(fitting, "outlier_knn_ratio", "normals", "outliers")
    sets = [(rows, array_vectors(np.ascontiguousarray(rows, np.float32))) for rows in known]

    def scores(query: Query) -> np.ndarray:
        normal, outlier = (_nearest(query.images, rows, vectors) for rows, vectors in sets)
        return normal / np.maximum(outlier, 1e-12)

    return scores


def _nearest(images: np.ndarray, rows: np.ndarray, vectors: Vectors) -> np.ndarray:
    """float64 [n], Euclidean distance of each image to the nearest of `rows`."""
    distance = np.empty(len(images))
    for chunk in slices(len(images), max(1, ENTRIES // max(1, images.shape[1]))):
        found = nearest_texts(images[chunk], vectors, 1).rows[:, 0]
        # From the vectors: 2 − 2·cosine loses half the digits of a short distance.
        distance[chunk] = np.linalg.norm(images[chunk].astype(np.float64) - rows[found], axis=1)
    return distance


OUTLIER_KNN_RATIO = Score(
    name="outlier_knn_ratio",
    formula="‖x − nearest normal‖ / ‖x − nearest outlier‖",
    source="the nearest-neighbour rule on normals and known outliers, as a ratio",
    fit=_fit,
    needs_head=True,
    trained=True,
)
