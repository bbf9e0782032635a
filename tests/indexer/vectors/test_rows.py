"""Rows on disk are read as rows in memory are, and score the same."""

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.indexer.vectors.rows import (
    JoinedRows,
    PartedRows,
    SelectedRows,
    are_ascending_rows,
)
from blissaudit.indexer.vectors.unit_rows import blocks_of
from blissaudit.scorer.bliss import PULL_ENTRIES, bliss_scores, gather_texts
from blissaudit.scorer.leave_one_out import LeftOut
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.reference import Reference
from hypothesis import given, settings
from hypothesis import strategies as st

D, SIZES = 6, (7, 1, 12)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(the rows on disk in three parts, the same in memory)."""
    folder = tmp_path_factory.mktemp("parts")
    rows = unit(np.random.default_rng(0).standard_normal((sum(SIZES), D)))
    paths = []
    for number, part in enumerate(np.split(rows, np.cumsum(SIZES)[:-1])):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], part)
    return PartedRows(paths), rows


@settings(deadline=None)
@given(data=st.data())
def test_any_rows_are_those_of_the_array(stored, data):
    disk, rows = stored
    n = len(rows)
    assert len(disk) == n
    wanted = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=30))
    np.testing.assert_allclose(disk[np.array(wanted)], rows[wanted], rtol=1e-6)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n + 3))))
    np.testing.assert_allclose(disk[start:stop].reshape(-1, D), rows[start:stop], rtol=1e-6, atol=0)


def test_half_precision_rows_come_back_as_unit_rows(tmp_path):
    rows = unit(np.random.default_rng(1).standard_normal((5, D)))
    np.save(tmp_path / "a.npy", rows.astype(np.float16))
    found = PartedRows([tmp_path / "a.npy"])[1:4]
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, rows[1:4], atol=1e-3)


def test_scores_of_rows_on_disk_are_those_of_rows_in_memory(stored, monkeypatch):
    disk, rows = stored
    n = len(rows)
    rng = np.random.default_rng(2)
    texts = unit(rng.standard_normal((15, D)))
    labels = np.arange(n) % 2
    reference = Reference(fit_moments(("ant", "bee"), rows, labels), texts[:2])
    retrieved = gather_texts(exact_search(rows, texts, 4), texts)
    left_out = LeftOut(np.arange(n), labels)
    in_memory = bliss_scores(rows, retrieved, reference, given=labels, left_out=left_out)
    monkeypatch.setattr("blissaudit.scorer.bliss.PULL_ENTRIES", 40)
    assert PULL_ENTRIES > 40
    on_disk = bliss_scores(disk, retrieved, reference, given=labels, left_out=left_out)
    for name in ("score", "ics", "ets", "best_scores", "given_ics", "given_ets", "pull"):
        np.testing.assert_allclose(getattr(on_disk, name), getattr(in_memory, name), rtol=1e-4)
    assert np.array_equal(on_disk.nearest, in_memory.nearest)


def test_parts_of_two_models_and_rows_that_are_no_unit_rows_are_named(tmp_path):
    np.save(tmp_path / "a.npy", unit(np.ones((2, 3))))
    np.save(tmp_path / "b.npy", unit(np.ones((2, 4))))
    np.save(tmp_path / "c.npy", np.full((2, 3), 2, np.float32))
    paths = [tmp_path / name for name in ("a.npy", "b.npy", "c.npy")]
    with pytest.raises(BlissError, match=r"b\.npy holds vectors of 4 dimensions"):
        PartedRows(paths[:2])
    rows = PartedRows([paths[0], paths[2]])
    assert rows[:2].shape == (2, 3)
    with pytest.raises(BlissError, match=r"row 0 of .*c\.npy has length 3\.4641"):
        rows[1:3]


@settings(deadline=None)
@given(data=st.data())
def test_joined_and_selected_rows_are_those_of_one_array(stored, data):
    disk, rows = stored
    joined = JoinedRows([disk, rows[:4], disk])
    every = np.concatenate([rows, rows[:4], rows])
    chosen = np.array(data.draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=30)))
    if data.draw(st.booleans()):
        chosen = np.unique(chosen)
    selected = SelectedRows(joined, chosen)
    for one, expected in ((joined, every), (selected, every[chosen])):
        assert len(one) == len(expected)
        at = np.array(data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=9)), np.int64)
        np.testing.assert_allclose(one[at].reshape(-1, D), expected[at], rtol=1e-6)
        blocks = list(blocks_of(one))
        assert [first for first, _ in blocks] == np.cumsum(
            [0, *(len(block) for _, block in blocks[:-1])]
        ).tolist()
        np.testing.assert_allclose(np.concatenate([b for _, b in blocks]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "fits"),
    [
        ([], True),
        ([0, 3, 4], True),
        ([0, 3, 5], False),
        ([-1, 2], False),
        ([2, 2], False),
        ([3, 1], False),
        ([2**62, -(2**62)], False),
        ([1, 2**63 - 1, -(2**63), 2], False),
    ],
)
def test_row_lists_ascend_even_where_differences_overflow(rows, fits):
    assert are_ascending_rows(np.array(rows, np.int64), 5) == fits
    assert not are_ascending_rows(np.array([rows], np.int64), 5)
    assert not are_ascending_rows(np.array(rows, np.int32 if not rows else np.float64), 5)
