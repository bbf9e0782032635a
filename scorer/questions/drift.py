"""Drift: which captions new images resemble that old ones did not, and the other way round.

Of n images, old and new together, each retrieves k captions. With the mean m and covariance Σ of
all of them, the similarity of an image x to a caption d is standardised as in a class,

    z(x, d) = (x·d - m·d)/√(dᵀΣd)

and the 5 captions of largest z are the image's. They depend on both sets as one, so they stay when
images change sides. A caption that N of the n images have, a of them among the n₁ new ones, has
under random membership a hypergeometric count: of X ~ H(n, N, n₁)

    p_gained = P(X >= a)    p_lost = P(X <= a)    p = min(1, 2·min(p_gained, p_lost))

exactly; within classes X is the sum of one such count for each class. q adjusts p over the captions
that at least 5 images have (Benjamini and Hochberg, J. R. Stat. Soc. B 1995). One p-value for
everything: with T the smallest p of any of these captions, and T_b after new membership was drawn
at random (within classes) for the b-th of B times,

    p_all = (1 + #{b: T_b <= T})/(1 + B)

Every p comes from a table by integer counts, so equal counts tie, and ties count. If m images show
something new, no p of its caption is below P(X >= m) for N = m, about (n₁/n)^m.

    >>> import numpy as np
    >>> captions = np.array([[0], [0], [0], [0], [1], [1], [1], [1]])
    >>> found = count_captions(captions, np.arange(8) >= 4, least=4)
    >>> found.text.tolist(), found.new.tolist(), found.p_gained.round(4).tolist()
    ([0, 1], [0, 4], [1.0, 0.0143])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ...indexer.vectors import Rows, slices
from ..bliss import Retrieved
from ..calibration import benjamini_hochberg
from ..moments import add_images, empty_moments
from ..statistics import text_statistics

CAPTIONS_AN_IMAGE = 5
LEAST_IMAGES = 5
"""Captions of fewer images are not tested."""
TIE = 1 + 1e-9
"""p-values this close are of equal counts in another order of summation."""
_IMAGES_AT_ONCE = 65_536


def largest_captions(
    images: Rows, retrieved: Retrieved, count: int = CAPTIONS_AN_IMAGE
) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n, c], rows of the captions of largest z of each image, and float64 [n, c], their z.

    `images` [n, d] are unit rows of both sets; c is `count`, or k where that is less.
    """
    n, k = retrieved.similarity.shape
    dimension = images[:1].shape[1]
    moments = add_images(empty_moments(("all",), dimension), images, np.zeros(n, np.int64))
    mean, std = text_statistics(moments, retrieved.vectors)
    rows, z = np.empty((n, min(count, k)), np.int64), np.empty((n, min(count, k)))
    for some in slices(n, _IMAGES_AT_ONCE):
        at = retrieved.position[some]
        value = (retrieved.similarity[some] - mean[0][at]) / (std[0][at] + 1e-8)
        order = np.lexsort((retrieved.rows[some], -value), axis=1)[:, : rows.shape[1]]
        rows[some] = np.take_along_axis(retrieved.rows[some], order, axis=1)
        z[some] = np.take_along_axis(value, order, axis=1)
    return rows, z


