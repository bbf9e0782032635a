"""From scores to decisions: which images are flagged, by what rule, and what that promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..arguments import checked_fields
from ..errors import TooManyFlagged, UsageError
from ..indexer import CaptionIndex, EmbeddedImages, Engine, Texts, check_same_model, numbers_of
from ..progress import Progress, no_progress
from ..safe_text import counted, some_of
from ..scorer import (
    Calibration,
    LabelMargins,
    Reference,
    Score,
    as_members,
    benjamini_hochberg,
    calibration_needed,
    fit_empirical_null,
    label_margins,
    least_flagged,
    null_p_values,
)
from .fitting.robust import MOST_REFITTED, merged_with_refit, refitted
from .issues import issues_table
from .pictures.copies import OpenPicture, find_copies
from .pictures.quality import not_measured, quality_issues
from .result import AuditResult, Decision
from .retrieval import HitsCache
from .run import AuditSettings, audit_against, calibrated, given_classes
from .scores import NO_INPUTS, FittedPlus, ScoreInputs, rescored

QUESTIONS = ("stray", "mislabel", "copy", "quality")
CLASSES_NAMED = 3
"""Unknown classes that are named where labels are questioned."""
FEW_IN_CLASS = 8
"""Images a class below which being left out of it makes an image look stranger: decisions.md."""

MEASURED = "that rate is measured, not guaranteed: the reference's own images calibrate"
NOTHING_FLAGS = (
    "nothing is flagged: give --calibration DIR with other clean images, or say what to flag: "
    "--flag N, --flag N% or --flag empirical-null"
)


@checked_fields
@dataclass(frozen=True)
class DecisionRule:
    """How images are to be flagged."""

    fdr: float = 0.1
    """The false discovery rate at which q-values flag."""
    per_class: bool = False
    """Whether p-values are computed class by class."""
    leave_one_out: bool = False
    """Whether all images of the reference calibrate, each left out of its class, instead of images
    that were held out."""
    top: int | None = None
    """Where there are no p-values: flag this many, the most anomalous."""
    contamination: float | None = None
    """Flag this share of the images, whatever the p-values."""
    empirical_null: bool = False
    """Flag by q-values against a null estimated from the scores themselves, without guarantee."""
    fail_on: int | None = None
    """How many images may be flagged before the command fails; None: any number."""

    def __post_init__(self) -> None:
        if not 0 < self.fdr < 1:
            raise UsageError(
                f"a false discovery rate of {self.fdr} was given", "above 0, below 1", "Try 0.1"
            )
        if self.contamination is not None and not 0 < self.contamination < 1:
            raise UsageError(
                f"a contamination of {self.contamination} was given",
                "the share of images to flag, above 0 and below 1",
                "Try 0.05",
            )
        for name, count in (("top", self.top), ("fail_on", self.fail_on)):
            if count is not None and count < 0:
                raise UsageError(f"{name} = {count} was given", "0 images or more", "Correct it")
        if self.contamination is not None and self.empirical_null:
            raise UsageError(
                "both a contamination and an empirical null were given",
                "one rule that flags",
                "Leave one out",
            )

    def check_can_flag(self) -> None:
        """Raise UsageError for what needs p-values, where there are no clean images for them."""
        if self.per_class:
            raise UsageError(
                "--p-values per-class was given without clean images to compare with",
                "p-values, from a clean --reference or --calibration DIR",
                "Add one of them, or leave per-class out",
            )
        named = self.top is not None or self.contamination is not None or self.empirical_null
        if self.fail_on is not None and not named:
            raise _nothing_to_count()


@checked_fields
@dataclass(frozen=True)
class AuditQuestion:
    """What an audit is to find out, and how it is to decide."""

    kinds: tuple[str, ...] = ()
    """stray: does an image belong to any class? mislabel: does it belong to its own? copy: is it
    there twice? quality: is it a bad picture? Empty: all that the collection can answer."""
    robust: bool | None = None
    """Refit the reference once without the images that another class explains. None: where the
    images are their own reference, as `refits` says."""
    calibration: str | None = None
    """Clean images, or their embeddings, that turn scores into p-values."""
    rule: DecisionRule = field(default_factory=DecisionRule)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in QUESTIONS]
        if unknown:
            raise UsageError(
                f"question '{unknown[0]}' is unknown",
                f"one of {', '.join(QUESTIONS)}",
                "Ask it alone, or run 'bliss pairs'"
                if unknown[0] == "pairs"
                else "Correct --question",
            )
        if self.rule.leave_one_out and self.calibration:
            raise UsageError(
                "--p-values leave-one-out was given with --calibration",
                "one set of clean images to compare with",
                "Leave one of them out",
            )
        if self.ranks_labels:
            for given, name in (
                (self.rule.leave_one_out, "--p-values leave-one-out"),
                (self.calibration, "--calibration"),
                (self.rule.per_class, "--p-values per-class"),
                (self.rule.empirical_null, "--flag empirical-null"),
            ):
                if given:
                    raise UsageError(
                        f"{name} was given with --question mislabel",
                        "a question about strays: there is no null for label margins",
                        f"Leave {name} out; images with a positive margin are flagged",
                    )

    def score_for(self, name: str) -> str:
        """The score that `name` stands for: auto is bliss where only that answers the question."""
        only_bliss = self.ranks_labels or self.rule.per_class
        return "bliss" if name == "auto" and only_bliss else name

    @property
    def ranks_labels(self) -> bool:
        """Whether images are ranked and flagged by their labels, and not as strays."""
        return "mislabel" in self.kinds and "stray" not in self.kinds

    def refits(self, own: bool, score: str, images: int, classes: int) -> bool:
        """Whether the reference is fitted again without the images that another class explains.

        Unless it was given: where the audited images are their `own` reference of several classes,
        strays are looked for by a `score` that can be fitted again, and there are no more than
        MOST_REFITTED images, whose neighbours have to be searched.
        """
        if self.robust is not None:
            return self.robust
        able = score in ("auto", "bliss", "bliss+") and classes > 1 and images <= MOST_REFITTED
        return own and able and self.includes("stray")

    def includes(self, kind: str) -> bool:
        """Whether this question, one of QUESTIONS, is to be answered."""
        return not self.kinds or kind in self.kinds

    def check_score(self, score: str) -> None:
        """Raise UsageError where another `score` is to rank than those that can answer this."""
        if score == "auto":
            return
        both = "bliss or bliss+, the scores it works with"
        for given, name, works in (
            (self.ranks_labels, "--question mislabel", ("bliss",)),
            (self.robust, "--robust", ("bliss", "bliss+")),
            (self.calibration, "--calibration", ("bliss", "bliss+")),
            (self.rule.per_class, "--p-values per-class", ("bliss",)),
            (self.rule.leave_one_out, "--p-values leave-one-out", ("bliss", "bliss+")),
        ):
            if given and score not in works:
                one = len(works) == 1
                raise UsageError(
                    f"{name} was given with --score {score}",
                    "bliss, the score it works with" if one else both,
                    f"Leave {name} out, or use --score {' or '.join(works)}",
                )

    def check_reference(self, given: str | None, fitted: Reference | None) -> None:
        """Raise UsageError for what the reference cannot serve.

        `given` names the reference, None for the audited images themselves; `fitted` is a saved
        one.
        """
        if self.robust and fitted is not None:
            raise UsageError(
                f"--robust was given with {given}, a fitted reference without its images",
                "the images, to see which of them do not belong",
                "Give their folder as --reference, or leave --robust out",
            )
        if self.rule.leave_one_out and given is None:
            raise UsageError(
                "--p-values leave-one-out was given and the images are their own reference",
                "a clean reference: among the images themselves p-values would only be ranks",
                "Add --reference DIR, or use --flag N, --flag N% or --flag empirical-null",
            )
        no_clean = given is None or (fitted is not None and fitted.calibration is None)
        no_clean = no_clean and not self.rule.leave_one_out
        if no_clean and self.calibration is None and not self.ranks_labels:
            self.rule.check_can_flag()

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise UsageError where there is one class and another one is needed to compare with."""
        for given, name, needed in (
            (self.robust, "--robust", "two or more: an image is left out where another class"
             " explains it"),
            ("mislabel" in self.kinds, "--question mislabel", "another class that an image could"
             " belong to"),
        ):  # fmt: skip
            if given and len(classes) < 2:
                raise UsageError(
                    f"{name} was given and '{classes[0]}' is the only class",
                    needed,
                    f"Leave {name} out, or add a class",
                )

    def check_calibration(
        self, labels: Texts[str | None], classes: Sequence[str], source: str
    ) -> None:
        """Raise UsageError where --p-values per-class has no calibration image of a class."""
        if not self.rule.per_class:
            return
        found = numbers_of(labels, classes)
        counts = np.bincount(found[found >= 0], minlength=len(classes))
        if counts.min() == 0:
            raise UsageError(
                f"--p-values per-class was given and {source} has no image of class "
                f"'{classes[int(counts.argmin())]}'",
                "clean images of every class, in folders of their names",
                "Add some, or leave per-class out",
            )


