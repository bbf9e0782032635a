"""What normal scores would look like, guessed from scores that hold anomalies too.

Where a collection is its own reference there are no clean scores to compare with. If most images
are normal, the middle of the scores is theirs: a normal distribution is laid through the median
and the upper quartile (scores are skewed to the right, so the lower half would make it too
narrow), in the manner of Efron's empirical null (J. Amer. Statist. Assoc. 2004). Real tails are
heavier than that, and anomalies reach the quartile when there are many: nothing is guaranteed, and
docs/decisions.md has a table of how far it was off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

UPPER_QUARTILE = 0.6744897501960817
"""Of the standard normal distribution."""


@dataclass(frozen=True)
class EmpiricalNull:
    """A normal distribution of scores."""

    centre: float
    spread: float


def fit_empirical_null(scores: np.ndarray) -> EmpiricalNull:
    """The null whose median and upper quartile are those of `scores` [n]."""
    middle, upper = np.quantile(scores, [0.5, 0.75])
    return EmpiricalNull(float(middle), float((upper - middle) / UPPER_QUARTILE))


def null_p_values(null: EmpiricalNull, scores: np.ndarray) -> np.ndarray:
    """float64 [n], the chance that the null gives at least each of `scores` [n].

    With no spread at all, 1 up to the centre and 0 above it.
    """
    if null.spread <= 0:
        return np.where(scores > null.centre, 0.0, 1.0)
    return upper_tail((scores - null.centre) / null.spread)


def upper_tail(z: np.ndarray) -> np.ndarray:
    """float64, 1 - Φ(z) of the standard normal distribution."""
    return np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in np.ravel(z)]).reshape(
        np.shape(z)
    )
