"""Pieces of evidence put on one scale and weighed, with reference images alone.

Each piece is standardised by its mean and deviation over the reference images, every one left out
of its own class. How much two pieces are worth is learnt by leaving out whole classes: with its own
class gone, a reference image is an anomaly of the nearest and hardest kind, and a logistic
regression between it and itself as a normal image gives the weights. No anomaly and no test image
is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RIDGE = 1.0
STEPS = 50
CONSTANT = 1e-9
"""Deviation, as a share of the largest value, below which evidence does not vary."""


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of one piece of evidence over the reference images."""

    mean: float
    std: float


def scale_of(reference: np.ndarray) -> Scale:
    """The scale of evidence [m]; one that is constant, up to rounding, gets deviation 1."""
    std = float(reference.std())
    constant = std <= CONSTANT * float(np.abs(reference).max(initial=0))
    return Scale(float(reference.mean()), 1.0 if constant else std)


def standardised(evidence: np.ndarray, scale: Scale) -> np.ndarray:
    """Evidence in deviations from the reference mean."""
    return (evidence - scale.mean) / scale.std


def beyond(z: np.ndarray, start: float) -> np.ndarray:
    """max(0, z - start): evidence that only speaks where hardly any reference image does."""
    return np.maximum(z - start, 0)


def learnt_weights(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Non-negative weights [p] of p standardised pieces, summing to p.

    Ridge logistic regression (Newton's method on the weights that are not held at 0, penalty
    towards equal weights) between `normal` [m, p] and `anomalous` [a, p]; equal weights where one
    of them is empty or nothing separates.
    """
    p = normal.shape[1]
    if not len(normal) or not len(anomalous):
        return np.ones(p)
    rows = np.concatenate([normal, anomalous])
    rows = np.column_stack([rows, np.ones(len(rows))])
    truth = np.repeat([0.0, 1.0], [len(normal), len(anomalous)])
    start = np.append(np.full(p, 0.5), 0.0)
    weights = start.copy()
    penalty = np.append(np.full(p, RIDGE), 0.0)
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-np.clip(rows @ weights, -50, 50)))
        gradient = rows.T @ (chance - truth) + penalty * (weights - start)
        curvature = (rows * (chance * (1 - chance) + 1e-9)[:, None]).T @ rows + np.diag(penalty)
        free = np.append((weights[:p] > 0) | (gradient[:p] < 0), True)
        before = weights.copy()
        weights[free] -= np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        weights[:p] = np.maximum(weights[:p], 0)
        if np.abs(weights - before).max() < 1e-9:
            break
    total = weights[:p].sum()
    return weights[:p] * (p / total) if total > 0 else np.ones(p)
