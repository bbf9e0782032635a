"""Rows that are the same up to rounding, against a comparison of every pair."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.scorer.members import make_members
from blissaudit.scorer.same_rows import RADIUS, same_rows, sketch_rows
from hypothesis import given
from hypothesis import strategies as st


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


ROUNDINGS = {
    "float16": lambda rows: rows.astype(np.float16),
    "scaled": lambda rows: rows * np.float32(73.1),
    "scaled float16": lambda rows: (rows * np.float32(0.013)).astype(np.float16),
    "each scaled": lambda rows: rows * np.linspace(0.1, 300, len(rows), dtype=np.float32)[:, None],
}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dimension", [4, 512])
def test_rounded_rows_are_recognised_and_no_others(rounding, dimension):
    rng = np.random.default_rng(dimension)
    common = rng.standard_normal(dimension)  # as of embeddings, in a cone
    rows = unit(rng.standard_normal((200, dimension)) + common)
    rounded = unit(ROUNDINGS[rounding](rows))
    one, other = same_rows(sketch_rows(rounded), sketch_rows(rows))
    apart = np.linalg.norm(rounded[:, None] - rows[None], axis=2)
    wanted = np.argwhere(apart <= 1e-3)
    assert {tuple(pair) for pair in wanted} <= set(zip(one.tolist(), other.tolist(), strict=True))
    assert apart[one, other].max() < 3 * RADIUS
    assert len(wanted) >= 200


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_the_grid_finds_what_comparing_every_pair_finds(seed, n, m):
    """Sketches around the borders of cells, some of them at the limit of what is the same."""
    rng = np.random.default_rng(seed)
    among = rng.integers(-5, 6, (m, 16)) * 304 + rng.integers(-40, 40, (m, 16))
    queries = (
        among[rng.integers(0, m, n)]
        + rng.integers(-9, 10, (n, 16)) * rng.integers(0, 2, n)[:, None]
    )
    queries, among = queries.astype(np.int16), among.astype(np.int16)
    apart = np.square(queries[:, None].astype(np.int64) - among[None]).sum(axis=2)
    wanted = np.argwhere(apart <= round(16 * (RADIUS * 4096) ** 2))
    found = np.stack(same_rows(queries, among), axis=1)
    assert found.tolist() == wanted.tolist()


def test_an_image_is_left_out_of_every_class_that_its_row_is_filed_under():
    rows = unit(np.random.default_rng(1).standard_normal((6, 32)))
    rounded = unit(rows.astype(np.float16))
    names = [f"vector:{n:064x}" for n in range(6)]
    given = np.concatenate([rows, rounded[:1]])  # row 0 is there again, in another class
    classes = np.array([0, 0, 1, 1, 2, 2, 1])
    members = make_members([*names, "vector:" + 64 * "a"], classes, sketch_rows(given))
    others = [f"vector:{n:064x}" for n in range(100, 106)]
    images, filed = members.filed(others, rounded)
    assert images.tolist() == [0, 0, 1, 2, 3, 4, 5] and filed.tolist() == [0, 1, 0, 1, 1, 2, 2]
    assert members.filed(others)[0].tolist() == []
    # Files are compared by their contents alone; a file and a row by the row.
    files = [f"{n:064x}" for n in range(10, 16)]
    by_file = make_members(files, classes[:6], sketch_rows(rows))
    assert by_file.filed([f"{n:064x}" for n in range(6)], rows)[0].tolist() == []
    assert by_file.filed(others, rounded)[1].tolist() == classes[:6].tolist()
    assert members.filed(files, rows)[0].tolist() == [0, 0, 1, 2, 3, 4, 5]
    left = members.without([names[1]], np.array([0]))
    assert left.filed(others, rounded)[0].tolist() == [0, 0, 2, 3, 4, 5]


def test_real_embeddings_are_told_apart(real_data):
    """Each of 1,649 photographs as float16 is recognised, and only where the row is the same."""
    stored = np.load(real_data / "caltech101" / "val" / "img_emb" / "img_emb_0.npy")
    rows = unit(stored)
    one, other = same_rows(sketch_rows(unit(rows.astype(np.float16))), sketch_rows(rows))
    assert set(range(len(rows))) == set(one[one == other].tolist())
    assert all(np.array_equal(rows[i], rows[j]) for i, j in zip(one, other, strict=True))
