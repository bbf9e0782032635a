"""Smooth any score over each image's nearest neighbours in the query (MuSc's RsCIN)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...indexer.nearest import array_vectors, nearest_texts
from .contract import Fitted, Fitting, Query, Score
from .text_terms import WithTerms, terms_of

RSCIN = "+rscin"
"""Ends the name of a score that is smoothed over the images it is asked about."""

NEIGHBOURHOODS = (1, 2, 3)
"""The k of MuSc; k counts the image itself, so k = 1 is the score as it was."""


def with_rscin(score: Score) -> Score:
    """`score`, re-scored from the images it is asked about together.

    The result is stateful: an image's score depends on the others in the query, so p-values from
    a calibration set do not hold. Parameters and needs are those of `score`.
    """

    def fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
        plain = score.fit(fitting, parameters)
        return WithTerms(lambda query: smooth(plain(query), query), terms_of(plain))

    return replace(
        score,
        name=f"{score.name}{RSCIN}",
        formula=f"mean over k in {{1, 2, 3}} of W_k·S, W_k the row-normalised cosines of an image "
        f"to the k nearest in the query, itself first; S = {score.formula}",
        source="Li et al., MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with "
        f"Mutual Scoring of the Unlabeled Images, ICLR 2024, arXiv 2401.16753, over {score.source}",
        fit=fit,
        stateful=True,
    )


def smooth(scores: np.ndarray, query: Query) -> np.ndarray:
    """float64 [n], `scores` [n] averaged over the neighbourhoods of the query's n images.

    MuSc first scales the scores to 0 to 1; every W_k has row sums 1, so that changes no order and
    is left out. Cosines below 0 count as 0: an opposite image is no neighbour. An exact copy may
    stand in for the image itself. Memory is n times 3.
    """
    n = len(query.images)
    most = min(max(NEIGHBOURHOODS), n)
    if most == 0:
        return scores
    hits = nearest_texts(query.images, array_vectors(query.images), most)
    weights = np.maximum(hits.similarity.astype(np.float64), 0)
    pulled = (weights * scores[hits.rows]).cumsum(axis=1) / weights.cumsum(axis=1)
    return np.mean([pulled[:, min(k, most) - 1] for k in NEIGHBOURHOODS], axis=0)
