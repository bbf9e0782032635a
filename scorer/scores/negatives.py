"""Softmax scores of labels against external texts that serve as negative labels.

- NegLabel mines the texts that are far from all labels, in 100 random groups with a softmax each
  as published; `neglabel_one_group` takes all at once and keeps the most distant 90 %, which suits
  corpora of a thousand texts.
- CSP is NegLabel on better texts: prompts are means over 8 templates (`average_templates`), and
  adjectives are completed with a superclass noun before they are embedded ("white item"), which
  cannot be done on vectors. Given other vectors, it is NegLabel.
- EOE takes the external texts as they are for envisioned outlier labels, which a language model
  writes in the publication. The published code takes the softmax of raw cosines (T = 1); τ = 0.01
  is CLIP's scale of 100.
- Debiased negatives correct NegLabel's expectation for the share π of normal texts among the
  external ones,

      Ê = (E_Q[e^h] - π·E_{P⁺}[e^h])/(1 - π),   score = mean over groups of s·Ê/(P + s·Ê)

  with h = cosine/τ, P = Σ_i e^{s_i/τ}, s the texts in a group, and Q all external texts, none of
  them mined or dropped. P⁺ is normalise(t_i + noise·g/√d) with g standard normal: how such a vector
  lies to x depends on s_i alone, so three numbers a draw simulate it exactly. π = 0.5 and the
  groups are those of the authors' code, whose P⁺ has no noise and whose Ê can be negative; here Ê
  is at least `floor` times its value without correction. The noise and the floor are ours.
- The hub-corrected softmax takes from every cosine, of a text or a label, α times the text's
  closeness to any reference image (its hubness): some texts are near to every image.

`neglabel_retrieved` is NegLabel in one group from the k retrieved texts alone, for corpora too
large to sum over. Of N = Σ_j e^{r_j/τ} over the mined negatives, the retrieved ones are summed
exactly. Every other one has r_j <= r_k, the k-th similarity, so the rest lies between 0 and its
count times e^{r_k/τ}. The estimate of the rest takes the cosines of x to the negatives as normal,
with the mean m and covariance Σ of the negatives (one pass when fitted): μ = x·m, σ² = xᵀΣx, and
below r_k

    E[e^{r/τ} | r <= r_k] = e^{μ/τ + σ²/2τ²}·Φ((r_k - μ)/σ - σ/τ)/Φ((r_k - μ)/σ)

For the Caltech-101 images and the first 1,000 real texts with k = 10 the estimate of log N is off
by 0.02 in the median and by at most 0.30; the retrieved texts alone by 0.26 and 2.35.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import erfc, log, log1p, pi, sqrt

import numpy as np

from ...errors import BlissError
from ...indexer.vectors import normalise_rows, slices, whole_rows
from ..bliss import Retrieved
from .contract import Fitted, Fitting, Need, Query, Score, between, positive, retrieved_texts, whole
from .similarity import IMAGES_AT_ONCE, VECTORS_AT_ONCE, hubness, share_of, similarity
from .text_terms import MAXIMUM, TextSum, TextTerm

MINING: Mapping[str, float] = {"quantile": 0.95, "keep": 0.15, "drop": 0.95}
"""Published: q_j the 0.95-quantile, the 15 % of lowest q_j; of CSP: no cosine above 0.95."""

TIE = 1e-9
"""q_j this close are equal, so that the same text has the same q_j in any block."""


@dataclass(frozen=True)
class Mining:
    """The rule a text must meet to be a negative label: largest <= drop and q <= highest."""

    quantile: float
    drop: float
    highest: float
    """The largest q_j among the negatives."""
    negatives: np.ndarray
    """int64 [v], rows of the external texts, ascending."""
    meeting: np.ndarray
    """int64 [w], rows that meet the rule: the negatives and what ties with the last of them."""


def mine(fitting: Fitting, parameters: Mapping[str, float]) -> Mining:
    """Of the texts whose cosine to no label is above `drop`, the share `keep` of lowest q_j.

    q_j is the `quantile` of d_j·t_i over labels i (linear interpolation). At least one text is
    kept; q_j equal to 9 digits go by row. Nouns and adjectives are one pool here. Raises BlissError
    where every text is dropped.
    """
    quantile, drop = between(parameters, "quantile", 0, 1), between(parameters, "drop", -1, 1)
    keep = between(parameters, "keep", 0, 1)
    q, largest = label_nearness(fitting.texts, fitting.normals.prompts, quantile)
    usable = np.flatnonzero(_some_apart(largest, drop))
    # 0.29·100 is 28.999… in floating point, and must count as 29.
    count = max(1, int(keep * len(usable) + 1e-9))
    kept = usable[np.argsort(np.round(q[usable], 9), kind="stable")[:count]]
    highest = float(q[kept].max())
    return Mining(quantile, drop, highest, np.sort(kept), usable[q[usable] <= highest + TIE])


def is_negative(mining: Mining, texts: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """bool [u], which of other unit rows `texts` [u, d] meet the rule."""
    q, largest = label_nearness(texts, prompts, mining.quantile)
    return _apart(largest, mining.drop) & (q <= mining.highest + TIE)


def label_nearness(
    texts: np.ndarray, prompts: np.ndarray, quantile: float
) -> tuple[np.ndarray, np.ndarray]:
    """The `quantile` and the largest of each text's cosines to the labels, float64 [M] each."""
    q, largest = np.empty(len(texts)), np.empty(len(texts))
    wide = np.asarray(prompts, np.float64).T
    for rows in slices(len(texts), VECTORS_AT_ONCE * 1024 // max(1, *prompts.shape)):
        cosines = np.asarray(texts[rows], np.float64) @ wide
        q[rows], largest[rows] = np.quantile(cosines, quantile, axis=1), cosines.max(axis=1)
    return q, largest


def random_groups(rows: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """int64 [g, s], `rows` [v] in g random groups of equal size; the remainder is dropped.

    With fewer rows than `groups` there are as many groups as rows.
    """
    groups = min(groups, len(rows))
    size = len(rows) // groups
    shuffled = np.random.default_rng(seed).permutation(rows)
    return shuffled[: groups * size].reshape(groups, size)


def _apart(largest: np.ndarray, drop: float) -> np.ndarray:
    # A cosine of unit rows may round to just above 1, and drop = 1 means that none is dropped.
    return largest <= drop if drop < 1 else np.ones(len(largest), bool)


def _some_apart(largest: np.ndarray, drop: float) -> np.ndarray:
    """`_apart`, where it holds for some text; else BlissError."""
    usable = _apart(largest, drop)
    if not usable.any():
        raise BlissError(
            f"all {len(usable)} external texts are within cosine {drop:g} of a normal label",
            "texts of other things",
            "Use another corpus",
        )
    return usable


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
    needs=frozenset({Need.TEXTS}),
)

NEGLABEL_ONE_GROUP = Score(
    name="neglabel_one_group",
    formula="1 - Σ_i e^{s_i/τ}/(Σ_i e^{s_i/τ} + Σ_j e^{r_j/τ}) over the most distant 90 % of texts "
    "(published without 1 -)",
    source=SOURCE,
    fit=fit_neglabel,
    defaults={"tau": 0.01, "groups": 1, "seed": 0, **MINING, "keep": 0.9},
    needs=frozenset({Need.TEXTS}),
)


def average_templates(vectors: np.ndarray) -> np.ndarray:
    """float32 [C, d], the direction of each label's mean over templates, from [templates, C, d]."""
    return normalise_rows(vectors.astype(np.float64).sum(axis=0)).unit


CSP = Score(
    name="csp",
    formula="NegLabel's, with t_i the mean over 8 templates and adjectives completed by nouns",
    source="Chen et al., Conjugated Semantic Pool Improves OOD Detection, NeurIPS 2024, "
    "arXiv 2410.08611",
    fit=fit_neglabel,
    defaults={"tau": 0.01, "groups": 100, "seed": 0, **MINING},
    needs=frozenset({Need.TEXTS}),
)


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
    needs=frozenset({Need.TEXTS}),
)


