"""Logistic regression of outliers against normals: the plain baseline of OECL."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .contract import Fitted, Fitting, Query, Score
from .image_chunks import in_chunks
from .trained_arrays import trained_arrays


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """The log-odds of being an outlier; no parameter."""
    weights, bias = trained_arrays(fitting, "outlier_logistic", "logistic", "logistic_bias")
    weights = weights.astype(np.float64)

    def scores(query: Query) -> np.ndarray:
        return in_chunks(query.images, len(weights), lambda rows: rows @ weights) + float(bias[0])

    return scores


OUTLIER_LOGISTIC = Score(
    name="outlier_logistic",
    formula="w·x + b of a ridge logistic regression, outlier images against normal ones",
    source="the usual outlier-exposure baseline; Hendrycks et al., ICLR 2019, arXiv 1812.04606",
    fit=_fit,
    trained=True,
)
