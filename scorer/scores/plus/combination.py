"""Evidence on one scale, and its weights, from reference images alone.

Each kind of evidence is standardised by its mean and deviation over the reference images, each left
out of its own class. The weights are learnt by leaving out whole classes: without its class, a
reference image is an anomaly of the nearest and hardest kind, and a logistic regression between
such images and the same images as normal ones gives the weights. No anomaly and no test image is
used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RIDGE = 1.0
"""Weight of the penalty in `learnt_weights`."""

CONSTANT = 1e-9
"""Deviation, as a share of the largest value, below which evidence counts as constant."""


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of one kind of evidence over the reference images."""

    mean: float
    std: float


def scale_of(reference: np.ndarray) -> Scale:
    """The scale of evidence [m]; deviation 1 where it is constant up to rounding."""
    std = float(reference.std())
    constant = std <= CONSTANT * float(np.abs(reference).max(initial=0))
    return Scale(float(reference.mean()), 1.0 if constant else std)


def standardised(evidence: np.ndarray, scale: Scale) -> np.ndarray:
    """Evidence in deviations from the reference mean."""
    return (evidence - scale.mean) / scale.std


def beyond(z: np.ndarray, start: float) -> np.ndarray:
    """max(0, z - start): evidence that is 0 for nearly every reference image."""
    return np.maximum(z - start, 0)


def auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """The share of pairs in which evidence [a] is above evidence [m], ties as half."""
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, anomalous, "left") + np.searchsorted(
        ordered, anomalous, "right"
    )
    return float(below.mean() / (2 * len(ordered)))


def learnt_weights(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Non-negative weights [p] of p standardised kinds of evidence, summing to p.

    Those of a ridge logistic regression between `normal` [m, p] and `anomalous` [a, p], shrunk
    towards equal weights, with an intercept: the minimum over w >= 0 and b of

        Σ log(1 + e^z) - y·z + RIDGE/2·‖w - ½‖²,  z = w·x + b,  y = 1 for anomalous rows

    Equal weights where one of the sets is empty or every weight is 0.
    """
    p = normal.shape[1]
    if not len(normal) or not len(anomalous):
        return np.ones(p)
    weights = bounded_minimum(normal, anomalous)[:p]
    return weights * (p / weights.sum()) if weights.any() else np.ones(p)


def bounded_minimum(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """float64 [p + 1], w and b at the minimum that `learnt_weights` states, both sets not empty."""
    from scipy.optimize import minimize
    from scipy.special import expit

    p = normal.shape[1]
    rows = np.concatenate([normal, anomalous])
    rows = np.column_stack([rows, np.ones(len(rows))])
    truth = np.repeat([0.0, 1.0], [len(normal), len(anomalous)])
    start = np.append(np.full(p, 0.5), 0.0)
    ridge = np.append(np.full(p, RIDGE), 0.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits, apart = rows @ weights, weights - start
        value = np.logaddexp(0, logits).sum() - truth @ logits + 0.5 * ridge @ np.square(apart)
        return float(value), rows.T @ (expit(logits) - truth) + ridge * apart

    bounds = [(0, None)] * p + [(None, None)]
    options = {"ftol": 0, "gtol": 1e-9, "maxls": 60}  # as near as rounding allows
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
