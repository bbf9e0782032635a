"""Refit the reference once without the images that another class explains, and score again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ...indexer import EmbeddedImages, Texts, text_column
from ...progress import Progress, no_progress
from ...safe_text import counted
from ...scorer import (
    LEAST,
    SCORES,
    SHARE,
    BlissScores,
    FiledImages,
    Reference,
    Sample,
    apart_from_class,
    as_members,
    balanced_weight,
    explained_images,
    filed_terms,
    label_margins,
    merged_order,
    rank_correlation,
    remove_images,
    top_in_common,
)
from ..issues import LOOK_ALIKE
from ..result import AuditResult, Refit
from ..retrieval import retrieve
from ..run import AuditSettings, calibrated, calibrated_on_itself, given_classes, in_reference
from ..scores import rescored
from ..scoring import score_classes

MOST_REFITTED = 50_000
"""Images for which the merged order refits without being told to: the neighbours of those in doubt
are searched among all."""
BALANCED = 256
"""Retrieved captions, evenly spaced, that the deviations for `balanced_weight` are along."""


def refitted(
    result: AuditResult,
    clean: EmbeddedImages | None,
    settings: AuditSettings,
    progress: Progress = no_progress,
    *,
    asked: bool = True,
) -> AuditResult:
    """`result` scored again against its reference without the images that another class explains.

    By BLISS or bliss+, whichever ranks `result`; unchanged where that was not `asked` for and there
    are none. `clean` are the reference's images, None where they are the audited ones. Images that
    were dropped are scored against a reference without them, as images left out are. The reference
    has two classes or more.
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
    cosine = label_margins(images.vectors, before, labels, left_out).cosine_margin
    out, better, stay = _explained(images, labels, scores, settings.weight, cosine)
    if stay:
        images_stay = counted(stay, "image that another class explains stays",
                              "images that another class explains stay")  # fmt: skip
        remark = f"{images_stay} in the fit, so that their classes keep enough images"
        result = replace(result, remarks=(*result.remarks, remark))
    if not (asked or out.any()):
        return replace(result, all_stay=True)
    table = tuple(
        (images.paths[i], before.classes[labels[i]], before.classes[better[i]])
        for i in np.flatnonzero(out).tolist()
    )
    return scored_with(result, without_images(before, images, labels, out), settings, table)


def scored_with(
    result: AuditResult,
    reference: Reference,
    settings: AuditSettings,
    table: tuple[tuple[str, str, str], ...] = (),
) -> AuditResult:
    """`result` scored again, by the same score, with a `reference` that lacks some of its images.

    λ is `balanced_weight`; `table` lists what was removed.
    """
    before = result.reference
    if reference.calibration is not None and reference.calibration.in_moments:
        reference = calibrated_on_itself(reference)
    now = in_reference(result.images, reference)
    texts = result.retrieved.vectors
    some = np.linspace(0, len(texts) - 1, min(BALANCED, len(texts))).astype(int)
    weight = balanced_weight(settings.weight, before, reference, texts[some])
    again = score_classes(
        result.images.vectors,
        result.retrieved,
        reference,
        weight,
        given_classes(result.images, reference),
        now,
        engine=result.engine,
    )
    n = len(again.score)
    fewer = np.bincount(now.images, minlength=n) < np.bincount(result.left_out.images, minlength=n)
    found = replace(result, reference=reference, scores=again, left_out=now, weight=weight)
    if result.score_name == "bliss+":
        found = rescored(found, SCORES["bliss+"], weight)
    else:
        found = calibrated(found, replace(settings, weight=weight))
    refit = Refit(fewer, table, result.scores.score, found.scores.score, weight)
    return replace(found, refit=refit)


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
    return without_rows(reference, np.asarray(images.vectors[leaving]), contents, labels[leaving])


def without_rows(
    reference: Reference, vectors: np.ndarray, contents: Texts[str], labels: np.ndarray
) -> Reference:
    """The reference without images [m]: their vectors [m, d], content hashes and classes."""
    members = as_members(reference.members).without(contents, labels)
    moments = remove_images(reference.moments, vectors, labels)
    sample = reference.sample
    if sample is not None:
        gone = {(label, row.tobytes()) for label, row in zip(labels, vectors, strict=True)}
        stays = np.array(
            [(label, row.tobytes()) not in gone
             for label, row in zip(sample.labels, sample.images, strict=True)], bool
        )  # fmt: skip
        sample = Sample(sample.images[stays], sample.labels[stays])
    return replace(reference, moments=moments, members=members, sample=sample)


