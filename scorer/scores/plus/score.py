"""bliss+: four kinds of evidence that make different mistakes, as one score.

- b, BLISS with moderated variances: how far x lies from its nearest class, in that class's terms;
- n, the log-odds of the external texts against the labels, each text weighted by how seldom it
  beats the label of a normal image, all corrected for hubs (`text_weights`): which side wins;
- r, the relative Mahalanobis distance to the nearest class (`pooled_distance`): what the images say
  without any text;
- g, the mean label cosine minus the largest, which is LogitGap (arXiv 2510.20134) over all labels:
  how undecided the labels are.

Each is standardised on reference images left out of their own class. With z of them all,

    score = w_b·b + w_n·n + w_r·r + f·max(0, z(g + r) − ½)

The first three tell near anomalies. Their weights w are learnt by leaving out whole reference
classes: without its class, also in text weights and covariances, a reference image is an anomaly of
the nearest and hardest kind, and a logistic regression between such images and the same images as
normal ones gives the weights (`learnt_weights`), shrunk towards n alone, or r alone where
that tells these apart better: words count little where they say little, as of a class without a
name of its own. An image that is far off is unlike every class and every label at once: the last
term is for it. Its weight f is `far`, or less where that costs half a point of AUROC between the
same images (`far_weight`), as among look-alike classes.
Nothing but the reference is stored, so that references of every version serve. docs/bliss-plus.md
tells how it was chosen and what failed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....indexer.vectors import Rows, exact_search, slices
from ....safe_text import some_of
from ...bliss import Retrieved, gather_texts
from ...leave_one_out import NOTHING_LEFT_OUT, LeftOut
from ...moments import fit_moments
from ...reference import Reference, Sample
from ...reference_file import images_to_keep, sample_of
from ...statistics import check_counts, variance_prior
from ..contract import (
    Fitted,
    Fitting,
    Need,
    Query,
    Score,
    between,
    positive,
    retrieved_texts,
    whole,
)
from ..text_terms import TextTerm, WithTerms
from .evidence import IMAGES_AT_ONCE, Normal, Pairs, evidence, pairs_of, sample_evidence
from .pooled_distance import fit_pooled
from .text_weights import fit_tail, fit_text_weights

PRIOR_TEXTS = 1000
"""Texts, evenly spaced in the corpus, that a class's mean variance is taken over."""

FAR_START = 0.5
"""Deviations beyond which the far evidence counts."""

RIDGE = 30.0
"""Weight of the penalty in `learnt_weights`."""

ALONE = 2.0
"""The weight of the one kind of evidence that the learnt weights are shrunk towards."""

FAR_COST = 0.005
"""AUROC that the far term may cost on reference images without their class."""

CONSTANT = 1e-9
"""Deviation, as a share of the largest value, below which evidence counts as constant."""

VERSION = 4
"""Incremented whenever the score starts to give other numbers; `run.json` states it."""


@dataclass(frozen=True)
class Scale:
    """Mean and deviation over the reference images, of each kind of evidence."""

    mean: np.ndarray
    std: np.ndarray


def scale_of(reference: np.ndarray) -> Scale:
    """The scale of evidence [m] or [m, p]; deviation 1 where it is constant up to rounding."""
    std = reference.std(axis=0)
    constant = std <= CONSTANT * np.abs(reference).max(axis=0, initial=0)
    return Scale(reference.mean(axis=0), np.where(constant, 1.0, std))


def standardised(evidence: np.ndarray, scale: Scale) -> np.ndarray:
    """Evidence in deviations from the reference mean."""
    return (evidence - scale.mean) / scale.std


def far_term(z: np.ndarray, far: Scale) -> np.ndarray:
    """float64 [n], max(0, z(r + g) − FAR_START) of z [n, 4], standardised evidence."""
    return np.maximum(standardised(z[:, 2] + z[:, 3], far) - FAR_START, 0)


def auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """The share of pairs in which evidence [a] is above evidence [m], ties as half."""
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, anomalous, "left") + np.searchsorted(
        ordered, anomalous, "right"
    )
    return float(below.mean() / (2 * len(ordered)))


