"""What is wrong with which image: one table of issues over all questions of an audit.

An image can have several issues. The table is in the order of `AuditResult.first_order`; where an
image has several, in the order of KINDS.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .result import AuditResult

KINDS = ("stray", "label", "copy", "near-copy", "leak", "quality")
"""stray: belongs to no class, flagged as the decision says. label: another class suits it better.
copy: the same bytes or pixels as another image. near-copy: the same picture, changed. leak: a copy
of an image of another collection or split (--against). quality: a bad picture."""

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("image", pa.string()),
        ("label", pa.string()),
        ("kind", pa.string()),
        ("evidence", pa.string()),
        ("severity", pa.float64()),
        ("suggestion", pa.string()),
        ("other", pa.string()),
        ("read_first", pa.int64()),
    ]
)

LOOK_ALIKE = "look-alike"
"""Pairs of this kind are listed with the copies and are no issue."""
HOW = {
    "exact": "the same file",
    "same-pixels": "the same pixels",
    "near": "the same picture",
}
"""How an image equals another, by the kind of copy."""

ANY_CLASS = "see whether it belongs to any class"
FAR = 2.5
"""Robust standard deviations above the median score from which an image fits no class well."""


class Issue(NamedTuple):
    """One issue of the image at position `at` of the scores."""

    at: int
    kind: str
    evidence: str
    severity: float
    """The percentage of the collection's images that are no worse in this respect."""
    suggestion: str
    other: str | None = None
    """The class or the image that the evidence names."""


def issues_table(result: AuditResult) -> pa.Table:
    """Every issue of an audit, one row each, with the columns of SCHEMA."""
    found = [*_strays(result), *_labels(result), *_copies(result), *_bad_pictures(result)]
    place = np.empty(len(result.ranking), np.int64)
    place[result.first_order] = np.arange(1, len(place) + 1)
    found.sort(key=lambda issue: (place[issue.at], KINDS.index(issue.kind)))
    at = np.array([issue.at for issue in found], np.int64)
    paths, labels = result.images.paths, result.images.labels
    return pa.table(
        [
            pa.array(result.images.rows[at]),
            pa.array([paths[i] for i in at.tolist()], pa.string()),
            pa.array([labels[i] for i in at.tolist()], pa.string()),
            *(
                pa.array([getattr(issue, field.name) for issue in found], field.type)
                for field in SCHEMA
                if field.name in Issue._fields
            ),
            pa.array(place[at]),
        ],
        schema=SCHEMA,
    )


def _strays(result: AuditResult) -> Iterator[Issue]:
    """The flagged images, where the images were ranked as strays."""
    decision = result.decision
    if decision is None or result.ranked_by_labels:
        return
    flagged = np.flatnonzero(decision.flagged)
    severity = percentiles(result.scores.score)
    captions = strongest_captions(result, flagged)
    for i, (caption, pull) in zip(flagged.tolist(), captions, strict=True):
        nearest = result.reference.classes[result.scores.nearest[i]]
        resembles = f"; resembles '{caption}' ({pull:+.1f})" if pull > 0 else ""
        yield Issue(
            i,
            "stray",
            f"unlike every class, least unlike {nearest} (score {result.scores.score[i]:.2f})"
            + resembles,
            severity[i],
            "see whether it belongs to the collection",
            nearest,
        )


def _labels(result: AuditResult) -> Iterator[Issue]:
    """The images that another class suits better than their own."""
    labels = result.labels
    if labels is None:
        return
    severity = percentiles(np.nan_to_num(labels.margin, nan=-np.inf))
    unlike = fits_no_class(result)
    classes = result.reference.classes
    for i in np.flatnonzero(labels.is_issue).tolist():
        given, better = classes[labels.given[i]], classes[labels.predicted[i]]
        looks = "unlike every class, nearest to" if unlike[i] else "looks like"
        yield Issue(
            i,
            "label",
            f"filed under {given}, {looks} {better} (margin {labels.margin[i]:.3f})",
            severity[i],
            ANY_CLASS if unlike[i] else f"file under {better}",
            better,
        )


