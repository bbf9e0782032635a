"""What an audit found, as an object to ask and as a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..indexer.caption_index import CaptionIndex, captions_of
from ..indexer.embedded_images import EmbeddedImages
from ..scorer.bliss import BlissScores
from ..scorer.leave_one_out import LeftOut
from ..scorer.reference import Reference
from ..scorer.retrieved import Retrieved


@dataclass(frozen=True)
class Caption:
    """One retrieved caption and how it bears on one image."""

    text: str
    similarity: float
    """Raw cosine to the image."""
    pull: float
    """That cosine in standard deviations of the nearest class's own: what gives a stray away."""


@dataclass(frozen=True)
class AuditedImage:
    """One image with everything a reader needs to judge it."""

    path: str
    label: str | None
    score: float
    nearest: str
    ics: float
    ets: float
    p: float | None
    captions: tuple[Caption, ...]
    """The retrieved captions, strongest pull first."""


@dataclass(frozen=True)
class AuditResult:
    """Scores of n images, higher = more anomalous, in the collection's order."""

    images: EmbeddedImages
    index: CaptionIndex
    reference: Reference
    retrieved: Retrieved
    scores: BlissScores
    left_out: LeftOut
    p_values: np.ndarray | None
    """float64 [n] conformal p-values where the reference held images out, else None."""
    score_name: str = "bliss"
    """Which score of the field ranks the images."""

    @property
    def order(self) -> np.ndarray:
        """int64 [n], positions from the most to the least anomalous; equal scores in order."""
        return np.argsort(-self.scores.score, kind="stable")

    def worst(self, count: int) -> list[AuditedImage]:
        """The `count` most anomalous images, worst first."""
        return [self.image(i) for i in self.order[:count]]

    def image(self, i: int) -> AuditedImage:
        """The image at position i of the scores."""
        texts = captions_of(self.index, self.retrieved.rows[i])
        captions = [
            Caption(text, float(similarity), float(pull))
            for text, similarity, pull in zip(
                texts, self.retrieved.similarity[i], self.scores.pull[i], strict=True
            )
        ]
        return AuditedImage(
            path=self.images.paths[i],
            label=self.images.labels[i],
            score=float(self.scores.score[i]),
            nearest=self.reference.classes[self.scores.nearest[i]],
            ics=float(self.scores.ics[i]),
            ets=float(self.scores.ets[i]),
            p=None if self.p_values is None else float(self.p_values[i]),
            captions=tuple(sorted(captions, key=lambda caption: -caption.pull)),
        )

    def table(self) -> pa.Table:
        """One row an image, in the collection's order; the columns of `scores.parquet`."""
        scores, retrieved = self.scores, self.retrieved
        n = len(retrieved.rows)
        names = pa.array(self.reference.classes, pa.string())
        distinct = np.unique(retrieved.rows)
        texts = pa.array(captions_of(self.index, distinct), pa.string())
        left_out = np.zeros(n, bool)
        left_out[self.left_out.images] = True
        rank = np.empty(n, np.int64)
        rank[self.order] = np.arange(1, n + 1)
        columns = {
            "row": pa.array(self.images.rows),
            "path": pa.array(self.images.paths, pa.string()),
            "label": pa.array(self.images.labels, pa.string()),
            "content": pa.array(self.images.hashes, pa.string()),
            "score": pa.array(scores.score),
            "rank": pa.array(rank),
            "nearest_class": names.take(pa.array(scores.nearest)),
            "ics": pa.array(scores.ics),
            "ets": pa.array(scores.ets),
            "p": pa.array(self.p_values if self.p_values is not None else [None] * n, pa.float64()),
            "given_ics": pa.array(scores.given_ics, from_pandas=True),
            "given_ets": pa.array(scores.given_ets, from_pandas=True),
            "left_out": pa.array(left_out),
            "best_classes": _lists(names.take(pa.array(scores.best_classes.ravel())), n),
            "best_scores": _lists(pa.array(scores.best_scores.ravel()), n),
            "captions": _lists(
                texts.take(pa.array(np.searchsorted(distinct, retrieved.rows.ravel()))), n
            ),
            "caption_rows": _lists(pa.array(retrieved.rows.ravel()), n),
            "similarity": _lists(pa.array(retrieved.similarity.ravel()), n),
            "z": _lists(pa.array(scores.pull.ravel()), n),
        }
        return pa.table(columns)


def _lists(values: pa.Array, n: int) -> pa.Array:
    """A flat array of n equal runs as a list column."""
    offsets = np.arange(n + 1, dtype=np.int32) * (len(values) // n if n else 0)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
