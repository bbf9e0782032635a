"""NegLabel's mining: which external texts serve as negative labels, and their random groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import BlissError
from ..slices import slices
from .contract import Fitting
from .parameters import between
from .similarity import VECTORS_AT_ONCE

MINING: Mapping[str, float] = {"quantile": 0.95, "keep": 0.15, "drop": 0.95}
"""Published: q_j = 0.95-quantile, the 15 % of lowest q_j; from CSP: never above cosine 0.95."""

TIE = 1e-9
"""q_j this close are equal: the same text must get the same q_j whatever block it was in."""


@dataclass(frozen=True)
class Mining:
    """The rule a text must meet to be a negative label: largest <= drop and q <= highest."""

    quantile: float
    drop: float
    highest: float
    """The largest q_j among the negatives."""
    negatives: np.ndarray
    """int64 [v], rows of the external texts, ascending."""
    meeting: np.ndarray
    """int64 [w], rows that meet the rule: the negatives and what ties with the last of them."""


def mine(fitting: Fitting, parameters: Mapping[str, float]) -> Mining:
    """Of the texts whose cosine to no label is above `drop`, the share `keep` of lowest q_j.

    q_j is the `quantile` of d_j·t_i over labels i (linear interpolation). At least one text is
    kept; q_j equal to 9 digits go by row. Nouns and adjectives are one pool here. Raises BlissError
    where every text is dropped.
    """
    quantile, drop = between(parameters, "quantile", 0, 1), between(parameters, "drop", -1, 1)
    keep = between(parameters, "keep", 0, 1)
    q, largest = label_nearness(fitting.texts, fitting.normals.prompts, quantile)
    usable = np.flatnonzero(_apart(largest, drop))
    if not len(usable):
        raise BlissError(
            f"all {len(q)} external texts are within cosine {drop:g} of a normal label",
            "texts of other things",
            "Use another corpus",
        )
    # 0.29·100 is 28.999…: what is a whole number on paper must not lose one.
    count = max(1, int(keep * len(usable) + 1e-9))
    kept = usable[np.argsort(np.round(q[usable], 9), kind="stable")[:count]]
    highest = float(q[kept].max())
    return Mining(quantile, drop, highest, np.sort(kept), usable[q[usable] <= highest + TIE])


def is_negative(mining: Mining, texts: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """bool [u], which of other unit rows `texts` [u, d] meet the rule."""
    q, largest = label_nearness(texts, prompts, mining.quantile)
    return _apart(largest, mining.drop) & (q <= mining.highest + TIE)


def label_nearness(
    texts: np.ndarray, prompts: np.ndarray, quantile: float
) -> tuple[np.ndarray, np.ndarray]:
    """The `quantile` and the largest of each text's cosines to the labels, float64 [M] each."""
    q, largest = np.empty(len(texts)), np.empty(len(texts))
    wide = np.asarray(prompts, np.float64).T
    for rows in slices(len(texts), VECTORS_AT_ONCE * 1024 // max(1, len(prompts))):
        cosines = np.asarray(texts[rows], np.float64) @ wide
        q[rows], largest[rows] = np.quantile(cosines, quantile, axis=1), cosines.max(axis=1)
    return q, largest


def random_groups(rows: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """int64 [g, s], `rows` [v] in g random groups of equal size; the remainder is dropped.

    With fewer rows than `groups` there are as many groups as rows.
    """
    groups = min(groups, len(rows))
    size = len(rows) // groups
    shuffled = np.random.default_rng(seed).permutation(rows)
    return shuffled[: groups * size].reshape(groups, size)


def _apart(largest: np.ndarray, drop: float) -> np.ndarray:
    # A cosine of unit rows may round to just above 1, and drop = 1 means that none is dropped.
    return largest <= drop if drop < 1 else np.ones(len(largest), bool)
