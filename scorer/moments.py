"""Moments: count, mean and scatter of the reference embeddings of each class.

For a class c of n unit rows x with mean m and scatter S, the similarity of its images to any text
vector d has mean and variance (population, ddof 0)

    μ_{c,d} = m·d    σ²_{c,d} = dᵀ(S/n)d,    m = Σx/n    S = Σ(x - m)(x - m)ᵀ

so the moments serve every corpus. They are exact under adding, merging and removing images, in any
order (Chan, Golub and LeVeque 1983): for two sets with means m₁, m₂ and a = m₂ - m₁

    m = m₁ + a·n₂/n    S = S₁ + S₂ + a aᵀ·n₁n₂/n

While a class has at most d images its centred rows are kept in place of the d x d scatter: they
are smaller, and already a factor of it.

    >>> import numpy as np
    >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> moments = fit_moments(("cup",), rows, np.zeros(3, int))
    >>> moments.parts[0].count, moments.parts[0].mean.round(3).tolist()
    (3, [0.533, 0.6])
    >>> scatter_of(moments.parts[0]).round(3).tolist()
    [[0.507, -0.48], [-0.48, 0.56]]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..arguments import checked, checked_arrays
from ..errors import BlissError
from ..indexer.vectors import Rows, slices

ROWS_AT_ONCE = 16_384
"""Images of one class that are read and added together."""


@dataclass(frozen=True)
class ClassMoments:
    """One class: `count` n, `mean` float64 [d], and either centred rows or their scatter."""

    count: int
    mean: np.ndarray
    centred: np.ndarray | None
    """float64 [n, d], rows minus their mean, while n <= d; else None."""
    scatter: np.ndarray | None
    """float64 [d, d], sum of outer products of the centred rows, once n > d; else None."""


@dataclass(frozen=True)
class Moments:
    """The moments of every class, `parts[c]` for `classes[c]`."""

    classes: tuple[str, ...]
    parts: tuple[ClassMoments, ...]

    @property
    def counts(self) -> np.ndarray:
        """int64 [C], reference images in each class."""
        return np.array([part.count for part in self.parts], np.int64)

    @property
    def dimension(self) -> int:
        """d, the length of an embedding."""
        return self.parts[0].mean.shape[0] if self.parts else 0


def empty_moments(classes: Iterable[str], dimension: int) -> Moments:
    """Moments of C classes without images."""
    names = tuple(classes)
    nothing = ClassMoments(0, np.zeros(dimension), np.zeros((0, dimension)), None)
    return Moments(names, (nothing,) * len(names))


@checked_arrays(vectors=("images",), numbers=("labels",))
def fit_moments(classes: Iterable[str], images: np.ndarray, labels: np.ndarray) -> Moments:
    """Moments of unit rows `images` [n, d] whose class numbers are `labels` int [n]."""
    return add_images(empty_moments(classes, images.shape[1]), images, labels)


def add_images(moments: Moments, images: Rows, labels: np.ndarray) -> Moments:
    """Moments after adding unit rows `images` [n, d] to the classes `labels` int [n].

    Rows on disk are read class by class, ROWS_AT_ONCE at a time. Raises BlissError for labels or
    vectors that do not fit the moments, and for vectors that are not finite.
    """
    _check_labels(moments, images, labels)
    if not len(labels):
        return moments
    parts = list(moments.parts)
    order = np.argsort(labels, kind="stable")
    numbers, starts = np.unique(labels[order], return_index=True)
    for number, members in zip(numbers, np.split(order, starts[1:]), strict=True):
        for few in slices(len(members), ROWS_AT_ONCE):
            parts[number] = merge_class(parts[number], _moments_of(images[members[few]]))
    return replace(moments, parts=tuple(parts))


@checked
def merge(first: Moments, second: Moments) -> Moments:
    """Moments of the union of two disjoint sets of images; classes are matched by name.

    Raises BlissError for different dimensions, or where two classes of one set have the same name.
    """
    if first.parts and second.parts and first.dimension != second.dimension:
        raise BlissError(
            f"moments of {first.dimension} and of {second.dimension} dimensions were given",
            "embeddings of one model",
            "Fit both references with the same model",
        )
    for classes in (first.classes, second.classes):
        if len(set(classes)) < len(classes):
            repeated = next(name for name in classes if classes.count(name) > 1)
            raise BlissError(
                f"two classes of one reference are both named '{repeated}'",
                "a name of its own for every class, since classes are matched by name",
                "Rename one of them",
            )
    parts = dict(zip(first.classes, first.parts, strict=True))
    for name, part in zip(second.classes, second.parts, strict=True):
        parts[name] = merge_class(parts[name], part) if name in parts else part
    return Moments(tuple(parts), tuple(parts.values()))


def merge_class(first: ClassMoments, second: ClassMoments) -> ClassMoments:
    """Moments of the union of two sets of images of one class (Chan, Golub and LeVeque 1979)."""
    if first.count == 0:
        return second
    if second.count == 0:
        return first
    count = first.count + second.count
    mean = first.mean + (second.mean - first.mean) * (second.count / count)
    if first.centred is not None and second.centred is not None and count <= mean.size:
        centred = np.concatenate(
            [first.centred + (first.mean - mean), second.centred + (second.mean - mean)]
        )
        return ClassMoments(count, mean, centred, None)
    apart = second.mean - first.mean
    between = np.outer(apart, apart) * (first.count * second.count / count)
    return ClassMoments(count, mean, None, scatter_of(first) + scatter_of(second) + between)


@checked_arrays(vectors=("images",), numbers=("labels",))
def remove_images(moments: Moments, images: np.ndarray, labels: np.ndarray) -> Moments:
    """Moments after removing `images` [n, d] from the classes `labels` int [n] they are in.

    Raises BlissError, naming the class, for an image that is not in it.
    """
    _check_labels(moments, images, labels)
    parts = list(moments.parts)
    for image, number in zip(images, labels, strict=True):
        parts[number] = _remove_one(parts[number], image, moments.classes[number])
    return replace(moments, parts=tuple(parts))


def scatter_of(part: ClassMoments) -> np.ndarray:
    """float64 [d, d], S of one class: n times its population covariance."""
    if part.scatter is not None:
        return part.scatter
    assert part.centred is not None
    return part.centred.T @ part.centred


def _moments_of(images: np.ndarray) -> ClassMoments:
    rows = images.astype(np.float64)
    mean = rows.mean(axis=0)
    if not np.isfinite(mean).all():
        raise BlissError(
            "an image to add holds NaN or infinity",
            "finite embeddings",
            "Leave it out, or embed it again",
        )
    rows -= mean
    if len(rows) <= mean.size:
        return ClassMoments(len(rows), mean, rows, None)
    return ClassMoments(len(rows), mean, None, rows.T @ rows)


def _remove_one(part: ClassMoments, image: np.ndarray, name: str) -> ClassMoments:
    apart = image.astype(np.float64) - part.mean
    if part.count == 0 or not np.isfinite(apart).all():
        raise _not_a_member(name)
    left = part.count - 1
    if part.centred is not None:
        distance = np.abs(part.centred - apart).max(axis=1)
        found = int(distance.argmin())
        if distance[found] > 1e-9:
            raise _not_a_member(name)
        rest = np.delete(part.centred, found, axis=0)
        shift = rest.mean(axis=0) if left else np.zeros_like(part.mean)
        mean = part.mean + shift if left else shift
        return ClassMoments(left, mean, rest - shift, None)
    assert part.scatter is not None
    # Without the rows, an image not in the class only shows where a variance turns negative.
    scatter = part.scatter - np.outer(apart, apart) * (part.count / left)
    if np.any(np.diag(scatter) < -1e-9 * np.trace(part.scatter)):
        raise _not_a_member(name)
    mean = part.mean - apart / left
    if left == 1:
        # The one image that remains is the mean, without scatter: keep a row again.
        if np.abs(scatter).max() > 1e-6:
            raise _not_a_member(name)
        return ClassMoments(1, mean, np.zeros((1, mean.size)), None)
    return ClassMoments(left, mean, None, scatter)


def _not_a_member(name: str) -> BlissError:
    return BlissError(
        f"an image to remove is not in class '{name}'",
        "an image that was added to that class, with the same embedding",
        "Remove only what was added",
    )


def _check_labels(moments: Moments, images: Rows, labels: np.ndarray) -> None:
    count = len(moments.classes)
    if len(labels) != len(images) or (
        len(labels) and not 0 <= labels.min() <= labels.max() < count
    ):
        raise BlissError(
            f"{len(labels)} class numbers were given for {len(images)} images and {count} classes",
            f"one class number from 0 to {count - 1} for every image",
            "Check the labels",
        )
    dimension = images[:1].shape[1]
    if dimension != moments.dimension:
        raise BlissError(
            f"embeddings of {dimension} dimensions were given",
            f"{moments.dimension} dimensions, as the reference has",
            "Embed both with the same model",
        )
