"""Groups among a few images: average linkage on cosine distance, cut at the best silhouette.

Vectors are first centred on the mean of the whole collection, because embeddings of one encoder
share a large common part that hides the differences between kinds. The tree is average linkage
(Sokal and Michener 1958). The number of groups is the cut of the tree with the best mean silhouette
(Rousseeuw 1987).
"""

from __future__ import annotations

import numpy as np

MOST_IMAGES = 2000
"""More images are not grouped: the distances of n images take 8·n² bytes."""
MOST_GROUPS = 60
"""The largest number of groups that is tried."""
LEAST_SILHOUETTE = 0.25
"""Below this mean silhouette at every cut, all images make one group."""


def cosine_distances(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """float64 [n, n], 1 - cosine of rows [n, d] after subtracting `centre` [d]; zero diagonal.

    A row equal to the centre is at distance 1 from every other.
    """
    moved = np.asarray(vectors, np.float64) - centre
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    unit = np.divide(moved, lengths, out=np.zeros_like(moved), where=lengths > 0)
    distance = np.clip(1 - unit @ unit.T, 0, 2)
    np.fill_diagonal(distance, 0)
    return distance


def silhouette(distance: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [n], (b - a)/max(a, b): a the mean distance to its own cluster's others, b to the
    nearest other cluster; 0 for an image alone in its cluster. Two clusters at least."""
    count = labels.max() + 1
    sizes = np.bincount(labels, minlength=count)
    mean = distance @ np.eye(count)[labels]
    here = np.arange(len(labels))
    own = mean[here, labels] / np.maximum(sizes[labels] - 1, 1)
    mean /= sizes
    mean[here, labels] = np.inf
    other = mean.min(axis=1)
    widest = np.maximum(own, other)
    found = np.divide(other - own, widest, out=np.zeros(len(own)), where=widest > 0)
    return np.where(sizes[labels] > 1, found, 0.0)


def group_images(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """int64 [n], the group of each of `vectors` [n, d]: 0 is the largest, equal ones by first row.

    `centre` [d] is the mean of the whole collection. One group where no cut is better than
    LEAST_SILHOUETTE. n is at most MOST_IMAGES.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    n = len(vectors)
    if n < 3:
        return np.zeros(n, np.int64)
    distance = cosine_distances(vectors, centre)
    tree = linkage(squareform(distance, checks=False), "average")
    best, labels = LEAST_SILHOUETTE, np.zeros(n, np.int64)
    for found in cut_tree(tree, range(2, min(MOST_GROUPS, n - 1) + 1)).T:
        value = float(silhouette(distance, found).mean())
        if value > best:
            best, labels = value, found
    return by_size(labels)


def by_size(labels: np.ndarray) -> np.ndarray:
    """The same groups, numbered from the largest; equal sizes by their first member."""
    _, first, labels, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    number = np.empty(len(sizes), np.int64)
    number[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return number[labels]
