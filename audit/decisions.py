"""From scores to decisions: which images are flagged, by what rule, and what that promises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import TooManyFlagged, UsageError
from ..scorer.calibration import (
    benjamini_hochberg,
    calibration_needed,
    fit_empirical_null,
    least_flagged,
    null_p_values,
)
from .result import AuditResult, Decision

FEW_IN_CLASS = 8
"""Images a class below which being left out of it makes an image look stranger: decisions.md."""

NOTHING_FLAGS = (
    "nothing is flagged: give --calibration DIR with other clean images, or --top N, "
    "--contamination SHARE or --empirical-null"
)


@dataclass(frozen=True)
class DecisionRule:
    """How images are to be flagged."""

    fdr: float = 0.1
    """The false discovery rate at which q-values flag."""
    per_class: bool = False
    """Whether p-values are taken class by class."""
    top: int | None = None
    """Where no p-value decides: flag this many, the most anomalous."""
    contamination: float | None = None
    """Flag this share of the images, whatever the p-values."""
    empirical_null: bool = False
    """Flag by q-values against a null guessed from the scores themselves, without guarantee."""
    fail_on: int | None = None
    """How many flagged images are too many; None: any number may be."""

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
        if self.contamination is not None and self.empirical_null:
            raise UsageError(
                "both --contamination and --empirical-null were given",
                "one rule that flags",
                "Leave one out",
            )


DEFAULT_RULE = DecisionRule()


def decided(result: AuditResult, rule: DecisionRule, own: bool) -> AuditResult:
    """`result` with its images flagged; `own` says that it is its own reference.

    A rule that is asked for by name goes before p-values and label margins, those before --top.
    """
    n = len(result.ranking)
    q = None if result.p_values is None else benjamini_hochberg(result.p_values)
    without = "" if q is not None or result.labels else f"; {_why_no_p(result, own)}"
    if rule.contamination is not None:
        count = round(rule.contamination * n)
        decision = _most_anomalous(result, "contamination", count, rule.contamination, q)
        reason = f"{_images(count)} flagged: {rule.contamination:.3g} of all, the most anomalous"
        decision = replace(decision, reason=reason + without)
    elif rule.empirical_null:
        decision = _by_empirical_null(result, rule.fdr, q, without)
    elif q is not None:
        decision = _by_fdr(result, rule, q)
        least = int(result.reference.moments.counts.min())
        if own and least < FEW_IN_CLASS:
            decision = replace(
                decision,
                reason=f"{decision.reason}; no promise: the collection is its own reference, and "
                f"one of its classes has {least} images of the {FEW_IN_CLASS} it takes",
            )
    elif result.labels is not None:
        flagged = result.labels.is_issue
        reason = f"{_images(int(flagged.sum()))} flagged: another class suits them better"
        decision = Decision("label margin", 0.0, flagged, None, reason, {})
    elif rule.top is not None:
        count = min(rule.top, n)
        decision = _most_anomalous(result, "top", count, rule.top, q)
        reason = f"{_images(count)} flagged: the most anomalous, as many as --top says"
        decision = replace(decision, reason=reason + without)
    else:
        reason = f"{_why_no_p(result, own)}; {NOTHING_FLAGS}"
        decision = Decision("none", None, np.zeros(n, bool), None, reason, {})
    return replace(result, decision=decision)


def decision_facts(decision: Decision) -> dict[str, Any]:
    """What `run.json` and `--json` say of a decision."""
    return {
        "rule": decision.rule,
        "level": decision.level,
        "flagged": int(decision.flagged.sum()),
        "reason": decision.reason,
        **decision.facts,
    }


def check_can_flag(rule: DecisionRule) -> None:
    """Raise UsageError, before any work, for what needs p-values where none can be had."""
    if rule.per_class:
        raise UsageError(
            "--per-class was given without clean images to compare with",
            "p-values, from a clean --reference or --calibration DIR",
            "Add one of them, or leave --per-class out",
        )
    named = rule.top is not None or rule.contamination is not None or rule.empirical_null
    if rule.fail_on is not None and not named:
        raise _nothing_to_count()


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
            f"{_images(count)} flagged ({decision.rule})",
            f"at most {most:,}, as --fail-on says",
            "Look at them; the results are whole",
        )


def _nothing_to_count() -> UsageError:
    return UsageError(
        "--fail-on counts flagged images, and nothing flags any here",
        "p-values from clean images, or a rule",
        "Add --calibration DIR, --top N, --contamination SHARE or --empirical-null",
    )


def _by_fdr(result: AuditResult, rule: DecisionRule, q: np.ndarray) -> Decision:
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
    }
    reason = f"{_images(int(flagged.sum()))} flagged at a false discovery rate of {level:.3g}"
    least = facts["least_flagged"]
    if not flagged.any() and least > 1:
        fewest = f"at least {least:,} of the {n:,}" if least <= n else f"more than all {n:,}"
        reason += (
            f": with {m:,} calibration image{'s' * (m != 1)}{' in a class' * rule.per_class} "
            f"{fewest} would have to look stranger than every one of those; to flag one, "
            f"{facts['calibration_needed_for_one']:,} are needed"
        )
    return Decision("fdr", level, flagged, q, reason, facts)


def _by_empirical_null(
    result: AuditResult, level: float, q: np.ndarray | None, without: str
) -> Decision:
    scores = result.scores.score
    null = fit_empirical_null(scores)
    flagged = benjamini_hochberg(null_p_values(null, scores)) <= level * (1 + 1e-9)
    reason = (
        f"{_images(int(flagged.sum()))} flagged against a null guessed from the scores (centre "
        f"{null.centre:.2f}, spread {null.spread:.2f}) at a nominal rate of {level:.3g}: "
        "no guarantee"
    )
    facts = {"centre": null.centre, "spread": null.spread, "guarantee": False}
    return Decision("empirical null", level, flagged, q, reason + without, facts)


def _most_anomalous(
    result: AuditResult, rule: str, count: int, level: float, q: np.ndarray | None
) -> Decision:
    flagged = np.zeros(len(result.ranking), bool)
    flagged[result.order[:count]] = True
    return Decision(rule, level, flagged, q, "", {})


def _why_no_p(result: AuditResult, own: bool) -> str:
    if result.score_name not in ("bliss", "bliss+"):
        return f"p and q are empty: clean images were not scored with {result.score_name}"
    if own:
        return (
            "p and q are empty: the images are their own reference, and p-values among them would "
            "only be ranks"
        )
    return "p and q are empty: no clean image was held out for calibration"


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"
