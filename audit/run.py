"""The audit itself: retrieve captions for every image, compare with the normal classes, score."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UsageError
from ..indexer.caption_index import CaptionIndex, search
from ..indexer.embedded_images import EmbeddedImages
from ..indexer.encoding import Encoder, check_same_model, check_same_preprocessing
from ..indexer.index_building import Progress, no_progress
from ..indexer.nearest import Hits
from ..scorer.bliss import bliss_scores
from ..scorer.calibration import conformal_p_values, hold_out
from ..scorer.class_p_values import class_p_values
from ..scorer.label_filter import NO_FILTER, LabelFilter, without_label_texts
from ..scorer.leave_one_out import NOTHING_LEFT_OUT, LeftOut
from ..scorer.moments import fit_moments
from ..scorer.reference import Calibration, Reference
from ..scorer.reference_sample import images_to_keep
from ..scorer.retrieved import Retrieved, gather_texts
from ..scorer.text_statistics import check_counts
from .classes import (
    ClassWords,
    NormalClasses,
    assign_classes,
    choose_classes,
    class_prompts,
    encode_class_prompts,
    look_up_class_prompts,
    named_classes,
)
from .result import AuditResult

QUERIES_AT_ONCE = 16_384


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


def audit_own(
    images: EmbeddedImages,
    index: CaptionIndex,
    encoder: Encoder | None = None,
    settings: AuditSettings = DEFAULTS,
    progress: Progress = no_progress,
) -> AuditResult:
    """Audit a collection that is its own reference, each image left out of its own class.

    A copy of an image that is filed elsewhere is left out of the class that one is filed under.
    Without an `encoder`, label prompts are looked up among the index's captions. Raises
    BlissError naming a class with fewer than three images, UsageError for images without labels
    when no class is named.
    """
    reference, normal = _fit(images, index, encoder, settings.words)
    check_counts(reference.moments, needed=3)
    given = np.full(len(images.rows), -1) if normal.assigned else normal.labels
    return _audit(images, index, reference, settings, given, progress)


def audit_against(
    images: EmbeddedImages,
    index: CaptionIndex,
    reference: Reference,
    settings: AuditSettings = DEFAULTS,
    progress: Progress = no_progress,
) -> AuditResult:
    """Audit a collection against a reference; images with the content of one of its images are
    left out of the class that one is filed under."""
    given = given_classes(images, reference)
    return _audit(images, index, reference, settings, given, progress)


def given_classes(images: EmbeddedImages, reference: Reference) -> np.ndarray:
    """int64 [n], the class of the reference each image is filed under by its label, -1 for none."""
    numbers = {name: number for number, name in enumerate(reference.classes)}
    return np.array([numbers.get(label, -1) for label in images.labels], np.int64)  # type: ignore[arg-type]


def fit_reference(
    images: EmbeddedImages,
    index: CaptionIndex | None = None,
    encoder: Encoder | None = None,
    words: ClassWords = DEFAULTS.words,
    calibration_share: float = 0.0,
) -> Reference:
    """The reference that clean `images` make, some of them held out for calibration.

    Label prompts come from the `encoder`, or without one from the `index`'s captions. Raises
    BlissError naming a class with fewer than two images in the moments.
    """
    reference, _ = _fit(images, index, encoder, words, calibration_share)
    check_counts(reference.moments)
    return reference


def _fit(
    images: EmbeddedImages,
    index: CaptionIndex | None,
    encoder: Encoder | None,
    words: ClassWords,
    calibration_share: float = 0.0,
) -> tuple[Reference, NormalClasses]:
    normal = choose_classes(images.labels, words, images.source)
    classes = normal.classes if normal else named_classes(words, images.source)
    prompts = class_prompts(classes, words)
    if encoder is not None:
        check_same_model(images.model, images.source, encoder.facts, "the model given")
        vectors = encode_class_prompts(prompts, encoder)
    elif index is not None:
        check_same_model(images.model, images.source, index.model, str(index.folder))
        vectors = look_up_class_prompts(classes, prompts, index)
    else:
        raise UsageError("neither a model nor an index was given", "one for the prompts", "Add one")
    if normal is None:
        normal = assign_classes(images.vectors, vectors, words)
    held = hold_out(normal.labels, images.hashes, calibration_share)
    used = (normal.labels >= 0) & ~held
    moments = fit_moments(classes, images.vectors[used], normal.labels[used])
    members: dict[str, tuple[int, ...]] = {}
    for i in np.flatnonzero(used):
        filed = members.get(images.hashes[i], ())
        members[images.hashes[i]] = tuple(sorted({*filed, int(normal.labels[i])}))
    calibration = None
    if held.any():
        calibration = Calibration(images.vectors[held], normal.labels[held])
    sample = images_to_keep(moments, images.vectors[used], normal.labels[used])
    model = images.model if images.model.get("weights_sha256") or encoder is None else encoder.facts
    flat = tuple(" | ".join(texts) for texts in prompts)
    return Reference(moments, vectors, flat, model, members, calibration, sample), normal


def retrieve(
    index: CaptionIndex, images: np.ndarray, k: int, progress: Progress = no_progress
) -> Retrieved:
    """The k captions nearest to each unit row of `images` [n, d], with their vectors."""
    found = []
    for start in range(0, len(images), QUERIES_AT_ONCE):
        found.append(search(index, images[start : start + QUERIES_AT_ONCE], k))
        progress("images searched", min(len(images), start + QUERIES_AT_ONCE), len(images))
    hits = Hits(
        np.concatenate([hit.similarity for hit in found]),
        np.concatenate([hit.rows for hit in found]),
    )
    return gather_texts(hits, index.vectors.fetch)


def in_reference(images: EmbeddedImages, reference: Reference) -> LeftOut:
    """Which images have the content of a reference image, and the classes it is filed under."""
    pairs = [(i, c) for i, h in enumerate(images.hashes) for c in reference.members.get(h, ())]
    if not pairs:
        return NOTHING_LEFT_OUT
    return LeftOut(np.array([i for i, _ in pairs]), np.array([c for _, c in pairs]))


def _audit(
    images: EmbeddedImages,
    index: CaptionIndex,
    reference: Reference,
    settings: AuditSettings,
    given: np.ndarray,
    progress: Progress,
) -> AuditResult:
    check_same_model(images.model, images.source, index.model, str(index.folder))
    check_same_model(images.model, images.source, reference.model, "the reference")
    check_same_preprocessing(reference.model, "the reference", images.model, images.source)
    left_out, hidden = in_reference(images, reference), None
    if settings.exclude:
        prompts = reference.prompt_vectors
        index, hidden = without_label_texts(index, reference.classes, prompts, settings.exclude)
    retrieved = retrieve(index, images.vectors, settings.k, progress)
    scores = bliss_scores(images.vectors, retrieved, reference, settings.weight, given, left_out)
    result = AuditResult(images, index, reference, retrieved, scores, left_out, None, hidden=hidden)
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
    found = retrieve(result.index, clean, settings.k)
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
