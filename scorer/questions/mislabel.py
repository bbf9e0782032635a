"""Is an image filed under the right class? Its own class against the best other one.

For image x and class c with prompt t_c and mean direction m̂_c (the mean of its images' unit rows,
scaled to length 1; without x where x is one of them):

    closeness_c(x) = x·t_c + ½·x·m̂_c
    margin(x)      = (largest closeness of another class) - (closeness of its own)

so the margin is positive where another class suits better. Of the evidence compared
(ICS, ETS, BLISS's sum, either cosine, standardised sums) this sum found planted swaps best:
docs/mislabel.md. The ½ was chosen on some draws and confirmed on others; 0.2 to 0.5 differ little.

The margin finds images that another class suits, BLISS's ICS + λ·ETS of the class an image is filed
under finds those that do not suit their own, and `apart_from_class` those that no image of it is
near. `merged_order` reads all at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...indexer.vectors import Rows, slices
from ..leave_one_out import LeftOut
from ..moments import Moments
from ..reference import Reference
from ..statistics import check_counts

MEAN_WEIGHT = 0.5
"""Weight of the cosine to the class's images beside the cosine to its prompt."""

TEMPERATURE = 0.05
"""Margin at which `label_quality` has fallen to 1/(1 + e)."""

ORDER_WEIGHT = 2.0
"""Weight of the margin in `merged_order`, one more beside `apart_from_class`: chosen on some draws,
confirmed on others."""
NEIGHBOURS, CANDIDATES = 3, 2000
"""Nearest images of its class that an image is compared with, among so many of it at most."""

CHUNK_ENTRIES = 4_000_000
"""Entries of the largest array of one chunk of images, of C or d columns: 32 MB."""


@dataclass(frozen=True)
class LabelMargins:
    """How well each of n images suits the class it is filed under; higher margin = worse."""

    given: np.ndarray
    """int64 [n], the class it is filed under, -1 for none."""
    predicted: np.ndarray
    """int64 [n], the class of largest closeness; the given one where they are equal."""
    margin: np.ndarray
    """float64 [n], best other closeness minus own, at most 3; NaN without a given class."""
    cosine_margin: np.ndarray
    """float64 [n], the same with plain prompt cosines."""

    @property
    def quality(self) -> np.ndarray:
        """float64 [n] in [0, 1], 1/(1 + exp(margin/0.05)): falls as the margin rises, ½ at 0."""
        return 1 / (1 + np.exp(self.margin / TEMPERATURE))

    @property
    def is_issue(self) -> np.ndarray:
        """bool [n], whether another class suits better (margin > 0)."""
        return self.margin > 0


