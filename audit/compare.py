"""Audit the same images against several corpora, embedded once and with one reference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..corpora.images.labels import read_label_file
from ..corpora.images.source import ImageOptions
from ..errors import BlissError, UsageError
from ..indexer.images.embedded import EmbeddedImages
from ..indexer.search.captions import CaptionIndex
from ..progress import Progress, no_progress
from ..scorer.label_filter import has_label, word_forms, words_of
from ..scorer.reference import Reference
from .result import AuditResult
from .run import AuditSettings, audit_against

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
