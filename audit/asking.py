"""What is asked of an audit beside its scores, checked before any work and answered after it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UsageError
from ..indexer.embedded_images import EmbeddedImages
from ..indexer.encoding import check_same_model
from ..indexer.progress import Progress, no_progress
from ..scorer.members import as_members
from ..scorer.reference import Calibration, Reference
from .decisions import DecisionRule, check_can_flag, decided
from .label_issues import with_labels_questioned
from .result import AuditResult
from .robust import refitted
from .run import AuditSettings, calibrated, given_classes

QUESTIONS = ("stray", "mislabel")
HELD_OUT = 0.2
"""Share of a separate reference's images that is kept back for calibration."""


@dataclass(frozen=True)
class Asked:
    """Which question, of which reference, and how to decide."""

    question: str = "stray"
    """stray: does it belong to any class? mislabel: does it belong to its own?"""
    robust: bool = False
    """Refit the reference once without the images that another class explains."""
    calibration: str | None = None
    """Clean images, or embeddings of such, that turn scores into p-values."""
    rule: DecisionRule = field(default_factory=DecisionRule)

    def __post_init__(self) -> None:
        if self.question not in QUESTIONS:
            raise UsageError(
                f"question '{self.question}' is unknown",
                f"one of {', '.join(QUESTIONS)}",
                "Correct --question",
            )
        if self.question == "mislabel":
            for given, name in (
                (self.calibration, "--calibration"),
                (self.rule.per_class, "--per-class"),
                (self.rule.empirical_null, "--flag empirical-null"),
            ):
                if given:
                    raise UsageError(
                        f"{name} was given with --question mislabel",
                        "a question about strays: there is no null for label margins",
                        f"Leave {name} out; images of positive margin are flagged",
                    )


@dataclass(frozen=True)
class Sources:
    """The images beside the audited ones."""

    reference: EmbeddedImages | None
    """Those the reference was fitted on, where they are at hand and not the audited ones."""
    calibration: EmbeddedImages | None
    own: bool
    """Whether the audited images are their own reference."""


def check_bliss_only(asked: Asked, score: str) -> None:
    """Raise UsageError for what BLISS alone can answer, where another `score` is to rank."""
    if score == "bliss":
        return
    for given, name in (
        (asked.question != "stray", f"--question {asked.question}"),
        (asked.robust, "--robust"),
        (asked.calibration and score != "bliss+", "--calibration"),
        (asked.rule.per_class, "--per-class"),
    ):
        if given:
            raise UsageError(
                f"{name} was given with --score {score}",
                "bliss, the score it works with",
                "Leave one of them out",
            )


def check_reference(asked: Asked, given: str | None, saved: Reference | None) -> None:
    """Raise UsageError for what the reference at hand cannot serve; `given` is None for the
    audited images themselves, `saved` a fitted one."""
    if asked.robust and saved is not None:
        raise UsageError(
            f"--robust was given with {given}, a fitted reference without its images",
            "the images, to see which of them do not belong",
            "Give their folder as --reference, or leave --robust out",
        )
    no_clean = given is None or (saved is not None and saved.calibration is None)
    if no_clean and asked.calibration is None and asked.question == "stray":
        check_can_flag(asked.rule)


def share_held_out(asked: Asked, images: int) -> float:
    """The share of a separate reference of n `images` to keep back for calibration.

    None where p-values are not asked for, come from elsewhere, or where a fifth of the images is
    too few for any to be at most the false discovery rate.
    """
    enough = math.ceil(1 / asked.rule.fdr - 1e-9) - 1
    if asked.question != "stray" or asked.calibration or int(HELD_OUT * images) < enough:
        return 0.0
    return HELD_OUT


def answered(
    result: AuditResult,
    asked: Asked,
    sources: Sources,
    settings: AuditSettings,
    progress: Progress = no_progress,
) -> AuditResult:
    """`result` refitted, calibrated, ranked and flagged as asked.

    Its reference has the calibration images already; a refit compares with them by itself.
    """
    if asked.robust:
        result = refitted(result, sources.reference, settings, progress)
    per_class = asked.rule.per_class and result.reference.calibration is not None
    again = sources.calibration is not None and not asked.robust and result.score_name == "bliss"
    if again or per_class:
        result = calibrated(result, settings, asked.rule.per_class)
    if asked.question == "mislabel":
        result = with_labels_questioned(result)
    return decided(result, asked.rule, sources.own)


def with_calibration(reference: Reference, clean: EmbeddedImages, asked: Asked) -> Reference:
    """The reference with `clean` images to calibrate with, in place of any it held out.

    Those that are in the reference are passed over. Raises BlissError for another model's
    embeddings, UsageError where none is left, or with --per-class where a class has none.
    """
    check_same_model(clean.model, clean.source, reference.model, "the reference")
    labels = given_classes(clean, reference)
    usable = as_members(reference.members).find(clean.hashes) < 0
    if asked.rule.per_class:
        usable &= labels >= 0
        counts = np.bincount(labels[usable], minlength=len(reference.classes))
        if counts.min() == 0:
            raise UsageError(
                f"--per-class was given and {clean.source} has no image of class "
                f"'{reference.classes[int(counts.argmin())]}'",
                "clean images of every class, in folders of their names",
                "Add some, or leave --per-class out",
            )
    if not usable.any():
        raise UsageError(
            f"every image of {clean.source} is in the reference",
            "other clean images to compare with",
            "Give --calibration another folder",
        )
    return replace(
        reference, calibration=Calibration(clean.vectors[np.flatnonzero(usable)], labels[usable])
    )
