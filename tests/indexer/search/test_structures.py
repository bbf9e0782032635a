"""Search through structures: exhaustive settings equal brute force, the others come close."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.indexer.build.add import AddOptions, add_embeddings
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.search import searchers
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.index import join_indexes, open_index, with_structure
from blissaudit.indexer.search.install import install_structure, make_structure, set_search_kind
from blissaudit.indexer.search.kinds import (
    DEFAULT_SEARCH,
    SearchChoice,
    candidate_settings,
    read_kind,
)
from blissaudit.indexer.search.structures import AskedByImages, image_transform, new_structure
from helpers import bliss_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

M, D, K = 1500, 32, 10
EXHAUSTIVE = {
    "SQfp16": {},
    "SQ8": {"candidates": 10},
    "SQ4": {"candidates": 40},
    "RaBitQ4": {"candidates": 40},
    "RaBitQfs": {"candidates": 140},  # FAISS takes no selection for it
    "PQ8x4": {"candidates": 140},  # nor for this
    "HNSW32": {"efSearch": 1400},
    "IVF16,Flat": {"nprobe": 16},
    "IVF16,SQ8": {"nprobe": 16, "candidates": 10},
    "IVF16_HNSW8,SQ8": {"nprobe": 16, "quantizer_efSearch": 64, "candidates": 10},
    "IVF16,RaBitQ4": {"nprobe": 16, "candidates": 40, "qb": 8},
    "IVF16,PQ8x4fs": {"nprobe": 16, "candidates": 140},
    "PCA16,IVF16,SQ8": {"nprobe": 16, "candidates": 140},
    "Images,IVF16,SQ8": {"nprobe": 16, "candidates": 10},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_embeddings):
    """(folder of an index in parts, its unit rows, queries of another distribution)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, D))
    near = centres[rng.integers(0, 30, M)] + 0.8 * rng.standard_normal((M, D))
    rows = oracle.unit_rows(near.astype(np.float32))
    queries = oracle.unit_rows(centres + 0.5 * rng.standard_normal((30, D)) + 0.4)
    root = tmp_path_factory.mktemp("structures")
    write_embeddings(root / "source", rows, [f"caption {i}" for i in range(M)])
    index_embeddings(root / "source", root / "index", options=IndexOptions(part_rows=400))
    return root / "index", rows, queries


@pytest.mark.parametrize("kind", EXHAUSTIVE)
def test_exhaustive_settings_equal_brute_force(world, tmp_path, kind):
    folder, rows, queries = world
    index = open_index(folder)
    made = make_structure(index.stored, D, kind, tmp_path / "made.faiss", images=queries)
    found = with_structure(index, made, EXHAUSTIVE[kind])
    hits, (similarity, expected) = search(found, queries, K), oracle.brute_force(queries, rows, K)
    assert np.array_equal(hits.rows, expected)
    assert hits.similarity == pytest.approx(similarity, rel=2e-7, abs=1e-8)
    hidden = np.arange(0, M, 3)
    left = np.setdiff1d(np.arange(M), hidden)
    shown = search(found.without(hidden), queries, K)
    assert np.array_equal(shown.rows, oracle.brute_force(queries, rows[left], K)[1])


@pytest.mark.parametrize(
    ("kind", "least"),
    [("SQ8", 0.99), ("HNSW32", 0.95), ("IVF16,SQ8", 0.95), ("IVF16,RaBitQ4", 0.95)],
)
def test_defaults_come_close_with_exact_similarities(world, tmp_path, kind, least):
    folder, rows, queries = world
    index = open_index(folder)
    made = make_structure(index.stored, D, kind, tmp_path / "made.faiss")
    hits = search(with_structure(index, made, {}), queries, K)
    expected = oracle.brute_force(queries, rows, K)[1]
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(hits.rows, expected, strict=True)])
    assert recall >= least
    products = queries.astype(np.float64) @ rows.T.astype(np.float64)
    assert hits.similarity == pytest.approx(
        np.take_along_axis(products, hits.rows, axis=1), rel=1e-6, abs=1e-7
    )


BY_IMAGES = "Images,IVF16,Flat"


def test_lists_laid_out_by_images_find_more_of_what_such_images_are_near(world, tmp_path):
    folder, rows, _ = world
    index, rng = open_index(folder), np.random.default_rng(5)
    few = rng.standard_normal((6, D))  # images differ in six directions of D
    asked = oracle.unit_rows((rng.standard_normal((400, 6)) @ few).astype(np.float32))
    sample, queries = asked[:200], asked[200:]
    expected = oracle.brute_force(queries, rows, K)[1]
    recall = {}
    for kind in ("IVF16,Flat", BY_IMAGES):
        made = make_structure(index.stored, D, kind, tmp_path / "made.faiss", images=sample)
        found = search(with_structure(index, made, {"nprobe": 4}), queries, K).rows
        recall[kind] = np.mean([len(set(a) & set(b)) for a, b in zip(found, expected, strict=True)])
        hits = search(with_structure(index, made, {"nprobe": 16, "candidates": 5}), queries, K)
        assert np.array_equal(hits.rows, expected)
    assert recall[BY_IMAGES] > 1.05 * recall["IVF16,Flat"]


