"""OECL again in float64, one pair and one row at a time, from the formulas alone."""

from __future__ import annotations

import math

import numpy as np


def nt_xent(first, second, temperature):
    """Mean over all 2n views of -log(e^{own partner} / sum over the 2n - 1 others)."""
    views = [row / math.sqrt((row**2).sum()) for row in [*first, *second]]
    n, total = len(first), 0.0
    for i, view in enumerate(views):
        weights = {
            j: math.exp(float(view @ other) / temperature)
            for j, other in enumerate(views)
            if j != i
        }
        total -= math.log(weights[(i + n) % (2 * n)] / sum(weights.values()))
    return total / (2 * n)


def mean_length(rows):
    return sum(math.sqrt((row**2).sum()) for row in rows) / len(rows)


def floor_hinge(rows, floor):
    return sum(max(0.0, floor - math.sqrt((row**2).sum())) for row in rows) / len(rows)


def feature_length(head, views):
    """‖mean over views of second·max(0, first·x + first_bias) + second_bias‖ of one image."""
    total = np.zeros(len(head["second_bias"]))
    for x in views.astype(float):
        hidden = [
            max(0.0, float(row.astype(float) @ x) + float(bias))
            for row, bias in zip(head["first"], head["first_bias"], strict=True)
        ]
        total += head["second"].astype(float) @ np.array(hidden) + head["second_bias"]
    return math.sqrt(((total / len(views)) ** 2).sum())


def knn_ratio(x, normals, outliers):
    def nearest(rows):
        return min(math.sqrt(((x.astype(float) - row) ** 2).sum()) for row in rows)

    return nearest(normals) / max(nearest(outliers), 1e-12)


def log_loss(weights, bias, normals, outliers, ridge):
    """The objective of the logistic baseline, on coordinates standardised over all rows."""
    rows = np.concatenate([normals, outliers]).astype(float)
    scale = rows.std(axis=0)
    odds = rows @ weights + bias
    n = len(normals)
    normal = np.mean([math.log1p(math.exp(value)) for value in odds[:n]])
    outlier = np.mean([math.log1p(math.exp(-value)) for value in odds[n:]])
    return (normal + outlier) / 2 + ridge / 2 * ((weights * scale) ** 2).sum()
