"""A caption index on disk: built from vectors made elsewhere, searched, refused when damaged."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.captions import CaptionRules
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.search.captions import find_captions, search
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.store.stored_rows import IndexRows
from blissaudit.indexer.vectors import rows as row_sets
from blissaudit.indexer.vectors.nearest import exact_search

D = 8
REASON = "the embedding is zero or not finite"


def write_layout(folder, parts, captions, name="caption", kind="text"):
    """Parts of vectors and captions in clip-retrieval's layout."""
    for sub in (f"{kind}_emb", "metadata"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for number, (vectors, texts) in enumerate(zip(parts, captions, strict=True)):
        np.save(folder / f"{kind}_emb" / f"{kind}_emb_{number}.npy", vectors)
        pq.write_table(pa.table({name: texts}), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


@pytest.fixture
def vectors():
    rows = np.random.default_rng(0).standard_normal((7, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def source(tmp_path, vectors):
    names = [["ant", "bee", "cat"], ["dog", "eel", "fox", "gnu"]]
    return write_layout(tmp_path / "source", [vectors[:3] * 2, vectors[3:]], names)


def test_vectors_captions_and_provenance_survive(source, tmp_path, vectors):
    index = index_embeddings(source, tmp_path / "index")
    assert index.captions_of(np.arange(7)) == ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
    np.testing.assert_allclose(index.vectors[np.arange(7)], vectors, atol=1e-7)
    hits = search(index, vectors[[4, 0]], 2)
    expected = np.sort(vectors[[4, 0]] @ vectors.T, axis=1)[:, ::-1][:, :2]
    np.testing.assert_allclose(hits.similarity, expected, atol=1e-6)
    assert hits.rows[:, 0].tolist() == [4, 0]
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["normalised"] == 3
    assert manifest["dtype"] == "float32"
    assert manifest["model"] == {"model": None, "weights_sha256": None, "dimension": D}
    table = pq.read_table(tmp_path / "index" / "metadata" / "metadata_0.parquet")
    assert table.to_pydict()["source_row"] == list(range(7))
    assert not list((tmp_path / "index").rglob("*.tmp"))


def test_streamed_search_equals_resident_search(source, tmp_path, vectors, monkeypatch):
    options = IndexOptions(part_rows=3, dtype="float16")
    index = index_embeddings(source, tmp_path / "index", options=options)
    resident = search(index, vectors, 3)
    monkeypatch.setattr(row_sets, "BLOCK_BYTES", 2 * 4 * D)  # two rows of a part at once
    rows = IndexRows(index.opened, resident=False)
    assert [len(block) for _, block in rows.blocks()] == [2, 1, 2, 1, 1]
    streamed = exact_search(vectors, rows, 3)
    np.testing.assert_array_equal(streamed.rows, resident.rows)
    np.testing.assert_array_equal(streamed.similarity, resident.similarity)
    stored = [np.load(p) for p in sorted((tmp_path / "index" / "text_emb").glob("*.npy"))]
    assert [(len(part), part.dtype) for part in stored] == [(3, "f2")] * 2 + [(1, "f2")]


def test_unusable_vectors_are_left_out_and_named(tmp_path, vectors):
    broken = vectors.copy()
    broken[1], broken[5] = 0, np.nan
    names = [["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]]
    folder = write_layout(tmp_path / "source", [broken], names)
    index = index_embeddings(folder, tmp_path / "index")
    assert index.captions_of(np.arange(5)) == ["ant", "cat", "dog", "eel", "gnu"]
    assert index.manifest["failures"] == [
        {"source": "source", "source_row": row, "caption": caption, "reason": REASON}
        for row, caption in ((1, "bee"), (5, "fox"))
    ]
    assert index.manifest["counts"]["unusable"] == 2
    np.testing.assert_allclose(index.vectors[np.array([4])], vectors[6:], atol=1e-7)


def test_rules_drop_captions_and_their_vectors_together(tmp_path, vectors):
    names = [["ant", "ant ", "", "dog", "eel", "a fox", None]]
    folder = write_layout(tmp_path / "source", [vectors], names)
    options = IndexOptions(rules=CaptionRules(max_characters=4))
    index = index_embeddings(folder, tmp_path / "index", options=options)
    assert index.captions_of(np.arange(3)) == ["ant", "dog", "eel"]
    np.testing.assert_allclose(index.vectors[np.arange(3)], vectors[[0, 3, 4]], atol=1e-7)
    counts = index.manifest["counts"]
    assert counts == {
        "read": 7,
        "kept": 3,
        "duplicate": 1,
        "empty": 2,
        "too_long": 1,
        "too_short": 0,
        "unusable": 0,
    }


def test_export_is_an_index_faiss_reads(source, tmp_path, vectors):
    import faiss

    index_embeddings(source, tmp_path / "index", options=IndexOptions(export=True))
    flat = faiss.read_index(str(tmp_path / "index" / "text.index"))
    assert (flat.ntotal, flat.metric_type) == (7, faiss.METRIC_INNER_PRODUCT)
    assert flat.search(vectors, 1)[1][:, 0].tolist() == list(range(7))


def test_captions_are_found_whatever_their_case_and_hyphens(tmp_path, vectors):
    names = [["A photo of a Red-Panda", "x", "a photo of a red panda", "y", "z", "u", "v"]]
    index = index_embeddings(write_layout(tmp_path / "s", [vectors], names), tmp_path / "index")
    wanted = {"rp": "a photo of a red_panda", "none": "a photo of a yak", "y": "Y"}
    assert find_captions(index, wanted) == {"rp": 0, "y": 3}


def test_an_index_that_is_none_or_is_damaged_is_refused(source, tmp_path):
    with pytest.raises(BlissError, match=r"source has no manifest\.json\. Needed: a finished capt"):
        open_index(source)
    with pytest.raises(BlissError, match=r"nowhere does not exist\. Needed: a finished caption-in"):
        open_index(tmp_path / "nowhere")
    folder = tmp_path / "index"
    index_embeddings(source, folder)
    manifest = json.loads((folder / "manifest.json").read_text())

    def with_manifest(**changed):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changed}))

    with_manifest(kind="reference")
    with pytest.raises(BlissError, match=r"is a reference folder\. Needed: a caption-index folder"):
        open_index(folder)
    with_manifest(format_version=99)
    with pytest.raises(BlissError, match=r"has format version 99\. Needed: version 1"):
        open_index(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(BlissError, match=r"manifest\.json could not be read .*build the folder ag"):
        open_index(folder)
    with_manifest(parts=[6])
    with pytest.raises(BlissError, match=r"array of shape \(7, 8\)\. Needed: \(6, 8\), as its man"):
        open_index(folder)
    with_manifest()
    with_manifest(sources=[])
    with pytest.raises(BlissError, match=r"names sources of 0 rows for 7 stored ones"):
        open_index(folder)
    with_manifest()
    (folder / "captions" / "captions_0.bin").write_bytes(b"x")
    with pytest.raises(BlissError, match=r"captions_0\.bin does not match the checksum"):
        open_index(folder).captions_of(np.arange(2))
    path = folder / "text_emb" / "text_emb_0.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BlissError, match=r"text_emb_0\.npy could not be read"):
        open_index(folder)


def test_stored_rows_off_unit_length_are_refused_at_search(source, tmp_path, vectors):
    index_embeddings(source, tmp_path / "index")
    path = tmp_path / "index" / "text_emb" / "text_emb_0.npy"
    stored = np.load(path)
    stored[3] *= 1.003
    np.save(path, stored)
    with pytest.raises(BlissError, match=r"row 3 of .*text_emb_0\.npy has length 1\.0030"):
        search(open_index(tmp_path / "index"), vectors, 1)
    stored[3] = stored[2]
    np.save(path, stored)
    with pytest.raises(BlissError, match=r"text_emb_0\.npy does not match the checksum"):
        search(open_index(tmp_path / "index"), vectors, 1)


def test_a_source_that_does_not_fit_the_layout_is_refused(tmp_path, vectors):
    with pytest.raises(
        UsageError, match=r"has no text_emb folder\. Needed: embeddings as text_emb"
    ):
        index_embeddings(tmp_path, tmp_path / "index")
    names = ["a"] * 7
    uneven = write_layout(tmp_path / "uneven", [vectors[:6]], [names])
    with pytest.raises(BlissError, match=r"has 6 rows and metadata_0\.parquet 7\. Needed: one met"):
        index_embeddings(uneven, tmp_path / "index")
    lone = write_layout(tmp_path / "lone", [vectors], [names])
    np.save(lone / "text_emb" / "text_emb_4.npy", vectors)
    with pytest.raises(BlissError, match=r"vector files \[0, 4\] and metadata files \[0\]"):
        index_embeddings(lone, tmp_path / "index")
    mixed = write_layout(tmp_path / "mixed", [vectors, vectors[:, :4]], [names, names])
    with pytest.raises(BlissError, match=r"mixes vectors of \[4, 8\] dimensions"):
        index_embeddings(mixed, tmp_path / "index")
    other = write_layout(tmp_path / "other", [vectors], [names], name="title")
    with pytest.raises(UsageError, match=r"no column 'nope'.*Needed: one of its columns \('title'"):
        index_embeddings(other, tmp_path / "index", column="nope")
    zero = write_layout(tmp_path / "zero", [vectors * 0], [[str(i) for i in range(7)]])
    with pytest.raises(BlissError, match=r"none of the 7 embeddings can be used"):
        index_embeddings(zero, tmp_path / "zero-index")


def test_queries_of_another_dimension_and_k_above_m_are_refused(source, tmp_path, vectors):
    index = index_embeddings(source, tmp_path / "index")
    with pytest.raises(BlissError, match=r"queries of 4 dimensions were given\. Needed: 8 dimens"):
        search(index, vectors[:, :4], 1)
    with pytest.raises(UsageError, match=r"k = 8 was asked of an index of M = 7 texts"):
        search(index, vectors, 8)