def with_calibration(
    reference: Reference, clean: EmbeddedImages, question: AuditQuestion
) -> Reference:
    """The reference with `clean` images as its calibration sample, replacing any it held out.

    Those that are in the reference are not used. Raises BlissError for another model's embeddings,
    UsageError where none is left, or with --p-values per-class where a class has none.
    """
    check_same_model(clean.model, clean.source, reference.model, "the reference")
    members = as_members(reference.members)
    known, _ = members.recognise(clean.hashes, clean.vectors)
    usable = np.setdiff1d(np.arange(len(clean.rows)), known)
    labels = given_classes(clean, reference)[usable]
    if question.rule.per_class:
        usable, labels = usable[labels >= 0], labels[labels >= 0]
        names = [reference.classes[label] for label in labels]
        question.check_calibration(names, reference.classes, clean.source)
    if not len(usable):
        raise UsageError(
            f"every image of {clean.source} is in the reference",
            "other clean images to compare with",
            "Give --calibration another folder",
        )
    return replace(reference, calibration=Calibration(clean.vectors[usable], labels))


def audit_by(  # noqa: PLR0913 - six positional
    score: Score,
    images: EmbeddedImages,
    index: CaptionIndex,
    reference: Reference,
    settings: AuditSettings,
    question: AuditQuestion,
    *,
    own: bool,
    inputs: ScoreInputs = NO_INPUTS,
    progress: Progress = no_progress,
    hits: HitsCache | None = None,
    engine: Engine | None = None,
) -> AuditResult:
    """Audit by BLISS, which explains each image, refit as the question says, and rank by `score`.

    `own` as in `decide`; the other parameters are those of `audit_against` and `rescored`.
    """
    refits = question.refits(own, score.name, len(images.rows), len(reference.classes))
    plus = None if refits else FittedPlus(score, settings.weight)
    result = audit_against(
        images, index, reference, settings, progress, hits=hits, engine=engine, plus=plus
    )
    if refits:  # before bliss+, which is then fitted once
        clean = None if own else inputs.clean
        result = refitted(result, clean, settings, progress, asked=bool(question.robust))
    return rescored(result, score, result.weight, inputs, plus)


