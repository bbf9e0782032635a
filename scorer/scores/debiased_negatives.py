"""Debiased negatives: NegLabel's softmax with the normal share taken out of the wild texts.

Positive-unlabelled correction of the expectation over true negatives,

    Ê = (E_Q[e^h] - π·E_{P⁺}[e^h])/(1 - π),   score = mean over groups of s·Ê/(P + s·Ê)

with h = cosine/τ, P = Σ_i e^{s_i/τ}, and s the texts in a group. The wild set Q is all external
texts: none is mined or dropped, the correction stands in for that; images never enter it, so no
score depends on the other images. P⁺ is normalise(t_i + noise·g/√d) with g standard normal: how
such a vector lies to x depends on s_i alone, so three numbers a draw simulate it exactly and
rotating the space changes nothing. π = 0.5 and the groups are those of the authors' code, whose
P⁺ has no noise and whose Ê may turn negative; here Ê is at least `floor` times what it would be
without correction. The noise and floor are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..slices import slices
from .contract import Fitted, Fitting, Score
from .negative_texts import random_groups
from .parameters import between, positive, whole
from .similarity import share_of, similarity
from .text_sums import TextSum
from .text_terms import TextTerm

TRIPLES_AT_ONCE = 100_000
"""Of an image, a label and a draw: 0.8 MB, so that they stay in cache."""


@dataclass(frozen=True)
class Draws:
    """Noise of S simulated positives, in the coordinates t, x's part across t, and the rest."""

    along: np.ndarray
    """float64 [S]."""
    across: np.ndarray
    """float64 [S]."""
    rest: np.ndarray
    """float64 [S], squared length in the other d - 2 dimensions."""


def draw(samples: int, noise: float, dimension: int, seed: int) -> Draws:
    """`samples` draws of noise of expected squared length noise², from a seed."""
    rng = np.random.default_rng(seed)
    scale = noise / np.sqrt(dimension)
    along, across = scale * rng.standard_normal((2, samples))
    others = max(0, dimension - 2)
    rest = rng.chisquare(others, samples) if others else np.zeros(samples)
    return Draws(along, across, scale**2 * rest)


def log_mean_positive(
    images: np.ndarray, prompts: np.ndarray, draws: Draws, tau: float
) -> np.ndarray:
    """float64 [n], log of the mean of e^{cosine/τ} over simulated positives of all C labels."""
    found = np.empty(len(images))
    length = np.sqrt((1 + draws.along) ** 2 + draws.across**2 + draws.rest) * tau
    along, across = (1 + draws.along) / length, draws.across / length
    wide = prompts.astype(np.float64).T
    for rows in slices(len(images), TRIPLES_AT_ONCE // (len(prompts) * len(length))):
        cosines = images[rows].astype(np.float64) @ wide
        sine = np.sqrt(np.maximum(0, 1 - cosines**2))
        logits = np.multiply.outer(along, cosines)
        logits += np.multiply.outer(across, sine)
        top = logits.max(axis=(0, 2))
        logits -= top[:, None]
        found[rows] = top + np.log(np.exp(logits, out=logits).sum(axis=(0, 2)))
    return found - np.log(len(prompts) * len(length))


def fit_debiased_negatives(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Group the wild texts and score with the corrected expectation."""
    prompts, texts = fitting.normals.prompts, fitting.texts
    tau, pi = positive(parameters, "tau"), between(parameters, "pi", 0, 0.999)
    floor, seed = between(parameters, "floor", 1e-9, 1), whole(parameters, "seed", 0)
    noise, samples = between(parameters, "noise", 0, 10), whole(parameters, "samples", 1)
    draws = draw(samples, noise, prompts.shape[1], seed)
    rows = random_groups(np.arange(len(texts)), whole(parameters, "groups", 1), seed)

    def score(images: np.ndarray, wild: np.ndarray) -> np.ndarray:
        labels = similarity(images, prompts, tau).log_sum
        positives = log_mean_positive(images, prompts, draws, tau)
        # Beyond e^50 the floor holds anyway.
        taken = pi * np.exp(np.minimum(50, positives - (wild - np.log(rows.shape[1]))))
        negatives = wild + np.log(np.maximum(1 - taken, floor) / (1 - pi))
        return share_of(negatives, labels).mean(axis=0)

    return TextTerm(texts, (TextSum(rows, tau),), score)


DEBIASED_NEGATIVES = Score(
    name="debiased_negatives",
    formula="1 - mean_g P/(P + |g|·Ê_g), Ê_g = (E_g[e^h] - π·E_{P⁺}[e^h])/(1 - π), h = cosine/τ "
    "(published without 1 -)",
    source="Peng et al., Debiased Negative Mining Improves OOD Detection, KDD 2026, "
    "arXiv 2605.23797",
    fit=fit_debiased_negatives,
    defaults={
        "tau": 0.01,
        "pi": 0.5,
        "noise": 0.1,
        "samples": 100,
        "groups": 100,
        "floor": 0.001,
        "seed": 0,
    },
    needs_texts=True,
)
