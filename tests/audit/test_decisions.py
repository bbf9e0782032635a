"""p-values to q-values to flags: by hand, against SciPy, and the rules of decision."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from blissaudit.audit.arrays import audit_arrays
from blissaudit.audit.decisions import (
    AuditQuestion,
    DecisionRule,
    check_flagged,
    decide,
    decided,
    decision_facts,
    with_calibration,
    with_copies_and_quality,
)
from blissaudit.audit.fitting.robust import without_images
from blissaudit.audit.result import AuditResult
from blissaudit.audit.run import AuditSettings, calibrated, calibrated_on_itself
from blissaudit.errors import BlissError, TooManyFlagged, UsageError
from blissaudit.indexer.images.embedded import EmbeddedImages
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import bliss_matrices, gather_texts
from blissaudit.scorer.calibration import (
    EmpiricalNull,
    benjamini_hochberg,
    calibration_needed,
    class_p_values,
    conformal_p_values,
    fit_empirical_null,
    least_flagged,
    null_p_values,
)
from blissaudit.scorer.leave_one_out import NOTHING_LEFT_OUT
from blissaudit.scorer.members import make_members
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.questions.mislabel import LabelMargins
from blissaudit.scorer.reference import Calibration, Reference
from blissaudit.scorer.reference_file import images_to_keep
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, norm

shares = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(lambda n: np.array(n) / 40)


def test_q_values_by_hand():
    # Sorted: 0.01·4/1 = 0.04, 0.02·4/2 = 0.04, 0.03·4/3 = 0.04, 0.5; back in the given order.
    assert benjamini_hochberg(np.array([0.5, 0.01, 0.03, 0.02])) == pytest.approx(
        [0.5, 0.04, 0.04, 0.04]
    )
    # The second smallest, 0.9·2/2 = 0.9, is below 0.8·2/1 = 1.6.
    assert benjamini_hochberg(np.array([0.9, 0.8])) == pytest.approx([0.9, 0.9])
    assert benjamini_hochberg(np.zeros(0)).tolist() == []


@settings(max_examples=100, deadline=None)
@given(p=shares)
def test_q_values_equal_scipys_and_keep_the_order_of_p(p):
    q = benjamini_hochberg(p)
    assert q == pytest.approx(false_discovery_control(p), abs=1e-12)
    order = np.argsort(p, kind="stable")
    assert (np.diff(q[order]) >= 0).all()
    assert (q >= p - 1e-12).all() and (q <= 1).all()


@settings(max_examples=50, deadline=None)
@given(p=shares, at=st.integers(0, 29), lower=st.floats(0, 1))
def test_a_smaller_p_raises_no_q(p, at, lower):
    less = p.copy()
    less[at % len(p)] *= lower
    assert (benjamini_hochberg(less) <= benjamini_hochberg(p) + 1e-12).all()


def test_how_much_calibration_a_flag_needs():
    # One of 50 at 0.1: n + 1 >= 50/0.1 = 500.
    assert calibration_needed(50, 0.1) == 499
    assert calibration_needed(50, 0.1, flagged=5) == 99
    # 42 calibration images: r >= 40/(0.1·43) = 9.3.
    assert least_flagged(40, 42, 0.1) == 10
    assert least_flagged(50, 499, 0.1) == 1
    assert least_flagged(50, 498, 0.1) == 2


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 60), m=st.integers(0, 200), level=st.sampled_from([0.05, 0.1, 0.25]))
def test_those_numbers_are_what_the_procedure_needs(n, m, level):
    least = least_flagged(n, m, level)
    for count in range(1, n + 1):
        p = np.where(np.arange(n) < count, 1 / (m + 1), 1.0)
        flagged = (benjamini_hochberg(p)[:count] <= level * (1 + 1e-9)).any()
        assert flagged == (count >= least) or m == 0
    enough = calibration_needed(n, level)
    assert least_flagged(n, enough, level) <= 1
    assert enough == 0 or least_flagged(n, enough - 1, level) > 1


@settings(max_examples=50, deadline=None)
@given(
    clean=st.lists(st.integers(0, 6), min_size=1, max_size=20),
    scores=st.lists(st.integers(-1, 7), min_size=1, max_size=10),
)
def test_a_calibration_image_below_a_score_lowers_its_p_and_one_above_raises_it(clean, scores):
    s = np.array(scores, float)
    p = conformal_p_values(np.array(clean, float), s)
    assert (conformal_p_values(np.array([*clean, 99.0]), s) >= p).all()
    assert (conformal_p_values(np.array([*clean, -99.0]), s) <= p).all()


def small_world(seed: int = 0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(60, 6)) + np.repeat(3 * np.eye(6)[:3], 20, axis=0)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    labels = np.repeat([0, 1, 2], 20)
    reference = Reference(
        fit_moments(("a", "b", "c"), rows, labels), np.eye(6, dtype=np.float32)[:3]
    )
    retrieved = gather_texts(exact_search(rows, rows, 5), rows)
    return rows, labels, reference, retrieved


def test_p_by_class_is_the_largest_of_the_classes_p_values():
    rows, labels, reference, retrieved = small_world()
    total = bliss_matrices(rows, retrieved, reference).total
    scores = total[np.arange(60), labels] + 1e-6  # so that rounding decides no tie
    kept = np.arange(60) % 3 > 0
    calibration = (labels[kept], scores[kept])
    found = class_p_values(rows, retrieved, reference, 0.5, NOTHING_LEFT_OUT, calibration)
    for i in range(60):
        each = []
        for c in range(3):
            clean = [s for s, label in zip(scores[kept], labels[kept], strict=True) if label == c]
            each.append((1 + sum(s >= total[i, c] for s in clean)) / (len(clean) + 1))
        assert found[i] == pytest.approx(max(each))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blissaudit.scorer.bliss.TABLE_ENTRIES", len(retrieved.vectors))
        patch.setattr("blissaudit.scorer.bliss.PULL_ENTRIES", 25)
        again = class_p_values(rows, retrieved, reference, 0.5, NOTHING_LEFT_OUT, calibration)
    assert np.array_equal(again, found)


def test_the_reference_calibrates_itself_as_refitting_without_each_image_says(monkeypatch):
    rows, labels, reference, _ = small_world()
    monkeypatch.setattr(
        "blissaudit.audit.run.retrieve",
        lambda index, images, k, cache, engine: gather_texts(exact_search(images, rows, k), rows),
    )
    kept = images_to_keep(reference.moments, rows, labels)
    whole = calibrated_on_itself(replace(reference, sample=kept))
    clean = []
    for i in range(60):
        keep = np.arange(60) != i
        rest = Reference(
            fit_moments(("a", "b", "c"), rows[keep], labels[keep]), reference.prompt_vectors
        )
        near = gather_texts(exact_search(rows[i : i + 1], rows, 5), rows)
        clean.append(bliss_matrices(rows[i : i + 1], near, rest).total.min())
    scores = np.quantile(clean, [0.1, 0.5, 0.95]) + 1e-3
    result = replace(result_of(scores), reference=whole, index=None)
    found = calibrated(result, AuditSettings(k=5)).p_values
    assert found == pytest.approx([(1 + sum(c >= s for c in clean)) / 61 for s in scores])
    with pytest.raises(BlissError, match="class 'b' has 2 reference images"):
        few = fit_moments(("a", "b"), rows[:22], labels[:22])
        calibrated_on_itself(Reference(few, reference.prompt_vectors[:2]))


def test_images_that_leave_the_reference_leave_its_sample_and_its_calibration_too():
    rows, labels, reference, _ = small_world()
    hashes = tuple(f"{i:064x}" for i in range(60))
    images = EmbeddedImages(
        rows, np.arange(60), hashes, ("",) * 60, hashes, (), {"dimension": 6}, "here"
    )
    kept = images_to_keep(reference.moments, rows, labels)
    whole = replace(reference, sample=kept, members=make_members(list(hashes), labels))
    out = np.isin(np.arange(60), [0, 25])
    left = without_images(whole, images, labels, out)
    assert left.moments.counts.tolist() == [19, 19, 20]
    assert len(left.sample.labels) == 58
    assert not (left.sample.images[:, None] == rows[out]).all(axis=2).any()
    again = calibrated_on_itself(left)
    assert again.calibration_count == 58 and again.calibration.in_moments


def test_a_class_without_calibration_images_makes_every_p_one():
    rows, labels, reference, retrieved = small_world()
    kept = labels < 2
    found = class_p_values(
        rows, retrieved, reference, 0.5, NOTHING_LEFT_OUT, (labels[kept], np.zeros(40))
    )
    assert (found == 1).all()


def test_the_null_by_hand():
    # Median 2, upper quartile 3: a spread of 1/0.6745; the tail of -100 does not count.
    null = fit_empirical_null(np.array([-100.0, 1, 2, 3, 4]))
    assert null.centre == 2
    assert null.spread == pytest.approx(1 / norm.ppf(0.75))
    z = np.array([2.0, 3.0, 2 + 2 * null.spread])
    assert null_p_values(null, z) == pytest.approx([0.5, 0.25, norm.sf(2)])
    assert null_p_values(EmpiricalNull(1, 0), np.array([0.0, 1, 2])).tolist() == [1, 1, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_the_null_moves_with_the_scores(seed, scale, shift):
    scores = np.random.default_rng(seed).normal(size=50)
    before = null_p_values(fit_empirical_null(scores), scores)
    moved = scale * scores + shift
    assert null_p_values(fit_empirical_null(moved), moved) == pytest.approx(before, abs=1e-9)


def result_of(scores, p=None, clean=0, margins=None, name="bliss") -> AuditResult:
    """An audit of nothing but scores."""
    n = len(scores)
    labels = None
    if margins is not None:
        every = np.zeros(n, int)
        labels = LabelMargins(every, every, np.array(margins, float), np.zeros(n))
    calibration = Calibration(np.zeros((clean, 2)), np.arange(clean) % 2) if clean else None
    reference = SimpleNamespace(
        calibration=calibration,
        calibration_count=clean,
        classes=("a", "b"),
        moments=SimpleNamespace(counts=np.array([20, 9])),
    )
    p = None if p is None else np.array(p, float)
    scores = SimpleNamespace(score=np.array(scores, float))
    return AuditResult(
        None, None, reference, None, scores, None, p, name, labels, ranked_by_labels=True
    )  # type: ignore[arg-type]


RANKED = [5.0, 1, 4, 2, 3]
P = [0.01, 0.9, 0.03, 0.6, 0.3]


@pytest.mark.parametrize(
    ("rule", "p", "kind", "flagged"),
    [
        (DecisionRule(), P, "fdr", [1, 0, 1, 0, 0]),
        (DecisionRule(fdr=0.06), P, "fdr", [1, 0, 0, 0, 0]),
        (DecisionRule(fdr=0.02), P, "fdr", [0, 0, 0, 0, 0]),
        (DecisionRule(fdr=0.7), [0.14, 1, 1, 1, 1], "fdr", [1, 0, 0, 0, 0]),  # 5·p is rounded up
        (DecisionRule(top=1), P, "top", [1, 0, 0, 0, 0]),
        (DecisionRule(contamination=0.6), P, "contamination", [1, 0, 1, 0, 1]),
        (DecisionRule(contamination=0.6), None, "contamination", [1, 0, 1, 0, 1]),
        (DecisionRule(top=1), None, "top", [1, 0, 0, 0, 0]),
        (DecisionRule(top=0), None, "top", [0, 0, 0, 0, 0]),
        (DecisionRule(top=9), None, "top", [1, 1, 1, 1, 1]),
        (DecisionRule(empirical_null=True), None, "empirical null", [0, 0, 0, 0, 0]),
        (DecisionRule(), None, "none", [0, 0, 0, 0, 0]),
    ],
)
def test_which_images_each_rule_flags(rule, p, kind, flagged):
    result = decided(result_of(RANKED, p, clean=99 if p else 0), rule, own=True)
    assert (result.decision.rule, result.decision.flagged.tolist()) == (kind, flagged)
    assert (result.decision.q is None) == (p is None)


def test_the_empirical_null_flags_what_lies_far_out():
    scores = [*np.linspace(-1, 1, 99), 50]
    decision = decided(result_of(scores), DecisionRule(empirical_null=True), own=True).decision
    assert np.flatnonzero(decision.flagged).tolist() == [99]
    assert decision.facts["guarantee"] is False
    scores = np.array([*np.linspace(-1, 1, 99), 3])
    q = benjamini_hochberg(null_p_values(fit_empirical_null(scores), scores)).min()
    assert 0.001 < q < 0.1
    for level, flagged in ((np.nextafter(q, 0), 1), (q / 1.001, 0)):  # rounding decides nothing
        rule = DecisionRule(fdr=float(level), empirical_null=True)
        assert decided(result_of(scores), rule, own=True).decision.flagged.sum() == flagged


def test_labels_are_flagged_by_margin_unless_a_share_is_named():
    result = result_of(RANKED, margins=[-1, 0.2, -2, 0, np.nan])
    by_margin = decided(result, DecisionRule(), own=True).decision
    assert by_margin.flagged.tolist() == [False, True, False, False, False]
    assert by_margin.reason == "1 image flagged: another class suits it better"
    number = decided(result, DecisionRule(top=2), own=True).decision
    assert number.flagged.tolist() == [False, True, False, True, False]
    share = decided(result, DecisionRule(contamination=0.4), own=True).decision
    assert share.flagged.tolist() == [False, True, False, True, False]


def test_images_whose_label_cannot_be_questioned_are_counted_with_the_reason():
    result = result_of(RANKED, margins=[np.nan, 0.2, np.nan, 0.1, np.nan])
    given = np.array([-1, 0, -1, 1, -1])
    images = SimpleNamespace(labels=["kite", "a", None, "b", "drum"])
    result = replace(result, images=images, labels=replace(result.labels, given=given))
    decision = decided(result, DecisionRule(), own=False).decision
    assert decision.reason == (
        "2 images flagged: another class suits them better; 1 image without a label not "
        "questioned; 2 images not questioned because the reference lacks the classes drum, kite"
    )
    assert (
        decision_facts(decision).items()
        >= {
            "questioned": 2,
            "not_questioned": 3,
            "classes_not_in_reference": ["drum", "kite"],
        }.items()
    )


def test_many_unknown_classes_are_counted_not_listed():
    given = np.array([0, -1, -1, -1, -1])
    result = result_of(RANKED, margins=[0.2, np.nan, np.nan, np.nan, np.nan])
    images = SimpleNamespace(labels=["a", "w", "x", "y", "z"])
    result = replace(result, images=images, labels=replace(result.labels, given=given))
    reason = decided(result, DecisionRule(contamination=0.2), own=False).decision.reason
    assert reason.endswith("because the reference lacks the classes w, x, y and 1 more")
    assert reason.startswith("1 image flagged: 0.2 of all")


@pytest.mark.parametrize(
    ("question", "score", "message"),
    [
        ({"calibration": "clean"}, "mahalanobis", "bliss or bliss\\+, the scores it works with. "
         "Leave --calibration out, or use --score bliss or bliss\\+"),
        ({"robust": True}, "mahalanobis", "bliss or bliss\\+, the scores it works with"),
        ({"kinds": ("mislabel",)}, "bliss+", "bliss, the score it works with. Leave --question "
         "mislabel out, or use --score bliss"),
    ],
)  # fmt: skip
def test_a_score_that_cannot_answer_is_refused_with_those_that_can(question, score, message):
    with pytest.raises(UsageError, match=message):
        AuditQuestion(**question).check_score(score)
    AuditQuestion(calibration="clean", robust=True).check_score("bliss+")


def test_too_small_a_calibration_set_says_how_many_are_needed():
    few = decided(result_of(RANKED, [0.25] * 5, clean=3), DecisionRule(), own=False).decision
    assert few.reason == (
        "0 images flagged at a false discovery rate of 0.1: with 3 calibration images more than "
        "all 5 would have to look stranger than every one of those; to flag one, 49 are needed. "
        "Add clean images with --calibration DIR, or read the most unusual images first and flag "
        "some with --flag N or --flag N%. --p-values leave-one-out compares with all images of a "
        "clean reference, measured and not guaranteed"
    )
    assert few.facts["least_flagged"] == 13
    some = decided(result_of(RANKED, [0.05] + [1] * 4, clean=19), DecisionRule(), own=False)
    assert "with 19 calibration images at least 3 of the 5 would" in some.decision.reason
    by_class = decided(
        result_of(RANKED, [0.1] * 4 + [1], clean=19), DecisionRule(per_class=True), own=False
    )
    assert "with 9 calibration images in a class at least 5 of the 5" in by_class.decision.reason
    assert by_class.decision.facts["smallest_possible_p"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fdr": 0}, "a false discovery rate of 0 was given. Needed: above 0, below 1"),
        ({"fdr": 1.0}, "a false discovery rate of 1.0 was given"),
        ({"contamination": 1.5}, "a contamination of 1.5 was given. Needed: the share"),
        (
            {"contamination": 0.1, "empirical_null": True},
            "both a contamination and an empirical null",
        ),
    ],
)
def test_rules_that_cannot_be(wrong, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        DecisionRule(**wrong)


def test_too_many_flagged_and_nothing_that_flags():
    decision = decided(result_of(RANKED), DecisionRule(top=2), own=True).decision
    for most in (2, 300, None):
        check_flagged(decision, most)
    with pytest.raises(TooManyFlagged, match=r"2 images flagged \(top\). Needed: at most 1"):
        check_flagged(decision, 1)
    nothing = decided(result_of(RANKED), DecisionRule(), own=True).decision
    with pytest.raises(UsageError, match="counts flagged images, and nothing flags any"):
        check_flagged(nothing, 0)
    with pytest.raises(UsageError, match="counts flagged images, and nothing flags any"):
        DecisionRule(fail_on=3).check_can_flag()
    with pytest.raises(UsageError, match="--p-values per-class was given without clean images"):
        DecisionRule(per_class=True).check_can_flag()
    replace(DecisionRule(fail_on=3), top=1).check_can_flag()


@pytest.mark.parametrize(
    ("own", "name", "why"),
    [
        (True, "bliss", "the images are their own reference"),
        (False, "bliss", "no clean image was held out for calibration"),
        (False, "knn", "clean images were not scored with knn"),
    ],
)
def test_why_there_are_no_p_values(own, name, why):
    decision = decided(result_of(RANKED, name=name), DecisionRule(), own).decision
    assert decision.reason.startswith("p and q are empty: ") and why in decision.reason
    assert "give --calibration DIR" in decision.reason


@pytest.mark.parametrize(
    ("least", "own", "said"), [(7, True, True), (8, True, False), (3, False, False)]
)
def test_few_images_in_a_class_of_its_own_break_the_promise(least, own, said):
    result = result_of(RANKED, P, clean=99)
    counts = SimpleNamespace(counts=np.array([20, least]))
    result = replace(
        result, reference=SimpleNamespace(**{**vars(result.reference), "moments": counts})
    )
    reason = decided(result, DecisionRule(), own).decision.reason
    assert ("without guarantee: the collection is its own reference" in reason) == said
    assert (f"one of its classes has {least} images, fewer than 8" in reason) == said


@pytest.mark.parametrize("name", ["auto", "bliss+", "mahalanobis", "energy"])
def test_auto_alone_stands_for_another_score(name):
    for question, chosen in (
        (AuditQuestion(), name),
        (AuditQuestion(kinds=("mislabel",)), "bliss" if name == "auto" else name),
        (AuditQuestion(kinds=("stray",), rule=DecisionRule(per_class=True)),
         "bliss" if name == "auto" else name),
    ):  # fmt: skip
        assert question.score_for(name) == chosen


def test_calibration_images_are_other_than_the_reference_s_and_filed_under_its_classes():
    rows, labels, reference, _ = small_world()
    hashes, old = [f"{i:064x}" for i in range(60)], np.arange(60) % 20 < 15
    members = make_members([hashes[i] for i in np.flatnonzero(old)], labels[old])
    reference = replace(reference, members=members)

    def clean(names, own=~old):
        chosen = np.flatnonzero(own)
        contents = tuple(hashes[i] for i in chosen)
        return EmbeddedImages(
            rows[chosen], chosen, contents, tuple(names[i] for i in chosen), contents, (), {},
            "clean",
        )  # fmt: skip

    names = [None if i == 59 else "abc"[label] for i, label in enumerate(labels)]
    found = with_calibration(reference, clean(names, np.ones(60, bool)), AuditQuestion())
    assert found.calibration.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 4 + [-1]
    assert np.array_equal(found.calibration.images, rows[~old])
    by_class = AuditQuestion(rule=DecisionRule(per_class=True))
    found = with_calibration(reference, clean(names), by_class)
    assert found.calibration.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 4
    assert np.array_equal(found.calibration.images, rows[~old][:-1])
    for lost in "abc":
        without = ["kite" if name == lost else name for name in names]
        assert with_calibration(reference, clean(without), AuditQuestion()).calibration_count == 15
        with pytest.raises(UsageError, match=f"clean has no image of class '{lost}'"):
            with_calibration(reference, clean(without), by_class)
    with pytest.raises(UsageError, match="every image of clean is in the reference"):
        with_calibration(reference, clean(names, old), AuditQuestion())


def test_each_question_answers_what_it_names():
    rng = np.random.default_rng(5)
    images, texts = small_world()[0][::3].copy(), rng.normal(size=(9, 6)).astype(np.float32)
    labels = ["abc"[i] for i in small_world()[1][::3]]
    images[8], labels[2] = images[7], "b"  # a copy and a wrong label
    prompts = dict(zip("abc", np.eye(6, dtype=np.float32), strict=False))

    def audit(*kinds, labels=labels, **options):
        question = AuditQuestion(kinds, **options)
        return audit_arrays(
            images, labels, text_vectors=texts, prompts=prompts if labels is None else None,
            settings=AuditSettings(k=3), question=question,
        )  # fmt: skip

    every = audit()
    assert every.copies.num_rows == 2 and not every.quality.num_rows
    assert every.labels.is_issue.tolist() == [i == 2 for i in range(20)]
    assert "20 images without measures of picture quality" in every.remarks
    assert set(every.issues["kind"].to_pylist()) == {"label", "near-copy"}
    assert len(every.merged) == 20 and not every.ranked_by_labels
    for kind in ("stray", "mislabel", "copy", "quality"):
        one = audit(kind)
        assert (one.labels is not None) == (kind == "mislabel") == one.ranked_by_labels
        assert (one.copies is not None) == (kind == "copy")
        assert (one.quality is not None) == (kind == "quality")
        assert one.decision.rule == ("label margin" if kind == "mislabel" else "none")
    assert audit("mislabel", "stray").decision.rule == "none"
    leaks = with_copies_and_quality(every, AuditQuestion(("stray",)), every.images)
    assert sum(leaks.copies["leak"].to_pylist()) == 40  # pairs
    assert every.refit is not None and audit(robust=False).refit is None
    assert audit("mislabel").refit is None
    assert audit(labels=None).labels is None  # filed by a prompt, not by anybody
    for kind, robust in (("mislabel", False), ("stray", True)):
        with pytest.raises(UsageError, match="was given and 'a' is the only class"):
            audit(kind, robust=robust, labels=["a"] * 20)
    alone = audit(labels=["a"] * 20)
    assert alone.labels is None and alone.merged is None
    apart = replace(every, images=replace(every.images, labels=("kite",) * 20), labels=None)
    for kinds in ((), ("stray",)):
        assert decide(apart, AuditQuestion(kinds), AuditSettings(k=3), False).labels is None
    with pytest.raises(UsageError, match=r"no image of .* has a label among the classes"):
        decide(apart, AuditQuestion(("mislabel",)), AuditSettings(k=3), False)