def learnt_weights(normal: np.ndarray, anomalous: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Non-negative weights [p] of p standardised kinds of evidence, summing to p.

    Those of a ridge logistic regression between `normal` [m, p] and `anomalous` [a, p], shrunk
    towards `towards` [p], with an intercept: the minimum over w >= 0 and b of

        Σ log(1 + e^z) - y·z + RIDGE/2·‖w - towards‖²,  z = w·x + b,  y = 1 for anomalous rows

    Equal weights where one of the sets is empty or every weight is 0.
    """
    p = normal.shape[1]
    if not len(normal) or not len(anomalous):
        return np.ones(p)
    weights = bounded_minimum(normal, anomalous, towards)[:p]
    return weights * (p / weights.sum()) if weights.any() else np.ones(p)


def bounded_minimum(normal: np.ndarray, anomalous: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """float64 [p + 1], w and b at the minimum that `learnt_weights` states, both sets not empty."""
    from scipy.optimize import minimize
    from scipy.special import expit

    p = normal.shape[1]
    rows = np.concatenate([normal, anomalous])
    rows = np.column_stack([rows, np.ones(len(rows))])
    truth = np.repeat([0.0, 1.0], [len(normal), len(anomalous)])
    start = np.append(towards, 0.0)
    ridge = np.append(np.full(p, RIDGE), 0.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits, apart = rows @ weights, weights - start
        value = np.logaddexp(0, logits).sum() - truth @ logits + 0.5 * ridge @ np.square(apart)
        return float(value), rows.T @ (expit(logits) - truth) + ridge * apart

    bounds = [(0, None)] * p + [(None, None)]
    options = {"ftol": 0, "gtol": 1e-9, "maxls": 60}  # as near as rounding allows
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def far_weight(normal: tuple[np.ndarray, ...], anomalous: tuple[np.ndarray, ...]) -> float:
    """The largest of 1, ¾, ½, ¼ and 0 times the far term that costs at most FAR_COST.

    `normal` and `anomalous` are each the sum of the near terms and the far term, [m] and [a].
    """
    least = auroc(normal[0], anomalous[0]) - FAR_COST
    for share in (1.0, 0.75, 0.5, 0.25):
        if auroc(normal[0] + share * normal[1], anomalous[0] + share * anomalous[1]) >= least:
            return share
    return 0.0


@dataclass(frozen=True)
class _Calibration:
    """The scales and weights of the evidence, from the sample, for one k."""

    pieces: Scale
    """Of b, n, r and g."""
    far: Scale
    """Of z(r) + z(g)."""
    weights: np.ndarray
    """float64 [3], of b, n and r; without spread n alone counts."""
    away: float
    """f, of the far term."""
    words_auroc: float
    """How well n tells reference images from the same images without their class; NaN with one
    class."""
    images_auroc: float
    """How well r does."""


class PlusScorer:
    """bliss+ of one reference and one corpus; see `fit_bliss_plus`."""

    def __init__(self, normal: Normal, texts: np.ndarray, parameters: Mapping[str, float]) -> None:
        self.normal = normal
        self._texts = texts
        self._far = between(parameters, "far", 0, np.inf)
        self._calibrations: dict[int, _Calibration] = {}
        self.terms: tuple[TextTerm, ...] = (normal.texts.term,) if normal.tail is None else ()
        """The sums over all texts that it takes if a pass over them made them."""

    def __call__(
        self,
        images: Rows,
        retrieved: Retrieved,
        left_out: LeftOut,
        against: np.ndarray | None = None,
    ) -> np.ndarray:
        """float64 [n] of images [n, d], in memory or on disk, with their retrieved texts.

        Each is left out as `left_out` says; `against` [n] are its `terms`, where they are known.
        """
        return self.parts(images, retrieved, left_out, against).sum(axis=1)

    def parts(
        self,
        images: Rows,
        retrieved: Retrieved,
        left_out: LeftOut,
        against: np.ndarray | None = None,
    ) -> np.ndarray:
        """float64 [n, 2], what words (b, n and g) and what images (r) add to the score.

        The far term is shared out in proportion to what z(g) and z(r) add to it.
        """
        found = self.calibration(retrieved.rows.shape[1])
        pairs = pairs_of(self.normal.sample, images, left_out)
        pieces = evidence(self.normal, images, retrieved, pairs, against)
        parts = np.empty((len(images), 2))
        for rows in slices(len(images), IMAGES_AT_ONCE):
            z = standardised(pieces[rows], found.pieces)
            near, far = z[:, :3] * found.weights, found.away * far_term(z, found.far)
            away, doubt = np.maximum(0, z[:, 2:]).T
            share = doubt / np.maximum(doubt + away, 1e-300)
            parts[rows, 0] = near[:, 0] + near[:, 1] + far * share
            parts[rows, 1] = near[:, 2] + far * (1 - share)
        return parts

    def facts(self, k: int) -> dict[str, Any]:
        """What was learnt from the reference, for k retrieved texts."""
        found = self.calibration(k)
        weights = dict(zip(("bliss", "texts", "images"), found.weights.tolist(), strict=True))
        facts: dict[str, Any] = {"version": VERSION, "weights": weights, "far": found.away}
        if not np.isnan(found.words_auroc):
            facts["without_own_class"] = {
                "words_auroc": found.words_auroc, "images_auroc": found.images_auroc
            }  # fmt: skip
        return facts

    def calibration(self, k: int) -> _Calibration:
        """Scales and weights for k retrieved texts, made once."""
        if k not in self._calibrations:
            sample = self.normal.sample
            retrieved = gather_texts(exact_search(sample.images, self._texts, k), self._texts)
            everyone = np.arange(len(sample.labels))
            pairs = Pairs(LeftOut(everyone, sample.labels), np.ones(len(everyone), bool))
            self._calibrations[k] = _calibrate(self.normal, retrieved, pairs, self._far)
        return self._calibrations[k]


def fit_bliss_plus(
    reference: Reference, texts: np.ndarray, parameters: Mapping[str, float]
) -> PlusScorer:
    """A scorer from the reference and all external texts [M, d].

    An image left out of its class is left out of the class's moments, of both covariances and of
    the text weights; scales, hubness and learnt weights are the same for all images. Where a class
    has one image, or none has two that differ, a warning says what that costs. Raises as BLISS, the
    text weights and the parameters do.
    """
    return PlusScorer(_fit_normal(reference, texts, parameters), texts, parameters)


def _fit_normal(reference: Reference, texts: np.ndarray, parameters: Mapping[str, float]) -> Normal:
    tau, weight = positive(parameters, "tau"), between(parameters, "weight", 0, np.inf)
    strength, most = positive(parameters, "rivals"), whole(parameters, "full", 0)
    check_counts(reference.moments, needed=1)
    counts = reference.moments.counts
    sample = sample_of(reference)
    spaced = np.linspace(0, len(texts) - 1, min(PRIOR_TEXTS, len(texts))).astype(int)
    prior = variance_prior(reference.moments, texts[spaced], positive(parameters, "prior"))
    several = counts[sample.labels] > 1
    in_company = Sample(sample.images[several], sample.labels[several])
    pooled = fit_pooled(reference.moments, in_company)
    spread = None if prior is None or pooled is None else (prior, pooled)
    if not _enough(in_company, len(counts)):
        spread = None
    _warn(reference, spread is not None)
    if spread is not None:
        sample = in_company
    references = sample.images, sample.labels
    weighted = fit_text_weights(
        texts, reference.prompt_vectors, references, strength, tau, between(parameters, "hub", 0, 1)
    )
    tail = fit_tail(weighted) if len(texts) > most else None
    return Normal(reference, sample, weighted, tail, spread, weight)


def _enough(sample: Sample, classes: int) -> bool:
    """Whether images that can be left out of their class can speak for all `classes`."""
    return len(sample.labels) >= 3 and 2 * len(np.unique(sample.labels)) >= classes


def _warn(reference: Reference, spread: bool) -> None:
    alone = [
        name for name, n in zip(reference.classes, reference.moments.counts, strict=True) if n == 1
    ]
    if not spread:
        warnings.warn(
            "bliss+: too few classes have two reference images that differ; only labels and "
            "captions are compared",
            stacklevel=4,
        )
    elif alone:
        warnings.warn(
            f"bliss+: one reference image is all there is of {some_of(alone, 3)}; the spread of "
            "the other classes is taken",
            stacklevel=4,
        )


def _calibrate(normal: Normal, retrieved: Retrieved, pairs: Pairs, most: float) -> _Calibration:
    pieces, *anomalies = sample_evidence(normal, retrieved, pairs)
    scale = scale_of(pieces)
    z = standardised(pieces, scale)
    found = _Calibration(scale, scale_of(z[:, 2] + z[:, 3]), np.ones(3), most, np.nan, np.nan)
    if normal.spread is None or len(np.unique(normal.sample.labels)) == 1:
        return found
    odd = standardised(np.concatenate(anomalies), scale)
    words, images = (auroc(z[:, piece], odd[:, piece]) for piece in (1, 2))
    towards = np.array([0, ALONE, 0] if words >= images else [0, 0, ALONE])
    weights = learnt_weights(z[:, :3], odd[:, :3], towards)
    both = ((each[:, :3] @ weights, most * far_term(each, found.far)) for each in (z, odd))
    away = most * far_weight(*both)
    return replace(found, weights=weights, away=away, words_auroc=words, images_auroc=images)


def _fit(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """From reference images; UsageError for a query without retrieved texts."""
    normals = fitting.normals
    moments = fit_moments(normals.classes, normals.images, normals.labels)
    kept = images_to_keep(moments, normals.images, normals.labels)
    reference = Reference(moments, normals.prompts, sample=kept)
    normal = _fit_normal(reference, fitting.texts, parameters)
    scorer = PlusScorer(normal, fitting.texts, parameters)

    def scores(query: Query) -> np.ndarray:
        retrieved = retrieved_texts(query, "bliss+")
        against = scorer.terms[0](query) if scorer.terms else None
        return scorer(query.images, retrieved, NOTHING_LEFT_OUT, against)

    return WithTerms(scores, scorer.terms)


BLISS_PLUS = Score(
    name="bliss+",
    formula="w_b·z(BLISS, moderated) + w_n·z(log Σ_j w_j e^{(r_j − α·h_j)/τ} − "
    "log Σ_i e^{(s_i − α·h_i)/τ}) + w_r·z(r) + f·max(0, z(z(g) + z(r)) − ½), h the hubness of a "
    "text, r the relative Mahalanobis distance to the nearest class, g = mean_i s_i − max_i s_i",
    source="this project; its parts: BLISS arXiv 2407.17083, NegLabel arXiv 2403.20078, NNN arXiv "
    "2410.24114, relative Mahalanobis arXiv 2106.09022, LogitGap arXiv 2510.20134",
    fit=_fit,
    defaults={
        "weight": 0.5,
        "tau": 0.01,
        "rivals": 10.0,
        "prior": 10.0,
        "far": 1.25,
        "hub": 0.25,
        "full": 200_000,
    },
    needs=frozenset({Need.MOMENTS, Need.TEXTS, Need.RETRIEVED}),
)
