"""Large arrays lie in a file: they hold what is written, and an audit with them is the same."""

import errno
import mmap
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.run import audit_own
from blissaudit.indexer.build.build import index_embeddings
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.vectors import rows
from blissaudit.indexer.vectors.rows import release_pages, scratch_array


def lies_in_a_file(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(getattr(array, "obj", array), mmap.mmap)


@pytest.mark.parametrize(("limit", "in_file"), [(39, True), (40, False)])
def test_an_array_larger_than_the_limit_lies_in_a_file(limit, in_file, monkeypatch):
    monkeypatch.setattr(rows, "SCRATCH_BYTES", limit)
    made = scratch_array((5, 2), np.int32)
    assert made.shape == (5, 2) and made.dtype == np.int32
    assert lies_in_a_file(made) == in_file


def test_values_stay_when_their_memory_is_given_back(monkeypatch):
    monkeypatch.setattr(rows, "SCRATCH_BYTES", 0)
    made = scratch_array((3, 1000), np.float64)
    expected = np.arange(3000.0).reshape(3, 1000)
    made[:] = expected
    release_pages(made, made[1:], np.ones(3))
    assert np.array_equal(made, expected)
    made[2, 5] = -1
    release_pages(made)
    assert made[2, 5] == -1 and made[2, 4] == 2004


def test_without_room_in_the_temporary_folder_it_is_memory(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rows, "SCRATCH_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    made = scratch_array((4,), np.int64)
    assert not lies_in_a_file(made)


def test_an_audit_whose_arrays_lie_in_files_is_the_same(tmp_path, write_embeddings, monkeypatch):
    rng = np.random.default_rng(0)
    captions = ["This is a photo of a a", "This is a photo of a b", *(f"c {n}" for n in range(40))]
    texts = rng.standard_normal((len(captions), 8)).astype(np.float32)
    write_embeddings(tmp_path / "texts", texts, captions)
    index = open_index(index_embeddings(tmp_path / "texts", tmp_path / "index").folder)
    vectors = rng.standard_normal((60, 8)).astype(np.float32)
    folder = tmp_path / "images"
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", vectors)
    table = pa.table({"image_path": [f"{n}.png" for n in range(60)], "label": ["a", "b"] * 30})
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    images = read_image_embeddings(tmp_path / "images")
    expected = audit_own(images, index).table()
    monkeypatch.setattr(rows, "SCRATCH_BYTES", 0)
    result = audit_own(images, index)
    assert lies_in_a_file(result.scores.pull) and lies_in_a_file(result.retrieved.rows)
    assert result.table().equals(expected)
