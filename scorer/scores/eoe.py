"""EOE: labels against envisioned outlier labels, which are the external texts here.

The texts are taken as they are given; the published lists come from a language model. The
published code takes the softmax of raw cosines (T = 1); τ = 0.01 is CLIP's scale of 100.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .contract import Fitted, Fitting, Score
from .parameters import between, positive
from .similarity import similarity
from .text_sums import MAXIMUM, TextSum
from .text_terms import TextTerm


def fit_eoe(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """-(max_i p_i - β·max_j p_j), p the softmax over labels i and outlier labels j."""
    prompts, texts = fitting.normals.prompts, fitting.texts
    tau, beta = positive(parameters, "tau"), between(parameters, "beta", 0, 1e6)

    def score(images: np.ndarray, outside: np.ndarray, largest: np.ndarray) -> np.ndarray:
        inside = similarity(images, prompts, tau)
        total = np.logaddexp(inside.log_sum, outside[0])
        envisioned = np.exp(largest[0] / tau - total)
        return beta * envisioned - np.exp(inside.largest / tau - total)

    every = np.arange(len(texts))[None]
    return TextTerm(texts, (TextSum(every, tau), TextSum(every, MAXIMUM)), score)


EOE = Score(
    name="eoe",
    formula="β·max_j p_j - max_i p_i, p = softmax([s, r]/τ), β = 0.25, τ = 1 "
    "(published with the other sign)",
    source="Cao et al., Envisioning Outlier Exposure by Large Language Models, ICML 2024, "
    "arXiv 2406.00806",
    fit=fit_eoe,
    defaults={"tau": 1.0, "beta": 0.25},
    needs_texts=True,
)
