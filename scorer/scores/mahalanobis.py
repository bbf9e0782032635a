"""Mahalanobis distance to the nearest class, one covariance for all classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .class_means import class_means
from .contract import Fitted, Fitting, Normals, Query, Score
from .covariance import Covariance, fit_covariance, squared_lengths, weighed
from .image_chunks import in_chunks


def pooled_covariance(normals: Normals, means: np.ndarray) -> Covariance:
    """Ledoit–Wolf covariance of all reference images about their own class's mean [C, d].

    Raises BlissError where no class has two different images.
    """
    centred = normals.images.astype(np.float64) - means[normals.labels]
    return fit_covariance(centred, "every class")


def nearest_squared(covariance: Covariance, means: np.ndarray, images: np.ndarray) -> np.ndarray:
    """float64 [n], least squared Mahalanobis distance of `images` [n, d] to any of `means` [C, d].

    All is about the mean of the means, so that yᵀΣ*⁻¹y + mᵀΣ*⁻¹m − 2yᵀΣ*⁻¹m keeps its digits.
    """
    centre = means.mean(axis=0)
    apart = means - centre
    weighed_means = weighed(covariance, apart)
    constant = np.einsum("cd,cd->c", weighed_means, apart)

    def of_chunk(chunk: np.ndarray) -> np.ndarray:
        chunk -= centre
        own = squared_lengths(
            covariance, chunk @ covariance.directions.T, np.einsum("nd,nd->n", chunk, chunk)
        )
        return np.maximum(0, own + (constant - 2 * chunk @ weighed_means.T).min(axis=1))

    return in_chunks(images, max(means.shape), of_chunk)


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Lee et al. with Ledoit–Wolf shrinkage in place of the empirical covariance."""
    means = class_means(fitting.normals)
    covariance = pooled_covariance(fitting.normals, means)

    def scores(query: Query) -> np.ndarray:
        return nearest_squared(covariance, means, query.images)

    return scores


MAHALANOBIS = Score(
    name="mahalanobis",
    formula="min over c of (x − m_c)ᵀ Σ*⁻¹ (x − m_c), Σ* the pooled within-class covariance, "
    "Ledoit–Wolf",
    source="Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and "
    "Adversarial Attacks, NeurIPS 2018, arXiv 1807.03888",
    fit=_fit,
    needs_normals=True,
)
