"""The map of a run: where each image is in a plane, by its embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..folder import RunFolder
from ..review.photographs import audited_embeddings

POINTS = 5000
"""At most so many images are on the map: those shown one by one, and a random sample."""
STEPS = 1000
"""Coordinates are whole numbers from 0 to this."""
LEAST_FOR_UMAP = 16
"""UMAP looks at 15 neighbours of each image."""


def map_points(
    run: RunFolder, shown: np.ndarray, number: Callable[[str], int | None]
) -> dict[str, Any] | None:
    """Columns of the points of the map: x, y, at, class and rank.

    `at` is the place among the images shown one by one, whose positions are `shown` int64, or -1;
    `class` is the `number` of a class's name. None where the run's embeddings are not at hand, or
    there are fewer than three images.
    """
    stored = audited_embeddings(run)
    table = run.columns(["row", "rank", "label", "nearest_class"])
    n = len(table)
    if stored is None or n < 3:
        return None
    others = np.setdiff1d(np.arange(n), shown)
    room = max(0, POINTS - len(shown))
    if len(others) > room:
        others = np.sort(np.random.default_rng(0).choice(others, room, replace=False))
    chosen = np.concatenate([shown, others])
    vectors = stored.vectors[stored.places(table["row"].to_numpy())[chosen]]
    method, places = _plane(vectors)
    low, high = places.min(axis=0), places.max(axis=0)
    steps = np.rint(STEPS * (places - low) / np.maximum(high - low, 1e-12)).astype(int)
    some = table.take(chosen)
    names = zip(some["label"].to_pylist(), some["nearest_class"].to_pylist(), strict=True)
    return {
        "method": method,
        "images": n,
        "x": steps[:, 0].tolist(),
        "y": steps[:, 1].tolist(),
        "at": [*range(len(shown)), *[-1] * len(others)],
        "class": [number(label or near) for label, near in names],
        "rank": some["rank"].to_pylist(),
    }


def _plane(vectors: np.ndarray) -> tuple[str, np.ndarray]:
    """How, and float64 [n, 2]: by UMAP where it is installed, else on the principal components."""
    try:
        import umap
    except ImportError:
        umap = None
    if umap is None or len(vectors) < LEAST_FOR_UMAP:
        return "PCA", principal_plane(vectors)
    return "UMAP", umap.UMAP(metric="cosine", random_state=0).fit_transform(vectors)


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """float64 [n, 2], the coordinates of rows [n, d] on their first two principal components.

    Each component points to where its largest entry is positive, so that a map is not mirrored.
    """
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    plane = centred @ axes
    return plane if plane.shape[1] == 2 else np.column_stack([plane, np.zeros(len(plane))])