@dataclass(frozen=True)
class CaptionCounts:
    """u captions that were seen, in how many images of each set, and how surprising that is."""

    text: np.ndarray
    """int64 [u], rows of the caption index, ascending."""
    old: np.ndarray
    """int64 [u], old images that have the caption."""
    new: np.ndarray
    """int64 [u]."""
    expected: np.ndarray
    """float64 [u], new images expected where membership does not matter."""
    p_gained: np.ndarray
    """float64 [u], the chance of so many new images or more."""
    p_lost: np.ndarray
    """float64 [u], the chance of so few or fewer."""
    tested: np.ndarray
    """bool [u], seen in enough images."""
    q: np.ndarray
    """float64 [u], of the two-sided p-value; NaN where not tested."""
    p: float
    """Of all captions together; 1 where none is tested. NaN without permutations."""
    permutations: int

    @property
    def gained(self) -> np.ndarray:
        """bool [u], whether there are more new images than expected."""
        return self.new > self.expected

    @property
    def two_sided(self) -> np.ndarray:
        """float64 [u], the p-value of a change in either direction."""
        return np.minimum(1, 2 * np.minimum(self.p_gained, self.p_lost))

    def order(self, gained: bool) -> np.ndarray:
        """int64 [w], the captions that gained, or lost, the largest excess √a - √(b·r) first.

        a and b are the images of the set that has more and of the other one, r the ratio of their
        expected numbers. The root makes excesses of rare and of frequent captions comparable.
        """
        found = np.flatnonzero(self.gained if gained else self.new < self.expected)
        old, new, expected = self.old[found], self.new[found], self.expected[found]
        ratio = expected / np.maximum(old + new - expected, 1e-12)
        more, fewer = (new, old * ratio) if gained else (old, new / np.maximum(ratio, 1e-12))
        excess = np.sqrt(more) - np.sqrt(fewer)
        p = (self.p_gained if gained else self.p_lost)[found]
        return found[np.lexsort((self.text[found], p, -excess))]


def count_captions(
    captions: np.ndarray,
    is_new: np.ndarray,
    groups: np.ndarray | None = None,
    permutations: int = 0,
    *,
    least: int = LEAST_IMAGES,
    seed: int = 0,
) -> CaptionCounts:
    """Count the captions int64 [n, c] of each image in both sets, and test them.

    `is_new` bool [n]; membership is permuted within `groups` int [n], such as classes (None: all of
    one). No caption is twice in a row. Raises UsageError where one of the sets is empty.
    """
    n = len(captions)
    if not 0 < int(is_new.sum()) < n:
        raise UsageError(
            f"{n - int(is_new.sum()):,} old and {int(is_new.sum()):,} new images were given",
            "at least one of each",
            "Give two collections",
        )
    text, number = np.unique(captions, return_inverse=True)
    number = number.reshape(captions.shape)
    group = np.zeros(n, np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes, news = np.bincount(group), np.bincount(group, is_new).astype(np.int64)
    seen = np.bincount(number.ravel(), minlength=len(text))
    new = np.bincount(number[is_new].ravel(), minlength=len(text))
    tables = _Tables(number, group, sizes, news, len(text))
    start = tables.starts[:-1]
    p_gained, p_lost = tables.gained[start + new], tables.lost[start + new]
    tested = seen >= least
    q = np.full(len(text), np.nan)
    both = np.minimum(1, 2 * np.minimum(tables.gained, tables.lost))
    q[tested] = benjamini_hochberg(both[start + new][tested])
    p = math.nan if not permutations else 1.0
    if permutations and tested.any():
        smallest = both[start + new][tested].min()
        rng = np.random.default_rng(seed)
        reached = 0
        order = np.argsort(group, kind="stable")
        for _ in range(permutations):
            drawn = number[_drawn(rng, order, group, sizes, news)]
            counts = np.bincount(drawn.ravel(), minlength=len(text))
            reached += both[(start + counts)[tested]].min() <= smallest * TIE
        p = (1 + reached) / (1 + permutations)
    return CaptionCounts(
        text, seen - new, new, tables.expected, p_gained, p_lost, tested, q, float(p), permutations
    )


def _drawn(
    rng: np.random.Generator,
    order: np.ndarray,
    group: np.ndarray,
    sizes: np.ndarray,
    news: np.ndarray,
) -> np.ndarray:
    """int64 [n₁], images that are new in one permutation: as many of each group as there are."""
    if len(sizes) == 1:
        return rng.permutation(len(order))[: news[0]]
    shuffled = order[np.lexsort((rng.random(len(order)), group[order]))]
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return shuffled[place < np.repeat(news, sizes)]


class _Tables:
    """The two p-values of every count that a caption's new images can have.

    Entry `starts[c] + a` of `gained` and `lost` is for a new images of caption c.
    """

    def __init__(
        self,
        number: np.ndarray,
        group: np.ndarray,
        sizes: np.ndarray,
        news: np.ndarray,
        count: int,
    ) -> None:
        keys, seen = np.unique(
            number.astype(np.int64) * len(sizes) + group[:, None], return_counts=True
        )
        caption, at = np.divmod(keys, len(sizes))
        totals = np.bincount(caption, seen, minlength=count).astype(np.int64)
        self.expected = np.bincount(caption, seen * news[at] / sizes[at], minlength=count)
        self.starts = np.concatenate([[0], np.cumsum(totals + 1)])
        self.gained, self.lost = np.ones(self.starts[-1]), np.ones(self.starts[-1])
        logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(number) + 1)))])
        first = np.searchsorted(caption, np.arange(count + 1))
        known: dict[tuple[tuple[int, int], ...], tuple[np.ndarray, np.ndarray]] = {}
        for c in range(count):
            here = slice(first[c], first[c + 1])
            parts = tuple(zip(at[here].tolist(), seen[here].tolist(), strict=True))
            if len(sizes) == 1:
                parts = ((0, int(totals[c])),)
            if parts not in known:
                chance = np.ones(1)
                for g, many in parts:
                    each = hypergeometric(int(sizes[g]), many, int(news[g]), logs)
                    chance = np.convolve(chance, each)
                up = np.minimum(1, np.cumsum(chance[::-1])[::-1])
                known[parts] = up, np.minimum(1, np.cumsum(chance))
            some = slice(self.starts[c], self.starts[c + 1])
            self.gained[some], self.lost[some] = known[parts]


