"""Distance to the k-th nearest reference image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...indexer.nearest import array_vectors, nearest_texts
from ..slices import slices
from .contract import Fitted, Fitting, Query, Score
from .image_chunks import ENTRIES
from .parameters import whole


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Euclidean distance to the k-th nearest of m unit rows; k is m where there are fewer.

    k = 50 is OpenOOD's choice for m in the tens of thousands. With few reference images it reaches
    into other classes: k = 1 is the plain nearest reference image. Labels are not used.
    """
    references = fitting.normals.images
    k = min(whole(parameters, "k", 1), len(references))
    rows = array_vectors(np.ascontiguousarray(references, np.float32))

    def scores(query: Query) -> np.ndarray:
        distance = np.empty(len(query.images))
        step = ENTRIES // max(query.images.shape[1], k)
        for chunk in slices(len(distance), step):
            images = query.images[chunk]
            kth = nearest_texts(images, rows, k).rows[:, k - 1]
            # From the vectors: 2 − 2·cosine loses half the digits of a short distance.
            apart = images.astype(np.float64) - references[kth]
            distance[chunk] = np.linalg.norm(apart, axis=1)
        return distance

    return scores


KNN = Score(
    name="knn",
    formula="‖x − x_(k)‖, x_(k) the k-th nearest of all m reference images, k at most m",
    source="Sun et al., Out-of-distribution Detection with Deep Nearest Neighbors, ICML 2022, "
    "arXiv 2204.06507",
    fit=_fit,
    defaults={"k": 50},
    needs_normals=True,
)
