"""Which reference images to leave out of a refit, and how far two rankings agree.

A collection that is its own reference holds strays and wrong labels, which widen the classes they
are in. Removing the most anomalous share fails: it eats the edges of clean classes. An image is
removed only where two things explain it away:

1. another class suits it better than its own, by BLISS (own-class score with leave-one-out) or by
   plain prompt cosine, and
2. at most one of its ten nearest reference images is filed under its class.

The second condition keeps the hard but right images of overlapping classes. Both were chosen on
some draws and confirmed on others (benchmarks/planted_truth.py). There is one refit, and no class
goes below half of its images or below five.

Strays widen σ along the prompt of the class they are in, more than along captions. Without them ICS
grows, and captions would count less beside it than before. `balanced_weight` gives them a larger λ
in return (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..indexer.vectors import Texts, exact_search, ranks
from .bliss import EPSILON, prompt_statistics
from .reference import Reference
from .statistics import text_statistics

NEIGHBOURS = 10
AGREEING = 1
"""How many of the ten nearest may share the class of an image that is removed all the same."""
LEAST, SHARE = 5, 0.5
"""A class keeps at least five images, and at least half of them."""
KEPT_WIDENING = 1.25
"""By how much strays may widen the classes along captions before λ is lowered for it."""


@dataclass(frozen=True)
class FiledImages:
    """n reference images and what is known about each."""

    vectors: np.ndarray
    """float32 [n, d], unit rows."""
    labels: np.ndarray
    """int64 [n], the class each is filed under."""
    hashes: Texts[str]
    """Content hashes: copies of one image in one class stay or go together."""
    own: np.ndarray
    """float64 [n], BLISS score for that class with leave-one-out."""
    margin: np.ndarray
    """float64 [n], own score minus the lowest other class's."""
    cosine_margin: np.ndarray
    """float64 [n], largest other prompt cosine minus own."""


def explained_images(filed: FiledImages) -> tuple[np.ndarray, int]:
    """bool [n], which images to leave out of the refit, and how many others are explained too and
    stay because their class would keep too few."""
    doubtful = np.flatnonzero((filed.margin > 0) | (filed.cosine_margin > 0))
    out = np.zeros(len(filed.labels), bool)
    if len(doubtful):
        few = agreeing_neighbours(filed.vectors, filed.labels, doubtful) <= AGREEING
        out[doubtful[few]] = True
    leaving = _copies_together(_enough_left(out, filed), filed)
    return leaving, int((out & ~leaving).sum())


def balanced_weight(weight: float, before: Reference, after: Reference, texts: np.ndarray) -> float:
    """λ' for the reference `after` a removal that keeps the balance λ had `before`:

        λ' = λ · (Σ_c σ_c / Σ_c σ'_c) · clip(w, 1, 1.25)/w,  w = Σ_c,d σ_{c,d} / Σ_c,d σ'_{c,d}

    with σ_c and σ'_c the deviation of class c's images along its own prompt, before and after, and
    σ_{c,d} along each of some `texts` [u, d]. A widening w of up to a quarter along captions is not
    taken off: λ is then a little larger than before, which helps where there are strays. A part
    without any deviation left is left out.
    """

    def widening(deviations: Callable[[Reference], np.ndarray]) -> float:
        was, now = (float(deviations(each).sum()) for each in (before, after))
        return was / now if min(was, now) > EPSILON * (1 + len(before.classes)) else 1.0

    weight *= widening(lambda each: 1 / prompt_statistics(each.moments, each.prompt_vectors)[1])
    if not len(texts):
        return weight
    captions = widening(lambda each: text_statistics(each.moments, texts, 1)[1])
    return weight * min(max(captions, 1), KEPT_WIDENING) / captions


def agreeing_neighbours(vectors: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64 [a], how many of the ten images nearest to each of the `rows` [a] have its label.

    Nearest by cosine among all other `vectors` [n, d]; all of them where there are fewer.
    """
    k = min(NEIGHBOURS + 1, len(vectors))
    found = exact_search(vectors[rows], vectors, k).rows
    # The image itself is one of the k, first or among its copies; if not, drop the farthest.
    others = found != rows[:, None]
    others[others.all(axis=1), -1] = False
    agree = labels[found] == labels[rows][:, None]
    return (agree & others).sum(axis=1)


def _enough_left(out: np.ndarray, filed: FiledImages) -> np.ndarray:
    """`out` with the images of lowest own score put back where a class would lose too many."""
    kept = out.copy()
    for number in np.unique(filed.labels[out]):
        members = np.flatnonzero(filed.labels == number)
        needed = min(len(members), max(LEAST, int(np.ceil(SHARE * len(members)))))
        leaving = members[out[members]]
        back = needed - (len(members) - len(leaving))
        if back > 0:
            order = np.argsort(filed.own[leaving], kind="stable")
            kept[leaving[order[:back]]] = False
    return kept


def _copies_together(out: np.ndarray, filed: FiledImages) -> np.ndarray:
    """`out` without the images of which a copy in the same class stays."""
    filing = ranks(filed.hashes) * (1 + filed.labels.max(initial=0)) + filed.labels
    return ~np.isin(filing, filing[~out])


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two lists of scores [n]; 1 where one of them is constant."""
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 1.0
    return float(spearmanr(first, second).statistic)


def top_in_common(first: np.ndarray, second: np.ndarray, count: int) -> int:
    """How many of the `count` highest of [n] are the same; of equal ones the first count."""
    one, other = (np.argsort(-scores, kind="stable")[:count] for scores in (first, second))
    return len(np.intersect1d(one, other))