def merged_with_refit(result: AuditResult, own: bool) -> np.ndarray:
    """float64 [n], `merged_order` of an audit whose labels were questioned.

    Where the audited images are their `own` reference, and no more than MOST_REFITTED, they are
    compared with their neighbours too, copies apart, and the reference is first fitted again
    without those that another class explains, unless that was done already.
    """
    assert result.labels is not None
    labels, reference, scores = result.labels, result.reference, result.scores
    ics, ets, given = scores.given_ics, scores.given_ets, labels.given
    apart = None
    if own and len(given) <= MOST_REFITTED:
        apart = apart_from_class(result.images.vectors, given, _copy_groups(result))
    if apart is not None and result.refit is None and not result.all_stay:
        weight, margin = result.weight, labels.cosine_margin
        out, _, _ = _explained(result.images, given, scores, weight, margin)
        if out.any():
            reference = without_images(reference, result.images, given, out)
            left_out = in_reference(result.images, reference)
            vectors = result.images.vectors
            again = np.where(np.isin(given, given[out]), given, -1)
            terms = filed_terms(vectors, result.retrieved, reference, again, left_out)
            ics, ets = (np.where(again < 0, *pair) for pair in zip((ics, ets), terms, strict=True))
            labels = label_margins(vectors, reference, given, left_out)
    filed = ~np.isnan(ics)
    ics, ets = np.where(filed, ics, scores.ics), np.where(filed, ets, scores.ets)
    weight = result.weight if result.refit is None else result.refit.weight
    return merged_order(ics + weight * ets, labels.margin, apart)


def _copy_groups(result: AuditResult) -> np.ndarray | None:
    """int64 [n], the group of copies of each image, -1 for none; None where nobody looked."""
    if result.copies is None:
        return None
    groups = np.full(len(result.images.rows), -1)
    found = result.copies.filter(pc.field("kind") != LOOK_ALIKE)
    found = found.filter(~pc.field("other"))
    at = np.searchsorted(result.images.rows, found["row"].to_numpy())
    groups[at] = found["group"].to_numpy()
    return groups


def _explained(
    images: EmbeddedImages,
    labels: np.ndarray,
    scores: BlissScores,
    weight: float,
    cosine: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, int]:
    """bool [n], which images to drop, int64 [n], the other class that suits each best, and how many
    stay although another class explains them.

    `cosine` float64 [n] is the margin of prompt cosines.
    """
    filed = np.flatnonzero(labels >= 0)
    own = scores.given_ics + weight * scores.given_ets
    others = np.where(scores.best_classes == labels[:, None], np.inf, scores.best_scores)
    known = FiledImages(
        images.vectors[filed],
        labels[filed],
        text_column(images.hashes).take(filed),
        own[filed],
        (own - others.min(axis=1))[filed],
        cosine[filed],
    )
    out = np.zeros(len(labels), bool)
    out[filed], stay = explained_images(known)
    here = np.arange(len(labels))
    return out, scores.best_classes[here, others.argmin(axis=1)], stay


def refit_facts(result: AuditResult, top: int) -> dict[str, Any] | None:
    """How many images were dropped, of which classes, and how the ranking by BLISS or, where it was
    made first, by bliss+ changed; None without a refit."""
    if result.refit is None:
        return None
    after, before = result.refit.after, result.refit.before
    shown = min(top, len(after))
    counts: dict[str, int] = {}
    for _, label, _ in result.refit.table:
        counts[label] = counts.get(label, 0) + 1
    return {
        "dropped": len(result.refit.table),
        "dropped_by_class": dict(sorted(counts.items())),
        "least_images_a_class": LEAST,
        "least_share_a_class": SHARE,
        "lambda": result.refit.weight,
        "rank_correlation": rank_correlation(before, after),
        "top": shown,
        "top_in_common": top_in_common(before, after, shown),
    }


def refit_text(facts: Mapping[str, Any], reference_images: int) -> str:
    """These facts in a line; `reference_images` counts those that remain."""
    count, top = facts["dropped"], facts["top"]
    images = f"{count:,} of {count + reference_images:,} reference images"
    if not count:
        return f"--robust left none of {reference_images:,} reference images out of the fit"
    classes = counted(len(facts["dropped_by_class"]), "class", "classes")
    line = (
        f"left out of the fit: {images}, from {classes}, which another class explains "
        "(dropped.csv; --no-robust leaves them in)"
    )
    if top:
        line += (
            f": rank correlation with the ranking before {facts['rank_correlation']:.3f}, "
            f"{facts['top_in_common']} of the {top} most anomalous in common"
        )
    return f"{line}; λ is now {facts['lambda']:.3g}, so that captions count as much as before"
