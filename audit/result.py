"""What an audit found: the scores of all images, one image with its captions, and a table."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..corpora import why_outside
from ..errors import UsageError
from ..indexer import (
    CaptionIndex,
    Decoder,
    DecodingLimits,
    EmbeddedImages,
    Engine,
    UnreadableImage,
    origin_names,
    read_file,
    release_pages,
)
from ..safe_text import counted, terminal_text
from ..scorer import (
    BlissScores,
    HiddenTexts,
    LabelMargins,
    LeftOut,
    Reference,
    Retrieved,
)
from .retrieval import HitsCache

ROWS_AT_ONCE = 16_384
SHOWN, SIDE, CAPTIONS_SHOWN = 10, 96, 2
"""Images in a notebook, the longer side of their thumbnails in pixels, and captions of each."""


@dataclass(frozen=True)
class Decision:
    """Which of n images are flagged, and by what rule."""

    rule: str
    """fdr, contamination, empirical null, top, label margin or none."""
    level: float | None
    """The false discovery rate, share or count given."""
    flagged: np.ndarray
    """bool [n]."""
    q: np.ndarray | None
    """float64 [n], Benjamini-Hochberg q-values of the p-values; None without those."""
    reason: str
    """One or two sentences for the reader."""
    facts: Mapping[str, Any]
    """What else `run.json` says of it."""


@dataclass(frozen=True)
class Refit:
    """What was left out of the fit because another class explains it, and what that changed."""

    dropped: np.ndarray
    """bool [n], the audited images that were left out of the reference."""
    table: tuple[tuple[str, str, str], ...]
    """Path, class and better class of every reference image that was left out."""
    before: np.ndarray
    """float64 [n], the scores before the refit."""
    after: np.ndarray
    """float64 [n], by the same score after it."""
    weight: float
    """λ afterwards, which keeps the balance of captions and prompts."""


@dataclass(frozen=True, repr=False)
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
    labels: LabelMargins | None = None
    """How well each image suits its label; None without labels among two classes or more."""
    decision: Decision | None = None
    refit: Refit | None = None
    all_stay: bool = False
    """Whether images that another class explains were looked for, and none was to leave the fit."""
    hits: HitsCache | None = None
    """The cache of what was retrieved, for steps that retrieve again."""
    engine: Engine | None = None
    """Where such steps search and score; None: in this process."""
    clean: str = ""
    """The fingerprint of the images of a separate reference; "" where they are not at hand."""
    hidden: HiddenTexts | None = None
    """The captions hidden as too similar to a label; `index` holds the others."""
    weight: float = 0.5
    """λ, the weight of the captions in BLISS."""
    ranked_by_labels: bool = False
    """Whether the margins of the labels rank the images, as with --question mislabel."""
    merged: np.ndarray | None = None
    """float64 [n], strays and wrong labels in one order, higher = to be read earlier (see
    `merged_order`); None where no label was questioned."""
    copies: pa.Table | None = None
    """Groups of copies, as `find_copies` lists them; None where none were looked for."""
    quality: pa.Table | None = None
    """Bad pictures, as `quality_issues` lists them; None where none were looked for."""
    remarks: tuple[str, ...] = ()
    """What could not be looked for, in sentences."""
    issues: pa.Table | None = None
    """Every issue of every image, as `issues_table` lists them; None before it was decided."""
    chosen: str = ""
    """Which score --score auto took, and why."""
    parts: np.ndarray | None = None
    """float64 [n, 2], what words and what images add to the score; None but for bliss+."""
    learnt: Mapping[str, Any] | None = None
    """What bliss+ learnt from the reference."""

    @property
    def ranking(self) -> np.ndarray:
        """float64 [n], what ranks the images, most anomalous highest: their score, or where labels
        rank them their margin (-inf for images without a label)."""
        if self.labels is None or not self.ranked_by_labels:
            return self.scores.score
        return np.nan_to_num(self.labels.margin, nan=-np.inf)

    @property
    def order(self) -> np.ndarray:
        """int64 [n], positions from the most to the least anomalous; equal ones in order."""
        return np.argsort(-self.ranking, kind="stable")

    @property
    def first_order(self) -> np.ndarray:
        """int64 [n], positions in the order in which the images are to be read."""
        return self.order if self.merged is None else np.argsort(-self.merged, kind="stable")

    def worst(self, count: int) -> list[AuditedImage]:
        """The `count` most anomalous images, worst first."""
        return [self.image(i) for i in self.order[:count]]

    def image(self, i: int) -> AuditedImage:
        """The image at position i of the scores."""
        decision = self.decision
        rows = self.retrieved.rows[i]
        captions = [
            Caption(text, float(similarity), float(pull), name, origin.licence)
            for text, similarity, pull, name, origin in zip(
                self.index.captions_of(rows),
                self.retrieved.similarity[i],
                self.scores.given_pull[i],
                self._origins(rows),
                self.index.origins_of(rows),
                strict=True,
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
            q=None if not decision or decision.q is None else float(decision.q[i]),
            flagged=bool(decision and decision.flagged[i]),
            **self._label_facts(i),
        )

    def _origins(self, rows: np.ndarray) -> list[str] | list[None]:
        """The origin of each caption; None where all have the same."""
        if len(self.index.origins) < 2:
            return [None] * len(rows)
        return origin_names(self.index, rows)

    def _label_facts(self, i: int) -> dict[str, Any]:
        if self.labels is None or self.labels.given[i] < 0:
            return {}
        return {
            "predicted": self.reference.classes[self.labels.predicted[i]],
            "margin": float(self.labels.margin[i]),
            "label_quality": float(self.labels.quality[i]),
        }

    def table(self) -> pa.Table:
        """One row an image, in the collection's order; the columns of `scores.parquet`."""
        return pa.concat_tables(self.tables())

    def to_pandas(self) -> Any:
        """`table` as a pandas DataFrame; UsageError where pandas is not installed."""
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "to_pandas was called and pandas is not installed",
                "pandas",
                "Install it with pip install pandas, or use table()",
            ) from error
        return self.table().to_pandas()

    def __repr__(self) -> str:
        """One line: how many images, classes and captions, and how many are flagged."""
        flagged = "not decided"
        if self.decision is not None:
            flagged = f"{int(self.decision.flagged.sum()):,} flagged"
        issues = "" if self.issues is None else f", {counted(len(self.issues), 'issue')}"
        classes = counted(len(self.reference.classes), "class", "classes")
        return (
            f"<AuditResult: {counted(len(self.scores.score), 'image')}, {classes}, "
            f"{counted(self.index.count, 'caption')}, {flagged}{issues}>"
        )

    def _repr_html_(self) -> str:
        """The images to read first, for a notebook, with thumbnails where there are files."""
        images = [self.image(i) for i in self.first_order[:SHOWN].tolist()]
        rows = "".join(map(_html_row, _thumbnails(self.images.source, images), images))
        heads = ("", "image", "filed under", "nearest class", "score", "resembles")
        return (
            f"<p>{html.escape(repr(self)[1:-1])}</p><table><thead><tr>"
            + "".join(f"<th>{head}</th>" for head in heads)
            + f"</tr></thead><tbody>{rows}</tbody></table>"
        )

    def tables(self) -> Iterator[pa.Table]:
        """`table` in blocks of ROWS_AT_ONCE rows, so that no more text is held at once."""
        n = len(self.images.rows)
        left_out = np.zeros(n, bool)
        left_out[self.left_out.images] = True
        rank = np.empty(n, np.int64)
        rank[self.order] = np.arange(1, n + 1)
        first = np.empty(n, np.int64)
        first[self.first_order] = np.arange(1, n + 1)
        for start in range(0, n, ROWS_AT_ONCE):
            here = slice(start, min(n, start + ROWS_AT_ONCE))
            yield self._block(here, rank, first, left_out)
            scores, retrieved = self.scores, self.retrieved
            release_pages(retrieved.rows, retrieved.similarity, scores.pull, scores.given_pull)
            release_pages(scores.best_classes, scores.best_scores)

    def _block(
        self, here: slice, rank: np.ndarray, first: np.ndarray, left_out: np.ndarray
    ) -> pa.Table:
        scores, images = self.scores, self.images
        rows = self.retrieved.rows[here]
        n = len(rows)
        names = pa.array(self.reference.classes, pa.string())
        distinct = np.unique(rows)
        position = pa.array(np.searchsorted(distinct, rows.ravel()))
        texts = pa.array(self.index.captions_of(distinct), pa.string())
        origins = {}
        if len(self.index.origins) > 1:
            named = pa.array(self._origins(distinct), pa.string())
            origins = {"caption_origins": _lists(named.take(position), n)}
        if self.hidden is not None:
            rows = self.hidden.kept[rows]
        decision, refit = self.decision, self.refit
        parts = {}
        if self.parts is not None:
            words, pictures = self.parts[here].T
            parts = {"words": pa.array(words), "images": pa.array(pictures)}
        columns = {
            "row": pa.array(images.rows[here]),
            "path": pa.array(images.paths[here], pa.string()),
            "label": pa.array(images.labels[here], pa.string()),
            "content": pa.array(images.hashes[here], pa.string()),
            "score": pa.array(scores.score[here]),
            "rank": pa.array(rank[here]),
            "read_first": pa.array(first[here]),
            "nearest_class": names.take(pa.array(scores.nearest[here])),
            "ics": pa.array(scores.ics[here]),
            "ets": pa.array(scores.ets[here]),
            **parts,
            "p": _floats(self.p_values, here, n),
            "q": _floats(decision.q if decision else None, here, n),
            "flagged": pa.array(decision.flagged[here] if decision else np.zeros(n, bool)),
            "given_ics": pa.array(scores.given_ics[here], from_pandas=True),
            "given_ets": pa.array(scores.given_ets[here], from_pandas=True),
            "left_out": pa.array(left_out[here]),
            "dropped": pa.array(refit.dropped[here] if refit else np.zeros(n, bool)),
            **self._label_block(here),
            "best_classes": _lists(names.take(pa.array(scores.best_classes[here].ravel())), n),
            "best_scores": _lists(pa.array(scores.best_scores[here].ravel()), n),
            "captions": _lists(texts.take(position), n),
            "caption_rows": _lists(pa.array(rows.ravel()), n),
            **origins,
            "similarity": _lists(pa.array(self.retrieved.similarity[here].ravel()), n),
            "z": _lists(pa.array(scores.pull[here].ravel()), n),
            "given_z": _lists(pa.array(scores.given_pull[here].ravel()), n),
        }
        return pa.table(columns)

    def _label_block(self, here: slice) -> dict[str, pa.Array]:
        if self.labels is None:
            return {}
        columns = label_columns(self.labels, self.reference.classes)
        return {name: values[here] for name, values in columns.items()}


