"""Damaged or missing structures, edited manifests, interrupted building: each a clear error."""

from __future__ import annotations

import json

import faiss
import numpy as np
import pytest
from blissaudit.artefacts import write_json
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.search import install as search_setting
from blissaudit.indexer.search import structures as structure_reading
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.search.install import set_search_kind
from blissaudit.indexer.search.kinds import SearchChoice
from blissaudit.indexer.store import manifest as index_manifest

D, M = 16, 300


@pytest.fixture
def world(tmp_path, write_embeddings):
    """(folder of an index with an inverted file, its unit rows)."""
    rows = np.random.default_rng(0).standard_normal((M, D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    source = write_embeddings(tmp_path / "source", rows, [str(i) for i in range(M)])
    index_embeddings(source, tmp_path / "index", options=IndexOptions(part_rows=100))
    set_search_kind(tmp_path / "index", "IVF4,SQ8", {"nprobe": 4})
    return tmp_path / "index", rows


def structure_file(folder):
    return folder / json.loads((folder / "manifest.json").read_text())["search"]["file"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "is missing"),
        (flip, "does not match the checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "does not match the checksum"),
        (lambda path: path.write_bytes(b""), "does not match the checksum"),
    ],
)
def test_a_damaged_structure_is_named_and_made_again(world, damage, complaint, monkeypatch):
    folder, rows = world
    before, path = search(open_index(folder), rows[:5], 4), structure_file(folder)
    whole = path.read_bytes()
    damage(path)
    # FAISS is not to see a file whose checksum is wrong: it would trust its sizes.
    monkeypatch.setattr(structure_reading, "read_structure", lambda *_: pytest.fail("it was read"))
    with pytest.raises(BlissError, match=rf"{complaint}.*bliss index kind \S+ IVF4,SQ8`"):
        search(open_index(folder), rows[:5], 4)
    exact = search(open_index(folder, SearchChoice("exact")), rows[:5], 4)
    assert exact.rows[:, 0].tolist() == [0, 1, 2, 3, 4]
    monkeypatch.undo()
    set_search_kind(folder, "IVF4,SQ8")
    assert structure_file(folder).read_bytes() == whole
    again = search(open_index(folder), rows[:5], 4)
    assert np.array_equal(again.rows, before.rows)
    assert open_index(folder).manifest["search"]["parameters"]["nprobe"] == 4


def test_a_faiss_file_of_other_vectors_is_refused(world):
    folder, rows = world
    other = faiss.index_factory(D, "IVF4,SQ8", faiss.METRIC_INNER_PRODUCT)
    other.train(rows)
    other.add(rows[:50])
    faiss.write_index(other, str(structure_file(folder)))
    manifest = json.loads((folder / "manifest.json").read_text())
    name = manifest["search"]["file"]
    manifest["checksums"][name] = search_setting.sha256_of(folder / name)
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(BlissError, match=r"holds 50 vectors of 16\. Needed: 300 of 16.*index kind"):
        search(open_index(folder), rows[:5], 4)
    (folder / name).write_bytes(b"not FAISS's")
    manifest["checksums"][name] = search_setting.sha256_of(folder / name)
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(BlissError, match=r"could not be read: .*bliss index kind"):
        search(open_index(folder), rows[:5], 4)


@pytest.mark.parametrize(
    "edit",
    [
        {"kind": "IVF4,Nonsense!"},
        {"rows": M + 1},
        {"rows": "300"},
        {"file": "../../elsewhere.faiss"},
        {"file": None},
        {"parameters": {"nprobe": 0}},
        {"parameters": {"speed": 4}},
        {"parameters": None},
    ],
)
def test_an_edited_manifest_is_refused(world, edit):
    folder, _ = world
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["search"] |= edit
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(BlissError, match=r"does not say how the index is searched.*kind \S+ exact"):
        open_index(folder)
    set_search_kind(folder, "exact")
    assert open_index(folder).manifest["search"] == {"kind": "exact"}


def test_an_interrupted_building_leaves_the_index_as_it_was(world, monkeypatch):
    folder, rows = world
    before = (folder / "manifest.json").read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    steps = [(search_setting, n) for n in ("fill_structure", "write_structure", "sha256_of")]
    for module, name in (*steps, (index_manifest, "write_json")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            with pytest.raises(KeyboardInterrupt, match=r"^$"):
                set_search_kind(folder, "HNSW8")
        assert (folder / "manifest.json").read_bytes() == before
        hits = search(open_index(folder), rows[:5], 4)
        assert hits.rows[:, 0].tolist() == [0, 1, 2, 3, 4]
    kept = structure_file(folder)
    assert set(kept.parent.iterdir()) > {kept}  # what the interruption left …
    set_search_kind(folder, "IVF4,SQ8")
    assert list(kept.parent.iterdir()) == [kept]  # … is gone with the next setting


def test_a_full_disk_is_said_and_leaves_the_index_as_it_was(world, monkeypatch):
    folder, rows = world

    def full(structure, file):
        class Full:
            def write(self, data):
                raise OSError(28, "No space left on device")

        write(structure, Full())

    write = search_setting.write_structure
    monkeypatch.setattr(search_setting, "write_structure", full)
    with pytest.raises(BlissError, match=r"could not write .*making\.faiss: No space left"):
        set_search_kind(folder, "SQ8")
    assert search(open_index(folder), rows[:2], 1).rows.tolist() == [[0], [1]]


def test_text_index_is_never_read(world):
    folder, rows = world
    (folder / "text.index").write_bytes(b"anything at all")
    set_search_kind(folder, "SQ8")
    assert search(open_index(folder), rows[:2], 1).rows.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("IVF4096,SQ8", r"4,096 lists for 300 vectors.*7 or fewer.*IVF4,SQ8, or for exact search"),
        ("PQ7", r"PQ7 cuts vectors of 16 dimensions into 7 pieces.*divides 16.*Ask for PQ8"),
        ("Sq8", r"FAISS does not make for 16 dimensions: could not parse.*Spell it as FAISS"),
        ("IVF4,LSH", r"'IVF4,LSH' was asked for: it is none that answers inner products"),
        ("SQ8,RFlat", r"ranked again against the stored vectors anyway"),
        ("PQ4x10", r"cannot build PQ4x10 over 300 vectors of 16 dimensions: .*smaller code"),
        ("IVF4,SQ8;", r"'IVF4,SQ8;' was asked for"),
    ],
)
def test_kinds_that_do_not_fit_say_what_to_do(world, kind, complaint):
    folder, rows = world
    with pytest.raises(UsageError, match=complaint):
        set_search_kind(folder, kind)
    assert search(open_index(folder), rows[:2], 1).rows.tolist() == [[0], [1]]


def test_kinds_an_index_does_not_have_are_not_searched_by(world):
    folder, _ = world
    with pytest.raises(
        UsageError, match=r"HNSW8 was asked for .* has IVF4,SQ8.*index kind \S+ HNSW8"
    ):
        open_index(folder, SearchChoice("HNSW8"))
    with pytest.raises(UsageError, match=r"nprobe were given for exact search"):
        open_index(folder, SearchChoice("exact", {"nprobe": 4}))
    with pytest.raises(UsageError, match=r"nprobe were given for exact search"):
        set_search_kind(folder, "exact", {"nprobe": 4})
    with pytest.raises(UsageError, match=r"efSearch = 0 was given\. Needed: a whole number"):
        set_search_kind(folder, "HNSW8", {"efSearch": 0})
