"""Relative Mahalanobis distance, an image left out of its own class in closed form.

    r(x) = min over c of d²(x, c) − d²(x, all)

d²(x, c) is to the mean of class c by the pooled within-class covariance; d²(x, all) is to the mean
of all images by their covariance, with the same shrinkage: an image that is far from everything in
the same way as the reference images themselves does not count as far from the classes (Ren et al.,
2021, arXiv 2106.09022). With one class both are the same, and r is √d²(x, c).

Σ* = ρμI + (1 − ρ)S is the pooled within-class covariance, Ledoit–Wolf, S over the N images of a
sample about their class's mean m_c. Take x out of class c of n images, with u = x − m_c: the mean
moves so that x is n/(n − 1)·u from it, and S loses n/(n − 1)·u uᵀ/N, so that with q = uᵀΣ*⁻¹u and
β = (1 − ρ)·n/((n − 1)·N) (Sherman and Morrison)

    d'²(x, c) = (n/(n − 1))²·q/(1 − βq)     d'²(x, e) = d²(x, e) + β/(1 − βq)·(vᵀΣ*⁻¹u)²

for another class e with v = x − m_e. ρ, μ and N stay as they were. Where the sample holds only part
of the class, S loses u uᵀ/N. The covariance of all images loses N/(N − 1)·v vᵀ/N likewise, with
v = x − m_all, and the mean moves so that x is N/(N − 1)·v from it.

Take a whole class of n images out, as if it were unknown: with N' = N − n and U its u or v as
rows, of v with n/√N' times their mean in addition, the covariance of the other images is
N/N'·(Σ* − (1 − ρ)/N·UᵀU), its shrinkage grown alike, and x is v + n/N' times the mean v of the
class from the mean of the others (Woodbury). With its class in, an image that is taken for unknown
would be nothing unusual, which an anomaly is.
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
    middle: np.ndarray | None
    """float64 [d], m_all, the mean of the sample; None with one class."""
    overall: np.ndarray
    """float64 [d, d], the whitening of all images about it."""


def fit_pooled(moments: Moments, sample: Sample) -> Pooled | None:
    """From class means and a sample of their images; None where no class's images differ."""
    means = np.array([part.mean for part in moments.parts])
    apart = sample.images.astype(np.float64) - means[sample.labels]
    if not len(apart) or np.square(apart).sum(axis=1).max() < SAME_IMAGE:
        return None
    covariance = fit_covariance(apart, "every class")
    d = means.shape[1]
    middle, overall = None, np.eye(d)
    if len(means) > 1:
        middle = sample.images.mean(axis=0, dtype=np.float64)
        centred = sample.images.astype(np.float64) - middle
        overall = whiten(fit_covariance(centred, "all classes", covariance.shrinkage), np.eye(d))
    centre = means.mean(axis=0)
    sampled = np.bincount(sample.labels, minlength=len(means))
    whitening = whiten(covariance, np.eye(d))
    white = (means - centre) @ whitening
    return Pooled(
        covariance.shrinkage,
        whitening,
        centre,
        white,
        moments.counts,
        sampled,
        len(apart),
        middle,
        overall,
    )


def relative(
    pooled: Pooled, squared: np.ndarray, images: np.ndarray, itself: np.ndarray
) -> np.ndarray:
    """float64 [b], r of `images` [b, d] from d² to the classes [b, C].

    `itself` bool [b] says which of them are in the sample and left out of it.
    """
    nearest = squared.min(axis=1)
    if pooled.middle is None:
        return np.sqrt(nearest)
    n = pooled.size
    white = (images.astype(np.float64) - pooled.middle) @ pooled.overall
    q = np.square(white).sum(axis=1)
    grown, beta = n / max(1, n - 1), (1 - pooled.shrinkage) / max(1, n - 1)
    without = grown**2 * q / np.maximum(1 - beta * q, 1e-9)
    return nearest - np.where(itself, without, q)


def without_own_classes(pooled: Pooled, sample: Sample) -> np.ndarray:
    """float64 [m], r of every image of the sample that `pooled` is from, without its whole class.

    There are two classes or more.
    """
    assert pooled.middle is not None
    found = np.empty(len(sample.images))
    for number in np.unique(sample.labels):
        here = np.flatnonzero(sample.labels == number)
        images = sample.images[here].astype(np.float64)
        n, left = len(here), pooled.size - len(here)
        white = (images - pooled.centre) @ pooled.whitening
        others = np.delete(pooled.means, number, axis=0)
        within = _lengths(pooled, white - pooled.means[number], white, others).min(axis=1)
        apart = (images - pooled.middle) @ pooled.overall
        mean = apart.mean(axis=0)
        lost = np.concatenate([apart, n / np.sqrt(left) * mean[None]])
        overall = _lengths(pooled, lost, apart, -n / left * mean[None])[:, 0]
        found[here] = left / pooled.size * (within - overall)
    return found


def _lengths(pooled: Pooled, lost: np.ndarray, rows: np.ndarray, to: np.ndarray) -> np.ndarray:
    """float64 [b, c], squared lengths of all `rows` [b, d] − `to` [c, d], whitened, in the metric
    of a covariance that lost `lost` [u, d], whitened."""
    beta = (1 - pooled.shrinkage) / pooled.size
    factor = np.linalg.cholesky(np.eye(len(lost)) - beta * lost @ lost.T)
    along, origin = (np.linalg.solve(factor, lost @ each.T).T for each in (rows, to))
    wide = np.hstack([rows, np.sqrt(beta) * along]), np.hstack([to, np.sqrt(beta) * origin])
    lengths = [np.square(each).sum(axis=1) for each in wide]
    return lengths[0][:, None] + lengths[1] - 2 * wide[0] @ wide[1].T


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
