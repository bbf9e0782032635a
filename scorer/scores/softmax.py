"""Scores from the cosines s_i to the labels alone, mostly by their softmax.

MCM and MSP measure how flat the softmax is, at temperature 1 and at CLIP's scale of 100; with one
label they are constant. The energy is the log-sum of the same logits: published at T = 1 on logits
of 100·s, so τ = 0.01 on cosines, and a hundredth of it, which changes no order. The maximum cosine
needs no softmax. CLIP-AD adds one more text, "a photo of something". Two gaps need no temperature:
LogitGap between the best label and the next ones, and one between the retrieved texts and the best
label.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .contract import Fitted, Fitting, Need, Query, Score, between, positive, retrieved_texts
from .similarity import in_batches, share_of, similarity


def fit_mcm(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """1 - max_i softmax(s/τ)_i, of MCM and MSP."""
    prompts, tau = fitting.normals.prompts, positive(parameters, "tau")

    def score(query: Query) -> np.ndarray:
        found = similarity(query.images, prompts, tau)
        return -np.expm1(found.largest / tau - found.log_sum)

    return score


MCM = Score(
    name="mcm",
    formula="1 - max_i softmax(s/τ)_i, τ = 1 on raw cosines (published without 1 -)",
    source="Ming et al., Delving into OOD Detection with Vision-Language Representations, "
    "NeurIPS 2022, arXiv 2211.13445",
    fit=fit_mcm,
    defaults={"tau": 1.0},
)

MSP = Score(
    name="msp",
    formula="1 - max_i softmax(s/τ)_i, τ = 0.01, which is CLIP's scale of 100 "
    "(published without 1 -)",
    source="Hendrycks and Gimpel, A Baseline for Detecting Misclassified and OOD Examples, "
    "ICLR 2017, arXiv 1610.02136, on CLIP's logits",
    fit=fit_mcm,
    defaults={"tau": 0.01},
)


def fit_energy(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """-τ·log Σ_i e^{s_i/τ}."""
    prompts, tau = fitting.normals.prompts, positive(parameters, "tau")

    return lambda query: -tau * similarity(query.images, prompts, tau).log_sum


ENERGY = Score(
    name="energy",
    formula="-τ·log Σ_i e^{s_i/τ}, τ = 0.01 (the energy itself; the published score is minus it)",
    source="Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020, arXiv 2010.03759",
    fit=fit_energy,
    defaults={"tau": 0.01},
)


def fit_maximum_cosine(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """-max_i s_i; no parameter."""
    prompts = fitting.normals.prompts

    return lambda query: -similarity(query.images, prompts, 1).largest


MAXIMUM_COSINE = Score(
    name="maximum_cosine",
    formula="-max_i s_i (published with the other sign)",
    source="The maximum logit of Hendrycks et al., ICML 2022, arXiv 1911.11132, on cosines",
    fit=fit_maximum_cosine,
)


def fit_clip_ad(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Share of the additional text in the softmax over it and the labels."""
    prompts, tau = fitting.normals.prompts, positive(parameters, "tau")
    something = fitting.extras[Need.SOMETHING][None, :]

    def score(query: Query) -> np.ndarray:
        labels = similarity(query.images, prompts, tau).log_sum
        return share_of(similarity(query.images, something, tau).log_sum, labels)

    return score


CLIP_AD = Score(
    name="clip_ad",
    formula='last of softmax([s, x·t_∅]/τ), t_∅ = "a photo of something", τ = 0.01',
    source="Liznerski et al., Exposing Outlier Exposure, TMLR 2022, arXiv 2205.11474",
    fit=fit_clip_ad,
    defaults={"tau": 0.01},
    needs=frozenset({Need.SOMETHING}),
)


def fit_logit_gap(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """mean(s_(2), …, s_(N+1)) - s_(1), N = `share` of the other labels, at least one of them.

    With one label there is no gap, and every score is 0.
    """
    wide = fitting.normals.prompts.astype(np.float64).T
    others = wide.shape[1] - 1
    count = max(1, round(between(parameters, "share", 0, 1) * others))

    def of_batch(images: np.ndarray) -> np.ndarray:
        if not others:
            return np.zeros(len(images))
        cosines = -np.sort(-(images @ wide), axis=1)
        return cosines[:, 1 : 1 + count].mean(axis=1) - cosines[:, 0]

    return lambda query: in_batches(query.images, 2 * wide.shape[1], of_batch)


LOGIT_GAP = Score(
    name="logit_gap",
    formula="mean(s_(2), …, s_(N+1)) - s_(1), N = a fifth of the other labels "
    "(published with the other sign)",
    source="Liang et al., Revisiting Logit Distributions for Reliable OOD Detection (LogitGap), "
    "NeurIPS 2025, arXiv 2510.20134",
    fit=fit_logit_gap,
    defaults={"share": 0.2},
)


def fit_external_gap(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """mean of the k retrieved texts' cosines - max_i s_i; no parameter."""
    prompts = fitting.normals.prompts

    def score(query: Query) -> np.ndarray:
        nearest = retrieved_texts(query, "external_gap").similarity
        return nearest.mean(axis=1, dtype=np.float64) - similarity(query.images, prompts, 1).largest

    return score


EXTERNAL_GAP = Score(
    name="external_gap",
    formula="mean of the k retrieved texts' cosines - max_i s_i",
    source="this project",
    fit=fit_external_gap,
    needs=frozenset({Need.RETRIEVED}),
)
