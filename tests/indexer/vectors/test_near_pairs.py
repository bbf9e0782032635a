"""All near pairs: the same as from all products, whatever bounds and blocks."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.indexer import near_pairs
from blissaudit.indexer.vectors import near_pairs as module
from hypothesis import given, settings
from hypothesis import strategies as st


def world(seed: int, n: int, centres: int, spread: float, copies: int) -> np.ndarray:
    """Unit rows around centres, the last of them copies of the first, some the same to the bit."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((centres, 24))[rng.integers(0, centres, n)]
    rows += spread * rng.standard_normal(rows.shape)
    copies = min(copies, n // 2)
    rows[n - copies :] = rows[:copies] + rng.choice([0, 1e-3], (copies, 1)) * rows[:copies, ::-1]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@given(
    st.integers(0, 1000),
    st.tuples(st.integers(1, 70), st.integers(1, 6), st.sampled_from([0.0, 0.1, 1.0]),
              st.integers(0, 30)),
    st.sampled_from([0.5, 0.95, 1.0]),
    st.tuples(st.sampled_from([1, 3, 24]), st.sampled_from([7, 1024]), st.sampled_from([0.0, 1.0])),
)  # fmt: skip
@settings(max_examples=60)
def test_near_pairs_are_those_of_all_products(
    seed: int,
    of: tuple[int, int, float, int],
    least: float,
    constants: tuple[int, int, float],
) -> None:
    rows = world(seed, *of)
    n = len(rows)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("LEADING", "ROWS_AT_ONCE", "FEW"), constants, strict=True):
            patch.setattr(module, name, value)
        found = near_pairs(rows, least, n * n)
    i, j = np.triu_indices(n, 1)
    product = np.einsum("pd,pd->p", rows[i], rows[j], dtype=np.float64).astype(np.float32)
    near = product >= least
    assert found is not None
    for each, wanted in zip(found, (i[near], j[near], product[near]), strict=True):
        np.testing.assert_array_equal(each, wanted)


def test_more_pairs_than_wanted_are_given_up() -> None:
    rows = world(0, 40, 1, 0.0, 0)
    assert near_pairs(rows, 0.9, 779) is None
    found = near_pairs(rows, 0.9, 780)
    assert found is not None and len(found[0]) == 780
