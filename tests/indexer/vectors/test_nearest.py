"""Exact search: brute force's texts in brute force's order, whatever the blocks and batches."""

from __future__ import annotations

from itertools import pairwise

import faiss
import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.indexer.search.structures import write_flat_index
from blissaudit.indexer.vectors import nearest
from blissaudit.indexer.vectors.nearest import (
    ROUNDING,
    Candidates,
    Hits,
    exact_hits,
    exact_search,
    merge_hits,
)
from blissaudit.indexer.vectors.rows import JoinedRows
from helpers import bliss_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st


def in_blocks(rows: np.ndarray, cuts: list[int]) -> JoinedRows:
    """The rows of an array, cut before each of `cuts`."""
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    return JoinedRows([rows[a:b] for a, b in pairwise(bounds)])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    distinct=st.integers(1, 30),
    m=st.integers(1, 80),
    cuts=st.lists(st.integers(1, 80), max_size=6),
    k=st.integers(1, 40),
)
def test_equals_brute_force_with_many_copies(seed, distinct, m, cuts, k):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 24))
    texts = oracle.unit_rows(rng.normal(size=(distinct, d)))[rng.integers(0, distinct, m)]
    queries = np.concatenate([oracle.unit_rows(rng.normal(size=(4, d))), texts[:3]])
    k = min(k, m)
    found = exact_search(queries, in_blocks(texts, cuts), k)
    similarity, rows = oracle.brute_force(queries, texts, k)
    assert np.array_equal(found.rows, rows)
    # Both are float64 sums rounded to float32; their order may differ in the last digit.
    assert found.similarity == pytest.approx(similarity, rel=2e-7, abs=1e-8)


@pytest.mark.parametrize("copies", [5, 40, 700])
def test_more_copies_than_spare_candidates_give_the_lowest_rows(copies):
    rng = np.random.default_rng(copies)
    query = oracle.unit_rows(rng.normal(size=(1, 16)))
    texts = oracle.unit_rows(rng.normal(size=(1000, 16)))
    places = np.sort(rng.choice(1000, copies, replace=False))
    texts[places] = query
    found = exact_search(query, in_blocks(texts, [333, 666]), 5)
    assert found.rows.tolist() == [places[:5].tolist()]
    assert found.similarity == pytest.approx(np.ones((1, 5)))


def test_nearly_equal_texts_are_ordered_by_float64():
    # FAISS sums in float32 and confuses these; their float64 similarities differ.
    rng = np.random.default_rng(0)
    d, k = 512, 20
    query = oracle.unit_rows(rng.normal(size=(1, d)))
    texts = oracle.unit_rows(query + 1e-4 * rng.normal(size=(400, d)))
    found = exact_search(query, texts, k)
    assert np.array_equal(found.rows, oracle.brute_force(query, texts, k)[1])
    rough = faiss.knn(query, texts, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
    assert not np.array_equal(found.rows, rough)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(1, 120), max_size=8),
    batch=st.integers(1, 30),
    d=st.sampled_from([7, 24, 640]),
)
def test_similarities_do_not_depend_on_blocks_or_batches(seed, cuts, batch, d):
    rng = np.random.default_rng(seed)
    texts = oracle.unit_rows(rng.normal(size=(120, d)))
    texts[60:80] = texts[:20]
    queries = oracle.unit_rows(rng.normal(size=(30, d)))
    whole = exact_search(queries, texts, 9)
    texts_in_blocks = in_blocks(texts, cuts)
    for first in range(0, len(queries), batch):
        part = slice(first, first + batch)
        found = exact_search(queries[part], texts_in_blocks, 9)
        assert found.similarity.tobytes() == whole.similarity[part].tobytes()
        assert np.array_equal(found.rows, whole.rows[part])


def test_equal_texts_have_equal_similarities():
    rng = np.random.default_rng(1)
    text = oracle.unit_rows(rng.normal(size=(1, 640)))
    texts = np.concatenate([text, oracle.unit_rows(rng.normal(size=(50, 640)))] * 3)
    found = exact_search(text, in_blocks(texts, [10, 70]), 3)
    assert found.rows.tolist() == [[0, 51, 102]]
    assert len(set(found.similarity[0].tolist())) == 1


def test_k_may_be_all_texts_and_no_more():
    texts = np.eye(4, dtype=np.float32)
    query = np.array([[0.2, 0.8, 0.4, 0.4]], np.float32)
    found = exact_search(query, texts, 4)
    assert found.rows.tolist() == [[1, 2, 3, 0]]
    assert found.similarity.tolist() == [np.float32([0.8, 0.4, 0.4, 0.2]).tolist()]
    for k in (5, 0, -1):
        with pytest.raises(UsageError, match=rf"k = {k} was asked of an index of M = 4 texts"):
            exact_search(query, texts, k)


def test_k_changes_how_many_are_found_and_not_which():
    rng = np.random.default_rng(2)
    texts = oracle.unit_rows(rng.normal(size=(50, 8)))
    queries = oracle.unit_rows(rng.normal(size=(6, 8)))
    few, many = exact_search(queries, texts, 3), exact_search(queries, texts, 11)
    assert np.array_equal(many.rows[:, :3], few.rows)
    assert np.array_equal(many.similarity[:, :3], few.similarity)
    assert len(np.unique(many.rows[0])) == 11


def test_a_query_or_too_many_texts_that_are_not_finite_are_named():
    texts = np.eye(4, dtype=np.float32)
    queries = texts[:2].copy()
    queries[1, 3] = np.nan
    with pytest.raises(UsageError, match=r"query 1 has no similarity .*Needed: .* without NaN"):
        exact_search(queries, texts, 1)
    texts[2] = np.nan
    with pytest.raises(UsageError, match="query 0 has no similarity with one of its 4"):
        exact_search(texts[:1], texts, 4)


