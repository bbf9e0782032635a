"""CLIPN: each label's own "yes" against its "no", both from trained text towers.

p_yes,i = e^{s_i/τ}/(e^{s_i/τ} + e^{n_i/τ}) with s_i the cosine to label i's prompt and n_i the one
to its "no" vector, which `fitting.no_prompts` holds. Competing-to-win asks the best label alone,
agreeing-to-differ all of them, by their softmax.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...errors import UsageError
from ..slices import slices
from .contract import Fitted, Fitting, Query, Score
from .parameters import positive
from .similarity import IMAGES_AT_ONCE

SOURCE = "Wang et al., CLIPN for Zero-Shot OOD Detection, ICCV 2023, arXiv 2308.12213"


def fit_clipn_ctw(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """1 - p_yes of the label with the largest cosine; among equal ones, the largest p_yes."""
    no, tau = no_prompts("clipn_ctw", fitting), positive(parameters, "tau")
    prompts = fitting.normals.prompts.astype(np.float64)

    def score(query: Query) -> np.ndarray:
        found = np.empty(len(query.images))
        for rows, yes, against in _cosines(query.images, prompts, no):
            best = yes == yes.max(axis=1, keepdims=True)
            doubt = said_no(yes, against, tau)
            found[rows] = np.where(best, doubt, np.inf).min(axis=1)
        return found

    return score


def fit_clipn_atd(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """1 - Σ_i softmax(s/τ)_i·p_yes,i, summed as Σ_i softmax(s/τ)_i·(1 - p_yes,i)."""
    no, tau = no_prompts("clipn_atd", fitting), positive(parameters, "tau")
    prompts = fitting.normals.prompts.astype(np.float64)

    def score(query: Query) -> np.ndarray:
        found = np.empty(len(query.images))
        for rows, yes, against in _cosines(query.images, prompts, no):
            share = np.exp((yes - yes.max(axis=1, keepdims=True)) / tau)
            share /= share.sum(axis=1, keepdims=True)
            found[rows] = (share * said_no(yes, against, tau)).sum(axis=1)
        return found

    return score


def said_no(yes: np.ndarray, no: np.ndarray, tau: float) -> np.ndarray:
    """1 - p_yes from cosines of one shape, without overflow.

    >>> said_no(np.array([0.3, 0.3]), np.array([0.3, 0.3 - 0.01 * np.log(3)]), 0.01).round(12)
    array([0.5 , 0.25])
    """
    return np.exp(-np.logaddexp(0, (yes - no) / tau))


def no_prompts(name: str, fitting: Fitting) -> np.ndarray:
    """float64 [C, d]; UsageError where there is not one for every label."""
    assert fitting.no_prompts is not None
    if fitting.no_prompts.shape != fitting.normals.prompts.shape:
        raise UsageError(
            f'{name} was given "no" vectors of shape {fitting.no_prompts.shape}',
            f"{fitting.normals.prompts.shape}, one for every label",
            "Encode the prompts of these labels",
        )
    return fitting.no_prompts.astype(np.float64)


def _cosines(
    images: np.ndarray, prompts: np.ndarray, no: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """For each block of images its rows, and its cosines to both kinds of vector, [b, C]."""
    for rows in slices(len(images), IMAGES_AT_ONCE):
        wide = images[rows].astype(np.float64)
        yield rows, wide @ prompts.T, wide @ no.T


CLIPN_CTW = Score(
    name="clipn_ctw",
    formula="1 - p_yes,i at the largest s_i, p_yes,i = e^{s_i/τ}/(e^{s_i/τ} + e^{n_i/τ}), τ = 0.01",
    source=SOURCE,
    fit=fit_clipn_ctw,
    defaults={"tau": 0.01},
    trained=True,
    needs_no_prompts=True,
)

CLIPN_ATD = Score(
    name="clipn_atd",
    formula="1 - Σ_i softmax(s/τ)_i·p_yes,i, p_yes,i = e^{s_i/τ}/(e^{s_i/τ} + e^{n_i/τ}), τ = 0.01",
    source=SOURCE,
    fit=fit_clipn_atd,
    defaults={"tau": 0.01},
    trained=True,
    needs_no_prompts=True,
)
