"""Moments add, merge and remove exactly, however the images are split and stored."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.indexer.vectors.rows import SelectedRows
from blissaudit.scorer.moments import (
    Moments,
    add_images,
    empty_moments,
    fit_moments,
    merge,
    remove_images,
    scatter_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ONE = np.zeros(1, int)


def labelled(rows: np.ndarray) -> np.ndarray:
    return np.zeros(len(rows), int)


def check_one_class(moments: Moments, number: int, rows: np.ndarray) -> None:
    """One class's moments against numpy's mean and covariance of its rows."""
    part, rows = moments.parts[number], rows.astype(np.float64)
    assert part.count == len(rows)
    if not len(rows):
        return
    assert part.mean == pytest.approx(rows.mean(axis=0), abs=1e-12)
    covariance = np.cov(rows, rowvar=False, ddof=0).reshape(rows.shape[1], -1)
    assert scatter_of(part) / part.count == pytest.approx(covariance, abs=1e-12)
    assert (part.centred is None) != (part.scatter is None)
    if part.centred is not None:
        order, expected = np.lexsort(part.centred.T), rows - rows.mean(axis=0)
        assert np.allclose(part.centred[order], expected[np.lexsort(expected.T)], atol=1e-12)


def test_by_hand_in_two_dimensions():
    # Rows (1, 0), (0, 1), (0.6, 0.8). Mean: (1.6/3, 1.8/3) = (0.5333, 0.6).
    # Sums of squares: 1 + 0.36 = 1.36 and 1 + 0.64 = 1.64; of products: 0.48.
    # Scatter = sums - 3·mean·meanᵀ: 1.36 - 0.85333, 0.48 - 0.96, 1.64 - 1.08.
    moments = fit_moments(["cup"], np.array([[1, 0], [0, 1], [0.6, 0.8]]), np.zeros(3, int))
    part = moments.parts[0]
    assert (part.count, moments.counts.tolist(), moments.dimension) == (3, [3], 2)
    assert part.mean == pytest.approx([8 / 15, 0.6])
    assert part.centred is None  # 3 images > 2 dimensions
    assert part.scatter == pytest.approx(np.array([[1.36 - 64 / 75, -0.48], [-0.48, 0.56]]))
    # Without (0.6, 0.8) the mean is (0.5, 0.5) and the rows (0.5, -0.5), (-0.5, 0.5).
    two = remove_images(moments, np.array([[0.6, 0.8]]), ONE).parts[0]
    assert two.mean == pytest.approx([0.5, 0.5])
    assert scatter_of(two) == pytest.approx(np.array([[0.5, -0.5], [-0.5, 0.5]]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    d=st.integers(1, 10),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_any_split_merged_in_any_order_equals_one_pass(seed, n, d, cuts, dtype):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)).astype(dtype)
    labels = rng.integers(0, 3, n)
    once = fit_moments("abc", rows, labels)
    pieces = np.split(rng.permutation(n), sorted(min(cut, n) for cut in cuts))
    added = empty_moments("abc", d)
    merged = empty_moments("abc", d)
    for piece in pieces:
        added = add_images(added, rows[piece], labels[piece])
    for i in rng.permutation(len(pieces)):
        merged = merge(fit_moments("abc", rows[pieces[i]], labels[pieces[i]]), merged)
    for number in range(3):
        for moments in (once, added, merged):
            check_one_class(moments, moments.classes.index("abc"[number]), rows[labels == number])
    stored = [part.centred is not None for part in once.parts]
    assert stored == [count <= d for count in once.counts]
    assert all((part.centred is None) <= (part.count > d) for part in merged.parts)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 25), d=st.integers(1, 8))
def test_removing_undoes_adding_down_to_nothing(seed, n, d):
    # n starts on either side of d, so the removals cross n = d with both ways of storing.
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)).astype(np.float32)
    order = rng.permutation(n)
    moments = fit_moments("a", rows, labelled(rows))
    for done in range(1, n + 1):
        moments = remove_images(moments, rows[order[done - 1 : done]], ONE)
        check_one_class(moments, 0, rows[order[done:]])
    assert (moments.parts[0].count, moments.parts[0].mean.tolist()) == (0, [0.0] * d)
    check_one_class(add_images(moments, rows, labelled(rows)), 0, rows)


def test_growing_across_the_dimension_one_image_at_a_time():
    rows = np.random.default_rng(0).normal(size=(9, 4))
    moments = empty_moments("a", 4)
    for n in range(1, 10):
        moments = add_images(moments, rows[n - 1 : n], ONE)
        check_one_class(moments, 0, rows[:n])
        assert (moments.parts[0].scatter is not None) == (n > 4)


def test_a_scatter_left_with_few_images_still_merges():
    rows = np.random.default_rng(1).normal(size=(9, 4))
    few = remove_images(fit_moments("a", rows[:6], np.zeros(6, int)), rows[:3], np.zeros(3, int))
    assert few.parts[0].scatter is not None
    other = fit_moments("a", rows[6:8], np.zeros(2, int))
    check_one_class(merge(few, other), 0, rows[3:8])
    check_one_class(merge(other, few), 0, rows[3:8])


def test_merge_matches_classes_by_name():
    rows = np.random.default_rng(2).normal(size=(6, 3))
    first = fit_moments(["cup", "mug"], rows[:4], np.array([0, 0, 1, 1]))
    second = fit_moments(["jug", "cup"], rows[4:], np.array([0, 1]))
    both = merge(first, second)
    assert both.classes == ("cup", "mug", "jug")
    check_one_class(both, 0, rows[[0, 1, 5]])
    check_one_class(both, 1, rows[[2, 3]])
    check_one_class(both, 2, rows[[4]])


def test_merge_refuses_a_name_that_stands_for_two_classes():
    # ImageNet names two classes "crane": matching by name would drop one of them.
    birds = fit_moments(["crane", "crane"], np.eye(3), np.array([0, 1, 1]))
    other = fit_moments(["cup"], np.eye(3), np.zeros(3, int))
    for pair in ((birds, other), (other, birds)):
        with pytest.raises(BlissError, match=r"two classes of one reference .* named 'crane'"):
            merge(*pair)


@pytest.mark.parametrize("n", [3, 9])
def test_inputs_are_left_alone(n):
    rows = np.random.default_rng(3).normal(size=(n, 4))
    before = rows.copy()
    moments = fit_moments("a", rows, np.zeros(n, int))
    kept = scatter_of(moments.parts[0]).copy()
    remove_images(merge(moments, moments), rows[:1], ONE)
    assert np.array_equal(rows, before)
    assert np.array_equal(scatter_of(moments.parts[0]), kept)


def test_float32_rows_are_summed_in_float64():
    # float32 sums of 20,000 rows near 0.7 would be off in the fifth digit.
    rows = np.full((20_001, 2), np.float32(0.7))
    rows[0] = [0.0, 1.0]
    part = fit_moments("a", rows, labelled(rows)).parts[0]
    assert part.mean == pytest.approx(rows.astype(np.float64).mean(axis=0), rel=1e-12)
    assert part.mean.dtype == part.scatter.dtype == np.float64


@pytest.mark.parametrize(
    ("n", "image"),
    [
        (3, [5.0, 0, 0, 0]), (9, [50.0, 0, 0, 0]), (0, [1.0, 0, 0, 0]), (3, [np.nan, 0, 0, 0]),
        (9, [np.inf, 0, 0, 0]),
    ],
)  # fmt: skip
def test_removing_a_stranger_names_the_class(n, image):
    rows = np.random.default_rng(4).normal(size=(n, 4))
    moments = fit_moments(["cup"], rows, np.zeros(n, int))
    with pytest.raises(BlissError, match=r"an image to remove is not in class 'cup'"):
        remove_images(moments, np.array([image]), ONE)


def test_removing_a_stranger_from_the_last_two_names_the_class():
    rows = np.random.default_rng(5).normal(size=(5, 4))
    two = remove_images(fit_moments(["cup"], rows, np.zeros(5, int)), rows[:3], np.zeros(3, int))
    with pytest.raises(BlissError, match=r"an image to remove is not in class 'cup'"):
        remove_images(two, rows[:1], ONE)


@pytest.mark.parametrize("change", [add_images, remove_images])
@pytest.mark.parametrize("labels", [[0, 2], [-1, 0], [0]])
def test_wrong_class_numbers(change, labels):
    moments = fit_moments("ab", np.eye(3)[:2], np.array([0, 1]))
    message = rf"{len(labels)} class numbers were given for 2 images and 2 classes.*0 to 1"
    with pytest.raises(BlissError, match=message):
        change(moments, np.eye(3)[:2], np.array(labels))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_images_that_are_not_finite_are_not_added(value):
    rows = np.eye(3)
    rows[1, 2] = value
    with pytest.raises(BlissError, match=r"holds NaN or infinity\. Needed: finite embeddings"):
        fit_moments("a", rows, np.zeros(3, int))


def test_wrong_dimensions():
    moments = fit_moments("a", np.eye(3), np.zeros(3, int))
    for change in (add_images, remove_images):
        with pytest.raises(BlissError, match=r"of 4 dimensions.*Needed: .*3 dimensions"):
            change(moments, np.eye(4)[:1], ONE)
    with pytest.raises(BlissError, match=r"moments of 3 and of 4 dimensions"):
        merge(moments, fit_moments("a", np.eye(4), np.zeros(4, int)))


def test_large_classes_on_disk_are_added_a_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr("blissaudit.scorer.moments.ROWS_AT_ONCE", 3)
    rng = np.random.default_rng(7)
    rows, labels = rng.standard_normal((23, 4)).astype(np.float32), np.arange(23) % 2
    order = rng.permutation(23)
    stored = SelectedRows(rows, order)
    found = add_images(empty_moments(("ant", "bee"), 4), stored, labels)
    for number, part in enumerate(found.parts):
        members = rows[order][labels == number].astype(np.float64)
        assert part.count == len(members)
        np.testing.assert_allclose(part.mean, members.mean(axis=0), rtol=1e-12)
        apart = members - members.mean(axis=0)
        np.testing.assert_allclose(part.scatter, apart.T @ apart, rtol=1e-10)
