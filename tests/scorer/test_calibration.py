"""Conformal p-values, and the choice of images that are held out for them."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.scorer.calibration import benjamini_hochberg, conformal_p_values, hold_out
from hypothesis import given, settings
from hypothesis import strategies as st


def test_p_values_by_hand():
    calibration = np.array([3.0, 1.0, 2.0, 2.0])
    scores = np.array([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
    # At least as large: 4, 4, 3, 3 (both twos), 1, 1, 0; one more, of five.
    expected = [1.0, 1.0, 0.8, 0.8, 0.4, 0.4, 0.2]
    assert conformal_p_values(calibration, scores) == pytest.approx(expected)
    assert calibration.tolist() == [3, 1, 2, 2]


def test_without_calibration_images_every_p_value_is_one():
    assert conformal_p_values(np.zeros(0), np.array([-1.0, 5.0])).tolist() == [1, 1]


@settings(max_examples=50, deadline=None)
@given(calibration=st.lists(st.integers(0, 6), max_size=20), scores=st.lists(st.integers(-1, 7)))
def test_p_values_equal_the_definition(calibration, scores):
    found = conformal_p_values(np.array(calibration, float), np.array(scores, float))
    for p, score in zip(found, scores, strict=True):
        at_least = sum(1 for other in calibration if other >= score)
        assert p == pytest.approx((1 + at_least) / (len(calibration) + 1))


def test_clean_scores_are_flagged_at_most_as_often_as_promised():
    rng = np.random.default_rng(0)
    flagged = [
        np.mean(conformal_p_values(rng.normal(size=99), rng.normal(size=200)) <= 0.05)
        for _ in range(300)
    ]
    # Exactly 5 of 100 ranks give p <= 0.05, so the expected share is 0.05; its error here 0.0015.
    assert np.mean(flagged) == pytest.approx(0.05, abs=0.006)


def test_q_values_by_hand():
    # Sorted: 0.01·4/1, 0.03·4/2, 0.04·4/3 and 0.8; the minimum from the right lowers the second.
    found = benjamini_hochberg(np.array([0.8, 0.01, 0.04, 0.03]))
    assert found == pytest.approx([0.8, 0.04, 0.16 / 3, 0.16 / 3])
    assert benjamini_hochberg(np.zeros(0)).shape == (0,)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40).map(lambda rank: rank / 40), min_size=1, max_size=50))
def test_q_values_are_scipys(p):
    from scipy.stats import false_discovery_control

    assert benjamini_hochberg(np.array(p)) == pytest.approx(false_discovery_control(p, method="bh"))


@pytest.mark.parametrize("p", [[0.5, 1.1], [-0.1], [float("nan")], [[0.5]]])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(UsageError, match=r"p-values of shape \(.*were given, not all"):
        benjamini_hochberg(np.array(p))


def names(count: int) -> list[str]:
    """Hashes in no order."""
    return [f"{(i * 7919 + 13) % 1009:04d}" for i in range(count)]


def held_out(labels, hashes, share) -> np.ndarray:
    """By content hashes, which the core knows as numbers of the same order."""
    return hold_out(np.array(labels), np.unique(list(hashes), return_inverse=True)[1], share)


def chosen(labels, hashes, share) -> set[str]:
    held = held_out(labels, hashes, share)
    return {hashes[i] for i in np.flatnonzero(held)}


def test_about_the_share_of_every_class_is_held_out():
    labels = np.repeat([0, 1, 2], [10, 20, 5])
    held = held_out(labels, names(35), 0.2)
    assert [held[labels == number].sum() for number in range(3)] == [2, 4, 1]
    assert np.array_equal(held, held_out(labels, names(35), 0.2))


def test_the_lowest_hashes_are_held_out():
    assert chosen([0] * 5, ["d", "b", "e", "a", "c"], 0.4) == {"a", "b"}


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 12)), min_size=1, max_size=40),
    share=st.floats(0, 0.99),
    data=st.data(),
)
def test_what_always_holds(images, share, data):
    labels, hashes = zip(*[(label, f"{number:02d}") for label, number in images], strict=True)
    held = held_out(labels, hashes, share)
    # The order of images does not matter.
    order = data.draw(st.permutations(range(len(images))))
    again = held_out(np.array(labels)[order], [hashes[i] for i in order], share)
    assert np.array_equal(again, held[order])
    # Copies stay together, also under different labels; unlabelled images are not chosen.
    labelled = np.array(labels) >= 0
    assert not held[~labelled].any()
    inside = {hashes[i] for i in np.flatnonzero(held)}
    outside = {hashes[i] for i in np.flatnonzero(~held & labelled)}
    assert not inside & outside
    for number in {label for label in labels if label >= 0}:
        members = np.array(labels) == number
        assert held[members].sum() <= max(0, min(share * members.sum(), members.sum() - 2))


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (2, 0), (3, 1), (4, 2), (40, 36)])
def test_two_images_are_always_left(count, expected):
    assert held_out(np.zeros(count, int), names(count), 0.9).sum() == expected


def test_copies_at_the_edge_of_the_share_stay_in():
    # Two of five would be a and one copy of b.
    assert chosen([0] * 5, ["a", "b", "b", "c", "d"], 0.4) == {"a"}
    assert chosen([0] * 5, ["a", "a", "b", "c", "d"], 0.4) == {"a"}


def test_an_image_that_stays_in_another_class_is_not_held_out():
    # "m" is the first of class 0 and the last of class 1: held out there, it would be in the
    # moments here, and its calibration score too low.
    labels, hashes = [0, 0, 0, 0, 1, 1, 1, 1], ["m", "n", "o", "p", "a", "b", "c", "m"]
    assert chosen(labels, hashes, 0.5) == {"n", "a", "b"}
    # In the first half of both, it is held out of both.
    hashes = ["m", "n", "o", "p", "m", "x", "y", "z"]
    assert held_out(labels, hashes, 0.3).tolist() == [True, 0, 0, 0, True, 0, 0, 0]


def test_the_share_changes_the_result():
    labels = np.zeros(30, int)
    counts = [held_out(labels, names(30), share).sum() for share in (0, 0.1, 0.2, 0.5)]
    assert counts == [0, 3, 6, 15]


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(UsageError, match=rf"a calibration share of {share} was given. Needed: 0"):
        held_out(np.zeros(3, int), names(3), share)