def decide(
    result: AuditResult,
    question: AuditQuestion,
    settings: AuditSettings,
    own: bool,
    clean: EmbeddedImages | None = None,
    progress: Progress = no_progress,
) -> AuditResult:
    """`result` refitted, ranked and flagged as the question says, with its issues.

    `own` says that the audited images are their own reference; otherwise `clean` are the images
    of the reference, where they are at hand. Raises UsageError where no label can be questioned.
    """
    classes = result.reference.classes
    done = result.refit is not None or result.all_stay
    if not done and question.refits(own, result.score_name, len(result.images.rows), len(classes)):
        question.check_classes(classes)
        result = refitted(
            result, None if own else clean, settings, progress, asked=bool(question.robust)
        )
    settings = replace(settings, weight=result.weight)
    if question.rule.per_class:
        result = calibrated(result, settings, per_class=True)
    if "mislabel" in question.kinds:
        question.check_classes(result.reference.classes)
        _check_labels(result)
    if question.includes("mislabel"):
        result = with_labels_questioned(result, own)
    if question.ranks_labels:
        result = replace(result, p_values=None, ranked_by_labels=True)
    result = decided(result, question.rule, own)
    return replace(result, issues=issues_table(result))


def with_copies_and_quality(
    result: AuditResult,
    question: AuditQuestion,
    against: EmbeddedImages | Reference | None = None,
    progress: Progress = no_progress,
    *,
    pictures: tuple[OpenPicture | None, OpenPicture | None] = (None, None),
    splits: Texts[str | None] | None = None,
) -> AuditResult:
    """`result` with the copies among its images and the bad pictures, as far as they are asked for.

    `against` is another collection or a reference: copies of its images are leaks. `pictures` opens
    the pictures of both where they were not measured; copies in several `splits` are leaks too.
    Raises BlissError where `against` was made with another model.
    """
    if question.includes("copy") or against is not None or splits is not None:
        copies = find_copies(
            result.images,
            open_picture=pictures[0],
            against=against,
            open_other=pictures[1],
            splits=splits,
            progress=progress,
        )
        remarks = () if copies.compared and not copies.unseen else (copies.notice(),)
        result = replace(result, copies=copies.table(), remarks=(*result.remarks, *remarks))
    if question.includes("quality"):
        missing = not_measured(result.images)
        remarks = (f"{counted(missing, 'image')} without measures of picture quality",)
        result = replace(
            result,
            quality=quality_issues(result.images),
            remarks=(*result.remarks, *remarks * bool(missing)),
        )
    return result


