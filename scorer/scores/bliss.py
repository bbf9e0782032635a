"""BLISS, the score of this project, under the contract of all scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..bliss import bliss_scores
from ..moments import fit_moments
from ..reference import Reference
from ..statistics import check_counts
from .contract import Fitted, Fitting, Need, Query, Score, retrieved_texts


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """BLISS with the weight λ; k is however many texts the query retrieved for each image.

    Raises BlissError naming a class with fewer than two reference images; the fitted score raises
    UsageError for a query without retrieved texts.
    """
    normals = fitting.normals
    moments = fit_moments(normals.classes, normals.images, normals.labels)
    check_counts(moments)
    reference = Reference(moments, normals.prompts)

    def scores(query: Query) -> np.ndarray:
        retrieved = retrieved_texts(query, "bliss")
        return bliss_scores(query.images, retrieved, reference, parameters["weight"]).score

    return scores


BLISS = Score(
    name="bliss",
    formula="min over c of ICS_c + λ·ETS_c, ICS_c = −(s_c − μ_c)/σ_c, "
    "ETS_c = mean over the k nearest texts of (r_j − μ_{c,j})/σ_{c,j}",
    source="Goodge, Hooi and Ng, When Text and Images Don't Mix: Bias-Correcting Language-Image "
    "Similarity Scores for Anomaly Detection, BMVC 2024, arXiv 2407.17083",
    fit=_fit,
    defaults={"weight": 0.5},
    needs=frozenset({Need.MOMENTS, Need.RETRIEVED}),
)