def test_texts_are_multiplied_by_the_root_of_the_images_moment_and_queries_by_its_inverse(world):
    _, rows, queries = world
    transform = image_transform(rows, queries)
    structure = new_structure(read_kind(BY_IMAGES), D, transform)
    moment = queries.T.astype(float) @ queries / len(queries)
    moment = 0.2 * moment / np.trace(moment) * D + 0.8 * np.eye(D)
    laid = transform.apply(rows)
    values, directions = np.linalg.eigh(moment)
    root = directions * np.sqrt(values) @ directions.T
    np.testing.assert_allclose(laid, (rows - rows.mean(axis=0)) @ root, atol=1e-5)
    asked = transform.apply(AskedByImages(structure)(queries))
    np.testing.assert_allclose(asked, queries @ np.linalg.inv(root), atol=1e-5)
    products = asked.astype(float) @ laid.T.astype(float)
    constant = products - queries.astype(float) @ rows.T.astype(float)
    np.testing.assert_allclose(constant, constant[:, :1].repeat(M, axis=1), atol=1e-5)


def test_a_kind_laid_out_by_images_needs_some(world, own, tmp_path):
    index = open_index(world[0])
    with pytest.raises(UsageError, match=r"without images to lay it out by.*bliss index tune"):
        make_structure(index.stored, D, BY_IMAGES, tmp_path / "made.faiss")
    with pytest.raises(UsageError, match="without images to lay it out by"):
        set_search_kind(own[0], BY_IMAGES)
    with pytest.raises(UsageError, match="images only help to lay out lists"):
        read_kind("Images,SQ8")


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shown=st.integers(1, 60), k=st.integers(1, 60))
def test_hidden_rows_are_never_found_and_k_rows_always_are(installed, seed, shown, k):
    index, _, queries = installed
    left = np.sort(np.random.default_rng(seed).choice(M, shown, replace=False))
    few = index.without(np.setdiff1d(np.arange(M), left))
    hits = search(few, queries[:7], min(k, shown))
    assert hits.rows.min() >= 0 and hits.rows.max() < shown
    assert all(len(set(line)) == min(k, shown) for line in hits.rows.tolist())


def test_what_is_found_does_not_depend_on_the_batch(installed, monkeypatch):
    index, _, queries = installed
    few = index.without(np.arange(M)[np.arange(M) % 20 > 0])
    whole = search(few, queries, K)
    monkeypatch.setattr(searchers, "CANDIDATE_BYTES", 24 * 70)
    again = search(few, queries, K)
    assert np.array_equal(again.rows, whole.rows)
    assert np.array_equal(again.similarity, whole.similarity)
    alone = search(few, queries[3:4], K)
    assert np.array_equal(alone.rows, whole.rows[3:4])


@pytest.fixture(scope="module", params=["IVF16,SQ8", "HNSW8", "PQ8x4fs"])
def installed(world, tmp_path_factory, request):
    """An index with a structure that is asked as little as can be, its rows and queries."""
    folder, rows, queries = world
    index = open_index(folder)
    path = tmp_path_factory.mktemp("made") / "made.faiss"
    made = make_structure(index.stored, D, request.param, path)
    little = {name: 1 for name in ("nprobe", "efSearch") if name in made.kind.knobs}
    return with_structure(index, made, {"candidates": 1, **little}), rows, queries


@pytest.fixture
def own(world, tmp_path, write_embeddings):
    """An index of its own: its folder, rows and queries."""
    _, rows, queries = world
    write_embeddings(tmp_path / "source", rows[:1000], [f"caption {i}" for i in range(1000)])
    index_embeddings(tmp_path / "source", tmp_path / "own", options=IndexOptions(part_rows=300))
    return tmp_path / "own", rows, queries


def test_rows_added_later_are_scanned_and_merged(own, tmp_path, write_embeddings):
    folder, rows, queries = own
    set_search_kind(folder, "IVF8,SQ8", {"nprobe": 8, "candidates": 20})
    write_embeddings(tmp_path / "more", rows[1000:], [f"caption {i}" for i in range(1000, M)])
    add_embeddings(folder, str(tmp_path / "more"), None, AddOptions())
    index = open_index(folder)
    assert index.manifest["search"]["rows"] == 1000 and index.count == M
    expected = oracle.brute_force(queries, rows, K)[1]
    assert np.array_equal(search(index, queries, K).rows, expected)
    assert (expected >= 1000).any()
    hidden = np.arange(900, 1200)
    left = np.setdiff1d(np.arange(M), hidden)
    shown = search(index.without(hidden), queries, K)
    assert np.array_equal(shown.rows, oracle.brute_force(queries, rows[left], K)[1])
    # Made again it covers them too, with the parameters it had.
    stored = set_search_kind(folder, "IVF8,SQ8")
    assert (stored["rows"], stored["parameters"]["nprobe"]) == (M, 8)
    assert np.array_equal(search(open_index(folder), queries, K).rows, expected)