def fit_hub_softmax(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """N/(P + N) over all texts that are no label in other words, hubness taken off."""
    normals, tau = fitting.normals, positive(parameters, "tau")
    alpha, nearest = between(parameters, "alpha", 0, 1), whole(parameters, "nearest", 1)
    _, largest = label_nearness(fitting.texts, normals.prompts, 1.0)
    usable = _some_apart(largest, between(parameters, "drop", -1, 1))
    hubs = [hubness(v, normals.images, nearest) for v in (fitting.texts, normals.prompts)]
    weights = np.exp(-alpha * hubs[0] / tau)
    wide, shift = normals.prompts.astype(np.float64).T, alpha * hubs[1] / tau

    def score(images: np.ndarray, outside: np.ndarray) -> np.ndarray:
        labels = np.logaddexp.reduce(images.astype(np.float64) @ wide / tau - shift, axis=1)
        return share_of(outside[0], labels)

    rows = np.flatnonzero(usable)[None]
    return TextTerm(fitting.texts, (TextSum(rows, tau, weights),), score)


HUB_SOFTMAX = Score(
    name="hub_softmax",
    formula="N/(P + N), P = Σ_i e^{(s_i - α·h_i)/τ}, N = Σ_j e^{(r_j - α·h_j)/τ}, h the mean of "
    "the 16 largest cosines of reference images to the text, α = ¼",
    source="Chowdhury et al., Nearest Neighbor Normalization Improves Multimodal Retrieval, EMNLP "
    "2024, arXiv 2410.24114, in a softmax as NegLabel's",
    fit=fit_hub_softmax,
    defaults={"tau": 0.01, "alpha": 0.25, "nearest": 16, "drop": 0.95},
    needs=frozenset({Need.NORMALS, Need.TEXTS}),
)

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
    """Group the external texts and score with the corrected expectation."""
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
    needs=frozenset({Need.TEXTS}),
)