def with_labels_questioned(result: AuditResult, own: bool) -> AuditResult:
    """`result` with how much better another class suits each image, and the merged order.

    `own` says that the images are their own reference. Images without a label among the classes
    are not questioned. Unchanged where that is all of them, or there is one class.
    """
    given = given_classes(result.images, result.reference)
    if (given < 0).all() or len(result.reference.classes) < 2:
        return result
    labels = label_margins(result.images.vectors, result.reference, given, result.left_out)
    result = replace(result, labels=labels)
    return replace(result, merged=merged_with_refit(result, own))


def _check_labels(result: AuditResult) -> None:
    """Raise UsageError where no image has a label that can be questioned."""
    if (given_classes(result.images, result.reference) < 0).all():
        raise UsageError(
            f"--question mislabel was given and no image of {result.images.source} has a label "
            "among the classes",
            "class folders or labels to question",
            "Leave it out to ask which images belong to no class",
        )


def decided(result: AuditResult, rule: DecisionRule, own: bool) -> AuditResult:
    """`result` with its images flagged; `own` says that it is its own reference.

    A rule that was named takes precedence over p-values and label margins.
    """
    n = len(result.ranking)
    q = None if result.p_values is None else benjamini_hochberg(result.p_values)
    labels = result.labels if result.ranked_by_labels else None
    suffix = "" if q is not None or labels else f"; {_why_no_p(result, own)}"
    if rule.contamination is not None:
        flagged = _most_anomalous(result, round(rule.contamination * n))
        reason = f"{_flagged(flagged)}: {rule.contamination:.3g} of all, the most anomalous"
        decision = Decision("contamination", rule.contamination, flagged, q, reason + suffix, {})
    elif rule.empirical_null:
        decision = _by_empirical_null(result, rule.fdr, q, suffix)
    elif rule.top is not None:
        flagged = _most_anomalous(result, rule.top)
        reason = f"{_flagged(flagged)}: the most anomalous, as many as --flag says"
        decision = Decision("top", rule.top, flagged, q, reason + suffix, {})
    elif q is not None:
        decision = _by_fdr(result, rule, q, own)
        least = int(result.reference.moments.counts.min())
        if own and least < FEW_IN_CLASS:
            decision = replace(
                decision,
                reason=f"{decision.reason}; without guarantee: the collection is its own reference "
                f"and one of its classes has {counted(least, 'image')}, fewer than {FEW_IN_CLASS}",
            )
    elif labels is not None:
        flagged = labels.is_issue
        them = "it" if flagged.sum() == 1 else "them"
        reason = f"{_flagged(flagged)}: another class suits {them} better"
        decision = Decision("label margin", 0.0, flagged, None, reason, {})
    else:
        reason = f"{_why_no_p(result, own)}; {NOTHING_FLAGS}"
        decision = Decision("none", None, np.zeros(n, bool), None, reason, {})
    if labels is not None:
        decision = _with_unquestioned(result, labels, decision)
    return replace(result, decision=decision)


def _with_unquestioned(result: AuditResult, labels: LabelMargins, decision: Decision) -> Decision:
    """The decision with a count of the images whose label could not be questioned, and why."""
    left = [result.images.labels[i] for i in np.flatnonzero(labels.given < 0).tolist()]
    unlabelled = sum(label is None for label in left)
    unknown = sorted({label for label in left if label is not None})
    reason = decision.reason
    if unlabelled:
        reason += f"; {counted(unlabelled, 'image')} without a label not questioned"
    if unknown:
        reason += (
            f"; {counted(len(left) - unlabelled, 'image')} not questioned because the reference "
            f"lacks the {'class' if len(unknown) == 1 else 'classes'} "
            f"{some_of(unknown, CLASSES_NAMED)}"
        )
    facts = {
        **decision.facts,
        "questioned": len(labels.given) - len(left),
        "not_questioned": len(left),
        "classes_not_in_reference": unknown,
    }
    return replace(decision, reason=reason, facts=facts)


