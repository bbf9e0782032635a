"""The other question: is each image filed under the right class? A table as cleanlab users know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..csv_cells import csv_text
from ..errors import UsageError
from ..scorer.mislabel import label_margins
from .result import AuditResult
from .run import given_classes

ROWS_AT_ONCE = 10_000
ISSUE_COLUMNS = (
    "row",
    "path",
    "is_label_issue",
    "label_quality",
    "given_label",
    "predicted_label",
    "margin",
    "cosine_margin",
)


def with_labels_questioned(result: AuditResult) -> AuditResult:
    """`result` ranked by how much better another class suits an image than its own.

    Raises UsageError where no image has a label among the classes, or there is one class only.
    """
    given = given_classes(result.images, result.reference)
    if (given < 0).all():
        raise UsageError(
            f"--question mislabel was given and no image of {result.images.source} has a label "
            "among the classes",
            "class folders or labels to question",
            "Leave it out to ask which images belong to no class",
        )
    if len(result.reference.classes) < 2:
        raise UsageError(
            f"--question mislabel was given and '{result.reference.classes[0]}' is the only class",
            "another class that an image could belong to",
            "Leave it out to ask which images belong to no class",
        )
    labels = label_margins(result.images.vectors, result.reference, given, result.left_out)
    return replace(result, labels=labels, p_values=None)


def write_issues_csv(result: AuditResult, write: Callable[[bytes], object]) -> None:
    """Hand UTF-8 CSV of ISSUE_COLUMNS to `write`, one line an image in the collection's order, a
    few at a time; no cell is a formula. Images without a label among the classes are not in it."""
    labels = result.labels
    assert labels is not None
    classes = result.reference.classes
    lines: list[tuple[object, ...]] = [ISSUE_COLUMNS]
    quality, issue = labels.quality, labels.is_issue
    for i, (row, path) in enumerate(zip(result.images.rows, result.images.paths, strict=True)):
        if labels.given[i] >= 0:
            lines.append(
                (
                    int(row),
                    path,
                    bool(issue[i]),
                    float(quality[i]),
                    classes[labels.given[i]],
                    classes[labels.predicted[i]],
                    float(labels.margin[i]),
                    float(labels.cosine_margin[i]),
                )
            )
        if (i + 1) % ROWS_AT_ONCE == 0:
            write(csv_text(lines).encode("utf-8"))
            lines.clear()
    write(csv_text(lines).encode("utf-8"))
