"""What wraps a score: smoothing over neighbours, and reference images from unlabelled collections.

`with_rscin` smooths any score over the nearest neighbours of each image in the query (RsCIN of
MuSc). `bootstrap_normals` takes reference images for labels that have none from an unlabelled
collection: the images nearest to a label's prompt, without the outliers among them, after Lbl2Vec
(Schopf, Braun and Matthes, WEBIST 2021, arXiv 2210.06023), which does so for documents. Ours are
two choices: an image can only stand for the label whose prompt is nearest to it, and outliers are
told by their mean cosine to the other candidates (Lbl2Vec: local outlier factor). The images it
takes must not be scored against themselves: leave the `bootstrap_rows` out of the query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...errors import BlissError, UsageError
from ...indexer.vectors import exact_search
from .contract import Fitted, Fitting, Need, Normals, Query, Score
from .similarity import in_batches
from .text_terms import WithTerms, terms_of

RSCIN = "+rscin"
"""Ends the name of a smoothed score."""

NEIGHBOURHOODS = (1, 2, 3)
"""The k of MuSc; k counts the image itself, so k = 1 is the score itself."""


def with_rscin(score: Score) -> Score:
    """`score`, smoothed over the images of the query.

    The result is stateful: an image's score depends on the others in the query, so p-values from
    a calibration set do not hold. Parameters and further needs are those of `score`, but that
    moments do not serve in place of reference images.
    """
    needs = score.needs
    if Need.MOMENTS in needs:
        needs = needs - {Need.MOMENTS} | {Need.NORMALS}

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
        needs=needs | {Need.OTHER_IMAGES},
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
    hits = exact_search(query.images, query.images, most)
    weights = np.maximum(hits.similarity.astype(np.float64), 0)
    pulled = (weights * scores[hits.rows]).cumsum(axis=1) / weights.cumsum(axis=1)
    return np.mean([pulled[:, min(k, most) - 1] for k in NEIGHBOURHOODS], axis=0)


MAD_OF_NORMAL = 1.4826
"""A normal distribution's standard deviation in units of its median absolute deviation."""


def bootstrap_normals(
    classes: Sequence[str],
    prompts: np.ndarray,
    images: np.ndarray,
    count: int = 10,
    cut: float = 3.0,
) -> Normals:
    """Normals whose reference images are taken from `images` [n, d]; `prompts` are [C, d].

    See `bootstrap_rows`. Raises BlissError naming a class no image is nearest to.
    """
    rows, labels = bootstrap_rows(prompts, images, count, cut)
    for number, name in enumerate(classes):
        if number not in labels:
            raise BlissError(
                f"no image is nearest to the prompt of class '{name}'",
                "images of every normal class",
                "Leave the class out, or give it reference images",
            )
    return Normals(tuple(classes), prompts, images[rows], labels)


def bootstrap_rows(
    prompts: np.ndarray, images: np.ndarray, count: int = 10, cut: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Which images stand for which class: rows int64 [m] and class numbers int64 [m].

    Of the images nearest to each prompt the `count` nearest, less those whose mean cosine to the
    other candidates lies more than `cut` robust standard deviations below the median of it.
    """
    if count < 1 or cut <= 0:
        raise UsageError(
            f"count = {count} and cut = {cut} were given",
            "a count of at least 1 and a cut above 0",
            "Try count = 10 and cut = 3",
        )
    texts = prompts.astype(np.float64)
    nearest = in_batches(images, max(texts.shape), lambda x: (x @ texts.T).argmax(axis=1))
    rows, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, text in enumerate(texts):
        members = np.flatnonzero(nearest == number)
        closeness = images[members].astype(np.float64) @ text
        candidates = members[np.argsort(-closeness, kind="stable")[:count]]
        kept = candidates[_belonging(images[candidates].astype(np.float64), cut)]
        rows.append(kept)
        labels.append(np.full(len(kept), number))
    return np.concatenate(rows), np.concatenate(labels)


def _belonging(candidates: np.ndarray, cut: float) -> np.ndarray:
    """bool [q], which of the rows float64 [q, d] are no outliers; all where q < 3."""
    q = len(candidates)
    if q < 3:
        return np.ones(q, bool)
    total = candidates.sum(axis=0)
    cohesion = (candidates @ total - np.square(candidates).sum(axis=1)) / (q - 1)
    middle = np.median(cohesion)
    spread = MAD_OF_NORMAL * np.median(np.abs(cohesion - middle))
    return cohesion >= middle - cut * spread - 1e-12
