"""Text statistics: mean and deviation of a class's similarity to each text, from its moments.

With Σ_c = S_c/n_c and F_c a factor of it, F_cᵀF_c = Σ_c, of min(n_c, d) rows (population, ddof 0)

    μ_{c,d} = m_c·d    σ_{c,d} = √(dᵀΣ_c d) = ‖F_c d‖

so σ is one float32 matrix product for all texts of a class. Where the estimated rounding exceeds
3e-6 of σ, that pair is computed again in float64. The 1e-8 of the published code is not in σ; it
is added where σ divides.

The variances of classes with few images can be moderated (`VariancePrior`). With s² the unbiased
variance of n images along a text and s₀² the mean of it over many texts,

    σ² = (ν₀·s₀² + (n - 1)·s²)/(ν₀ + n - 1)

is the posterior mean under a scaled inverse chi-square prior that counts as ν₀ images (Smyth,
Stat. Appl. Genet. Mol. Biol. 2004). A class of one image takes the mean s₀² of the other classes.

    >>> import numpy as np
    >>> from blissaudit.scorer.moments import fit_moments
    >>> rows = np.array([[1, 0], [0.6, 0.8]], np.float32)
    >>> mean, std = text_statistics(fit_moments(["cup"], rows, np.zeros(2, int)), rows)
    >>> mean.round(3).tolist(), std.round(3).tolist()
    ([[0.8, 0.8]], [[0.2, 0.2]])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arguments import checked_arrays
from ..errors import BlissError
from ..indexer.vectors import Rows, slices
from .moments import ClassMoments, Moments

TEXTS_AT_ONCE = 1024
"""Texts in one product of 1024 x min(n_c, d) floats, which stays in cache."""

ROWS_AT_ONCE = 128
"""Rows of a factor in one product."""

FLOAT32_ERROR = 2 * float(np.finfo(np.float32).eps)
"""Typical rounding of one entry of a float32 product, relative to the length of its factor row.