def _copies(result: AuditResult) -> Iterator[Issue]:
    """The copies that are not kept, those of another collection, and copies filed apart."""
    if result.copies is None:
        return
    n, place = len(result.images.rows), _places(result.images.rows)
    groups: dict[int, list[dict[str, Any]]] = {}
    copies = result.copies.filter(pc.not_equal(result.copies["kind"], LOOK_ALIKE))
    for row in copies.to_pylist():
        groups.setdefault(row["group"], []).append(row)
    closeness = np.full(n, -np.inf)
    found: list[tuple[int, str, str, str, str | None]] = []
    for members in groups.values():
        ours = [row for row in members if not row["other"]]
        kept = next((row for row in members if row["keep"]), None)
        labels = sorted({row["label"] for row in ours if row["label"] is not None})
        for row in ours:
            i = place[row["row"]]
            alike = _alikeness(row)
            mine, twins = row["split"], [each for each in ours if each is not row]
            if row["leak"]:
                apart = [each for each in twins if each["split"] not in (mine, None)]
                there = apart[0] if apart else kept
                other = None if there is None else str(there["image"])
                where = f"the split {apart[0]['split']}" if apart else "the other collection"
                evidence = f"{HOW[row['kind']]} as {other or 'an image'} of {where}"
                suggestion = f"take it out of one of the two{' splits' * bool(apart)}"
                found.append((i, "leak", evidence, suggestion, other))
                closeness[i] = max(closeness[i], alike)
                twins = [each for each in twins if each["split"] == mine] if apart else []
            if kept is not None and row is not kept and twins:
                kind = "near-copy" if row["kind"] == "near" else "copy"
                evidence = f"{HOW[row['kind']]} as {kept['image']}"
                suggestion = f"keep {kept['image']}, leave this out"
                found.append((i, kind, evidence, suggestion, kept["image"]))
                closeness[i] = max(closeness[i], alike)
        if len(labels) > 1 and result.labels is not None:
            for row in ours:
                others = [name for name in labels if name != row["label"]]
                evidence = f"filed under {row['label']}, copies of it under {', '.join(others)}"
                i = place[row["row"]]
                found.append((i, "label", evidence, "file all under one class", others[0]))
                closeness[i] = max(closeness[i], _alikeness(row))
    severity = percentiles(closeness)
    for i, kind, evidence, suggestion, other in found:
        yield Issue(i, kind, evidence, severity[i], suggestion, other)


def _alikeness(row: dict[str, Any]) -> float:
    """How certain a copy is: equal files, then equal pixels, then by correlation or cosine."""
    near = row["similarity"] if row["correlation"] is None else row["correlation"]
    return {"exact": 3.0, "same-pixels": 2.0}.get(row["kind"], near or 0.0)


def _bad_pictures(result: AuditResult) -> Iterator[Issue]:
    """What `quality_issues` lists; the images that it does not list are better."""
    if result.quality is None:
        return
    n, place = len(result.images.rows), _places(result.images.rows)
    rows = result.quality.to_pylist()
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["issue"], []).append(row["value"])
    ordered = {issue: np.sort(found) for issue, found in values.items()}
    for row in rows:
        worse = int(np.searchsorted(ordered[row["issue"]], row["value"]))
        yield Issue(
            place[row["row"]],
            "quality",
            f"{row['issue'].replace('_', ' ')}: {row['value']:.3g}, below {row['threshold']:.3g}",
            100 * (n - worse) / n,
            "see whether it is of use",
            None,
        )


def _places(rows: np.ndarray) -> dict[int, int]:
    """The position of each source row."""
    return {row: i for i, row in enumerate(rows.tolist())}


def percentiles(values: np.ndarray) -> np.ndarray:
    """float64 [n] in (0, 100], the percentage of the n values that are at most as high as each."""
    return 100 * np.searchsorted(np.sort(values), values, side="right") / max(1, len(values))


def fits_no_class(result: AuditResult) -> np.ndarray:
    """bool [n], whether an image is unlike every class, so that another label would be as wrong.

    Its BLISS score, the minimum over classes, is FAR robust standard deviations above the median.
    """
    score = result.scores.best_scores[:, 0]
    low, middle, high = np.quantile(score, [0.25, 0.5, 0.75])
    return score > middle + FAR * (high - low) / 1.349


def strongest_captions(result: AuditResult, at: np.ndarray) -> list[tuple[str, float]]:
    """The caption of strongest pull of each image at int64 [m], with that pull."""
    pull = result.scores.given_pull[at]
    best = pull.argmax(axis=1)
    rows, inverse = np.unique(
        np.take_along_axis(result.retrieved.rows[at], best[:, None], axis=1), return_inverse=True
    )
    texts = result.index.captions_of(rows)
    strongest = np.take_along_axis(pull, best[:, None], axis=1).ravel().tolist()
    return [(texts[j], value) for j, value in zip(inverse.ravel().tolist(), strongest, strict=True)]


def issue_counts(issues: pa.Table) -> dict[str, int]:
    """How many issues there are of each kind that occurs, in the order of KINDS."""
    kinds = issues["kind"].to_pylist()
    return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def worst_issues(issues: pa.Table) -> dict[str, dict[str, Any]]:
    """The issue of greatest severity of each kind that occurs; of equal ones the first."""
    worst: dict[str, dict[str, Any]] = {}
    for issue in issues.to_pylist():
        kind = issue["kind"]
        if kind not in worst or issue["severity"] > worst[kind]["severity"]:
            worst[kind] = issue
    return {kind: worst[kind] for kind in KINDS if kind in worst}
