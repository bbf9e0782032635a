"""Retrieval in parts that outlive a killed run, and image embeddings that stay on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.audit import retrieval
from blissaudit.audit.retrieval import HitsCache, batch_rows, retrieve
from blissaudit.indexer.build.build import index_embeddings
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.indexer.search.index import open_index, open_indexes
from blissaudit.indexer.search.install import set_search_kind
from helpers.killing import kill_when_made

AUDIT = ("audit", "--report", "none")


def scores(folder: Path) -> bytes:
    return (folder / "scores.parquet").read_bytes()


def test_retrieval_reads_whole_parts_and_searches_for_the_rest(
    bliss, collection, index, tmp_path, monkeypatch
):
    opened = open_index(index)
    images = np.random.default_rng(0).standard_normal((10, 128)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    monkeypatch.setattr("blissaudit.audit.retrieval.batch_rows", lambda captions: 4)
    searched: list[int] = []
    search = retrieval.search_index

    def counted(index, queries, k):
        searched.append(len(queries))
        return search(index, queries, k)

    monkeypatch.setattr(retrieval, "search_index", counted)
    plain = retrieve(opened, images, 5)
    assert searched == [4, 4, 2]
    kept = HitsCache(tmp_path / "hits")
    for again in ([4, 4, 2], []):
        searched.clear()
        found = retrieve(opened, images, 5, cache=kept)
        assert searched == again
        for name in ("similarity", "rows", "position", "vectors"):
            assert np.array_equal(getattr(found, name), getattr(plain, name))
    damaged = max((tmp_path / "hits").glob("*.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x07")
    (tmp_path / "hits" / "notes.json").write_text("{")
    assert np.array_equal(retrieve(opened, images, 5, cache=kept).rows, plain.rows)
    assert len(searched) == 1  # the part that was damaged, and no other
    grown = np.concatenate([images, images[:3]])
    searched.clear()
    assert np.array_equal(retrieve(opened, grown, 5, cache=kept).rows[:10], plain.rows)
    assert searched == [4, 1]
    assert retrieve(opened, images, 6, cache=kept).rows.shape == (10, 6)
    used = HitsCache(tmp_path / "hits")
    retrieve(opened, grown, 5, cache=used)
    used.delete_unused()
    assert {path.name.split(".")[0] for path in used.folder.iterdir()} == used.used
    assert len(used.used) == 4


def test_parts_of_a_retrieval_depend_on_the_corpus_alone():
    assert [batch_rows(m) for m in (1, 131_072, 262_144, 10_000_000)] == [16384, 16384, 8192, 4096]


KILLED = """
import sys, time
from blissaudit import cli
from blissaudit.audit import retrieval
retrieval.batch_rows = lambda captions: 3
write = retrieval.write_json
retrieval.write_json = lambda *given: (write(*given), time.sleep(0.1))
sys.exit(cli.run(sys.argv[1:]))
"""


def test_an_audit_killed_while_it_retrieves_continues_to_the_same_bytes(
    bliss, collection, index, tmp_path, monkeypatch
):
    assert bliss(*AUDIT, collection, "--index", index, "-o", tmp_path / "run").code == 0
    embedded = ("--embeddings", str(tmp_path / "run" / "images"), "--prompts", "means")
    audit = [*AUDIT, *embedded, "--index", str(index), "-o"]  # without a model: it starts at once
    assert bliss(*audit, tmp_path / "whole").code == 0
    out = tmp_path / "out"
    arguments = [*audit, str(out)]
    kill_when_made(KILLED, arguments, out, "hits/*.json", 4)
    assert not (out / "scores.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("hits/*.json")}
    assert 4 <= len(before) < 9
    monkeypatch.setattr("blissaudit.audit.retrieval.batch_rows", lambda captions: 3)
    assert bliss(*arguments).code == 0
    assert scores(out) == scores(tmp_path / "whole")
    after = {path: path.stat().st_mtime_ns for path in out.glob("hits/*.json")}
    assert before.items() <= after.items()  # what was finished is not made again
    assert len(after) == 9


def test_images_on_disk_score_as_those_in_memory(bliss, collection, index, tmp_path, monkeypatch):
    assert bliss(*AUDIT, collection, "--index", index, "-o", tmp_path / "run").code == 0
    embedded = str(tmp_path / "run" / "images")
    for name, limit in (("memory", 1 << 20), ("disk", 100)):
        monkeypatch.setattr("blissaudit.indexer.vectors.rows.RESIDENT_BYTES", limit)
        audit = (*AUDIT, "--embeddings", embedded, "--index", index, "--model", "demo")
        for score in (("--robust",), ("--score", "bliss+"), ("--question", "mislabel")):
            out = tmp_path / f"{name}{score[-1]}"
            assert bliss(*audit, *score, "-o", out).code == 0
        images = read_image_embeddings(embedded)
        assert isinstance(images.vectors, np.ndarray) == (name == "memory")
    for score in ("--robust", "bliss+", "mislabel"):
        assert scores(tmp_path / f"memory{score}") == scores(tmp_path / f"disk{score}")


def test_outside_embeddings_on_disk_are_normalised_and_bad_rows_left_out(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    raw = [rng.standard_normal((rows, 4)).astype(np.float16) for rows in (3, 5)]
    raw[1][2] = np.nan
    raw[0][1] = 0
    for number, rows in enumerate(raw):
        for folder in ("img_emb", "metadata"):
            (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / "img_emb" / f"img_emb_{number}.npy", rows)
        table = pa.table({"image_path": [f"{number}-{i}" for i in range(len(rows))]})
        pq.write_table(table, tmp_path / "metadata" / f"metadata_{number}.parquet")
    held = read_image_embeddings(tmp_path)
    monkeypatch.setattr("blissaudit.indexer.vectors.rows.RESIDENT_BYTES", 0)
    stored = read_image_embeddings(tmp_path)
    assert stored.rows.tolist() == held.rows.tolist() == [0, 2, 3, 4, 6, 7]
    assert [failure.row for failure in stored.failures] == [1, 5]
    whole = np.concatenate(raw).astype(np.float64)[stored.rows]
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(stored.vectors[:], expected, atol=1e-6)
    assert np.array_equal(stored.vectors[1:5], held.vectors[1:5])
    assert np.array_equal(stored.vectors[np.array([5, 0, 3])], held.vectors[np.array([5, 0, 3])])
    assert (stored.hashes, stored.fingerprint) == (held.hashes, held.fingerprint)
    assert stored.paths == ("0-0", "0-2", "1-0", "1-1", "1-3", "1-4") == held.paths


def test_parts_of_joined_indexes_depend_on_how_each_is_searched(write_embeddings, tmp_path):
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((2420, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    folders = []
    for name, some in (("one", rows[:1200]), ("two", rows[1200:2400])):
        write_embeddings(tmp_path / f"{name}-vectors", some, [f"{name} {i}" for i in range(1200)])
        index_embeddings(tmp_path / f"{name}-vectors", tmp_path / name)
        folders.append(str(tmp_path / name))
    kept, found = HitsCache(tmp_path / "hits"), {}
    for probes in (1, 16):  # of the second: the structure stays, only its parameter changes
        set_search_kind(folders[1], "IVF16,Flat", {"nprobe": probes})
        found[probes] = retrieve(open_indexes(folders), rows[2400:], 5, cache=kept).rows
        fresh = retrieve(open_indexes(folders), rows[2400:], 5).rows
        assert np.array_equal(found[probes], fresh)
    assert not np.array_equal(found[1], found[16])