@dataclass(frozen=True)
class Negatives:
    """What is kept of the mined negatives: how to know one, their number, mean and covariance."""

    mining: Mining
    count: int
    mean: np.ndarray
    """float64 [d]."""
    covariance: np.ndarray
    """float64 [d, d], ddof 0."""


@dataclass(frozen=True)
class LogSums:
    """log N of n images: what was retrieved, the estimate, and the most it can be."""

    lowest: np.ndarray
    """float64 [n]; -inf where no retrieved text is a negative."""
    estimate: np.ndarray
    highest: np.ndarray


def fit_negatives(fitting: Fitting, parameters: Mapping[str, float]) -> Negatives:
    """Mine the negatives and keep their moments; memory does not grow with M but for M cosines."""
    mining = mine(fitting, parameters)
    rows, d = mining.meeting, fitting.texts.shape[1]
    mean, scatter = np.zeros(d), np.zeros((d, d))
    for block in slices(len(rows), VECTORS_AT_ONCE):
        mean += np.asarray(fitting.texts[rows[block]], np.float64).sum(axis=0) / len(rows)
    for block in slices(len(rows), VECTORS_AT_ONCE):
        apart = np.asarray(fitting.texts[rows[block]], np.float64) - mean
        scatter += apart.T @ apart
    return Negatives(mining, len(rows), mean, scatter / len(rows))


def truncated_log_sums(
    images: np.ndarray, retrieved: Retrieved, known: np.ndarray, negatives: Negatives, tau: float
) -> LogSums:
    """log N for unit rows `images` [n, d]; `known` bool [u] tells which retrieved texts count."""
    counted = known[retrieved.position]
    cosines = np.asarray(retrieved.similarity, np.float64)
    lowest = np.logaddexp.reduce(np.where(counted, cosines / tau, -np.inf), axis=1)
    rest = np.maximum(0, negatives.count - counted.sum(axis=1))
    last = cosines.min(axis=1)
    with np.errstate(divide="ignore"):
        log_rest = np.log(rest)
    estimate = log_rest + log_mean_below(images, negatives.mean, negatives.covariance, last, tau)
    return LogSums(
        lowest, np.logaddexp(lowest, estimate), np.logaddexp(lowest, log_rest + last / tau)
    )


def log_mean_below(
    images: np.ndarray, mean: np.ndarray, covariance: np.ndarray, last: np.ndarray, tau: float
) -> np.ndarray:
    """float64 [n], log E[e^{r/τ} | r <= r_k] for unit rows `images` [n, d] and r_k `last` [n].

    r is taken as normal with the mean and variance that texts of `mean` [d] and `covariance`
    [d, d] give it. Never above r_k/τ.
    """
    middle, deviation = np.empty(len(images)), np.empty(len(images))
    for block in slices(len(images), IMAGES_AT_ONCE):
        rows = np.asarray(images[block], np.float64)
        middle[block] = rows @ mean
        variance = np.einsum("nd,nd->n", rows @ covariance, rows)
        deviation[block] = np.sqrt(np.maximum(variance, 1e-18))
    edge = (last - middle) / deviation
    each = middle / tau + 0.5 * (deviation / tau) ** 2
    each += log_normal_cdf(edge - deviation / tau) - log_normal_cdf(edge)
    return np.minimum(each, last / tau)


def log_normal_cdf(values: np.ndarray) -> np.ndarray:
    """float64 [n], log Φ, by its asymptotic series below -30."""

    def one(z: float) -> float:
        if z > -30:
            return log(0.5 * erfc(-z / sqrt(2)))
        return -0.5 * z * z - log(-z) - 0.5 * log(2 * pi) + log1p(-1 / z**2 + 3 / z**4)

    return np.array([one(float(z)) for z in values])


def fit_neglabel_retrieved(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Keep the negatives' rule and moments; UsageError for a query without retrieved texts."""
    prompts, tau = fitting.normals.prompts, positive(parameters, "tau")
    negatives = fit_negatives(fitting, parameters)

    def score(query: Query) -> np.ndarray:
        retrieved = retrieved_texts(query, "neglabel_retrieved")
        known = is_negative(negatives.mining, whole_rows(retrieved.vectors), prompts)
        sums = truncated_log_sums(query.images, retrieved, known, negatives, tau)
        return share_of(sums.estimate, similarity(query.images, prompts, tau).log_sum)

    return score


NEGLABEL_RETRIEVED = Score(
    name="neglabel_retrieved",
    formula="N/(P + N), N = Σ_{retrieved negatives} e^{r_j/τ} + the rest as a normal cut at r_k",
    source=SOURCE + "; the truncation is ours",
    fit=fit_neglabel_retrieved,
    defaults={"tau": 0.01, **MINING, "keep": 0.9},
    needs=frozenset({Need.TEXTS, Need.RETRIEVED}),
)