def label_margins(
    images: Rows, reference: Reference, given: np.ndarray, left_out: LeftOut
) -> LabelMargins:
    """Margins of unit rows `images` [n, d] filed under the classes `given` int [n], -1 for none.

    `left_out` names the images that are themselves in the reference. Raises BlissError naming a
    class that has no image, or only the one that is left out of it.
    """
    check_counts(reference.moments, needed=1)
    n, moments = len(images), reference.moments
    for number in np.unique(left_out.classes):
        part, name = moments.parts[number], moments.classes[number]
        check_counts(Moments((name,), (part,)), needed=2)
    means = np.stack([part.mean for part in moments.parts])
    lengths = np.linalg.norm(means, axis=1)
    prompts = reference.prompt_vectors.astype(np.float64)
    found = LabelMargins(
        given.astype(np.int64), np.empty(n, np.int64), np.empty(n), np.full(n, np.nan)
    )
    left_out = left_out.ascending
    who, where = left_out.images, left_out.classes
    for chunk in slices(n, CHUNK_ENTRIES // max(means.shape)):
        rows = images[chunk].astype(np.float64)
        cosine = rows @ prompts.T
        to_mean = rows @ (means / np.maximum(lengths, 1e-300)[:, None]).T
        pairs = slice(*np.searchsorted(who, [chunk.start, chunk.stop]))
        i, c = who[pairs] - chunk.start, where[pairs]
        to_mean[i, c] = _without_itself(rows[i], means[c], moments.counts[c])
        closeness = cosine + MEAN_WEIGHT * to_mean
        found.predicted[chunk] = _largest(closeness, given[chunk])
        found.margin[chunk] = _margin(closeness, given[chunk])
        found.cosine_margin[chunk] = _margin(cosine, given[chunk])
    return found


def _without_itself(rows: np.ndarray, means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float64 [p], cosine of each row to the mean of its class's other images."""
    others = counts[:, None] * means - rows
    lengths = np.maximum(np.linalg.norm(others, axis=1), 1e-300)
    return np.einsum("pd,pd->p", rows, others) / lengths


def _margin(closeness: np.ndarray, given: np.ndarray) -> np.ndarray:
    """float64 [b], best other minus own of [b, C]; NaN where `given` is -1."""
    here = np.flatnonzero(given >= 0)
    margin = np.full(len(closeness), np.nan)
    own = closeness[here, given[here]]
    others = closeness[here].copy()
    others[np.arange(len(here)), given[here]] = -np.inf
    margin[here] = others.max(axis=1) - own
    return margin


def _largest(closeness: np.ndarray, given: np.ndarray) -> np.ndarray:
    """int64 [b], the class of largest closeness; of equal ones the given, then the lowest."""
    best = closeness.argmax(axis=1)
    here = np.flatnonzero(given >= 0)
    keep = closeness[here, given[here]] >= closeness[here, best[here]]
    best[here[keep]] = given[here[keep]]
    return best


def apart_from_class(
    images: Rows, given: np.ndarray, copies: np.ndarray | None = None
) -> np.ndarray:
    """float64 [n], how far unit rows [n, d] are from the nearest others filed under their class.

    That is minus the mean cosine to the NEIGHBOURS nearest, above the median of the class; 0 for
    images without a class (`given` -1) and for classes of one image. Of a class of more than
    CANDIDATES images, so many evenly spaced ones are the others. `copies` int64 [n] are groups of
    copies, -1 for none: a copy says nothing about the class, and is no neighbour.
    """
    apart = np.zeros(len(given))
    for number in np.unique(given[given >= 0]):
        here = np.flatnonzero(given == number)
        others = here[:: -(-len(here) // CANDIDATES)]
        k = min(NEIGHBOURS, len(others) - 1)
        if k < 1:
            continue
        known = np.ascontiguousarray(images[others])
        for start in range(0, len(here), CANDIDATES):
            some = here[start : start + CANDIDATES]
            cosine = images[some] @ known.T
            same = some[:, None] == others
            if copies is not None:
                same |= (copies[some][:, None] == copies[others]) & (copies[others] >= 0)
            cosine[same] = -2
            best = np.partition(cosine, -k, axis=1)[:, -k:].astype(np.float64)
            apart[some] = -(best * (best > -2)).sum(axis=1) / np.maximum(1, (best > -2).sum(axis=1))
        apart[here] -= np.median(apart[here])
    return apart


def merged_order(
    own: np.ndarray, margin: np.ndarray, apart: np.ndarray | None = None
) -> np.ndarray:
    """float64 [n], one order of strays and wrong labels: higher = to be read earlier.

    z(own) + z(apart) + 3·z(margin), or z(own) + 2·z(margin) without `apart`, where z(v) =
    (v - median)/(interquartile range). `own` float64 [n] is ICS + λ·ETS, leave-one-out, of the
    class each image is filed under; `margin` [n] as `label_margins` and `apart` [n] as
    `apart_from_class` have it. An image without a label has no margin (NaN): that of the median
    image.
    """
    labelled = margin[~np.isnan(margin)]
    middle = float(np.median(labelled)) if len(labelled) else 0.0
    doubt = _robust_z(np.nan_to_num(margin, nan=middle))
    if apart is None:
        return _robust_z(own) + ORDER_WEIGHT * doubt
    return _robust_z(own) + _robust_z(apart) + (ORDER_WEIGHT + 1) * doubt


def _robust_z(values: np.ndarray) -> np.ndarray:
    """float64 [n], interquartile ranges above the median; standard deviations where that is 0."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = high - low or values.std() or 1.0
    return (values - middle) / spread
