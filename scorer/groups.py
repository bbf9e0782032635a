"""Kinds among a few images: average-linkage clusters on cosine, cut where the silhouette is best.

Vectors are first centred on the mean of all images of the collection, because embeddings of one
encoder share a large common part that hides what tells kinds apart. The tree is average linkage
(Sokal and Michener 1958) on cosine distance, made by the nearest-neighbour chain (Murtagh 1983).
The number of groups is the cut of the tree with the best mean silhouette (Rousseeuw 1987).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_IMAGES = 2000
"""More images are not grouped: the distances of n images take 8·n² bytes."""
MOST_GROUPS = 60
"""The most groups that are tried."""
LEAST_SILHOUETTE = 0.25
"""Below this mean silhouette at every cut, all images make one group."""


@dataclass(frozen=True)
class MergeTree:
    """n - 1 merges of n images, lowest first."""

    pairs: np.ndarray
    """int64 [n - 1, 2], an image of each of the two clusters that are merged."""
    heights: np.ndarray
    """float64 [n - 1], mean cosine distance between the two, never falling."""


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


def average_linkage(distance: np.ndarray) -> MergeTree:
    """The merge tree of a symmetric distance matrix [n, n], in O(n²) time."""
    n = len(distance)
    between = np.array(distance, np.float64)
    np.fill_diagonal(between, np.inf)
    sizes = np.ones(n)
    pairs, heights = [], []
    chain: list[int] = []
    for _ in range(n - 1):
        if not chain:
            chain.append(int(np.flatnonzero(sizes)[0]))
        while True:
            last = chain[-1]
            nearest = int(between[last].argmin())
            if len(chain) > 1 and between[last, chain[-2]] <= between[last, nearest]:
                break
            chain.append(nearest)
        a, b = chain.pop(), chain.pop()
        pairs.append((a, b))
        heights.append(between[a, b])
        merged = (sizes[a] * between[a] + sizes[b] * between[b]) / (sizes[a] + sizes[b])
        between[a] = between[:, a] = merged
        between[a, a] = np.inf
        between[b] = between[:, b] = np.inf
        sizes[a], sizes[b] = sizes[a] + sizes[b], 0
    order = np.argsort(heights, kind="stable")
    return MergeTree(
        np.array(pairs, np.int64).reshape(-1, 2)[order], np.array(heights, np.float64)[order]
    )


def cut(tree: MergeTree, count: int) -> np.ndarray:
    """int64 [n], the cluster of each image where the tree has `count` of them, numbered from 0."""
    n = len(tree.pairs) + 1
    of = np.arange(n)
    for a, b in tree.pairs[: n - count]:
        of[of == of[b]] = of[a]
    return np.unique(of, return_inverse=True)[1]


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
    """int64 [n], the group of each of n rows [n, d], the largest group 0, equal ones by first row.

    `centre` [d] is the mean of the whole collection. One group where no cut is better than
    LEAST_SILHOUETTE. n is at most MOST_IMAGES.
    """
    n = len(vectors)
    if n < 3:
        return np.zeros(n, np.int64)
    distance = cosine_distances(vectors, centre)
    tree = average_linkage(distance)
    best, labels = LEAST_SILHOUETTE, np.zeros(n, np.int64)
    for count in range(2, min(MOST_GROUPS, n - 1) + 1):
        found = cut(tree, count)
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
