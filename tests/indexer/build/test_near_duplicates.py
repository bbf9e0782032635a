"""Near-duplicate removal: greedy in row order, exact, part by part, as tombstones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from blissaudit.indexer.build import finish as module
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.build.finish import greedy_duplicates, near_duplicates
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.vectors.unit_rows import stored_unit_rows
from hypothesis import given, settings
from hypothesis import strategies as st


def oracle(rows, threshold):
    """The rows that go, one at a time, in float64."""
    rows = rows.astype(np.float64)
    kept, gone = [], []
    for i in range(len(rows)):
        near = any(float(rows[i] @ rows[j]) >= threshold for j in kept)
        (gone if near else kept).append(i)
    return gone


def at_angles(degrees):
    """float32 unit rows in the plane."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_row_near_to_a_removed_one_only_stays():
    # 0 stays; 8 goes for 0; 16 is near to 8 alone and stays; 20 goes for 16; 100 stays.
    rows = at_angles([0, 8, 16, 20, 100])
    threshold = float(np.cos(np.deg2rad(10)))
    assert np.flatnonzero(greedy_duplicates(rows, [], threshold)).tolist() == [1, 3]
    assert np.flatnonzero(greedy_duplicates(rows[::-1], [], threshold)).tolist() == [2, 4]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 0.999), st.integers(1, 9), st.integers(1, 9))
def test_blocks_of_any_size_give_what_single_pairs_give(seed, threshold, block, others):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((4, 5))
    rows = centres[rng.integers(0, 4, 30)] + 0.2 * rng.standard_normal((30, 5))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows = np.concatenate([rows, rows[:3]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "OTHERS", others)
        found = np.flatnonzero(greedy_duplicates(rows, [], threshold)).tolist()
    assert found == oracle(rows, threshold)


def test_a_pair_within_rounding_of_the_threshold_is_decided_in_float64():
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((2, 512)) * 0.05 + rng.standard_normal(512)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    cosine = float(rows[0].astype(np.float64) @ rows[1].astype(np.float64))
    # float32 products cannot tell these apart
    assert greedy_duplicates(rows, [], cosine - 1e-12).tolist() == [False, True]
    assert greedy_duplicates(rows, [], cosine + 1e-12).tolist() == [False, False]
    assert greedy_duplicates(rows[1:], [rows[:1]], cosine - 1e-12).tolist() == [True]


@pytest.fixture
def made(tmp_path, write_embeddings):
    """Clustered embeddings as a folder, one of them unusable."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((6, 12))[rng.integers(0, 6, 40)]
    rows += 0.2 * rng.standard_normal((40, 12))
    rows[11] = 0
    texts = [f"text {n}" for n in range(40)]
    return write_embeddings(tmp_path / "given", rows.astype(np.float32), texts)


def test_an_index_hides_its_near_duplicates_and_counts_them(made, tmp_path):
    plain = index_embeddings(made, tmp_path / "plain", options=IndexOptions(part_rows=7))
    options = IndexOptions(part_rows=7, near_duplicates=0.97)
    index = index_embeddings(made, tmp_path / "index", options=options)
    stored = plain.vectors[np.arange(39)]
    gone = oracle(stored, 0.97)
    assert 5 < len(gone) < 39
    kept = [n for n in range(39) if n not in gone]
    texts = [f"text {n}" for n in range(40) if n != 11]
    assert index.captions_of(np.arange(index.count)) == [texts[n] for n in kept]
    np.testing.assert_array_equal(np.load(tmp_path / "index" / "removed.npy"), gone)
    manifest = index.manifest
    assert manifest["count"] == 39
    assert manifest["counts"]["near_duplicate"] == len(gone)
    assert manifest["counts"]["kept"] == len(kept) and manifest["counts"]["unusable"] == 1
    counts = dict(manifest["counts"])
    assert counts.pop("read") == sum(counts.values())
    assert manifest["removed"] == {
        "file": "removed.npy",
        "count": len(gone),
        "log": [
            {
                "reason": "near duplicate of an earlier row",
                "similarity": 0.97,
                "rows": len(gone),
            }
        ],
    }
    hits = search(index, stored[gone[:1]], 3)
    assert set(hits.rows[0]) <= set(range(len(kept)))
    looser = index_embeddings(
        made, tmp_path / "looser", options=IndexOptions(part_rows=7, near_duplicates=0.5)
    )
    assert looser.count < index.count


def test_verdicts_on_parts_are_kept_and_damaged_ones_made_again(made, tmp_path, monkeypatch):
    folder = tmp_path / "plain"
    index = index_embeddings(made, folder, options=IndexOptions(part_rows=7, dtype="float16"))
    parts = index.manifest["parts"]
    rows = np.concatenate(
        [stored_unit_rows(np.load(folder / "text_emb" / f"text_emb_{n}.npy"), "") for n in range(6)]
    )
    done = []
    real = module._part_duplicates

    def noted(where, number, found, threshold):
        if number == 4 and len(done) == 4:
            raise KeyboardInterrupt
        done.append(number)
        return real(where, number, found, threshold)

    monkeypatch.setattr(module, "_part_duplicates", noted)
    monkeypatch.setattr(module, "BLOCK", 2)
    monkeypatch.setattr(module, "OTHERS", 3)
    with pytest.raises(KeyboardInterrupt):
        near_duplicates(folder, parts, 0.9, lambda *_: None)
    (folder / "near" / "near_1.npy").write_bytes(b"half")
    np.save(folder / "near" / "near_2.npy", np.array([99]))
    found = near_duplicates(folder, parts, 0.9, lambda *_: None)
    assert done == [0, 1, 2, 3, 1, 2, 4, 5]
    assert found.tolist() == oracle(rows, 0.9)


def test_the_command_removes_near_duplicates(bliss, made, tmp_path):
    folder = tmp_path / "index"
    command = ("index", "build", "--embeddings", made, "-o", folder)
    built = bliss(*command, "--near-duplicates", 0.97)
    assert built.code == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    lost = manifest["counts"]["near_duplicate"]
    assert 5 < lost < 39
    assert built.out.startswith(f"{folder}: {39 - lost} captions, ")
    assert f"{lost} near duplicate" in built.out
    refused = bliss(*command, "--near-duplicates", 0.98)
    assert "(near_duplicates differ)" in refused.err


def test_counts_that_not_every_source_has_are_added_up():
    counts = [{"kept": 2, "near_duplicate": 1}, {"kept": 3}]
    total = module._total_counts([{"counts": each} for each in counts])
    assert total == {"kept": 5, "near_duplicate": 1}
