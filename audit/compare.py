"""Compare audits of the same images: two finished ones, and one against each of several corpora.

Scores of different methods, models, corpora or references are on different scales, so they are not
subtracted. Images are compared by where they stand in what ranked each run, its score or its label
margin: the share of the images in both audits that stand lower, from 0 to 1.

Against several corpora, images are embedded once and have one reference.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..corpora import ImageOptions, read_label_file
from ..errors import BlissError, UsageError
from ..indexer import CaptionIndex, EmbeddedImages
from ..progress import Progress, no_progress
from ..scorer import NO_FILE, Reference, has_label, word_forms, words_of
from .folder import RunFolder
from .result import AuditResult
from .run import AuditSettings, audit_against


@dataclass(frozen=True)
class Differences:
    """m images that are in both audits, and how many are in one alone."""

    rows_a: np.ndarray
    """int64 [m], positions in the first audit's table."""
    rows_b: np.ndarray
    """int64 [m], the same images in the second's."""
    standing_a: np.ndarray
    """float64 [m], share of the m images that score lower; equal scores share a standing."""
    standing_b: np.ndarray
    only_a: int
    only_b: int
    ranked_by_a: str
    """What ranked the first audit, as `ranked_by` says it."""
    ranked_by_b: str

    @property
    def change(self) -> np.ndarray:
        """float64 [m], above 0 where an image became more anomalous."""
        return self.standing_b - self.standing_a

    @property
    def order(self) -> np.ndarray:
        """int64 [m], the largest changes first, whichever way they go."""
        return np.argsort(-np.abs(self.change), kind="stable")

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation of the two scores; NaN where one of them is constant."""
        a, b = self.standing_a - self.standing_a.mean(), self.standing_b - self.standing_b.mean()
        spread = float(np.sqrt((a @ a) * (b @ b)))
        return float(a @ b) / spread if spread else float("nan")

    def common_worst(self, count: int) -> int:
        """How many of the first audit's `count` most anomalous are among the second's."""
        worst_a = np.argsort(-self.standing_a, kind="stable")[:count]
        worst_b = np.argsort(-self.standing_b, kind="stable")[:count]
        return len(np.intersect1d(worst_a, worst_b))


def compare_runs(first: RunFolder, second: RunFolder) -> Differences:
    """Match the images of two audits by content, and equal contents in order; then compare.

    Images that are known by their vectors alone, which another model or precision changes, are
    matched by path too. Raises BlissError where the audits have no image in common.
    """
    places: dict[str, list[int]] = defaultdict(list)
    columns_a, columns_b = (run.columns(["content", "path"]) for run in (first, second))
    contents_a, contents_b = (each["content"].to_pylist() for each in (columns_a, columns_b))
    for i, content in enumerate(contents_b):
        places[content].append(i)
    pairs, left = [], []
    for i, content in enumerate(contents_a):
        if places[content]:
            pairs.append((i, places[content].pop(0)))
        else:
            left.append(i)
    left_b = sorted(i for each in places.values() for i in each)
    paths_a, paths_b = columns_a["path"].to_pylist(), columns_b["path"].to_pylist()
    named: dict[str, list[int]] = defaultdict(list)
    for i in left_b:
        named[paths_b[i]].append(i)
    for i in left:
        there = named[paths_a[i]]
        if there and NO_FILE in (
            contents_a[i][: len(NO_FILE)],
            contents_b[there[0]][: len(NO_FILE)],
        ):
            pairs.append((i, there.pop(0)))
    pairs.sort()
    if not pairs:
        raise BlissError(
            f"{first.folder} and {second.folder} have no image in common",
            "two audits of the same images",
            "Compare runs over the same collection",
        )
    rows_a, rows_b = np.array(pairs, np.int64).T
    return Differences(
        rows_a,
        rows_b,
        _standing(_ranking(first)[rows_a]),
        _standing(_ranking(second)[rows_b]),
        len(columns_a) - len(pairs),
        len(columns_b) - len(pairs),
        ranked_by(first),
        ranked_by(second),
    )


def ranked_by(run: RunFolder) -> str:
    """What ranks the images of a run: "label margin", or the name of its score."""
    if run.facts.get("question") == "mislabel":
        return "label margin"
    return str(run.facts.get("settings", {}).get("score", "bliss"))


def _ranking(run: RunFolder) -> np.ndarray:
    """float64 [n], what ranks the images of a run, most anomalous highest."""
    name = "margin" if ranked_by(run) == "label margin" else "score"
    values = run.columns([name])[name].to_numpy().astype(np.float64)
    return np.nan_to_num(values, nan=-np.inf)


def differences_table(first: RunFolder, second: RunFolder, found: Differences) -> pa.Table:
    """One row an image in both audits, the largest change first."""
    order = found.order
    names = ("path", "rank", "score", "nearest_class")
    a = first.columns(names).take(found.rows_a[order])
    b = second.columns(names).take(found.rows_b[order])
    return pa.table(
        {
            "path_a": a["path"],
            "path_b": b["path"],
            "change": found.change[order],
            "standing_a": found.standing_a[order],
            "standing_b": found.standing_b[order],
            "rank_a": a["rank"],
            "rank_b": b["rank"],
            "score_a": a["score"],
            "score_b": b["score"],
            "nearest_class_a": a["nearest_class"],
            "nearest_class_b": b["nearest_class"],
        }
    )


def differences_summary(found: Differences, table: pa.Table, top: int) -> dict[str, Any]:
    """How far two audits agree, and the `top` largest changes, as JSON-like values."""
    worst = min(top, len(table))
    correlation = found.correlation
    return {
        "images_in_both": len(table),
        "only_in_a": found.only_a,
        "only_in_b": found.only_b,
        "ranked_by_a": found.ranked_by_a,
        "ranked_by_b": found.ranked_by_b,
        "rank_correlation": None if np.isnan(correlation) else correlation,
        "worst": worst,
        "worst_in_both": found.common_worst(worst),
        "changes": table.slice(0, worst).to_pylist(),
    }


def _standing(scores: np.ndarray) -> np.ndarray:
    ordered = np.sort(scores)
    lower = np.searchsorted(ordered, scores, side="left")
    not_higher = np.searchsorted(ordered, scores, side="right")
    return (lower + not_higher - 1) / (2 * max(1, len(scores) - 1))


TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")
STRAY_COLUMN = "is_stray"


@dataclass(frozen=True)
class CorpusAudit:
    """The audit of the images against one corpus."""

    index: CaptionIndex
    result: AuditResult
    named: np.ndarray | None
    """bool [m], for the images with a label, whether a retrieved caption names it; None without."""
    seconds: float
    """Of reading the index, search and scoring; embedding and fitting are shared."""


def audit_each(
    images: EmbeddedImages,
    indexes: Sequence[CaptionIndex],
    reference: Reference,
    settings: AuditSettings,
    progress: Progress = no_progress,
) -> list[CorpusAudit]:
    """Audit the images against one reference with each index in turn; errors as `audit_against`."""
    found = []
    for number, index in enumerate(indexes):
        start = time.perf_counter()
        result = audit_against(images, index, reference, settings, progress)
        seconds = time.perf_counter() - start
        found.append(CorpusAudit(index, result, labels_named(result), seconds))
        progress("corpora compared", number + 1, len(indexes))
    return found


def without_calibration(reference: Reference) -> Reference:
    """The reference without its held-out images, which a comparison of scores does not need."""
    return replace(reference, calibration=None)


def labels_named(result: AuditResult) -> np.ndarray | None:
    """bool [m], whether the words of each labelled image's own label are in a caption it retrieved.

    Words as the filter of captions near labels compares them; None where no image has a label.
    """
    labels = result.images.labels
    labelled = [i for i, label in enumerate(labels) if label is not None]
    if not labelled:
        return None
    distinct, position = np.unique(result.retrieved.rows[labelled], return_inverse=True)
    words = [words_of(caption) for caption in result.index.captions_of(distinct)]
    position = position.reshape(len(labelled), -1)
    forms = {name: [word_forms(word) for word in words_of(name)] for name in set(labels) if name}
    known: dict[tuple[str, int], bool] = {}
    found = np.zeros(len(labelled), bool)
    for place, i in enumerate(labelled):
        label = str(labels[i])
        for text in position[place].tolist():
            if (label, text) not in known:
                known[label, text] = has_label(words[text], forms.get(label, []))
            found[place] |= known[label, text]
    return found


def read_truth(file: str, images: EmbeddedImages) -> np.ndarray:
    """bool [n], which images are strays: a csv, tsv or parquet file of `path` and `is_stray`.

    Raises UsageError where an image is not named or the column is not there, BlissError for a
    value that is neither true nor false.
    """
    read = read_label_file(file, ImageOptions(label_column=STRAY_COLUMN))
    truth: dict[str, bool] = {}
    for path, value in zip(read.paths, read.labels, strict=True):
        text = (value or "").lower()
        if text not in (*TRUE, *FALSE):
            raise BlissError(
                f"{file} says {STRAY_COLUMN} = {value!r} of {path}",
                f"one of {', '.join((*TRUE, *FALSE))}",
                "Correct the file",
            )
        truth[path] = text in TRUE
    missing = [path for path in images.paths if path not in truth]
    if missing:
        raise UsageError(
            f"{file} does not say whether {missing[0]} is a stray"
            + (f", nor {len(missing) - 1:,} more" if missing[1:] else ""),
            "a record for every image, with its path as the audit lists it",
            "Complete the file",
        )
    return np.array([truth[path] for path in images.paths], bool)


def truth_of_labels(images: EmbeddedImages, classes: Sequence[str]) -> np.ndarray | None:
    """bool [n], labelled images of no normal class; None where labels do not tell two kinds."""
    normal: Mapping[str, None] = dict.fromkeys(classes)
    if any(label is None for label in images.labels):
        return None
    strays = np.array([label not in normal for label in images.labels], bool)
    return None if strays.all() or not strays.any() else strays
