"""How far two scores of the same n images agree about their order; higher = more anomalous."""

from __future__ import annotations

import numpy as np


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two score lists [n]; 1 where one of them is constant."""
    one, other = midranks(first), midranks(second)
    if one.std() == 0 or other.std() == 0:
        return 1.0
    return float(np.corrcoef(one, other)[0, 1])


def top_in_common(first: np.ndarray, second: np.ndarray, count: int) -> int:
    """How many of the `count` highest of [n] are the same; of equal ones the first count."""
    one, other = (np.argsort(-scores, kind="stable")[:count] for scores in (first, second))
    return len(np.intersect1d(one, other))


def midranks(values: np.ndarray) -> np.ndarray:
    """float64 [n], ranks from 1, equal values sharing the mean of theirs."""
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[level]
