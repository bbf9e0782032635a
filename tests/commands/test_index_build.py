"""`bliss index build` of several corpora: what it prints, records and refuses."""

import json

import pyarrow.parquet as pq


def test_names_and_captions_in_one_index(bliss, tmp_path, monkeypatch):
    words, captions, folder = tmp_path / "words.txt", tmp_path / "captions.txt", tmp_path / "index"
    words.write_text("n1\tapple, boat\nn2\tclock\n")
    captions.write_text("a red apple\n\nclock\n  a  boat at sea\na boat at sea\n")
    own = {"name": "our-words", "spec": str(words), "licence": "ours", "column": "2"}
    own |= {"split_cells": ",", "prompt": "This is a photo of a {label}"}
    (tmp_path / "mine.json").write_text(json.dumps(own))
    monkeypatch.setenv("BLISS_CONFIG", str(tmp_path / "settings"))
    assert bliss("corpora", "add", tmp_path / "mine.json").code == 0
    command = ("index", "build", "our-words", captions, "--model", "demo", "-o", folder)
    made = bliss(*command, "--licence", "captions.txt=CC0", "--licence", "our-words=own")
    assert (made.code, made.out) == (
        0,
        f"{folder}: 5 captions, demo, 128 dimensions, weights {weights(folder)}, float16\n"
        "corpus words.txt, column '2', corpus captions.txt: 8 texts read, dropped: 2 "
        "duplicate, 1 empty\n",
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [source["prompts"] for source in manifest["sources"]] == [
        ["This is a photo of a {label}"],
        ["{}"],
    ]
    rows = pq.read_table(folder / "metadata" / "metadata_0.parquet").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("apple", 0, "our-words", "own"),
        ("boat", 0, "our-words", "own"),
        ("clock", 1, "our-words", "own"),
        ("a red apple", 0, "captions.txt", "CC0"),
        ("a boat at sea", 3, "captions.txt", "CC0"),
    ]
    refused = bliss(*command, "--licence", "own")
    assert (refused.code, refused.out) == (2, "")
    assert "(sources[1].licence differ)" in refused.err
    swapped = ("index", "build", captions, "our-words", "--model", "demo")
    other = bliss(*swapped, "-o", tmp_path / "swapped", "--prompt", "a {}")
    assert other.code == 0 and "prompts: a {}\n" in other.out
    manifest = json.loads((tmp_path / "swapped" / "manifest.json").read_text())
    assert [source["counts"]["kept"] for source in manifest["sources"]] == [3, 2]


def weights(folder):
    return json.loads((folder / "manifest.json").read_text())["model"]["weights_sha256"][:12]


def test_a_licence_of_no_source_and_no_corpus_at_all(bliss, captions, tmp_path):
    command = ("index", "build", captions, "--model", "demo", "-o", tmp_path / "index")
    refused = bliss(*command, "--licence", "caption.txt=CC0")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith(
        "bliss: the licence 'caption.txt=CC0' names no source. Needed: NAME=TEXT with one of "
        "captions.txt, or one text for all sources. Name the source it is of.\n"
    )
    assert not (tmp_path / "index").exists()
    nothing = bliss("index", "build", "-o", tmp_path / "index")
    assert (nothing.code, nothing.out) == (2, "")
    assert "neither of CORPUS and --embeddings were given" in nothing.err
