"""CleanPatrick (arXiv 2505.11034): issues found by people in a collection, and how well they rank.

Its published layout, below one folder:

    fitzpatrick17k/fitzpatrick17k.csv        md5hash, label (and other columns)
    fitzpatrick17k/*/MD5HASH.jpg             the images
    CleanPatrick/off_topic_samples.csv       md5hash, label
    CleanPatrick/label_errors.csv            md5hash, label
    CleanPatrick/near_duplicates.csv         md5hash_list (separated by commas), label

label is 1 for an issue and 0 for none; of near duplicates it says so of every pair of a list. As
in the published evaluation each issue is a ranking: of all annotated images, or of the annotated
pairs.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BlissError, UsageError
from .metrics import aupr_out, auroc, precision_recall_at

IMAGES, TRUTH = "fitzpatrick17k", "CleanPatrick"
ISSUES = ("off-topic", "near-duplicate", "label error")
BUDGETS = (10, 100, 500, 1000)
"""Images or pairs that are read, for precision and recall; and as many as there are issues."""


@dataclass(frozen=True)
class CleanPatrick:
    """n images with a class each, and the issues that people found in them."""

    root: Path
    """The folder that the paths are relative to."""
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    off_topic: np.ndarray
    """int8 [n], 1 for an issue, 0 for none, -1 where nobody said."""
    label_error: np.ndarray
    """int8 [n], the same."""
    pairs: np.ndarray
    """int64 [p, 2], the pairs of images that were judged."""
    near_duplicate: np.ndarray
    """int8 [p], 1 or 0."""
    missing: int
    """Images of the table that have no file."""


def read_cleanpatrick(folder: str | Path) -> CleanPatrick:
    """The benchmark in `folder`.

    Raises UsageError where a file of its layout is missing, BlissError for one that cannot be read.
    """
    root = Path(folder)
    table = root / IMAGES / f"{IMAGES}.csv"
    named = (TRUTH, "off_topic_samples.csv"), (TRUTH, "near_duplicates.csv")
    for path in (table, *(root / a / b for a, b in named), root / TRUTH / "label_errors.csv"):
        if not path.is_file():
            raise UsageError(
                f"{path} is missing",
                f"{table.relative_to(root)} with its images, and {TRUTH}/ with three csv files",
                "Give the folder that holds both, as the benchmark's README lays it out",
            )
    files = {path.stem: path for path in sorted((root / IMAGES).glob("*/*.jpg"))}
    listed = [(row["md5hash"], row["label"]) for row in _rows(table, ("md5hash", "label"))]
    known = {name: files[name] for name, _ in listed if name in files}
    kept = list(dict.fromkeys(pair for pair in listed if pair[0] in known))
    numbers = {name: number for number, (name, _) in enumerate(kept)}
    if not kept:
        raise BlissError(
            f"none of the {len(listed):,} images of {table} is below {root / IMAGES}",
            "images named MD5HASH.jpg in a folder there",
            "Download the images",
        )
    pairs: dict[tuple[int, int], int] = {}
    for row in _rows(root / TRUTH / "near_duplicates.csv", ("md5hash_list", "label")):
        names = [name.strip() for name in row["md5hash_list"].split(",")]
        members = [numbers[name] for name in names if name in numbers]
        for one, other in itertools.combinations(members, 2):
            pairs[min(one, other), max(one, other)] = _truth(row)
    return CleanPatrick(
        root / IMAGES,
        tuple(known[name].relative_to(root / IMAGES).as_posix() for name, _ in kept),
        tuple(label or "undefined" for _, label in kept),
        _marks(root / TRUTH / "off_topic_samples.csv", numbers),
        _marks(root / TRUTH / "label_errors.csv", numbers),
        np.array(list(pairs), np.int64).reshape(-1, 2),
        np.array(list(pairs.values()), np.int8),
        len(listed) - len(kept),
    )


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, str]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise BlissError(
                    f"{path} has no column {', '.join(lacking)}",
                    f"the columns {', '.join(columns)}",
                    "Download it again",
                )
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BlissError(f"{path} could not be read ({error})", "a csv file", "Check it") from error


def _truth(row: Mapping[str, str]) -> int:
    try:
        return int(float(row["label"]) >= 0.5)
    except (TypeError, ValueError) as error:
        raise BlissError(f"label {row['label']!r} was read", "1 or 0", "Check the file") from error


def _marks(path: Path, numbers: Mapping[str, int]) -> np.ndarray:
    marks = np.full(len(numbers), -1, np.int8)
    for row in _rows(path, ("md5hash", "label")):
        if row["md5hash"] in numbers:
            marks[numbers[row["md5hash"]]] = _truth(row)
    return marks


def judge_cleanpatrick(
    truth: CleanPatrick, rows: np.ndarray, scores: Mapping[str, np.ndarray], vectors: np.ndarray
) -> list[dict[str, object]]:
    """A row for each of ISSUES: how many there are, AUROC, AP, and precision and recall.

    `rows` int64 [m] are the images of `truth` that were scored, `scores` float64 [m] each of
    "off-topic" and "label error", higher = more certain, NaN where there is none; `vectors` float32
    [m, d] their unit rows, whose cosines rank the pairs. An issue without positives or negatives
    has no figures.
    """
    place = np.full(len(truth.paths), -1)
    place[rows] = np.arange(len(rows))
    pairs = place[truth.pairs]
    there = (pairs >= 0).all(axis=1)
    cosines = np.einsum("pd,pd->p", vectors[pairs[there, 0]], vectors[pairs[there, 1]])
    judged = {
        "off-topic": (scores["off-topic"], truth.off_topic[rows]),
        "near-duplicate": (cosines.astype(np.float64), truth.near_duplicate[there]),
        "label error": (scores["label error"], truth.label_error[rows]),
    }
    return [{"issue": name, **_figures(*judged[name])} for name in ISSUES]


def _figures(scores: np.ndarray, marks: np.ndarray) -> dict[str, object]:
    known = (marks >= 0) & np.isfinite(scores)
    scores, positive = scores[known], marks[known] == 1
    facts: dict[str, object] = {"ranked": len(scores), "issues": int(positive.sum())}
    if positive.all() or not positive.any():
        return facts
    facts |= {"auroc": auroc(scores, positive), "ap": aupr_out(scores, positive)}
    for budget in sorted({*(each for each in BUDGETS if each <= len(scores)), int(positive.sum())}):
        precision, recall = precision_recall_at(scores, positive, budget)
        facts |= {f"precision@{budget}": precision, f"recall@{budget}": recall}
    return facts


def cleanpatrick_lines(rows: list[dict[str, object]]) -> list[str]:
    """A line for each issue, in percent."""
    lines = []
    for row in rows:
        figures = "; ".join(
            f"{name} {100 * value:.1f}" for name, value in row.items() if isinstance(value, float)
        )
        head = f"{row['issue']}: {row['issues']:,} of {row['ranked']:,} ranked"
        lines.append(f"{head}: {figures}" if figures else f"{head}: nothing to tell apart")
    return lines
