"""BLISS as a PyOD detector on embeddings; PyOD's sign is ours: higher = more anomalous."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from pyod.models.base import BaseDetector
from sklearn.utils.validation import check_is_fitted

from .sklearn_detector import BlissDetector


class BlissPyOD(BaseDetector):
    """`BlissDetector` with PyOD's attributes: `decision_scores_`, `threshold_`, `labels_`.

    Parameters as of `BlissDetector`; `decision_scores_` are leave-one-out scores.
    """

    def __init__(
        self,
        prompts: Any = None,
        texts: Any = None,
        k: int = 10,
        weight: float = 0.5,
        contamination: float = 0.1,
    ) -> None:
        super().__init__(contamination=contamination)
        self.prompts = prompts
        self.texts = texts
        self.k = k
        self.weight = weight

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit on images X [n, d], of the classes `y` [n]; errors as of `BlissDetector.fit`."""
        self._set_n_classes(None)
        self._detector = BlissDetector(
            self.prompts,
            self.texts,
            k=self.k,
            weight=self.weight,
            contamination=self.contamination,
        ).fit(X, y)
        self.decision_scores_ = -self._detector.score_samples(X)
        self._process_decision_scores()
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """The BLISS score of each row, float64 [n]: higher = more anomalous."""
        check_is_fitted(self, "_detector")
        return -self._detector.score_samples(X)