def decision_facts(decision: Decision) -> dict[str, Any]:
    """What `run.json` and `--json` say of a decision."""
    return {
        "rule": decision.rule,
        "level": decision.level,
        "flagged": int(decision.flagged.sum()),
        "reason": decision.reason,
        **decision.facts,
    }


def check_flagged(decision: Decision, most: int | None) -> None:
    """Raise TooManyFlagged when more than `most` images are flagged (None: any number may be).

    Raises UsageError where no rule flagged any: a check that cannot fail checks nothing.
    """
    if most is None:
        return
    if decision.rule == "none":
        raise _nothing_to_count()
    count = int(decision.flagged.sum())
    if count > most:
        raise TooManyFlagged(
            f"{_flagged(decision.flagged)} ({decision.rule})",
            f"at most {most:,}, as --fail-on says",
            "Look at them; the results are complete",
        )


def _nothing_to_count() -> UsageError:
    return UsageError(
        "--fail-on counts flagged images, and nothing flags any here",
        "p-values from clean images, or a rule",
        "Add --calibration DIR, --flag N, --flag N% or --flag empirical-null",
    )


def _by_fdr(result: AuditResult, rule: DecisionRule, q: np.ndarray, own: bool) -> Decision:
    calibration, level = result.reference.calibration, rule.fdr
    assert calibration is not None
    n, m = len(q), len(calibration.labels)
    if rule.per_class:  # the class with the fewest sets the smallest p
        m = int(np.bincount(calibration.labels, minlength=len(result.reference.classes)).min())
    flagged = q <= level * (1 + 1e-9)
    facts = {
        "per_class": rule.per_class,
        "calibration_images": len(calibration.labels),
        "smallest_possible_p": 1 / (m + 1),
        "least_flagged": least_flagged(n, m, level),
        "calibration_needed_for_one": calibration_needed(n, level),
        "guaranteed": not calibration.in_moments,
    }
    reason = f"{_flagged(flagged)} at a false discovery rate of {level:.3g}"
    least = facts["least_flagged"]
    if not flagged.any() and least > 1:
        fewest = f"at least {least:,} of the {n:,}" if least <= n else f"more than all {n:,}"
        reason += (
            f": with {counted(m, 'calibration image')}{' in a class' * rule.per_class} "
            f"{fewest} would have to look stranger than every one of those; to flag one, "
            f"{facts['calibration_needed_for_one']:,} are needed. Add clean images with "
            "--calibration DIR, or read the most unusual images first and flag some with --flag N "
            "or --flag N%"
        )
        if not (own or calibration.in_moments) and result.reference.moments.counts.sum() > m:
            reason += (
                ". --p-values leave-one-out compares with all images of a clean reference, "
                "measured and not guaranteed"
            )
    if calibration.in_moments:
        reason += f"; {MEASURED}"
    return Decision("fdr", level, flagged, q, reason, facts)


def _by_empirical_null(
    result: AuditResult, level: float, q: np.ndarray | None, suffix: str
) -> Decision:
    scores = result.scores.score
    null = fit_empirical_null(scores)
    flagged = benjamini_hochberg(null_p_values(null, scores)) <= level * (1 + 1e-9)
    reason = (
        f"{_flagged(flagged)} against a null estimated from the scores (centre "
        f"{null.centre:.2f}, spread {null.spread:.2f}) at a nominal rate of {level:.3g}: "
        "no guarantee"
    )
    facts = {"centre": null.centre, "spread": null.spread, "guarantee": False}
    return Decision("empirical null", level, flagged, q, reason + suffix, facts)


def _most_anomalous(result: AuditResult, count: int) -> np.ndarray:
    flagged = np.zeros(len(result.ranking), bool)
    flagged[result.order[:count]] = True
    return flagged


def _why_no_p(result: AuditResult, own: bool) -> str:
    if result.score_name not in ("bliss", "bliss+"):
        return f"p and q are empty: clean images were not scored with {result.score_name}"
    if own:
        return (
            "p and q are empty: the images are their own reference, and p-values among them would "
            "only be ranks"
        )
    return (
        "p and q are empty: no clean image was held out for calibration (--p-values leave-one-out "
        "compares with all of them)"
    )


def _flagged(flagged: np.ndarray) -> str:
    return f"{counted(int(flagged.sum()), 'image')} flagged"
