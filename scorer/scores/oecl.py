"""OECL: the length of contrastive features, trained to be short on known outliers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .contract import Fitted, Fitting, Query, Score
from .image_chunks import in_chunks
from .trained_arrays import trained_arrays


def feature_lengths(head: Mapping[str, np.ndarray], views: np.ndarray) -> np.ndarray:
    """float64 [n], ‖mean over V of f(x_v)‖ of unit rows `views` [n, V, d].

    f(x) = second·max(0, first·x + first_bias) + second_bias; batch normalisation is folded in.
    """
    weights, bias = head["first"].astype(np.float64), head["first_bias"].astype(np.float64)
    second = head["second"].astype(np.float64)

    def of_chunk(chunk: np.ndarray) -> np.ndarray:
        hidden = np.maximum(chunk @ weights.T + bias, 0).mean(axis=1)
        return np.linalg.norm(hidden @ second.T + head["second_bias"], axis=1)

    return in_chunks(views, views.shape[1] * max(weights.shape), of_chunk)


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """No parameter; the published score averages 32 views, without views the image is its only."""
    names = ("first", "first_bias", "second", "second_bias")
    head = dict(zip(names, trained_arrays(fitting, "oecl", *names), strict=True))

    def scores(query: Query) -> np.ndarray:
        views = query.images[:, None] if query.views is None else query.views
        return -feature_lengths(head, views)

    return scores


OECL = Score(
    name="oecl",
    formula="-‖mean over views of f(x)‖₂, f a trained projection head before normalisation",
    source="Le-Gia and Ahn, Understanding normalization in contrastive representation learning "
    "and out-of-distribution detection, arXiv 2312.15288; here on frozen embeddings",
    fit=_fit,
    trained=True,
)
