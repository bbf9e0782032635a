"""One Gaussian a class, each with a covariance of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .class_means import members_of
from .contract import Fitted, Fitting, Query, Score
from .covariance import fit_covariance, squared_lengths
from .image_chunks import in_chunks


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Rippel et al., who have one normal class; with several the nearest Gaussian counts.

    Distances alone are compared, without log-determinants. A class holds at most its m_c images'
    directions. Raises BlissError naming a class without two different reference images.
    """
    normals = fitting.normals
    gaussians = []
    for name, rows in zip(normals.classes, members_of(normals), strict=True):
        images = normals.images[rows].astype(np.float64)
        mean = images.mean(axis=0)
        gaussians.append((mean, fit_covariance(images - mean, f"class '{name}'")))

    def of_chunk(chunk: np.ndarray) -> np.ndarray:
        nearest = np.full(len(chunk), np.inf)
        for mean, covariance in gaussians:
            chunk -= mean
            along = chunk @ covariance.directions.T
            whole = np.einsum("nd,nd->n", chunk, chunk)
            np.minimum(nearest, squared_lengths(covariance, along, whole), out=nearest)
            chunk += mean
        return np.sqrt(nearest)

    def scores(query: Query) -> np.ndarray:
        return in_chunks(query.images, 4 * query.images.shape[1], of_chunk)

    return scores


GAUSSIAN_AD = Score(
    name="gaussian_ad",
    formula="min over c of √((x − m_c)ᵀ Σ*_c⁻¹ (x − m_c)), Σ*_c the class's own covariance, "
    "Ledoit–Wolf",
    source="Rippel, Mertens and Merhof, Modeling the Distribution of Normal Data in Pre-Trained "
    "Deep Features for Anomaly Detection, ICPR 2020, arXiv 2005.14140",
    fit=_fit,
    needs_normals=True,
)
