"""Mahalanobis distance to class means, an image left out of its own class in closed form.

Σ* = ρμI + (1 − ρ)S is the pooled within-class covariance, Ledoit–Wolf, S over the N images of a
sample about their class's mean m_c. Take x out of class c of n images, with u = x − m_c: the mean
moves so that x is n/(n − 1)·u from it, and S loses n/(n − 1)·u uᵀ/N, so that with q = uᵀΣ*⁻¹u and
β = (1 − ρ)·n/((n − 1)·N) (Sherman and Morrison)

    d'²(x, c) = (n/(n − 1))²·q/(1 − βq)     d'²(x, e) = d²(x, e) + β/(1 − βq)·(vᵀΣ*⁻¹u)²

for another class e with v = x − m_e. ρ, μ and N stay as they were. Where the sample holds only part
of the class, S loses u uᵀ/N.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ....indexer.vectors import slices
from ...leave_one_out import LeftOut
from ...moments import Moments
from ...reference import Sample
from ..similarity import fit_covariance, whiten

DISTANCES_AT_ONCE = 2048

SAME_IMAGE = 1e-6
"""Squared distance below which two unit rows are the same image embedded twice."""


@dataclass(frozen=True)
class Pooled:
    """What distances need: the whitening, and the class means about one centre, whitened."""

    shrinkage: float
    """ρ."""
    whitening: np.ndarray
    """float64 [d, d], Σ*^(-1/2), symmetric."""
    centre: np.ndarray
    """float64 [d]."""
    means: np.ndarray
    """float64 [C, d], whitened."""
    counts: np.ndarray
    """int64 [C], images of each class."""
    sampled: np.ndarray
    """int64 [C], how many of them S is from."""
    size: int
    """N."""


def fit_pooled(moments: Moments, sample: Sample) -> Pooled | None:
    """From class means and a sample of their images; None where no class's images differ."""
    means = np.array([part.mean for part in moments.parts])
    apart = sample.images.astype(np.float64) - means[sample.labels]
    if not len(apart) or np.square(apart).sum(axis=1).max() < SAME_IMAGE:
        return None
    covariance = fit_covariance(apart, "every class")
    centre = means.mean(axis=0)
    sampled = np.bincount(sample.labels, minlength=len(means))
    whitening = whiten(covariance, np.eye(means.shape[1]))
    white = (means - centre) @ whitening
    return Pooled(
        covariance.shrinkage, whitening, centre, white, moments.counts, sampled, len(apart)
    )


def squared_distances(
    pooled: Pooled, images: np.ndarray, left_out: LeftOut, inside: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """d² of every chunk of images [n, d] to every class: its rows, float64 [b, C].

    `left_out` (images ascending) says who is left out of which class, `inside` bool [p] which of
    those pairs are in the sample; each class then has two images or more. Of an image in several
    classes the first alone leaves S.
    """
    lengths = np.square(pooled.means).sum(axis=1)
    for rows in slices(len(images), DISTANCES_AT_ONCE):
        white = (images[rows].astype(np.float64) - pooled.centre) @ pooled.whitening
        found = lengths - 2 * white @ pooled.means.T + np.square(white).sum(axis=1)[:, None]
        first, last = np.searchsorted(left_out.images, [rows.start, rows.stop])
        if first < last:
            here = left_out.images[first:last] - rows.start
            _leave_out(pooled, found, white, here, left_out.classes[first:last], inside[first:last])
        yield rows, np.maximum(found, 0)


def _leave_out(
    pooled: Pooled,
    found: np.ndarray,
    white: np.ndarray,
    here: np.ndarray,
    classes: np.ndarray,
    inside: np.ndarray,
) -> None:
    """Change `found` [b, C] for the pairs of images `here` [p] and `classes` [p]."""
    apart = white[here] - pooled.means[classes]
    counts = pooled.counts[classes]
    grown = counts / (counts - 1)
    q = np.square(apart).sum(axis=1)
    whole = pooled.sampled[classes] == counts
    beta = (1 - pooled.shrinkage) * np.where(whole, grown, 1) / pooled.size
    beta = np.where(inside, beta, 0)
    beta[1:][here[1:] == here[:-1]] = 0
    lost = beta / np.maximum(1 - beta * q, 1e-9)
    across = np.einsum("pd,pd->p", white[here], apart)[:, None] - apart @ pooled.means.T
    np.add.at(found, here, lost[:, None] * np.square(across))
    found[here, classes] = np.square(grown) * q * (1 + lost * q)
