"""BLISS as a scikit-learn outlier detector on embeddings.

**The sign is scikit-learn's: higher = more normal**, the opposite of everywhere else here, and
`predict` gives -1 for outliers. `score_samples` is minus the BLISS score.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from ...errors import BlissError
from ...indexer import exact_search, normalise_rows
from ...safe_text import counted
from ...scorer import LeftOut, Reference, Retrieved, bliss_scores, fit_moments, gather_texts

LEAST = 3
"""Images a class needs, so that two remain when one is left out."""


class BlissDetector(OutlierMixin, BaseEstimator):
    """Scores embeddings against normal classes, as `bliss_scores` does.

    Parameters
    ----------
    prompts : float array [C, d], one text embedding for each class of `y`, in sorted order; None
        lets the mean direction of each class's images stand in for its prompt.
    texts : float array [M, d], external text embeddings; None leaves out their half of the score.
    k : external texts retrieved for each image, at most M.
    weight : λ, the weight of the external texts.
    contamination : the share of the fitted images that `predict` calls outliers.

    Rows are divided by their length. A row that was fitted is scored without itself, wherever it
    is scored, so `fit(X).predict(X)` and `fit_predict(X)` agree.
    """

    def __init__(
        self,
        prompts: Any = None,
        texts: Any = None,
        *,
        k: int = 10,
        weight: float = 0.5,
        contamination: float = 0.1,
    ) -> None:
        self.prompts = prompts
        self.texts = texts
        self.k = k
        self.weight = weight
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit on normal images X [n, d], of the classes `y` [n] where there are several.

        Raises ValueError for fewer than three images in a class, for prompts or texts that do not
        fit X and `y`, and for a contamination outside 0 to 0.5.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=LEAST)
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination {self.contamination} was given; above 0, up to 0.5")
        if not (isinstance(self.k, int | np.integer) and self.k >= 1):
            raise ValueError(f"k = {self.k} was given; needed: a whole number, 1 or more")
        names, labels = np.zeros(1), np.zeros(len(X), np.int64)
        if y is not None:
            check_consistent_length(X, y)
            y = column_or_1d(y)
            if any(each is None or each != each for each in y.tolist()):
                raise ValueError("y holds None or NaN; needed: a class for each row of X")
            names, labels = np.unique(y, return_inverse=True)
        counts = np.bincount(labels)
        if counts.min() < LEAST:
            raise ValueError(
                f"class '{names[counts.argmin()]}' has {counted(int(counts.min()), 'image')}; "
                f"needed: {LEAST}"
            )
        self.classes_ = names
        rows = unit_rows(X, "X")
        self._reference = Reference(
            fit_moments([str(name) for name in names], rows, labels),
            _prompts(self.prompts, rows, labels, len(names)),
        )
        self._texts = None if self.texts is None else unit_rows(np.asarray(self.texts), "texts")
        if self._texts is not None and self._texts.shape[1] != X.shape[1]:
            raise ValueError(f"texts have {self._texts.shape[1]} dimensions, X has {X.shape[1]}")
        self._filed: dict[bytes, set[int]] = {}
        for row, label in zip(rows, labels, strict=True):
            self._filed.setdefault(row.tobytes(), set()).add(int(label))
        self.offset_ = np.percentile(-self._score(rows), 100 * self.contamination)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Minus the BLISS score of each row, float64 [n]: **higher = more normal**."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return -self._score(unit_rows(X, "X"))

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` moved so that outliers are below zero, float64 [n]."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for normal rows, -1 for outliers, int64 [n]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _score(self, rows: np.ndarray) -> np.ndarray:
        pairs = [(i, c) for i, row in enumerate(rows) for c in self._filed.get(row.tobytes(), ())]
        left_out = LeftOut(
            np.array([i for i, _ in pairs], np.int64), np.array([c for _, c in pairs], np.int64)
        )
        weight = 0.0 if self._texts is None else self.weight
        return bliss_scores(
            rows, self._retrieve(rows), self._reference, weight, left_out=left_out
        ).score

    def _retrieve(self, rows: np.ndarray) -> Retrieved:
        if self._texts is None:  # one text, of no weight
            texts, k = self._reference.prompt_vectors[:1], 1
        else:
            texts, k = self._texts, min(self.k, len(self._texts))
        return gather_texts(exact_search(rows, texts, k), texts)


def unit_rows(X: np.ndarray, what: str) -> np.ndarray:
    """float32 [n, d] unit rows; raises ValueError, as scikit-learn's callers expect."""
    try:
        rows = normalise_rows(X)
    except BlissError as error:
        raise ValueError(f"{what}: {error}") from error
    if len(rows.unusable):
        raise ValueError(f"row {rows.unusable[0]} of {what} is zero, NaN or infinite")
    return np.ascontiguousarray(rows.unit)


def _prompts(given: Any, rows: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    if given is None:
        sums = np.zeros((classes, rows.shape[1]))
        np.add.at(sums, labels, rows)
        return unit_rows(sums, "the class means")
    prompts = unit_rows(np.asarray(given), "prompts")
    if prompts.shape != (classes, rows.shape[1]):
        raise ValueError(
            f"prompts of shape {prompts.shape} were given; needed: one row for each of the "
            f"{classes} classes of y, in {rows.shape[1]} dimensions"
        )
    return prompts