def label_columns(labels: LabelMargins, classes: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of the question whether labels are right, as cleanlab names them."""
    names = pa.array(classes, pa.string())
    given = pa.array(labels.given, mask=labels.given < 0)
    return {
        "given_label": names.take(given),
        "predicted_label": names.take(pa.array(labels.predicted)),
        "label_quality": pa.array(labels.quality, from_pandas=True),
        "is_label_issue": pa.array(labels.is_issue),
        "margin": pa.array(labels.margin, from_pandas=True),
        "cosine_margin": pa.array(labels.cosine_margin, from_pandas=True),
    }


def _floats(values: np.ndarray | None, here: slice, n: int) -> pa.Array:
    """A column of the numbers `here`, or of n nulls."""
    return pa.nulls(n, pa.float64()) if values is None else pa.array(values[here], pa.float64())


def _lists(values: pa.Array, n: int) -> pa.Array:
    """A flat array of n equal runs as a list column."""
    offsets = np.arange(n + 1, dtype=np.int32) * (len(values) // n if n else 0)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


@dataclass(frozen=True)
class Caption:
    """One retrieved caption and its relation to one image."""

    text: str
    similarity: float
    """Raw cosine to the image."""
    pull: float
    """That cosine in standard deviations of the class the image is filed under, else of the
    nearest: large where it does not belong there."""
    origin: str | None = None
    """Its source, with the index before it where there are several; None with one source."""
    licence: str | None = None
    """That source's licence, where it is known."""


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
    q: float | None = None
    flagged: bool = False
    predicted: str | None = None
    """The class it suits best, where labels were questioned."""
    margin: float | None = None
    """By how much, in cosines; positive where that is another class than its own."""
    label_quality: float | None = None


def _html_row(picture: str, image: AuditedImage) -> str:
    captions = "; ".join(each.text for each in image.captions[:CAPTIONS_SHOWN] if each.pull > 0)
    texts = [image.path, image.label or "", image.nearest, f"{image.score:.2f}", captions]
    cells = "".join(f"<td>{html.escape(terminal_text(text))}</td>" for text in texts)
    return f"<tr><td>{picture}</td>{cells}</tr>"


def _thumbnails(source: str, images: Sequence[AuditedImage]) -> list[str]:
    """An image element for each image with a file, "" for the others.

    Paths are relative to `source`, or to the current folder where that is no folder.
    """
    root = source if os.path.isdir(source) else "."
    made, limits = [""] * len(images), DecodingLimits()
    files = [
        (place, os.path.join(root, image.path))
        for place, image in enumerate(images)
        if not why_outside(root, image.path, False)
    ]
    files = [(place, file) for place, file in files if os.path.isfile(file)]
    if not files:
        return made
    with Decoder() as maker:
        for place, file in files:
            try:
                webp = maker.thumbnail(read_file(file, limits), SIDE, limits)
            except UnreadableImage:
                continue
            data = base64.b64encode(webp).decode("ascii")
            made[place] = f'<img src="data:image/webp;base64,{data}" alt="">'
    return made
