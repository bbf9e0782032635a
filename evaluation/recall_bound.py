"""How low the true recall of a search may be, when so much was measured on so many queries.

Each query has a recall between 0 and 1; its hits are not independent, the queries are. The bound is
Chernoff's and Hoeffding's in its Kullback-Leibler form (Hoeffding, JASA 1963): for n independent
values in [0, 1] with mean m, the true mean is below

    inf {p <= m : n·KL(m, p) <= log(1/δ)},  KL(m, p) = m log(m/p) + (1 - m) log((1 - m)/(1 - p))

with probability at most δ. It holds for every n and every such distribution, where a bootstrap of
few queries that all found everything would call the recall certain.
"""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 0.95
HALVINGS = 100


def lower_bound(mean: float, count: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided lower confidence bound of a mean recall over `count` queries; 0 for none.

    >>> round(lower_bound(1.0, 299), 3)
    0.99
    """
    if not count:
        return 0.0
    allowed = -math.log(1 - confidence) / count
    low, high = 0.0, mean
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if divergence(mean, middle) <= allowed:
            high = middle
        else:
            low = middle
    return high


def divergence(mean: float, other: float) -> float:
    """KL(mean, other) in nats, of two chances."""
    total = 0.0
    for p, q in ((mean, other), (1 - mean, 1 - other)):
        if p > 0:
            total += p * math.log(p / q) if q > 0 else math.inf
    return total


def least_queries(target: float, confidence: float = CONFIDENCE) -> int:
    """How many queries, all of recall 1, put the bound at `target` or above.

    >>> least_queries(0.99)
    299
    """
    return math.ceil(math.log(1 - confidence) / math.log(target)) if target < 1 else 0


def recall_of(similarity: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64 [n], the share of each query's k hits that are among its true k nearest.

    Both are similarities [n, k], computed alike; the truth's are in descending order. A hit counts
    where it is as similar as the k-th true one, so of equal texts any will do.
    """
    return (similarity >= truth[:, -1:]).mean(axis=1)
