"""Cosines of n images to many vectors in bounded memory, and covariances.

Cosines are float64, a block of images against a block of vectors at a time, and only two numbers
an image are kept: its largest cosine and the logarithm of Σ e^{cosine/τ}, which cannot overflow.
Softmax scores are differences of these.

Covariances from fewer images than dimensions, and lengths in their metric: Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate
Analysis 88 (2004), section 3. For n centred rows x in d dimensions, S = mean of x xᵀ, and norms
‖A‖² = tr(A Aᵀ)/d:

    μ = tr(S)/d    δ² = ‖S - μI‖²    β̄² = (1/n²) Σ ‖x xᵀ - S‖²    β² = min(β̄², δ²)
    Σ* = (β²/δ²) μI + (1 - β²/δ²) S

Σ ‖x xᵀ - S‖² = (Σ |x|⁴)/d - n‖S‖², so no matrix is made for an image. All in float64.

One thing is added. Two images, once centred, are v and -v: then x xᵀ = S, β̄² = 0, and the formula
does not shrink just where the estimate is worst; the inverse would not exist. The shrinkage is
therefore at least 1/n. The formula alone stays above that unless nearly all variance lies along one
or two directions: for Gaussian rows nβ̄² is (tr(S)² + tr(S²))/d, more than δ².
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import BlissError
from ...indexer.vectors import slices

ENTRIES = 4_000_000
"""Float64 entries of the largest array of one block of images: 32 MB."""

IMAGES_AT_ONCE = 1024
VECTORS_AT_ONCE = 4096
"""Together they bound a block of cosines: 32 MB."""


@dataclass(frozen=True)
class Similarity:
    """n images against one set of vectors; -inf where the set is empty."""

    largest: np.ndarray
    """float64 [n], the largest cosine."""
    log_sum: np.ndarray
    """float64 [n], log Σ e^{cosine/τ}."""


def similarity(images: np.ndarray, vectors: np.ndarray, tau: float) -> Similarity:
    """Unit rows `images` [n, d] against unit rows `vectors` [v, d] at temperature `tau`."""
    largest, log_sum = np.full(len(images), -np.inf), np.full(len(images), -np.inf)
    for rows in slices(len(images), IMAGES_AT_ONCE):
        for _, cosines in cosine_blocks(images[rows], vectors):
            top = cosines.max(axis=1)
            cosines -= top[:, None]
            cosines /= tau
            np.exp(cosines, out=cosines)
            block = top / tau + np.log(cosines.sum(axis=1))
            log_sum[rows] = np.logaddexp(log_sum[rows], block)
            largest[rows] = np.maximum(largest[rows], top)
    return Similarity(largest, log_sum)


def hubness(vectors: np.ndarray, images: np.ndarray, nearest: int) -> np.ndarray:
    """float64 [v], the mean of the `nearest` largest cosines of `images` [m, d] to each vector.

    Of all of them where there are fewer (Chowdhury et al., EMNLP 2024, arXiv 2410.24114).
    """
    k = min(nearest, len(images))
    largest = np.full((k, len(vectors)), -np.inf)
    for rows in slices(len(images), IMAGES_AT_ONCE):
        for block, cosines in cosine_blocks(images[rows], vectors):
            some = np.concatenate([largest[:, block], cosines])
            largest[:, block] = np.partition(some, len(cosines), axis=0)[len(cosines) :]
    return largest.mean(axis=0)


def cosine_blocks(images: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Cosines of a few `images` [b, d] to each block of `vectors`: its place, float64 [b, v]."""
    wide = np.asarray(images, np.float64)
    for block in slices(len(vectors), VECTORS_AT_ONCE):
        yield block, wide @ np.asarray(vectors[block], np.float64).T


