"""Label margins: by hand, against refitting in float64, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.scorer.leave_one_out import NOTHING_LEFT_OUT, LeftOut
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.questions import mislabel
from blissaudit.scorer.questions.mislabel import (
    LabelMargins,
    apart_from_class,
    label_margins,
    merged_order,
)
from blissaudit.scorer.reference import Reference
from helpers.small_worlds import unit
from hypothesis import given, settings
from hypothesis import strategies as st

PROMPTS = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)


def reference_of(rows, labels, prompts=PROMPTS):
    names = tuple("abcdefgh"[: len(prompts)])
    return Reference(fit_moments(names, rows, labels), prompts)


def everyone(labels) -> LeftOut:
    return LeftOut(np.arange(len(labels)), np.asarray(labels))


def test_margins_by_hand():
    # Class a: two images on its axis and one that lies at (0.6, 0.8), nearer to b's axis.
    rows = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1], [0, 1]], np.float32)
    labels = np.array([0, 0, 0, 1, 1])
    found = label_margins(rows, reference_of(rows, labels), labels, everyone(labels))
    assert found.cosine_margin == pytest.approx([-1, -1, 0.2, -1, -1], abs=1e-6)
    # The third: prompts 0.6 and 0.8, means without it (1, 0) and (0, 1): 0.6 + 0.3, 0.8 + 0.4.
    # The first: prompts 1 and 0; a's mean without it is (1.6, 0.8)/√3.2, b's is orthogonal.
    # The fourth: prompts 0 and 1; a's mean is (2.6, 0.8)/√7.4, b's without it (0, 1).
    first = -(1 + 0.5 * 1.6 / 3.2**0.5)
    fourth = 0.5 * 0.8 / 7.4**0.5 - 1.5
    assert found.margin == pytest.approx([first, first, 0.3, fourth, fourth], abs=1e-6)
    assert found.predicted.tolist() == [0, 0, 1, 1, 1]
    assert found.is_issue.tolist() == [False, False, True, False, False]
    assert found.quality[2] == pytest.approx(1 / (1 + np.exp(6)), abs=1e-6)


def oracle(rows, labels, prompts):
    """Margins by loops, every class mean taken anew from the rows that are left."""
    margins, cosines = [], []
    for i, (x, own) in enumerate(zip(rows.astype(np.float64), labels, strict=True)):
        closeness = []
        for c, prompt in enumerate(prompts.astype(np.float64)):
            others = [rows[j].astype(np.float64) for j in range(len(rows))
                      if labels[j] == c and j != i]  # fmt: skip
            mean = sum(others) / len(others)
            closeness.append((x @ prompt, x @ mean / np.sqrt(mean @ mean)))
        total = [cosine + 0.5 * image for cosine, image in closeness]
        plain = [cosine for cosine, _ in closeness]
        for values, into in ((total, margins), (plain, cosines)):
            into.append(max(v for c, v in enumerate(values) if c != own) - values[own])
    return np.array(margins), np.array(cosines)


def drawn(seed: int, classes: int = 4, each: int = 6, d: int = 9):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(classes * each, d))
    prompts = rng.normal(size=(classes, d))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rows, prompts)]
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    return unit[0].astype(np.float32), labels, unit[1].astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_margins_equal_refitting_without_the_image(seed):
    rows, labels, prompts = drawn(seed)
    found = label_margins(rows, reference_of(rows, labels, prompts), labels, everyone(labels))
    margin, cosine = oracle(rows, labels, prompts)
    assert found.margin == pytest.approx(margin, abs=1e-9)
    assert found.cosine_margin == pytest.approx(cosine, abs=1e-12)
    assert np.array_equal(found.predicted != labels, found.is_issue)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), chunk=st.integers(1, 30))
def test_chunks_and_rotations_change_nothing(seed, chunk):
    rows, labels, prompts = drawn(seed)
    whole = label_margins(rows, reference_of(rows, labels, prompts), labels, everyone(labels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blissaudit.scorer.questions.mislabel.CHUNK_ENTRIES", 4 * chunk)
        again = label_margins(rows, reference_of(rows, labels, prompts), labels, everyone(labels))
    assert again.margin == pytest.approx(whole.margin, abs=1e-12)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(9, 9)))[0]
    a, b = (rows @ turn).astype(np.float32), (prompts @ turn).astype(np.float32)
    turned = label_margins(a, reference_of(a, labels, b), labels, everyone(labels))
    assert turned.margin == pytest.approx(whole.margin, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(margins=st.lists(st.floats(-1.5, 1.5), min_size=2, max_size=20))
def test_quality_falls_as_the_margin_rises_and_is_half_at_none(margins):
    ordered = np.sort(np.array(margins))
    n = np.zeros(len(ordered), int)
    quality = LabelMargins(n, n, ordered, ordered).quality
    assert (np.diff(quality)[np.diff(ordered) > 1e-9] < 0).all()
    assert ((quality >= 0) & (quality <= 1)).all()
    assert np.array_equal(quality < 0.5, ordered > 0) or (np.abs(ordered) < 1e-12).any()


def test_another_class_that_suits_worse_changes_no_margin_and_one_that_suits_better_raises_it():
    rows, labels, prompts = drawn(7)
    before = label_margins(rows, reference_of(rows, labels, prompts), labels, everyone(labels))
    far = -rows[0]
    for new, changes in ((far, False), (rows[0], True)):
        more = np.vstack([rows, np.stack([new] * 3)])
        filed = np.append(labels, [4, 4, 4])
        reference = reference_of(more, filed, np.vstack([prompts, new]))
        after = label_margins(rows, reference, labels, everyone(labels))
        assert (after.margin >= before.margin - 1e-12).all()
        assert (after.margin[0] > before.margin[0] + 0.1) == changes
        assert (after.predicted[0] == 4) == changes


def test_an_image_without_a_class_has_no_margin_but_a_prediction():
    rows, labels, prompts = drawn(3)
    given_none = labels.copy()
    given_none[5] = -1
    reference = reference_of(rows, labels, prompts)
    found = label_margins(rows, reference, given_none, NOTHING_LEFT_OUT)
    assert np.flatnonzero(np.isnan(found.margin)).tolist() == [5]
    assert np.isnan(found.quality[5]) and not found.is_issue[5]
    assert 0 <= found.predicted[5] < 4


def test_of_equal_classes_the_given_one_is_predicted():
    rows = np.array([[0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]], np.float32)
    labels = np.array([0, 0, 1, 1])
    prompts = np.array([[0.6, 0.8], [0.6, 0.8]], np.float32)
    found = label_margins(rows, reference_of(rows, labels, prompts), labels, everyone(labels))
    assert found.predicted.tolist() == [0, 0, 1, 1]
    assert not found.is_issue.any()


def test_a_class_of_one_cannot_do_without_it():
    rows, labels = np.eye(2, dtype=np.float32)[[0, 0, 1]], np.array([0, 0, 1])
    reference = reference_of(rows, labels)
    with pytest.raises(BlissError, match="class 'b' has 1 reference image"):
        label_margins(rows, reference, labels, everyone(labels))


def test_the_merged_order_puts_strays_and_wrong_labels_before_the_others():
    own = np.array([0.1, 0.2, 0.3, 0.4, 9.0, 2.0, 0.0])
    margin = np.array([-0.5, -0.4, -0.45, -0.55, -0.42, 0.6, np.nan])
    order = merged_order(own, margin)
    z_own = (own - 0.3) / 1.05  # the quartiles of `own` are 0.15 and 1.2
    middle = np.nan_to_num(margin, nan=-0.435)
    spread = np.subtract(*np.quantile(middle, [0.75, 0.25]))
    assert order == pytest.approx(z_own + 2 * (middle + 0.435) / spread)
    assert set(np.argsort(-order)[:2]) == {4, 5}
    assert merged_order(7 * own + 3, 0.1 * margin - 2) == pytest.approx(order)
    assert merged_order(np.ones(3), np.array([0.0, 0.0, 1.0])).argmax() == 2
    assert np.isfinite(merged_order(np.ones(3), np.full(3, np.nan))).all()


@pytest.mark.parametrize("candidates", [100, 6])
def test_images_far_from_their_own_class_are_found(monkeypatch, candidates):
    """As loops over images; of a class of 12 only every second image is compared with."""
    monkeypatch.setattr(mislabel, "CANDIDATES", candidates)
    rng = np.random.default_rng(3)
    rows = unit(rng.standard_normal((20, 6))).astype(np.float32)
    filed = np.array([0] * 12 + [1] * 5 + [2] + [-1] * 2)
    expected = np.zeros(20)
    for c in (0, 1):
        here = np.flatnonzero(filed == c)
        others = here[:: 2 if len(here) > candidates else 1]
        for i in here:
            near = sorted((float(rows[i] @ rows[j]) for j in others if j != i), reverse=True)
            expected[i] = -np.mean(near[:3])
        expected[here] -= np.median(expected[here])
    apart = apart_from_class(rows, filed)
    assert apart == pytest.approx(expected, abs=1e-6) and (apart[17:] == 0).all()
    copied = np.vstack([rows, rows[:1], rows[:1]])
    groups = np.array([0] + [-1] * 19 + [0, 0])
    found = apart_from_class(copied, np.append(filed, [0, 3]), groups)
    near = apart_from_class(copied, np.append(filed, [0, 3]))
    if candidates > 20:  # not the copy in its own class, which changes others too
        assert found[0] == found[20] > near[0] + 0.1 and found[21] == 0
    assert (apart_from_class(copied[[0, 20, 21]], np.zeros(3, int), np.zeros(3)) == 0).all()
    own, margin = rng.standard_normal((2, 20))
    plain = merged_order(own, margin)
    assert merged_order(own, margin, apart) != pytest.approx(plain)
    assert merged_order(own, margin, 5 * apart) == pytest.approx(merged_order(own, margin, apart))
