"""The audit itself: retrieve captions for every image, compare with the normal classes, score."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UsageError
from ..indexer.encode.encoder import Encoder, check_same_model, check_same_preprocessing
from ..indexer.images.embedded import EmbeddedImages
from ..indexer.search.index import CaptionIndex
from ..indexer.vectors.text_column import numbers_of
from ..progress import Progress, no_progress
from ..scorer.bliss import bliss_scores
from ..scorer.calibration import class_p_values, conformal_p_values
from ..scorer.label_filter import NO_FILTER, LabelFilter, without_label_texts
from ..scorer.leave_one_out import LeftOut
from ..scorer.members import as_members
from ..scorer.reference import Reference
from ..scorer.statistics import check_counts
from .classes import ClassWords
from .reference import KeptReference, fitted
from .result import AuditResult
from .retrieval import KeptHits, retrieve


@dataclass(frozen=True)
class AuditSettings:
    """What a score depends on beside the images, the index and the reference."""

    k: int = 10
    """Captions retrieved for each image."""
    weight: float = 0.5
    """λ, the weight of the external text score."""
    words: ClassWords = field(default_factory=ClassWords)
    exclude: LabelFilter = NO_FILTER
    """Which captions are hidden, for being too like a normal label."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k = {self.k} was given", "1 or more", "Correct --k")
        if not (np.isfinite(self.weight) and self.weight >= 0):
            raise UsageError(
                f"a weight of {self.weight} was given", "a finite number, 0 or more", "Try 0.5"
            )


DEFAULTS = AuditSettings()


@dataclass(frozen=True)
class Kept:
    """What an audit keeps beside its results, so that it is never done twice."""

    hits: KeptHits | None = None
    reference: KeptReference | None = None


NOTHING_KEPT = Kept()


def audit_own(
    images: EmbeddedImages,
    index: CaptionIndex,
    encoder: Encoder | None = None,
    settings: AuditSettings = DEFAULTS,
    progress: Progress = no_progress,
    kept: Kept = NOTHING_KEPT,
) -> AuditResult:
    """Audit a collection that is its own reference, each image left out of its own class.

    A copy of an image that is filed elsewhere is left out of the class that one is filed under.
    Without an `encoder`, label prompts are looked up among the index's captions. Raises
    BlissError naming a class with fewer than three images, UsageError for images without labels
    when no class is named.
    """
    reference, normal = fitted(images, index, encoder, settings.words, 0.0, kept.reference)
    check_counts(reference.moments, needed=3)
    given = np.full(len(images.rows), -1) if normal.assigned else normal.labels
    return _audit(Audited(images, index, reference, given), settings, progress, kept.hits)


def audit_against(
    images: EmbeddedImages,
    index: CaptionIndex,
    reference: Reference,
    settings: AuditSettings = DEFAULTS,
    progress: Progress = no_progress,
    kept: Kept = NOTHING_KEPT,
) -> AuditResult:
    """Audit a collection against a reference; images with the content of one of its images are
    left out of the class that one is filed under."""
    given = given_classes(images, reference)
    return _audit(Audited(images, index, reference, given), settings, progress, kept.hits)


def given_classes(images: EmbeddedImages, reference: Reference) -> np.ndarray:
    """int64 [n], the class of the reference each image is filed under by its label, -1 for none."""
    numbers = {name: number for number, name in enumerate(reference.classes)}
    return numbers_of(images.labels, numbers)


def in_reference(images: EmbeddedImages, reference: Reference) -> LeftOut:
    """Which images have the content of a reference image, and the classes it is filed under."""
    return LeftOut(*as_members(reference.members).filed(images.hashes))


@dataclass(frozen=True)
class Audited:
    """What is compared with what."""

    images: EmbeddedImages
    index: CaptionIndex
    reference: Reference
    given: np.ndarray
    """int64 [n], the class of the reference each image is filed under, -1 for none."""


def _audit(
    asked: Audited, settings: AuditSettings, progress: Progress, hits: KeptHits | None
) -> AuditResult:
    images, index, reference = asked.images, asked.index, asked.reference
    check_same_model(images.model, images.source, index.model, str(index.folder))
    check_same_model(images.model, images.source, reference.model, "the reference")
    check_same_preprocessing(reference.model, "the reference", images.model, images.source)
    left_out, hidden = in_reference(images, reference), None
    if settings.exclude:
        prompts = reference.prompt_vectors
        index, hidden = without_label_texts(index, reference.classes, prompts, settings.exclude)
    retrieved = retrieve(index, images.vectors, settings.k, progress, hits)
    scores = bliss_scores(
        images.vectors, retrieved, reference, settings.weight, asked.given, left_out
    )
    result = AuditResult(
        images, index, reference, retrieved, scores, left_out, None, hits=hits, hidden=hidden
    )
    return result if reference.calibration is None else calibrated(result, settings)


def calibrated(
    result: AuditResult, settings: AuditSettings, per_class: bool = False
) -> AuditResult:
    """`result` with p-values from its reference's calibration images, which it must have.

    With `per_class` p is the largest over classes of the p-value for the class, from that class's
    calibration images; else scores, minima over classes, are compared.
    """
    reference = result.reference
    assert reference.calibration is not None
    clean, labels = reference.calibration.images, reference.calibration.labels
    found = retrieve(result.index, clean, settings.k, kept=result.hits)
    scores = bliss_scores(clean, found, reference, settings.weight, labels)
    if per_class:
        own = scores.given_ics + settings.weight * scores.given_ets
        p_values = class_p_values(
            result.images.vectors,
            result.retrieved,
            reference,
            settings.weight,
            result.left_out,
            (labels, own),
        )
    else:
        p_values = conformal_p_values(scores.score, result.scores.score)
    return replace(result, p_values=p_values)
