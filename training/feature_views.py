"""Views made of an embedding alone: noise and lost coordinates. Ours."""

from __future__ import annotations

import numpy as np


def feature_views(
    rows: np.ndarray, noise: float, dropout: float, rng: np.random.Generator
) -> np.ndarray:
    """float32 [n, d], one random view of each unit row: normalise(mask ∘ x + noise·ε/√d).

    ε is standard normal, so the noise has a length of about `noise`; every coordinate of x is lost
    with chance `dropout`. A view of nothing but lost coordinates and no noise stays x.
    """
    kept = rng.random(rows.shape, np.float32) >= dropout
    moved = rows * kept
    moved += np.float32(noise / np.sqrt(rows.shape[1])) * rng.standard_normal(
        rows.shape, np.float32
    )
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.where(length > 1e-6, moved / np.maximum(length, 1e-6), rows).astype(np.float32)