Measured, not proven: at most 2 eps on real embeddings, 9 eps on data made to cancel."""

ACCEPTED_ERROR = 3e-6
"""Largest estimated relative error of a σ in float32. The true error was at most 1.2e-6 on real
embeddings and 6e-6 on data made to cancel; see tests/scorer/test_statistics.py."""


@checked_arrays(vectors=("texts",))
def text_statistics(
    moments: Moments, texts: Rows, needed: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """μ and σ (ddof 0, without the 1e-8) of every class for unit rows `texts` [u, d].

    Returns float64 `mean` [C, u] and `std` [C, u]. Raises BlissError naming a class with fewer than
    `needed` images.
    """
    check_counts(moments, needed)
    means = np.stack([part.mean for part in moments.parts])
    mean = np.empty((len(means), len(texts)))
    for block in slices(len(texts), TEXTS_AT_ONCE):
        mean[:, block] = means @ texts[block].T.astype(np.float64)
    std = np.empty_like(mean)
    for number, part in enumerate(moments.parts):
        std[number] = class_std(part, texts)
    return mean, std


def class_std(part: ClassMoments, texts: Rows) -> np.ndarray:
    """float64 [u], σ of one class for unit rows `texts` [u, d]."""
    rows, scale = factor_rows(part)
    square_lengths = np.einsum("ij,ij->i", rows, rows)
    # Relative to the longest row, so that no square underflows.
    unit = float(np.sqrt(square_lengths.max(initial=0))) or 1.0
    fast = np.divide(rows, unit, dtype=np.float32, casting="same_kind")
    weights = (square_lengths / unit**2).astype(np.float32)
    # A Cholesky factor is a triangle: the columns in which some rows are all 0 come first.
    panels = [(each, first_column(fast[each])) for each in slices(len(fast), ROWS_AT_ONCE)]
    std, rounding = np.empty(len(texts)), np.empty(len(texts))
    memory = np.empty((min(TEXTS_AT_ONCE, len(texts)), len(fast)), np.float32)
    for block in slices(len(texts), TEXTS_AT_ONCE):
        some = texts[block].astype(np.float32, copy=False)
        squares = memory[: len(some)]
        for each, first in panels:
            np.matmul(some[:, first:], fast[each, first:].T, out=squares[:, each])
        np.square(squares, out=squares)
        std[block] = np.sqrt(squares.sum(axis=1))
        # The error of an entry p_i of F d goes with its row's length l_i: ‖(p_i l_i)‖/‖F d‖ of σ.
        rounding[block] = FLOAT32_ERROR * np.sqrt(squares @ weights)
    doubtful = np.flatnonzero(rounding >= ACCEPTED_ERROR * np.square(std))
    std *= unit * scale
    std[doubtful] = class_std_float64(part, texts[doubtful])
    return std


def first_column(rows: np.ndarray) -> int:
    """The first column of `rows` [q, d] that is not all 0; 0 where there is none."""
    return int(rows.any(axis=0).argmax())


def class_std_float64(part: ClassMoments, texts: np.ndarray) -> np.ndarray:
    """`class_std` without float32."""
    rows, scale = factor_rows(part)
    std = np.empty(len(texts))
    for block in slices(len(texts), TEXTS_AT_ONCE):
        projected = texts[block].astype(np.float64) @ rows.T
        std[block] = np.sqrt(np.einsum("ij,ij->i", projected, projected))
    return std * scale


def factor_rows(part: ClassMoments) -> tuple[np.ndarray, float]:
    """Rows float64 [q, d] and a scale, with F = scale·rows and q <= min(n, d).

    The rows of a class that keeps its centred rows are these, not a copy.
    """
    if part.centred is not None:
        return part.centred, 1 / np.sqrt(max(1, part.count))
    assert part.scatter is not None
    covariance = part.scatter / part.count
    try:
        return np.linalg.cholesky(covariance).T, 1.0
    except np.linalg.LinAlgError:
        # Singular (repeated images): take the eigenvectors of positive eigenvalues.
        values, vectors = np.linalg.eigh(covariance)
        kept = values > values[-1] * len(values) * np.finfo(float).eps
        return np.sqrt(values[kept])[:, None] * vectors[:, kept].T, 1.0


def check_counts(moments: Moments, needed: int = 2) -> None:
    """Raise BlissError naming the first class with fewer than `needed` reference images."""
    for name, part in zip(moments.classes, moments.parts, strict=True):
        if part.count < needed:
            raise BlissError(
                f"class '{name}' has {part.count} reference image{'s' * (part.count != 1)}",
                f"at least {needed} in every class",
                "Add reference images of that class or leave the class out",
            )


@dataclass(frozen=True)
class VariancePrior:
    """What the variances are moderated towards."""

    std: np.ndarray
    """float64 [C], s₀ of each class."""
    images: float
    """ν₀, how many images the prior counts as."""


def variance_prior(moments: Moments, texts: np.ndarray, images: float) -> VariancePrior | None:
    """The prior of weight `images` (ν₀) from the mean variance over unit rows `texts` [u, d].

    None where no class has two different images, so that nothing is known about variances.
    """
    counts = moments.counts
    variance = np.zeros(len(counts))
    for number, part in enumerate(moments.parts):
        if part.count > 1:
            spread = np.square(class_std(part, texts)).mean()
            variance[number] = spread * part.count / (part.count - 1)
    several = counts > 1
    if not several.any() or not variance[several].any():
        return None
    variance[~several] = variance[several].mean()
    return VariancePrior(np.sqrt(variance), images)


def moderated(
    std: np.ndarray, count: np.ndarray | int, prior_std: np.ndarray, prior: VariancePrior
) -> np.ndarray:
    """σ moderated, from the population σ (ddof 0) of `count` images; all arrays broadcast."""
    weight = prior.images + count - 1
    return np.sqrt((prior.images * np.square(prior_std) + count * np.square(std)) / weight)
