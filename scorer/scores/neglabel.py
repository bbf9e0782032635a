"""NegLabel: the labels' share of a softmax over labels and mined negative labels.

Published with 100 random groups, each with a softmax of its own; `neglabel_one_group` takes all
negatives at once and keeps the most distant 90 %, which suits corpora of a thousand texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .contract import Fitted, Fitting, Score
from .negative_texts import MINING, mine, random_groups
from .parameters import positive, whole
from .similarity import share_of, similarity
from .text_sums import TextSum
from .text_terms import TextTerm

SOURCE = (
    "Jiang et al., Negative Label Guided OOD Detection with Pretrained Vision-Language Models, "
    "ICLR 2024, arXiv 2403.20078"
)


def fit_neglabel(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Mine the negatives, group them, and score the mean share N_g/(P + N_g)."""
    prompts, tau = fitting.normals.prompts, positive(parameters, "tau")
    count, seed = whole(parameters, "groups", 1), whole(parameters, "seed", 0)
    rows = random_groups(mine(fitting, parameters).negatives, count, seed)

    def mean_share(images: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        labels = similarity(images, prompts, tau).log_sum
        return share_of(negatives, labels).mean(axis=0)

    return TextTerm(fitting.texts, (TextSum(rows, tau),), mean_share)


NEGLABEL = Score(
    name="neglabel",
    formula="1 - mean over groups g of Σ_i e^{s_i/τ}/(Σ_i e^{s_i/τ} + Σ_{j∈g} e^{r_j/τ}), τ = 0.01 "
    "(published without 1 -)",
    source=SOURCE,
    fit=fit_neglabel,
    defaults={"tau": 0.01, "groups": 100, "seed": 0, **MINING},
    needs_texts=True,
)

NEGLABEL_ONE_GROUP = Score(
    name="neglabel_one_group",
    formula="1 - Σ_i e^{s_i/τ}/(Σ_i e^{s_i/τ} + Σ_j e^{r_j/τ}) over the most distant 90 % of texts "
    "(published without 1 -)",
    source=SOURCE,
    fit=fit_neglabel,
    defaults={"tau": 0.01, "groups": 1, "seed": 0, **MINING, "keep": 0.9},
    needs_texts=True,
)
