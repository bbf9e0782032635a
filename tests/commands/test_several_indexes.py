"""Several --index at once answer as one index of both corpora, and say what is whose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.folder import open_run
from blissaudit.audit.report.page_data import facts_of
from helpers import small_worlds as small

NAMES = ("ant", "bee", "cat")
FIRST, SECOND = 20, 13


@pytest.fixture(scope="module")
def world(tmp_path_factory, bliss):
    """Images of three classes, `one` and `two` with an index each, and `both` with all texts."""
    folder, rng = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    centres = rng.standard_normal((3, 16))
    rows = np.repeat(centres, 8, axis=0) + 1.2 * rng.standard_normal((24, 16))
    small.write_embeddings(folder / "images", "img", rows, label=np.repeat(NAMES, 8).tolist())
    texts = np.vstack([centres, rng.standard_normal((FIRST + SECOND - 3, 16))])
    captions = [f"This is a photo of a {name}" for name in NAMES]
    captions += [f"text {row}" for row in range(FIRST + SECOND - 3)]
    for name, some in (
        ("one", slice(0, FIRST)),
        ("two", slice(FIRST, None)),
        ("both", slice(None)),
    ):
        small.write_embeddings(folder / name, "text", texts[some], caption=captions[some])
        made = ("--embeddings", folder / name, "-o", folder / "indexes" / name)
        assert bliss("index", "build", *made).code == 0
    return folder


def indexes(world, *names):
    return [part for name in names for part in ("--index", world / "indexes" / name)]


@pytest.fixture
def audit(bliss, world, tmp_path):
    def audited(*names, more=()):
        output = tmp_path / "-".join(names)
        done = bliss(
            *("audit", "--embeddings", world / "images", "-o", output, "--k", 4),
            *indexes(world, *names),
            *more,
        )
        assert done.code == 0, done.err
        return output, pq.read_table(output / "scores.parquet"), done

    return audited


def test_two_indexes_answer_as_the_one_of_both_corpora(audit):
    _, joined, done = audit("one", "two")
    _, whole, other = audit("both")
    assert joined.drop(["caption_origins"]).equals(whole)
    assert done.out.splitlines()[:22] == other.out.splitlines()[:22]
    _, turned, _ = audit("two", "one")
    rows = np.array(whole["caption_rows"].to_pylist())
    moved = np.where(rows < FIRST, rows + SECOND, rows - FIRST)
    assert turned["caption_rows"].to_pylist() == moved.tolist()
    assert turned.drop(["caption_rows", "caption_origins"]).equals(whole.drop(["caption_rows"]))


def test_captions_are_hidden_in_each_of_them(audit):
    asked = ("--exclude", "near-labels=0.99")
    _, joined, done = audit("one", "two", more=asked)
    _, whole, _ = audit("both", more=asked)
    assert "3 more captions are hidden: 3 near a label's prompt" in done.out
    # The first three are the prompts; the others keep their rows in the whole index.
    assert np.min(whole["caption_rows"].to_pylist()) >= 3
    assert joined.drop(["caption_origins"]).equals(whole)


def test_every_caption_says_which_index_and_source_it_is_from(audit, world):
    output, table, _ = audit("one", "two")
    names = ["one: one", "two: two"]
    expected = [[names[row >= FIRST] for row in rows] for rows in table["caption_rows"].to_pylist()]
    assert table["caption_origins"].to_pylist() == expected
    assert {name for line in expected for name in line} == set(names)
    facts = json.loads((output / "run.json").read_text())
    assert facts["request"]["index"] == [str(world / "indexes" / n) for n in ("one", "two")]
    described = facts["index"]["indexes"]
    assert [(each["folder"], each["count"]) for each in described] == [
        (str(world / "indexes" / "one"), FIRST),
        (str(world / "indexes" / "two"), SECOND),
    ]
    for each in described:
        manifest = json.loads(Path(each["folder"], "manifest.json").read_text())
        assert each["checksums"] == manifest["checksums"]
        assert each["sources"] == manifest["sources"]
    shown = dict(facts_of(open_run(output)))
    assert shown["Captions"] == "33 from one, two"
    assert shown[f"Captions in {world / 'indexes' / 'two'}"] == "13 from two"


def test_the_worst_images_name_sources_and_licences(audit, world, bliss, tmp_path):
    shutil.copytree(world / "indexes" / "two", tmp_path / "licensed")
    path = tmp_path / "licensed" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sources"][0] |= {"name": "birds", "licence": "CC-BY-4.0"}
    path.write_text(json.dumps(manifest))
    done = bliss(
        *("audit", "--embeddings", world / "images", "-o", tmp_path / "out", "--json", "--top", 24),
        *indexes(world, "one"),
        *("--index", tmp_path / "licensed"),
    )
    every = [c for image in json.loads(done.out)["worst"] for c in image["captions"]]
    assert {(c["origin"], c["licence"]) for c in every} == {
        ("one: one", None),
        ("licensed: birds", "CC-BY-4.0"),
    }
    shown = dict(facts_of(open_run(tmp_path / "out")))
    assert shown["Licence of the captions"] == "one: not known; birds: CC-BY-4.0"
    _, table, alone = audit("one", more=("--json",))
    assert "caption_origins" not in table.column_names and "origin" not in alone.out


def test_folders_of_the_same_name_are_told_apart_by_their_paths(bliss, world, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(world / "indexes" / name, tmp_path / name / "index")
    given = [part for name in ("one", "two") for part in ("--index", tmp_path / name / "index")]
    audit = ("audit", "--embeddings", world / "images", *given, "-o", tmp_path / "out")
    assert bliss(*audit).code == 0
    origins = pq.read_table(tmp_path / "out" / "scores.parquet")["caption_origins"].to_pylist()
    assert {name for line in origins for name in line} == {
        f"{tmp_path / name / 'index'}: {name}" for name in ("one", "two")
    }


def test_a_caption_of_both_corpora_is_there_twice(bliss, world, tmp_path):
    """What one index of both would have dropped as a duplicate takes two of the k places."""
    source = tmp_path / "again"
    table = pq.read_table(world / "one" / "metadata" / "metadata_0.parquet")
    vectors = np.load(world / "one" / "text_emb" / "text_emb_0.npy")
    small.write_embeddings(source, "text", vectors, caption=table["caption"].to_pylist())
    assert bliss("index", "build", "--embeddings", source, "-o", tmp_path / "index").code == 0
    audit = ("audit", "--embeddings", world / "images", "-o", tmp_path / "out", "--k", 4)
    assert bliss(*audit, *indexes(world, "one"), "--index", tmp_path / "index").code == 0
    found = pq.read_table(tmp_path / "out" / "scores.parquet")["captions"].to_pylist()
    assert all(line[0] == line[1] and line[2] == line[3] for line in found)


def test_search_shows_the_nearest_of_all(bliss, index, tmp_path):
    table = pq.read_table(index / "metadata" / "metadata_0.parquet")
    captions, vectors = table["caption"].to_pylist(), np.load(index / "text_emb/text_emb_0.npy")
    for name, some in (("one", slice(0, 150)), ("two", slice(150, None)), ("both", slice(None))):
        source = tmp_path / "texts" / name
        small.write_embeddings(source, "text", vectors[some], caption=captions[some])
        assert bliss("index", "build", "--embeddings", source, "-o", tmp_path / name).code == 0
    asked = ("--text", "a drawing of a house", "--top", 7, "--model", "demo", "--json")
    alone = json.loads(bliss("index", "search", tmp_path / "both", *asked).out)
    found = json.loads(bliss("index", "search", tmp_path / "one", tmp_path / "two", *asked).out)
    origins = [each.pop("origin") for each in found]
    assert found == alone
    places = [("one", "two")[each["row"] >= 150] for each in found]
    assert origins == [f"{place}: {place}" for place in places]
    shown = bliss("index", "search", tmp_path / "one", tmp_path / "two", *asked[:-1]).out
    assert shown.splitlines() == [
        f"{each['similarity']:7.4f}  {each['row']:>9,}  {each['caption']}  ({origin})"
        for each, origin in zip(found, origins, strict=True)
    ]


def test_score_and_reference_and_eval_take_several(bliss, world, tmp_path):
    fit = ("reference", "fit", "--embeddings", world / "images", "--hold-out", 0)
    assert bliss(*fit, *indexes(world, "two", "one"), "-o", tmp_path / "reference").code == 0
    against = ("audit", "--embeddings", world / "images", "--reference", tmp_path / "reference")
    assert bliss(*against, *indexes(world, "one", "two"), "-o", tmp_path / "a").code == 0
    assert bliss(*against, *indexes(world, "both"), "-o", tmp_path / "b").code == 0
    tables = [pq.read_table(tmp_path / name / "scores.parquet")["score"] for name in "ab"]
    assert tables[0].equals(tables[1])
    evaluated = []
    for names in (("one", "two"), ("both",), ("one",)):
        done = bliss(
            *("eval", "--reference", world / "images", "--test", world / "images", "--json"),
            *("--protocol", "random-2", "--draws", 2, "--score", "bliss", "-o", tmp_path / "eval"),
            *indexes(world, *names),
            "--overwrite",
        )
        evaluated.append(json.loads(done.out)[0]["auroc"])
    assert evaluated[0] == evaluated[1] != evaluated[2]


def test_a_recorded_evaluation_of_one_index_is_repeated(bliss, world, tmp_path):
    done = bliss(
        *("eval", "--reference", world / "images", "--test", world / "images"),
        *("--protocol", "random-2", "--draws", 2, "--score", "bliss", "-o", tmp_path / "first"),
        *indexes(world, "both"),
    )
    assert done.code == 0
    path = tmp_path / "first" / "eval.json"
    facts = json.loads(path.read_text())
    facts["asked"]["index"] = facts["asked"]["index"][0]  # as files before several were allowed
    path.write_text(json.dumps(facts))
    again = bliss("eval", "--from", path, "-o", tmp_path / "again")
    assert "every number of the table is the one recorded" in again.err


def test_what_cannot_be_joined_is_refused(bliss, world, tmp_path):
    audit = ("audit", "--embeddings", world / "images", "-o", tmp_path / "out")
    twice = bliss(*audit, *indexes(world, "one", "one"))
    assert twice == (
        2,
        "",
        "\nbliss: an index was given twice. Needed: each --index once. Leave the second one out.\n",
    )
    source = tmp_path / "other"
    small.write_embeddings(source, "text", np.eye(5), caption=list("abcde"))
    assert bliss("index", "build", "--embeddings", source, "-o", tmp_path / "index").code == 0
    other = bliss(*audit, *indexes(world, "one"), "--index", tmp_path / "index")
    assert other.code == 1 and "16 dimensions" in other.err and "5 dimensions" in other.err
    assert not (tmp_path / "out" / "run.json").exists()


def test_lists_of_origins_have_their_type(audit):
    _, table, _ = audit("one", "two")
    assert table.schema.field("caption_origins").type == pa.list_(pa.string())
