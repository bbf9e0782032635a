"""External texts weighted in the softmax by how seldom they beat the label of a normal image.

Text j has the weight

    w_j = e^{−α·h_j/τ}/(1 + λ·o_j),  o_j = 1/(m + 50) · Σ over x of min(30, e^{(r_j(x) − s(x))/τ})

with x the m reference images and s(x) the cosine to the label of its own class: o_j is the odds of
the text against the right label where that label is known to be right. 50 images without odds are
added, since a few images say little of a text: those of look-alike classes would silence the names
of anomalies. A synonym or a hyponym of a label fades out,
and so does a text near to every photograph; a rival that is never chosen counts in full. The bound
of 30 keeps one stray among the reference images from silencing the text that names it. Texts within
cosine `drop` of a label are left out whatever the images say.

Some texts are near to every image, whatever it shows (hubs). h_j, the mean of the 16 largest
cosines of reference images to the text, measures that; α·h_j is taken off the text's cosine, and
off a label's likewise (NNN: Chowdhury et al., EMNLP 2024, arXiv 2410.24114).

For a reference image that is itself scored, its own part is taken out of the mean of the odds; h is
the same for all images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ....errors import BlissError
from ....indexer.vectors import share_among_threads, slices
from ...bliss import Retrieved
from ..negatives import LogSums, label_nearness, log_mean_below
from ..similarity import hubness
from ..text_terms import TextSum, TextTerm, text_terms

DROP = 0.95
"""Texts nearer than this to a label are the label in other words (CSP's rule)."""

MOST_ODDS = 30.0
"""The largest odds of one image."""

PRIOR_IMAGES = 50
"""Images without odds that are added to the mean."""

NEAREST_IMAGES = 16
"""Reference images that the hubness of a text is a mean over."""

IMAGES_AT_ONCE, VECTORS_AT_ONCE = 512, 1024
"""Together they bound a block of cosines, 2 MB, so that it stays in cache."""
CLASS_TEXTS_AT_ONCE = 256
"""Texts that all reference images meet at once."""


@dataclass(frozen=True)
class Own:
    """Which of n images are among the m that the weights were made from, and under which label."""

    images: np.ndarray
    """int64 [p], positions among the n images."""
    cosine: np.ndarray
    """float64 [p], the image's cosine to that label."""


NOBODY = Own(np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class TextWeights:
    """The weights of M texts and what they came from."""

    texts: np.ndarray
    """float32 [M, d], unit rows, as they were given."""
    odds: np.ndarray
    """float64 [M], the sum of the bounded odds over the reference images; inf where left out."""
    count: int
    """m, how many reference images they are from."""
    strength: float
    """λ."""
    tau: float
    weights: np.ndarray
    """float64 [M], 0 where left out."""
    hubs: np.ndarray
    """float64 [M], e^{−α·h/τ}, which is part of the weights."""
    labels: np.ndarray
    """float64 [C], α·h/τ of the labels, to be taken off their cosines over τ."""
    mean: np.ndarray
    """float64 [d], of the texts that are not left out, each counted once."""

    def share(self, out: np.ndarray) -> np.ndarray:
        """λ/(m + 50), what a sum of odds is multiplied by, with `out` of the m images left out."""
        return self.strength / (self.count - out + PRIOR_IMAGES)

    @cached_property
    def term(self) -> TextTerm:
        """The log-sum of all texts, every reference image in their weights."""
        every = TextSum(np.arange(len(self.texts))[None], self.tau, self.weights)
        return TextTerm(self.texts, (every,), lambda images, found: found[0])


@dataclass(frozen=True)
class Tail:
    """Weighted moments of all texts, for the sum over those that were not retrieved."""

    weight: float
    mean: np.ndarray
    """float64 [d]."""
    covariance: np.ndarray
    """float64 [d, d]."""


def fit_text_weights(
    texts: np.ndarray,
    prompts: np.ndarray,
    references: tuple[np.ndarray, np.ndarray],
    strength: float,
    tau: float,
    hub: float = 0.0,
) -> TextWeights:
    """Weights of `texts` [M, d] from reference images [m, d] and their labels [m].

    `prompts` are the labels' unit rows [C, d], `strength` is λ and `hub` is α. Raises
    BlissError where every text is within cosine 0.95 of a label.
    """
    images, labels = references
    usable = label_nearness(texts, prompts, 1.0)[1] <= DROP
    if not usable.any():
        raise BlissError(
            f"all {len(texts)} external texts are within cosine {DROP:g} of a normal label",
            "texts of other things",
            "Use another corpus",
        )
    odds, near = np.zeros(len(texts)), min(NEAREST_IMAGES, len(images))
    nearest = np.zeros(len(texts))
    cosine = own_cosines(images, labels, prompts)

    def work(blocks: Iterator[slice]) -> None:
        for block in blocks:
            some = np.asarray(texts[block], np.float32)
            kept = np.full((len(some), near), -1, np.float32)
            for rows in slices(len(images), IMAGES_AT_ONCE):
                cosines = some @ np.asarray(images[rows], np.float32).T
                if hub:
                    every = np.concatenate([kept, cosines], axis=1)
                    every.partition(cosines.shape[1], axis=1)
                    kept = every[:, cosines.shape[1] :]
                odds[block] += _bounded_odds(cosines.T, cosine[rows], tau).sum(
                    axis=0, dtype=np.float64
                )
            nearest[block] = kept.sum(axis=1, dtype=np.float64) / max(1, near)

    count = -(-len(texts) // VECTORS_AT_ONCE)
    share_among_threads(work, slices(len(texts), VECTORS_AT_ONCE), count)
    odds[~usable] = np.inf
    hubs, shifts = np.ones(len(texts)), np.zeros(len(prompts))
    if hub and near:
        hubs = np.exp(-hub * nearest / tau)
        shifts = hub * hubness(prompts, images, near) / tau
    mean = np.zeros(texts.shape[1])
    for block in slices(len(texts), VECTORS_AT_ONCE):
        mean += np.asarray(texts[block], np.float64)[usable[block]].sum(axis=0)
    weights = hubs / (1 + strength * odds / (len(images) + PRIOR_IMAGES))
    mean /= usable.sum()
    return TextWeights(texts, odds, len(images), strength, tau, weights, hubs, shifts, mean)


def own_cosines(images: np.ndarray, labels: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """float64 [m], the cosine of each of `images` [m, d] to the prompt of its class."""
    return np.einsum("md,md->m", images, prompts[labels], dtype=np.float64)


def log_sums(
    weights: TextWeights,
    images: np.ndarray,
    own: Own = NOBODY,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """float64 [n], log Σ_j w_j e^{r_j/τ} over all M texts, in blocks.

    `known` [n] are these sums with every image in the weights, where they are known already.
    """
    here, place, times = np.unique(own.images, return_inverse=True, return_counts=True)
    if known is None and 2 * len(here) < len(images):
        known = text_terms([weights.term], images)[0]
    total = np.full(len(images), -np.inf) if known is None else known.copy()
    if known is None and len(here) < len(images):
        rest = np.setdiff1d(np.arange(len(images)), here)
        total[rest] = text_terms([weights.term], images[rest])[0]
    labels = np.full((len(here), times.max(initial=1)), np.inf)
    order = np.argsort(place, kind="stable")
    labels[place[order], np.arange(len(order)) - np.repeat(np.cumsum(times) - times, times)] = (
        own.cosine[order]
    )

    def work(blocks: Iterator[slice]) -> None:
        for rows in blocks:
            total[here[rows]] = _sums_without(weights, images[here[rows]], labels[rows])

    count = -(-len(here) // IMAGES_AT_ONCE)
    share_among_threads(work, slices(len(here), IMAGES_AT_ONCE), count)
    return total


def fit_tail(weights: TextWeights) -> Tail:
    """Weighted mean and covariance of all texts, in two passes over them."""
    each, texts = weights.weights, weights.texts
    total, d = float(each.sum()), texts.shape[1]
    mean, scatter = np.zeros(d), np.zeros((d, d))
    for block in slices(len(texts), VECTORS_AT_ONCE):
        mean += each[block] @ np.asarray(texts[block], np.float64) / total
    for block in slices(len(texts), VECTORS_AT_ONCE):
        apart = np.asarray(texts[block], np.float64) - mean
        scatter += apart.T @ (apart * each[block, None])
    return Tail(total, mean, scatter / total)


def truncated_log_sums(
    weights: TextWeights, tail: Tail, images: np.ndarray, retrieved: Retrieved, own: Own = NOBODY
) -> LogSums:
    """What `log_sums` is known to lie between, and its estimate, from the retrieved texts alone.

    The retrieved texts are summed exactly. No other text is nearer than the last of them, r_k, so
    the rest lies between 0 and the weight that is left times e^{r_k/τ}; its estimate takes their
    cosines as normal, cut at r_k (see negatives.py). An image's own part is taken out of
    the weights of its retrieved texts only.
    """
    tau = weights.tau
    cosines = np.asarray(retrieved.similarity, np.float64)
    each = weights.weights[retrieved.rows]
    left = np.maximum(0, tail.weight - each.sum(axis=1))
    if len(own.images):
        part = _bounded_odds(cosines[own.images], own.cosine, tau)
        some = retrieved.rows[np.unique(own.images)]
        here, without = _without(weights, weights.odds[some], own.images, part)
        each[here] = without * weights.hubs[some]
    with np.errstate(divide="ignore"):
        lowest = np.logaddexp.reduce(np.log(each) + cosines / tau, axis=1)
        log_left = np.log(left)
    last = cosines.min(axis=1)
    estimate = log_left + log_mean_below(images, tail.mean, tail.covariance, last, tau)
    highest = np.logaddexp(lowest, log_left + last / tau)
    return LogSums(lowest, np.logaddexp(lowest, estimate), highest)


def _bounded_odds(cosines: np.ndarray, label: np.ndarray, tau: float) -> np.ndarray:
    """min(30, e^{(r − s)/τ}) for cosines [p, v] and label cosines [p]."""
    odds = cosines - label[:, None].astype(cosines.dtype)
    odds /= cosines.dtype.type(tau)
    np.minimum(odds, cosines.dtype.type(np.log(MOST_ODDS)), out=odds)
    return np.exp(odds, out=odds)


def _sums_without(weights: TextWeights, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [b], log Σ w e^{r/τ} of images [b, d], each out of the weights under its labels.

    `labels` float64 [b, l] are the cosines to them, inf for none.
    """
    tau, total = np.float32(weights.tau), np.full(len(images), -np.inf)
    times = np.isfinite(labels).sum(axis=1)
    share = weights.share(times).astype(np.float32)[:, None]
    for block in slices(len(weights.texts), VECTORS_AT_ONCE):
        odds = weights.odds[block].astype(np.float32)
        gone = np.isinf(odds)
        if gone.all():
            continue
        cosines = images @ np.asarray(weights.texts[block], np.float32).T
        cosines[:, gone] = -np.inf
        top = cosines.max(axis=1)
        cosines -= top[:, None]
        cosines /= tau
        terms = np.exp(cosines, out=cosines)
        # A term below e^-87 of the largest is 0, and so is its part: it has no say in the sum.
        above = np.exp(np.minimum((top[:, None] - labels) / weights.tau, 80)).astype(np.float32)
        left = np.broadcast_to(odds, terms.shape)
        for label in above.T:
            part = terms * label[:, None]
            np.minimum(part, np.float32(MOST_ODDS), out=part)
            left = np.subtract(left, part, out=part)
        np.maximum(left, 0, out=left)
        left *= share
        left += 1
        largest = weights.hubs[block].max()
        terms *= (weights.hubs[block] / largest).astype(np.float32)
        terms /= left
        found = top / weights.tau + np.log(largest * terms.sum(axis=1, dtype=np.float64))
        total = np.logaddexp(total, found)
    return total


def log_sums_without_classes(
    weights: TextWeights, images: np.ndarray, labels: np.ndarray, cosines: np.ndarray
) -> np.ndarray:
    """float64 [m], log Σ_j w_j e^{r_j/τ} for the reference images [m, d], each with the weights
    from the images of the other classes alone.

    `labels` [m] are their classes and `cosines` [m] those to their labels; h is the same for all.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    counts = np.diff(np.append(starts, len(order)))
    which = np.repeat(np.arange(len(starts)), counts)
    share = weights.share(counts)[:, None]
    some, tau = np.asarray(images[order], np.float32), np.float32(weights.tau)
    blocks = list(slices(len(weights.texts), CLASS_TEXTS_AT_ONCE))
    sums = np.full((len(blocks), len(order)), -np.inf)

    def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            block = blocks[number]
            odds, hubs = weights.odds[block], weights.hubs[block]
            gone = np.isinf(odds)
            if gone.all():
                continue
            near = some @ np.asarray(weights.texts[block], np.float32).T
            near[:, gone] = -np.inf
            part = _bounded_odds(near, cosines[order], weights.tau)
            left = odds - np.add.reduceat(part, starts, axis=0, dtype=np.float64)
            each = (hubs / (1 + share * np.maximum(0, left))).astype(np.float32)
            top = near.max(axis=1)
            near -= top[:, None]
            near /= tau
            found = np.einsum("mv,mv->m", np.exp(near, out=near), each[which])
            with np.errstate(divide="ignore"):
                sums[number] = top / weights.tau + np.log(found)

    share_among_threads(work, range(len(blocks)), len(blocks))
    total = np.empty(len(order))
    total[order] = np.logaddexp.reduce(sums, axis=0)
    return total


def label_weights(
    weights: TextWeights, images: np.ndarray, labels: np.ndarray, prompts: np.ndarray
) -> np.ndarray:
    """float64 [C], the weight of each class's label as a text, but for hubness, from the reference
    images [m, d] of the other classes."""
    rows = np.arange(len(images))
    cosines = images.astype(np.float64) @ prompts.T.astype(np.float64)
    odds = _bounded_odds(cosines, cosines[rows, labels], weights.tau)
    odds[rows, labels] = 0
    others = len(images) - np.bincount(labels, minlength=len(prompts))
    return 1 / (1 + weights.strength * odds.sum(axis=0) / (others + PRIOR_IMAGES))


def _without(
    weights: TextWeights, odds: np.ndarray, positions: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The images among `positions` [p] (ascending) and their weights [h, v] without themselves,
    before hubness.

    `odds` are the sums over all reference images, [v] or [h, v]; `own` [p, v] are their parts.
    """
    here, starts, times = np.unique(positions, return_index=True, return_counts=True)
    part = own if len(here) == len(own) else np.add.reduceat(own, starts, axis=0)
    share = weights.share(times)[:, None]
    without = np.maximum(0, odds.astype(part.dtype) - part)
    without *= share.astype(part.dtype)
    without += 1
    return here, np.reciprocal(without, out=without)
