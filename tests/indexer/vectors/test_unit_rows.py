"""Outside vectors become unit rows, or are named as impossible."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.indexer.vectors.unit_rows import normalise_rows, row_lengths, stored_unit_rows

BAD = {"zero": 0.0, "nan": np.nan, "plus": np.inf, "minus": -np.inf}


def test_by_hand():
    made = normalise_rows(np.array([[3.0, 4.0], [0.6, 0.8], [0.0, -2.0]]))
    assert made.unit == pytest.approx(np.array([[0.6, 0.8], [0.6, 0.8], [0.0, -1.0]]))
    assert made.unit.dtype == np.float32
    assert (made.adjusted, made.unusable.tolist()) == (2, [])


def test_unusable_rows_are_counted_apart_and_zero():
    rows = np.ones((6, 3), np.float32) / np.float32(np.sqrt(3))
    rows[1] = 0
    rows[2, 1], rows[3, 0], rows[4] = np.nan, np.inf, [-np.inf, 0, np.nan]
    rows[5] *= 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they are told apart, so numpy has nothing to warn of
        made = normalise_rows(rows)
    assert made.unusable.tolist() == [1, 2, 3, 4]
    assert made.adjusted == 1
    assert np.array_equal(made.unit[1:5], np.zeros((4, 3)))
    assert row_lengths(made.unit)[[0, 5]] == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e38, 1e-44])
def test_huge_and_tiny_float32_rows(scale):
    rows = np.array([[3.0, 0.0, 0.0], [1.0, -2.0, 2.0]]) * scale
    made = normalise_rows(rows.astype(np.float32))
    assert made.unusable.tolist() == []
    assert made.adjusted == 2
    # 1e-44 is 7 times the smallest float32, so a seventh of each number is rounding.
    tolerance = 1e-6 if scale > 1e-40 else 0.1
    assert made.unit[0].tolist() == [1, 0, 0]
    assert made.unit[1] == pytest.approx(np.array([1, -2, 2]) / 3, abs=tolerance)
    assert row_lengths(made.unit) == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_float64_rows_beyond_float32(scale):
    made = normalise_rows(np.array([[3.0, 4.0]]) * scale)
    assert made.unit[0] == pytest.approx([0.6, 0.8])
    assert (made.adjusted, made.unusable.tolist()) == (1, [])


def test_float16_rows():
    exact = np.random.default_rng(0).normal(size=(20, 512))
    exact /= row_lengths(exact)[:, None]
    made = normalise_rows(exact.astype(np.float16))
    assert row_lengths(made.unit) == pytest.approx(np.ones(20), abs=1e-6)
    assert np.abs(made.unit - exact).max() < 2e-4
    huge = normalise_rows(np.full((1, 4), 60_000, np.float16))  # its square overflows float16
    assert huge.unit[0].tolist() == [0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_integers_down_to_the_lowest(dtype):
    lowest = np.iinfo(dtype).min  # abs() of it is negative
    made = normalise_rows(np.array([[lowest, 0], [0, 5], [lowest, lowest]], dtype))
    assert made.unusable.tolist() == []
    assert made.unit == pytest.approx(np.array([[-1, 0], [0, 1], [-(0.5**0.5), -(0.5**0.5)]]))


def test_nearly_unit_rows_are_not_counted_as_adjusted():
    rows = np.eye(2) * np.array([[1 + 5e-6], [1 - 5e-5]])
    made = normalise_rows(rows)
    assert made.adjusted == 1
    assert made.unit.tolist() == [[1, 0], [0, 1]]


def test_no_rows_and_no_change_to_the_input():
    none = normalise_rows(np.zeros((0, 4), np.float32))
    assert (none.unit.shape, none.adjusted, none.unusable.tolist()) == ((0, 4), 0, [])
    rows = np.array([[3.0, 4.0]], np.float32)
    normalise_rows(rows)
    assert rows.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    "vectors", [np.ones(3), np.ones((2, 0)), np.array([["a"]]), np.ones((2, 2), complex)]
)
def test_other_arrays_are_refused(vectors):
    with pytest.raises(BlissError, match=r"embeddings of shape \(.*\) and type .* were given"):
        normalise_rows(vectors)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_stored_rows_are_renormalised(dtype):
    exact = np.random.default_rng(1).normal(size=(50, 64))
    exact /= row_lengths(exact)[:, None]
    stored = exact.astype(dtype)
    before = stored.copy()
    rows = stored_unit_rows(stored, "part 0")
    assert rows.dtype == np.float32
    assert row_lengths(rows) == pytest.approx(np.ones(50), abs=1e-6)
    assert np.abs(rows - exact).max() < (5e-4 if dtype == np.float16 else 1e-6)
    assert np.array_equal(stored, before)


@pytest.mark.parametrize("length", [1 - 1.99e-3, 1 + 1.99e-3])
def test_stored_rows_just_within_the_tolerance(length):
    rows = stored_unit_rows(np.array([[length, 0.0]]), "part 0")
    assert rows.tolist() == [[1, 0]]


@pytest.mark.parametrize("length", [1 - 2.01e-3, 1 + 2.01e-3, *BAD.values()])
def test_stored_rows_beyond_the_tolerance_are_named(length):
    rows = np.eye(4, dtype=np.float32)
    rows[2, 2] = rows[3, 3] = length
    shown = rf"row 2 of part 7 has length {abs(length):.4f} \(2 such rows\)"
    with pytest.raises(BlissError, match=rf"{shown}\. Needed: unit rows, to within 0\.002"):
        stored_unit_rows(rows, "part 7")


def test_stored_float16_that_overflowed_is_refused():
    with pytest.raises(BlissError, match=r"row 0 of part 0 has length inf"):
        stored_unit_rows(np.array([[np.inf, 1]], np.float16), "part 0")
