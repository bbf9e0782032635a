"""Removed rows, hidden rows and joined indexes: each must act like one index of what is left."""

import json

import numpy as np
import pytest
from blissaudit.artefacts import write_array, write_json
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.search.captions import find_captions, search
from blissaudit.indexer.search.index import join_indexes, open_index
from hypothesis import given, settings
from hypothesis import strategies as st

D = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_embeddings):
    """Two indexes in parts of three rows, their vectors and their captions."""
    root = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(5)
    found = []
    for name, count in (("one", 11), ("two", 6)):
        rows = rng.standard_normal((count, D)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        texts = [f"{name} {i}" for i in range(count)]
        source = write_embeddings(root / f"{name}-source", rows, texts)
        index = index_embeddings(source, root / name, options=IndexOptions(part_rows=3))
        found.append((index, rows, texts))
    return found


def remove(folder, rows):
    """Tombstones, as the manifest names them."""
    from blissaudit.artefacts import sha256_of

    write_array(folder / "removed.npy", np.array(rows, np.int64))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["removed"] = {"file": "removed.npy", "count": len(rows), "log": []}
    manifest["checksums"]["removed.npy"] = sha256_of(folder / "removed.npy")
    write_json(folder / "manifest.json", manifest)


def expected(queries, rows, texts, k):
    """The k best captions and their cosines, from all products in float64."""
    products = queries.astype(np.float64) @ rows.T.astype(np.float64)
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return [[texts[i] for i in line] for line in order], np.take_along_axis(products, order, 1)


@settings(deadline=None, max_examples=25)
@given(hidden=st.sets(st.integers(0, 10), max_size=8), again=st.sets(st.integers(0, 2)))
def test_hidden_rows_are_as_if_they_had_never_been(made, hidden, again):
    index, rows, texts = made[0]
    left = sorted(set(range(11)) - hidden)
    shown = index.without(np.array(sorted(hidden), np.int64))
    shown = shown.without(np.array(sorted(again), np.int64))
    left = [row for position, row in enumerate(left) if position not in again]
    queries = made[1][1]
    assert shown.count == len(left)
    if not left:
        return
    hits = search(shown, queries, min(3, len(left)))
    wanted, cosines = expected(queries, rows[left], [texts[i] for i in left], min(3, len(left)))
    assert [shown.captions_of(line) for line in hits.rows] == wanted
    np.testing.assert_allclose(hits.similarity, cosines, atol=1e-6)
    blocks = list(shown.vectors.blocks())
    np.testing.assert_allclose(np.concatenate([b for _, b in blocks]), rows[left], atol=1e-6)
    every = np.arange(len(left))
    np.testing.assert_allclose(shown.vectors[every], rows[left], atol=1e-6)
    assert find_captions(shown, {"last": texts[left[-1]]}) == {"last": len(left) - 1}


def test_joined_indexes_answer_as_one(made):
    (one, rows, texts), (two, more, others) = made
    joined = join_indexes([one.without(np.array([0, 4])), two])
    left = [i for i in range(11) if i not in (0, 4)]
    all_rows = np.concatenate([rows[left], more])
    all_texts = [texts[i] for i in left] + others
    queries = np.random.default_rng(1).standard_normal((9, D)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for k in (1, 7, 15):  # 7 and 15 are more than the second holds
        hits = search(joined, queries, k)
        wanted, cosines = expected(queries, all_rows, all_texts, k)
        assert [joined.captions_of(line) for line in hits.rows] == wanted
        np.testing.assert_allclose(hits.similarity, cosines, atol=1e-6)
    np.testing.assert_allclose(joined.vectors[np.arange(15)], all_rows, atol=1e-6)
    origins = joined.origins_of(np.array([0, 8, 9, 14]))
    assert [origin.index for origin in origins] == [str(one.folder)] * 2 + [str(two.folder)] * 2
    assert {origin.source for origin in origins} == {"one-source", "two-source"}
    assert joined.manifest["counts"]["kept"] == 17
    with pytest.raises(UsageError, match=r"k = 16 was asked of an index of M = 15 texts"):
        search(joined, queries, 16)


def test_what_cannot_be_joined_is_refused(made, tmp_path, write_embeddings):
    index = made[0][0]
    with pytest.raises(UsageError, match=r"an index was given twice\. Needed: each --index once"):
        join_indexes([index, index])
    with pytest.raises(UsageError, match=r"no index was given"):
        join_indexes([])
    source = write_embeddings(tmp_path / "s", np.eye(3, dtype=np.float32), ["a", "b", "c"])
    other = index_embeddings(source, tmp_path / "other")
    with pytest.raises(BlissError, match=r"8 dimensions and .*other with .*3 dimensions"):
        join_indexes([index, other])
    assert join_indexes([index]) is index


def test_tombstones_hide_rows_and_damaged_ones_are_refused(tmp_path, write_embeddings):
    rows = np.eye(5, dtype=np.float32)
    folder = index_embeddings(
        write_embeddings(tmp_path / "s", rows, list("abcde")), tmp_path / "index"
    ).folder
    remove(folder, [1, 3])
    index = open_index(folder)
    assert index.captions_of(np.arange(3)) == ["a", "c", "e"] and index.count == 3
    assert search(index, rows[[4]], 1).rows.tolist() == [[2]]
    remove(folder, [1, 1])
    with pytest.raises(BlissError, match=r"removed\.npy does not list rows of the index"):
        open_index(folder)
    remove(folder, [5])
    with pytest.raises(BlissError, match=r"does not list rows.*from 0 to 4"):
        open_index(folder)
    (folder / "removed.npy").write_bytes(b"")
    with pytest.raises(BlissError, match=r"removed\.npy does not match the checksum"):
        open_index(folder)
