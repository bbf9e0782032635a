"""How several corpora differ in what they say about the same n images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..safe_text import counted
from ..scorer import rank_correlation, top_in_common
from .metrics import auroc

TOP = 20


@dataclass(frozen=True)
class CorpusAnswer:
    """What one corpus found."""

    name: str
    texts: int
    scores: np.ndarray
    """float64 [n], higher = more anomalous."""
    similarity: np.ndarray
    """float32 [n, k], cosines of the captions retrieved."""
    named: np.ndarray | None
    """bool [m], whether a caption named the image's own label; None where no image has one."""
    seconds: float


@dataclass(frozen=True)
class CorpusFacts:
    """One line of the comparison."""

    name: str
    texts: int
    rank_correlation: float
    """Spearman's, of its scores and the first corpus's."""
    top_in_common: int
    """How many of the first corpus's TOP most anomalous images are among its own."""
    coverage: float
    """Mean cosine of the k captions nearest to each image."""
    names_label: float | None
    """Share of the labelled images of which a retrieved caption names the label."""
    auroc: float | None
    """Where the truth is known."""
    seconds: float
    """Reading the index, search and scoring."""


def compare_corpora(
    answers: Sequence[CorpusAnswer], strays: np.ndarray | None = None
) -> list[CorpusFacts]:
    """Compare each corpus with the first; `strays` bool [n] is the truth, where it is known.

    Raises BlissError where no image, or every one, is a stray.
    """
    first = answers[0].scores
    top = min(TOP, len(first))
    return [
        CorpusFacts(
            each.name,
            each.texts,
            rank_correlation(first, each.scores),
            top_in_common(first, each.scores, top),
            float(each.similarity.mean(dtype=np.float64)),
            None if each.named is None else float(each.named.mean()),
            None if strays is None else auroc(each.scores, strays),
            each.seconds,
        )
        for each in answers
    ]


def comparison_lines(found: Sequence[CorpusFacts], images: int) -> list[str]:
    """The table for the reader, a corpus a line, and its key."""
    top = min(TOP, images)
    head = ["corpus", "texts", "agreement", f"top {top}", "coverage", "names label"]
    rows = [
        [
            each.name,
            f"{each.texts:,}",
            f"{each.rank_correlation:.3f}",
            f"{each.top_in_common}",
            f"{each.coverage:.4f}",
            "" if each.names_label is None else f"{each.names_label:.1%}",
            *([] if each.auroc is None else [f"{100 * each.auroc:.2f}"]),
            f"{each.seconds:.2f}",
        ]
        for each in found
    ]
    head += ["seconds"] if found[0].auroc is None else ["AUROC", "seconds"]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *rows):
        name, *numbers = cells
        shown = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *shown]))
    return [
        *lines,
        "",
        f"{counted(images, 'image')}; agreement: rank correlation of the scores with "
        f"{found[0].name}'s; "
        f"top {top}: how many of its {top} most anomalous are the same",
        "coverage: mean cosine of the captions retrieved; "
        "names label: share of the images with one that names their label",
        "seconds: reading the index, search and scoring; embedding and fitting served all",
    ]


def comparison_facts(found: Sequence[CorpusFacts], images: int) -> dict[str, Any]:
    """All of it as JSON values."""
    return {"images": images, "top": min(TOP, images), "corpora": [vars(each) for each in found]}
