"""Audit embedded images: retrieve captions for each, compare with the normal classes, score.

`run_audit` of `request.py` does this for files on disk; these functions are for what is in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from ..arguments import checked, checked_fields
from ..errors import UsageError
from ..indexer import (
    SCRATCH,
    CaptionIndex,
    EmbeddedImages,
    Encoder,
    Engine,
    check_same_model,
    check_same_preprocessing,
    numbers_of,
    remaining,
    whole_rows,
)
from ..progress import Progress, no_progress
from ..scorer import (
    NO_FILTER,
    NOTHING_LEFT_OUT,
    Calibration,
    LabelFilter,
    LeftOut,
    Reference,
    as_members,
    check_counts,
    class_p_values,
    conformal_p_values,
    label_texts,
    sample_of,
)
from .classes import ClassWords
from .fitting.reference import fit_reference
from .result import AuditResult
from .retrieval import CaptionSums, HitsCache, retrieve
from .scoring import score_classes

LEAST_IMAGES = 3
"""Images a class needs to be its own reference: two remain when one is left out."""


@checked_fields
@dataclass(frozen=True)
class AuditSettings:
    """What a score depends on besides the images, the index and the reference."""

    k: int = 10
    """Captions retrieved for each image."""
    weight: float = 0.5
    """λ, the weight of the external text score."""
    words: ClassWords = field(default_factory=ClassWords)
    exclude: LabelFilter = NO_FILTER
    """Which captions are hidden because they are too similar to a normal label."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k = {self.k} was given", "1 or more", "Correct --k")
        if not 0 <= self.weight < math.inf:
            raise UsageError(
                f"a weight of {self.weight} was given", "a finite number, 0 or more", "Try 0.5"
            )


DEFAULTS = AuditSettings()


class PlansSums(Protocol):
    """A score whose sums over all captions the search can make in passing."""

    def plan(
        self, images: EmbeddedImages, index: CaptionIndex, reference: Reference, left_out: LeftOut
    ) -> CaptionSums | None:
        """The sums for these images, to be filled; None where they are better made later."""


@checked
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
    reference = fit_reference(images, index, encoder, settings.words, least=LEAST_IMAGES)
    return audit_against(images, index, reference, settings, progress)


@checked
def audit_against(  # noqa: PLR0913 - five positional
    images: EmbeddedImages,
    index: CaptionIndex,
    reference: Reference,
    settings: AuditSettings = DEFAULTS,
    progress: Progress = no_progress,
    *,
    hits: HitsCache | None = None,
    engine: Engine | None = None,
    plus: PlansSums | None = None,
) -> AuditResult:
    """Audit a collection against a reference, with p-values where it holds calibration images.

    Images with the content of a reference image are left out of the class that one is filed
    under. `hits` keeps what is retrieved for later runs; an `engine` searches and scores elsewhere,
    with the same result; `plus` has its sums made by the search. Raises BlissError where images,
    index and reference are not of one model.
    """
    check_same_model(images.model, images.source, index.model, str(index.folder))
    check_same_model(images.model, images.source, reference.model, "the reference")
    check_same_preprocessing(reference.model, "the reference", images.model, images.source)
    hidden = None
    if settings.exclude:
        prompts = reference.prompt_vectors
        hidden = label_texts(index, index.vectors, reference.classes, prompts, settings.exclude)
        index = index.without(remaining(index.count, hidden.kept))
    left_out = in_reference(images, reference)
    given = given_classes(images, reference)
    sums = None
    if plus is not None and engine is None:
        sums = plus.plan(images, index, reference, left_out)
    retrieved = retrieve(
        index, images.vectors, settings.k, progress, hits, engine=engine, sums=sums
    )
    scores = score_classes(
        images.vectors, retrieved, reference, settings.weight, given, left_out, engine=engine
    )
    result = AuditResult(
        images, index, reference, retrieved, scores, left_out, None,
        hits=hits, engine=engine, hidden=hidden, weight=settings.weight,
    )  # fmt: skip
    return calibrated(result, settings)


def given_classes(images: EmbeddedImages, reference: Reference) -> np.ndarray:
    """int64 [n], the class of the reference each image is filed under by its label, -1 for none."""
    return numbers_of(images.labels, reference.classes)


def in_reference(images: EmbeddedImages, reference: Reference) -> LeftOut:
    """Which images are in the reference, by content or row, and the classes of each."""
    return LeftOut(*as_members(reference.members).filed(images.hashes, images.vectors))


def calibrated_on_itself(reference: Reference) -> Reference:
    """The reference with its own images, about 2,000 at most, as its calibration sample.

    Each is left out of its class when it is scored. Raises BlissError naming a class of which only
    moments were kept, or that has too few images to leave one out.
    """
    check_counts(reference.moments, needed=LEAST_IMAGES)
    sample = sample_of(reference)
    return replace(reference, calibration=Calibration(sample.images, sample.labels, True))


def left_out_of_calibration(calibration: Calibration) -> LeftOut:
    """Which calibration images are in the reference, under their class: all or none."""
    if not calibration.in_moments:
        return NOTHING_LEFT_OUT
    return LeftOut(np.arange(len(calibration.labels)), calibration.labels)


def calibrated(
    result: AuditResult, settings: AuditSettings, per_class: bool = False
) -> AuditResult:
    """`result` with p-values from its reference's calibration images, unchanged without any.

    Calibration images that are in the moments are each left out of their class.

    The calibration images are scored like the others and the scores, minima over classes, are
    compared. With `per_class`, p is the largest over classes of the p-value for the class, from
    that class's calibration images.
    """
    reference = result.reference
    if reference.calibration is None:
        return result
    clean, labels = reference.calibration.images, reference.calibration.labels
    engine = result.engine
    found = retrieve(result.index, clean, settings.k, cache=result.hits, engine=engine)
    itself = left_out_of_calibration(reference.calibration)
    scores = score_classes(clean, found, reference, settings.weight, labels, itself, engine=engine)
    if per_class:
        own = scores.given_ics + settings.weight * scores.given_ets
        p_values = class_p_values(
            result.images.vectors,
            replace(result.retrieved, vectors=whole_rows(result.retrieved.vectors)),
            reference,
            settings.weight,
            result.left_out,
            (labels, own),
            allocator=SCRATCH,
        )
    else:
        p_values = conformal_p_values(scores.score, result.scores.score)
    return replace(result, p_values=p_values)
