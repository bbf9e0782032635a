"""Refit the reference once without the images that another class explains, and score again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..indexer import EmbeddedImages, text_column
from ..progress import Progress, no_progress
from ..safe_text import counted
from ..scorer import (
    LEAST,
    SHARE,
    BlissScores,
    FiledImages,
    LeftOut,
    Reference,
    as_members,
    explained_images,
    label_margins,
    rank_correlation,
    remove_images,
    top_in_common,
)
from .result import AuditResult, Refit
from .retrieval import retrieve
from .run import AuditSettings, calibrated, given_classes, in_reference
from .scoring import score_classes


def refitted(
    result: AuditResult,
    clean: EmbeddedImages | None,
    settings: AuditSettings,
    progress: Progress = no_progress,
) -> AuditResult:
    """`result` scored again against its reference without the images that another class explains.

    `clean` are the reference's images, None where they are the audited ones. Images that were
    dropped are scored against a reference without them, as images left out are. The reference has
    two classes or more.
    """
    before = result.reference
    images = result.images if clean is None else clean
    labels = reference_labels(images, before)
    left_out = in_reference(images, before)
    if clean is None and not np.isnan(result.scores.given_ics[labels >= 0]).any():
        scores = result.scores
    else:
        found = retrieve(
            result.index, images.vectors, settings.k, progress, result.hits, engine=result.engine
        )
        scores = score_classes(
            images.vectors, found, before, settings.weight, labels, left_out, engine=result.engine
        )
    out, better = _explained(images, labels, before, scores, settings.weight, left_out)
    reference = without_images(before, images, labels, out)
    classes = before.classes
    table = tuple(
        (images.paths[i], classes[labels[i]], classes[better[i]])
        for i in np.flatnonzero(out).tolist()
    )
    now = in_reference(result.images, reference)
    again = score_classes(
        result.images.vectors,
        result.retrieved,
        reference,
        settings.weight,
        given_classes(result.images, reference),
        now,
        engine=result.engine,
    )
    after = replace(
        result,
        reference=reference,
        scores=again,
        left_out=now,
        refit=Refit(_fewer(result.left_out, now, len(again.score)), table, result.scores.score),
    )
    return calibrated(after, settings)


def reference_labels(images: EmbeddedImages, reference: Reference) -> np.ndarray:
    """int64 [n], the class each image is filed under in the reference, -1 for images not in it."""
    given = given_classes(images, reference)
    filed = in_reference(images, reference)
    labels = np.full(len(given), -1)
    here, first = np.unique(filed.images, return_index=True)
    labels[here] = filed.classes[first]
    own = filed.images[filed.classes == given[filed.images]]
    labels[own] = given[own]
    return labels


def without_images(
    reference: Reference, images: EmbeddedImages, labels: np.ndarray, out: np.ndarray
) -> Reference:
    """The reference without the images where `out` [n] is true, filed under `labels` int64 [n]."""
    leaving = np.flatnonzero(out)
    contents = text_column(images.hashes).take(leaving)
    members = as_members(reference.members).without(contents, labels[leaving])
    moments = remove_images(reference.moments, images.vectors[leaving], labels[leaving])
    return replace(reference, moments=moments, members=members)


def _fewer(before: LeftOut, now: LeftOut, n: int) -> np.ndarray:
    """bool [n], whether each image is filed under fewer classes now than before."""
    return np.bincount(now.images, minlength=n) < np.bincount(before.images, minlength=n)


def _explained(
    images: EmbeddedImages,
    labels: np.ndarray,
    reference: Reference,
    scores: BlissScores,
    weight: float,
    left_out: LeftOut,
) -> tuple[np.ndarray, np.ndarray]:
    """bool [n], which images to drop, and int64 [n], the other class that suits each best."""
    filed = np.flatnonzero(labels >= 0)
    own = scores.given_ics + weight * scores.given_ets
    others = np.where(scores.best_classes == labels[:, None], np.inf, scores.best_scores)
    cosine = label_margins(images.vectors, reference, labels, left_out).cosine_margin
    known = FiledImages(
        images.vectors[filed],
        labels[filed],
        text_column(images.hashes).take(filed),
        own[filed],
        (own - others.min(axis=1))[filed],
        cosine[filed],
    )
    out = np.zeros(len(labels), bool)
    out[filed] = explained_images(known)
    here = np.arange(len(labels))
    return out, scores.best_classes[here, others.argmin(axis=1)]


def refit_facts(result: AuditResult, top: int) -> dict[str, Any] | None:
    """How many images were dropped, of which classes, and how the ranking changed; None without
    --robust."""
    if result.refit is None:
        return None
    after, before = result.scores.score, result.refit.before
    shown = min(top, len(after))
    counts: dict[str, int] = {}
    for _, label, _ in result.refit.table:
        counts[label] = counts.get(label, 0) + 1
    return {
        "dropped": len(result.refit.table),
        "dropped_by_class": dict(sorted(counts.items())),
        "least_images_a_class": LEAST,
        "least_share_a_class": SHARE,
        "rank_correlation": rank_correlation(before, after),
        "top": shown,
        "top_in_common": top_in_common(before, after, shown),
    }


def refit_text(facts: Mapping[str, Any], reference_images: int) -> str:
    """These facts in a line; `reference_images` counts those that remain."""
    count, top = facts["dropped"], facts["top"]
    if not count:
        return f"--robust dropped none of {reference_images:,} reference images"
    classes = counted(len(facts["dropped_by_class"]), "class", "classes")
    line = (
        f"--robust dropped {count:,} of {count + reference_images:,} reference images, from "
        f"{classes} (dropped.csv lists them)"
    )
    if not top:
        return line
    return (
        f"{line}: rank correlation with the ranking before {facts['rank_correlation']:.3f}, "
        f"{facts['top_in_common']} of the {top} most anomalous in common"
    )