def hypergeometric(
    count: int, marked: int, drawn: int, logs: np.ndarray | None = None
) -> np.ndarray:
    """float64 [marked + 1], the chance of 0, 1, … marked ones among `drawn` of `count`.

    `logs` are log 0!, log 1!, …, log count!, which are computed where they are not given.
    """
    if logs is None:
        logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    x = np.arange(max(0, drawn + marked - count), min(marked, drawn) + 1)
    chance = np.zeros(marked + 1)
    chance[x] = np.exp(
        logs[marked] - logs[x] - logs[marked - x]
        + logs[count - marked] - logs[drawn - x] - logs[count - marked - drawn + x]
        - logs[count] + logs[drawn] + logs[count - drawn]
    )  # fmt: skip
    return chance / chance.sum()


def smallest_p(old: int, new: int, images: int) -> float:
    """The smallest one-sided p-value of a caption that `images` images have, all of them new."""
    if images > new:
        return math.nan
    numbers = np.arange(images)
    return float(np.exp(np.log((new - numbers) / (old + new - numbers)).sum()))


def images_needed(old: int, new: int, p: float) -> int | None:
    """How many new images of something new a p-value of at most `p` takes; None: more than new."""
    total = 0.0
    for number in range(new):
        total += math.log((new - number) / (old + new - number))
        if total <= math.log(p) + 1e-12:
            return number + 1
    return None


@dataclass(frozen=True)
class ShareShift:
    """How the share of each of C classes differs between two sets."""

    old: np.ndarray
    """int64 [C], images."""
    new: np.ndarray
    """int64 [C]."""
    p: np.ndarray
    """float64 [C], two-sided, hypergeometric."""
    q: np.ndarray
    """float64 [C]."""


def shifted_shares(groups: np.ndarray, is_new: np.ndarray) -> ShareShift:
    """Test each class of `groups` int [n], 0 to C - 1, for its share of the new images."""
    count = int(groups.max(initial=-1)) + 1
    total, new = np.bincount(groups, minlength=count), np.bincount(groups[is_new], minlength=count)
    n, drawn = len(groups), int(is_new.sum())
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    p = np.ones(count)
    for c in range(count):
        chance = hypergeometric(n, int(total[c]), drawn, logs)
        p[c] = min(1, 2 * min(chance[: new[c] + 1].sum(), chance[new[c] :].sum()))
    return ShareShift(total - new, new, p, benjamini_hochberg(p))