def share_of(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """P/(P + R) from log P and log R, without overflow; not both may be 0."""
    return np.exp(-np.logaddexp(0, rest - part))


def in_batches(
    images: np.ndarray, width: int, score: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """float64 [n], `score` of `images` [n, d], a batch at a time.

    `score` maps float64 [b, d] to [b]; `width` is how many numbers it holds for an image.
    """
    step = ENTRIES // max(1, width, images.shape[1])
    scores = np.empty(len(images))
    for batch in slices(len(images), step):
        scores[batch] = score(images[batch].astype(np.float64))
    return scores


def second_moment(rows: np.ndarray) -> np.ndarray:
    """float64 [d, d], the mean of x xᵀ over `rows` [m, d], not centred."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    step = ENTRIES // max(1, rows.shape[1])
    for block in slices(len(rows), step):
        chunk = rows[block].astype(np.float64)
        total += chunk.T @ chunk
    return total / len(rows)


@dataclass(frozen=True)
class Covariance:
    """A shrunken covariance: Σ* = a·I + directionsᵀ · diag(variance - a) · directions."""

    shrinkage: float
    """β²/δ², or 1/n where that is more."""
    directions: np.ndarray
    """float64 [r, d], orthonormal rows, r = min(n, d)."""
    variance: np.ndarray
    """float64 [r], of Σ* along them."""
    outside: float
    """a, the variance of Σ* along all other directions."""


def fit_covariance(centred: np.ndarray, of: str, shrinkage: float | None = None) -> Covariance:
    """Σ* of rows float64 [n, d] whose mean (or whose class's mean) has been taken off.

    A `shrinkage` given takes the place of Ledoit and Wolf's. Raises BlissError where all rows are
    0, saying whose they are in the words of `of`.
    """
    n, d = centred.shape
    eigenvalues, directions = _principal(centred)
    trace, squares = eigenvalues.sum(), np.square(eigenvalues).sum()
    if trace <= d * np.square(np.finfo(np.float32).eps):
        raise BlissError(
            f"the reference images of {of} do not differ",
            "at least two different reference images",
            "Add reference images, or choose a score without covariances",
        )
    mu = trace / d
    if shrinkage is None:
        delta = squares / d - mu * mu
        fourth = np.square(np.einsum("nd,nd->n", centred, centred)).sum()
        beta = (fourth / n - squares) / (n * d)
        shrinkage = max(1 / n, beta / delta if beta < delta else 1.0)
    variance = shrinkage * mu + (1 - shrinkage) * eigenvalues
    return Covariance(shrinkage, directions, variance, shrinkage * mu)


def squared_lengths(covariance: Covariance, along: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64 [b], yᵀΣ*⁻¹y of b rows y, from their parts `along` the directions [b, r] and the
    squared length of the `whole` of each [b]: what is not along the directions lies outside."""
    inside = np.square(along)
    lengths = inside @ (1 / covariance.variance)
    if len(covariance.directions) < covariance.directions.shape[1]:
        lengths += np.maximum(0, whole - inside.sum(axis=1)) / covariance.outside
    return lengths


def weighed(covariance: Covariance, rows: np.ndarray) -> np.ndarray:
    """float64 [b, d], `rows` float64 [b, d] times Σ*⁻¹."""
    along = rows @ covariance.directions.T
    excess = along * (1 / covariance.variance - 1 / covariance.outside)
    return rows / covariance.outside + excess @ covariance.directions


def whiten(covariance: Covariance, rows: np.ndarray) -> np.ndarray:
    """float64 [b, d], `rows` float64 [b, d] times Σ*^(-1/2): distances there are Mahalanobis."""
    outside = 1 / np.sqrt(covariance.outside)
    along = (rows @ covariance.directions.T) * (1 / np.sqrt(covariance.variance) - outside)
    return rows * outside + along @ covariance.directions


def _principal(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [r] and eigenvectors [r, d] of S, r = min(n, d), those of value 0 among them."""
    n, d = centred.shape
    if n > d:
        values, vectors = np.linalg.eigh(second_moment(centred))
        return np.maximum(values, 0), vectors.T
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    return np.square(lengths) / n, directions