def test_joined_indexes_answer_as_their_union(own, world):
    folder, rows, queries = own
    set_search_kind(folder, "IVF8,SQ8", {"nprobe": 8, "candidates": 20})
    joined = join_indexes([open_index(folder), open_index(world[0])])
    every = np.concatenate([rows[:1000], rows])
    expected = oracle.brute_force(queries, every, K)[1]
    assert np.array_equal(search(joined, queries, K).rows, expected)


def test_a_far_text_changes_nothing(own, tmp_path, write_embeddings):
    folder, rows, queries = own
    far = oracle.unit_rows(-queries.mean(axis=0, keepdims=True))
    write_embeddings(
        tmp_path / "far", np.concatenate([rows[:1000], far]), list(map(str, range(1001)))
    )
    index_embeddings(tmp_path / "far", tmp_path / "with-far")
    for each in (folder, tmp_path / "with-far"):
        set_search_kind(each, "IVF8,SQ8", {"nprobe": 8, "candidates": 20})
    one, two = (open_index(each) for each in (folder, tmp_path / "with-far"))
    assert np.array_equal(search(one, queries, K).rows, search(two, queries, K).rows)


def test_parameters_change_what_is_found_and_a_choice_overrides_them(own):
    folder, rows, queries = own
    set_search_kind(folder, "IVF32,SQ8", {"nprobe": 1})
    expected = oracle.brute_force(queries, rows[:1000], K)[1]

    def same(choice=DEFAULT_SEARCH):
        hits = search(open_index(folder, choice), queries, K)
        return float((hits.rows == expected).mean())

    assert same() < 0.9
    assert same(SearchChoice(parameters={"nprobe": 32})) > 0.99
    assert same(SearchChoice(kind="exact")) == 1
    before = open_index(folder).manifest["search"]["file"]
    assert set_search_kind(folder, "IVF32,SQ8", {"nprobe": 32})["file"] == before  # not rebuilt
    assert same() > 0.99
    coarse = SearchChoice(parameters={"candidates": 1, "nprobe": 32})
    set_search_kind(folder, "SQ4", {"candidates": 100})
    assert same() == 1
    assert same(SearchChoice(parameters={"candidates": 1})) < 1
    with pytest.raises(UsageError, match=r"'nprobe' was given for SQ4.*one of candidates\."):
        open_index(folder, coarse)


@pytest.mark.parametrize("kind", ["IVF8,SQ8", "HNSW8", "IVF8_HNSW4,RaBitQ4"])
def test_the_same_vectors_give_the_same_bytes(own, kind):
    folder = own[0]
    first = set_search_kind(folder, kind)
    checksum = open_index(folder).manifest["checksums"][first["file"]]
    set_search_kind(folder, "exact")
    assert not list((folder / "search").iterdir())
    again = set_search_kind(folder, kind)
    assert open_index(folder).manifest["checksums"][again["file"]] == checksum


def test_what_was_made_apart_can_be_installed(own, tmp_path):
    folder, _, queries = own
    index = open_index(folder)
    for kind, parameters in [("IVF8,SQ8", {"nprobe": 3})]:
        made = make_structure(index.stored, D, kind, tmp_path / "apart.faiss")
        expected = search(with_structure(index, made, parameters), queries, K)
        assert index.manifest["search"] == {"kind": "exact"} and not (folder / "search").exists()
        install_structure(folder, made, parameters)
        hits = search(open_index(folder), queries, K)
        assert np.array_equal(hits.rows, expected.rows)
    assert open_index(folder).captions_of(np.array([999])) == ["caption 999"]


def test_every_candidate_setting_can_be_built(own, tmp_path):
    folder, _, queries = own
    index = open_index(folder)
    for kind, parameters in candidate_settings(index.count, D):
        if kind != "exact":
            path = tmp_path / "candidate.faiss"
            made = make_structure(index.stored, D, kind, path, images=queries)
            assert search(with_structure(index, made, parameters), queries[:2], 3).rows.min() >= 0


@pytest.mark.parametrize("kind", ["RQ2x4", "IVF16,RQ2x4"])
def test_additive_codes_leave_hidden_rows_out(kind, world, tmp_path):
    folder, _, queries = world
    index = open_index(folder)
    made = make_structure(index.stored, D, kind, tmp_path / "made.faiss")
    found = with_structure(index, made, {"candidates": 5})
    hidden = np.unique(search(found, queries, 3).rows)
    left = np.setdiff1d(np.arange(M), hidden)
    shown = search(found.without(hidden), queries, K)
    rows = index.vectors[left]
    exact = np.einsum("nkd,nd->nk", rows[shown.rows], queries, dtype=np.float64)
    np.testing.assert_allclose(shown.similarity, exact, atol=1e-6)


def test_fast_additive_codes_in_lists_are_refused(world, tmp_path):
    index = open_index(world[0])
    with pytest.raises(UsageError, match="how many of its lists"):
        make_structure(index.stored, D, "IVF16,RQ8x4fs", tmp_path / "made.faiss")
