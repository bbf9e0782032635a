"""What is held out of training, and the check that outliers are not normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BlissError, UsageError
from .oecl_training import FEWEST

SAME = 0.9999
"""Cosine above which two embeddings are of the same picture."""
WHOLE_CLASSES = 4
"""Outlier classes from which on whole ones are held out."""
AT_ONCE = 2048


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out; `classes` are the outlier classes held out whole."""

    kept: np.ndarray
    held: np.ndarray
    classes: tuple[str, ...] = ()


def split_rows(
    hashes: Sequence[str], labels: Sequence[str | None], share: float, seed: int
) -> Split:
    """Hold out a `share` of n images, copies of one staying together.

    With 4 classes or more whole classes are held out instead: an anomaly to come is seldom of a
    kind that was trained on. Raises BlissError where fewer than 4 would be left on either side.
    """
    if not 0 < share < 1:
        raise UsageError(f"a held-out share of {share} was given", "above 0, below 1", "Try 0.2")
    named = sorted({label for label in labels if label is not None})
    whole = len(named) >= WHOLE_CLASSES
    groups = [label or "" for label in labels] if whole else list(hashes)
    distinct = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(distinct))
    chosen = {distinct[i] for i in order[: max(1, round(share * len(distinct)))]}
    held = np.array([group in chosen for group in groups], bool)
    if min(held.sum(), (~held).sum()) < FEWEST:
        raise BlissError(
            f"there are {len(held)} images, of which {int(held.sum())} would be held out",
            f"at least {FEWEST} to train on and {FEWEST} held out",
            "Add images",
        )
    return Split(
        np.flatnonzero(~held), np.flatnonzero(held), tuple(sorted(chosen)) if whole else ()
    )


def check_apart(
    normal: tuple[np.ndarray, Sequence[str]],
    outlier: tuple[np.ndarray, Sequence[str], Sequence[str]],
    source: str,
) -> None:
    """Raise BlissError where outliers have the content of a normal image, or nearly its vector.

    `normal` are unit rows [n, d] and content hashes, `outlier` the same [m, d] and paths. Nearly
    is a cosine above 0.9999: a copy saved again, or one of two sets of embeddings.
    """
    rows, hashes = normal
    known = set(hashes)
    others, contents, paths = outlier
    nearest = np.full(len(others), -1.0)
    for start in range(0, len(rows), AT_ONCE):
        nearest = np.maximum(nearest, (rows[start : start + AT_ONCE] @ others.T).max(axis=0))
    same = (nearest > SAME) | np.array([content in known for content in contents], bool)
    if same.any():
        count = int(same.sum())
        raise BlissError(
            f"{count} outlier image{'s' * (count != 1)} in {source} "
            f"{'are' if count != 1 else 'is'} also among the normal ones "
            f"(the first: {paths[int(same.argmax())]})",
            "outliers that are not normal",
            "Take the common images out of either set",
        )
