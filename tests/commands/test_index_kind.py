"""`bliss index kind`, `--kind` and the search options, as a whole."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory, write_embeddings):
    rows = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("kind") / "source"
    return write_embeddings(folder, rows, [f"text {i}" for i in range(400)])


def test_the_kind_of_an_index_is_set_shown_and_taken_back(bliss, embeddings, tmp_path):
    folder = tmp_path / "index"
    made = bliss("index", "build", "--embeddings", embeddings, "-o", folder, "--kind", "IVF8,SQ8")
    assert made.code == 0
    shown = bliss("index", "info", folder)
    stated = "search: IVF8,SQ8 (candidates 2, nprobe 6) over 400 stored rows"
    assert stated in shown.out.splitlines()
    tuned = bliss("index", "kind", folder, "IVF8,SQ8", "--set", "nprobe=8")
    assert tuned.out == (
        f"{folder}: search: IVF8,SQ8 (candidates 2, nprobe 8) over 400 stored rows\n"
    )
    # The same build again changes nothing of it.
    same = bliss("index", "build", "--embeddings", embeddings, "-o", folder, "--kind", "IVF8,SQ8")
    assert same.code == 0 and "nprobe 8" in bliss("index", "info", folder).out
    auto = bliss("index", "kind", folder, "auto")
    assert auto.err == "auto is exact: scanning 400 x 16 takes little, and is exact\n"
    assert auto.out == f"{folder}: search: exact\n"
    assert list((folder / "search").iterdir()) == []


def test_threads_and_kinds_that_cannot_be(bliss, embeddings, tmp_path):
    folder = tmp_path / "index"
    bliss("index", "build", "--embeddings", embeddings, "-o", folder)
    assert bliss("index", "kind", folder, "HNSW8", "--threads", 2).code == 0
    assert json.loads((folder / "manifest.json").read_text())["search"]["threads"] == 2
    wrong = bliss("index", "kind", folder, "IVF8,SQ8", "--set", "nprobe")
    assert wrong.code == 2 and "--set 'nprobe' was given. Needed: NAME=NUMBER" in wrong.err
    many = bliss("index", "kind", folder, "IVF4096,SQ8")
    assert many.code == 2 and "4,096 lists for 400 vectors" in many.err


def test_search_says_what_it_takes_and_does_as_asked(bliss, index, tmp_path):
    folder = tmp_path / "index"
    shutil.copytree(index, folder)
    assert bliss("index", "kind", folder, "IVF8,SQ8", "--set", "nprobe=1").code == 0
    ask = ("index", "search", folder, "--text", "a red circle", "--top", 40, "--json")
    own = bliss(*ask)
    assert own.code == 0
    assert "search: IVF8,SQ8 over 300 x" in own.err and "hits ranked again from disk" in own.err
    every = bliss(*ask, "--search", "nprobe=8,candidates=9")
    exact = bliss(*ask, "--search", "exact")
    assert "search: exact over 300 x" in exact.err and "in memory as float32" in exact.err
    assert every.out == exact.out != own.out
    # Similarities are exact whatever found them.
    cosines = {hit["row"]: hit["similarity"] for hit in json.loads(exact.out)}
    both = [hit for hit in json.loads(own.out) if hit["row"] in cosines]
    assert both and all(hit["similarity"] == cosines[hit["row"]] for hit in both)


def test_a_gpu_that_is_not_there_is_an_error(bliss, index, monkeypatch):
    from blissaudit.indexer.search import plan as machine

    monkeypatch.setattr(machine, "gpu_memories", lambda: ())
    ask = ("index", "search", index, "--text", "a red circle")
    for options in (
        ("--search", "device=cuda"),
        ("--search", "device=cuda:0,1,shards"),
    ):
        found = bliss(*ask, *options)
        assert found.code == 2 and "where there is none visible" in found.err
        assert found.out == "" and "--search device=cpu" in found.err
    found = bliss(*ask, "--search", "shards")
    assert found.code == 2 and "--search shards was given with device=cpu" in found.err


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("IVF0,Flat", "an inverted file without lists holds nothing"),
        ("HNSW0", "a graph keeps 2 to 512 neighbours of each vector"),
        ("HNSW1", "a graph keeps 2 to 512 neighbours of each vector"),
        ("HNSW999999", "a graph keeps 2 to 512 neighbours of each vector"),
        ("IVF8_HNSW0,SQ8", "a graph keeps 2 to 512 neighbours of each vector"),
    ],
)
def test_kinds_that_faiss_makes_and_cannot_search(bliss, index, kind, why):
    before = (index / "manifest.json").read_bytes()
    refused = bliss("index", "kind", index, kind)
    assert refused.code == 2
    assert f"kind of search '{kind}' was asked for: {why}. Needed: exact" in refused.err
    assert (index / "manifest.json").read_bytes() == before


def test_few_captions_for_a_kind_are_a_note_and_faiss_says_nothing(bliss, index, tmp_path, capfd):
    folder = shutil.copytree(index, tmp_path / "index")
    dimension = json.loads((folder / "manifest.json").read_text())["model"]["dimension"]
    for kind, learnt in (
        (f"PQ{dimension // 2}", 256),
        ("IVF16,SQ8", 16),
        ("OPQ4,IVF8,PQ4x4", 16),
    ):
        outcome = bliss("index", "kind", folder, kind)
        assert (outcome.code, outcome.err) == (
            0,
            f"note: {kind} learns {learnt} centroids, for which {39 * learnt:,} captions or more "
            "are good; there are 300. It works, but may find fewer of the nearest; exact search is "
            "fast at this size\n",
        )
    assert bliss("index", "kind", folder, "IVF4,SQ8").err == ""
    assert capfd.readouterr() == ("", "")


def test_too_many_candidates_are_refused_and_nothing_is_stored(bliss, index, tmp_path):
    folder = shutil.copytree(index, tmp_path / "index")
    before = (folder / "manifest.json").read_bytes()
    for name, most in (("candidates", "10,000"), ("efSearch", "1,000,000")):
        outcome = bliss("index", "kind", folder, "HNSW8", "--set", f"{name}=1000000000")
        assert outcome.code == 2
        assert f"{name} = 1000000000 was given. Needed: a whole number from 1 to {most}" in (
            outcome.err
        )
    assert (folder / "manifest.json").read_bytes() == before
    assert bliss("index", "kind", folder, "SQ8", "--set", "candidates=10000").code == 0
    ask = ("index", "search", folder, "--text", "a boat", "--search", "candidates=10001")
    assert "candidates = 10001 was given. Needed: a whole number from 1 to" in bliss(*ask).err
