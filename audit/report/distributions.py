"""How the scores of a run are spread, over all images and in each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...indexer.text_column import Texts, distinct_texts, numbers_of

BINS = 48
LOWEST = 0.005
"""The share of lowest scores that the first bin takes in, so that they do not stretch the rest."""


@dataclass(frozen=True)
class Spread:
    """The scores of one class, or of all images."""

    name: str | None
    """The class, None for images without one."""
    images: int
    flagged: int
    bins: np.ndarray
    """int64 [BINS], images in each bin."""
    quartiles: tuple[float, float, float, float, float]
    """Least, lower quartile, median, upper quartile, greatest."""


def bin_edges(scores: np.ndarray) -> np.ndarray:
    """float64 [BINS + 1], equal steps from near the lowest score to the highest."""
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return np.linspace(0, 1, BINS + 1)
    low, high = float(np.quantile(finite, LOWEST)), float(finite.max())
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def spread_of(
    name: str | None, scores: np.ndarray, flagged: np.ndarray, edges: np.ndarray
) -> Spread:
    """The spread of the scores float64 [m]; `flagged` bool [m]; scores beyond the edges count in
    the first or last bin."""
    inside = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, BINS - 1)
    least, lower, median, upper, greatest = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return Spread(
        name,
        len(scores),
        int(flagged.sum()),
        np.bincount(inside, minlength=BINS),
        (least, lower, median, upper, greatest),
    )


def class_spreads(
    scores: np.ndarray, flagged: np.ndarray, classes: Texts[str | None], edges: np.ndarray
) -> list[Spread]:
    """The spread of every class, by name, images without a class last."""
    names = distinct_texts(classes)
    of = numbers_of(classes, {name: number for number, name in enumerate(names)})
    of[of < 0] = len(names)
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(len(names) + 2))
    return [
        spread_of(name, scores[members], flagged[members], edges)
        for number, name in enumerate([*names, None])
        if len(members := order[ends[number] : ends[number + 1]])
    ]