def test_no_queries_find_nothing():
    found = exact_search(np.zeros((0, 4), np.float32), np.eye(4, dtype="f4"), 2)
    assert (found.similarity.shape, found.rows.shape) == ((0, 2), (0, 2))


def test_real_embeddings_equal_faiss_and_float64(tmp_path):
    real = oracle.real_data()
    texts = oracle.real_texts(real)
    _, first = np.unique(texts, axis=0, return_index=True)
    texts = texts[np.sort(first)]  # no ties
    queries, _ = oracle.caltech(real, "test")
    queries = queries[::5]
    found = exact_search(queries, in_blocks(texts, [500, 501, 1600]), 10)
    similarity = queries.astype(np.float64) @ texts.T.astype(np.float64)
    rows = np.argsort(-similarity, axis=1)[:, :10]
    assert np.array_equal(found.rows, rows)
    assert found.similarity == pytest.approx(np.take_along_axis(similarity, rows, axis=1), rel=1e-7)
    # The file written for other programs holds the same texts in the same order.
    write_flat_index(tmp_path / "flat.faiss", in_blocks(texts, [1000]), texts.shape[1])
    index = faiss.read_index(str(tmp_path / "flat.faiss"))
    in_file, rows_in_file = index.search(queries, 10)
    assert np.mean(rows_in_file == rows) > 0.999  # float32 may swap neighbours
    assert in_file == pytest.approx(found.similarity, abs=2e-6)


@pytest.mark.parametrize(("below", "found"), [(0.5, 3), (1.5, 2)])
def test_candidates_that_rounding_could_hide_a_text_from_are_searched_again(below, found):
    """The k-th similarity decides, and the lowest product may be wrong by ROUNDING."""
    texts = np.zeros((5, 2), np.float32)
    texts[:, 0] = [0.9, 0.8, 0.5, 0.5 + 1e-6, 0.1]
    lowest = np.float32([0.5 - below * ROUNDING])
    hits = exact_hits(np.eye(1, 2, dtype=np.float32), texts, 3, np.array([[0, 1, 2]]), lowest)
    assert hits.rows.tolist() == [[0, 1, found]]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 9), wanted=st.integers(1, 6))
def test_candidates_are_the_largest_of_all_that_was_added(seed, size, wanted):
    products = np.random.default_rng(seed).standard_normal((5, 30)).astype(np.float32)
    kept = Candidates(5, wanted)
    for text in range(0, 30, size):
        for query in (0, 3):
            kept.add(products[query : query + 3, text : text + size], query, text)
    order = np.argsort(-products, axis=1)[:, :wanted]
    assert np.array_equal(np.sort(kept.rows, axis=1), np.sort(order, axis=1))
    assert np.array_equal(kept.values, np.take_along_axis(products, kept.rows, axis=1))
    assert np.array_equal(kept.lowest, -np.sort(-products, axis=1)[:, wanted - 1])


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 40),
    wanted=st.integers(1, 6),
    order=st.sampled_from(["random", "rising", "falling", "for one query"]),
)
def test_columns_are_added_as_rows_are(seed, size, wanted, order):
    """Also where nearly every text of a block is a new candidate, and where products are NaN."""
    products = np.random.default_rng(seed).standard_normal((200, 5)).astype(np.float32)
    if order in ("rising", "falling"):
        products.sort(axis=0)
        products = products[:: 1 if order == "rising" else -1]
    if order == "for one query":
        products[100:, 2] += 10
    products[7, 1] = np.nan
    kept, expected = Candidates(5, wanted), Candidates(5, wanted)
    for text in range(0, 200, size):
        for query, stop in ((0, 3), (3, 5)):
            some = products[text : text + size, query:stop]
            kept.add_columns(np.ascontiguousarray(some), query, text)
            expected.add(some.T, query, text)
    assert np.array_equal(np.sort(kept.rows, axis=1), np.sort(expected.rows, axis=1))
    found = np.take_along_axis(products.T, kept.rows, axis=1)
    assert np.array_equal(kept.values, found)


@pytest.mark.parametrize("queries", [1, 2, 5, 16, 40])
def test_products_of_a_few_rows_at_a_time_are_products(queries, monkeypatch):
    rng = np.random.default_rng(0)
    rows, some = rng.standard_normal((317, 24)), rng.standard_normal((24, queries))
    monkeypatch.setattr(nearest, "SMALL_PRODUCT", 50 * 24 * 5)
    out = np.empty((317, queries))
    nearest._multiply(rows, some, out)
    np.testing.assert_allclose(out, rows @ some, rtol=1e-12)


def test_candidates_say_where_fewer_texts_were_added():
    kept = Candidates(1, 3)
    kept.add(np.float32([[0.5]]), 0, 7)
    assert sorted(kept.rows[0]) == [-1, -1, 7]
    assert kept.lowest.tolist() == [-np.inf]


def test_blocks_of_texts_know_their_first_row():
    rows = np.arange(22, dtype=np.float32).reshape(11, 2)
    blocks = list(nearest._text_blocks(in_blocks(rows, [5]), 4))
    assert [first for first, _ in blocks] == [0, 4, 5, 9]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), rows)


def test_hits_of_two_searches_become_one_list():
    first = Hits(np.float32([[0.9, 0.5]]), np.array([[1, 0]]))
    second = Hits(np.float32([[0.7, 0.5]]), np.array([[6, 5]]))
    for found in ([first, second], [second, first]):
        both = merge_hits(found, 3)
        assert both.rows.tolist() == [[1, 6, 0]]  # of equal ones the lower row
        assert both.similarity.tolist() == np.float32([[0.9, 0.7, 0.5]]).tolist()
    assert merge_hits([first], 2) is first
