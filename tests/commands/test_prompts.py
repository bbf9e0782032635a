"""Audits of embeddings without a text model: class means, listed prompts, and given vectors."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.small_worlds import unit, write_embeddings

CLASSES = ("ant", "=bee", "cow")


@pytest.fixture(scope="module")
def world(bliss, tmp_path_factory):
    """24 embeddings of three classes, the same without labels, and an index of 30 texts."""
    root, rng = tmp_path_factory.mktemp("prompts"), np.random.default_rng(2)
    centres = unit(rng.standard_normal((3, 8)))
    shown = np.repeat(np.arange(3), 8)
    images = unit(centres[shown] + 0.3 * rng.standard_normal((24, 8)))
    texts = unit(np.concatenate([centres + 0.1, rng.standard_normal((27, 8))]))
    paths = [f"{i}.jpg" for i in range(24)]
    write_embeddings(root / "images", "img", images, image_path=paths,
                     label=[CLASSES[i] for i in shown])  # fmt: skip
    write_embeddings(root / "flat", "img", images, image_path=paths)
    words = ["an ant", "a bee", "a cow", *(f"text {i}" for i in range(27))]
    write_embeddings(root / "texts", "text", texts, caption=words)
    built = bliss("index", "build", "--embeddings", root / "texts", "--column", "caption",
                  "-o", root / "index")  # fmt: skip
    assert built.code == 0, built.err
    return root, images, shown, texts


@pytest.fixture
def audit(bliss, world, tmp_path):
    """`audit(*options, images="images")`: the outcome, run.json and the columns of the scores."""

    def run(*options, images="images"):
        out = tmp_path / "out"
        command = ("audit", "--embeddings", world[0] / images, "--index", world[0] / "index")
        outcome = bliss(*command, "-o", out, "--overwrite", "--report", "none", *options)
        if outcome.code:
            return outcome, {}, {}
        facts = json.loads((out / "run.json").read_text())
        return outcome, facts, pq.read_table(out / "scores.parquet").to_pydict()

    return run


def test_means_stand_in_for_prompts_that_are_no_captions_and_all_are_listed(audit, tmp_path):
    outcome, facts, found = audit()
    assert outcome.code == 0
    assert "no model is at hand and 3 class prompts are no captions" in outcome.err
    assert facts["reference"]["prompts"] == ["the mean of its images"] * 3
    listed = tmp_path / "out" / "missing_prompts.csv"
    with open(listed, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["'=bee", "ant", "cow"]
    assert rows[1]["prompt"] == "This is a photo of a ant"
    _, _, same = audit("--prompts", "means")
    assert same["score"] == found["score"] and not listed.exists()
    worded = tmp_path / "worded.csv"
    worded.write_text("class,prompt\n'=bee,a bee\nant,an ant\ncow,a cow\n", encoding="utf-8")
    outcome, facts, other = audit("--prompts", worded)
    assert "no model is at hand" not in outcome.err
    assert facts["reference"]["prompts"] == ["a bee", "an ant", "a cow"]
    assert other["score"] != found["score"] and not listed.exists()


def test_means_are_refused_where_there_is_no_image_of_a_class_to_average(audit, bliss, world):
    outcome, _, _ = audit("--normal", "ant", "--prompts", "means", images="flat")
    assert outcome.code == 2 and "have no classes. Needed: images of each class" in outcome.err
    images = world[0] / "images"
    measure = ("eval", "--reference", images, "--test", images, "--index", world[0] / "index")
    outcome = bliss(
        *measure, "-o", world[0] / "eval", "--prompts", "means", "--protocol", "one-class"
    )
    assert outcome.code == 2 and "--prompts means was given" in outcome.err


def test_prompts_that_were_chosen_are_missed_with_the_whole_list(audit, tmp_path):
    outcome, _, _ = audit("--prompt", "a big {label}")
    assert outcome.code == 1 and "equals the prompt 'a big =bee' for class '=bee'" in outcome.err
    listed = tmp_path / "out" / "missing_prompts.csv"
    assert f"{listed} lists all of them, for --prompts" in outcome.err
    assert listed.read_text().splitlines()[1:] == ["'=bee,a big =bee", "ant,a big ant",
                                                   "cow,a big cow"]  # fmt: skip
    outcome, _, _ = audit("--prompts", listed)
    assert outcome.code == 1 and "'a big cow' for class 'cow'" in outcome.err
    for cow, code in (("a bull", 1), ("a cow", 0), ("a cow", 0)):  # edited, and given where it is
        listed.write_text(f"class,prompt\n'=bee,a bee\nant,an ant\ncow,{cow}\n")
        outcome, _, _ = audit("--prompts", listed)
        assert outcome.code == code and f"\ncow,{cow}\n" in listed.read_text(), outcome.err
    outcome, _, _ = audit("--normal", "ant", images="flat")
    assert outcome.code == 1 and "'This is a photo of a ant'" in outcome.err


def test_vectors_of_the_prompts_need_no_caption_and_name_classes(audit, world, tmp_path):
    texts, order = world[3], np.argsort(CLASSES)
    names = [CLASSES[i] for i in order]
    given = pa.table({"class": names, "vector": [(5 * texts[i]).tolist() for i in order]})
    pq.write_table(given, tmp_path / "vectors.parquet")
    worded = ("--class-prompt", "ant=an ant", "--class-prompt", "cow=a cow",
              "--class-prompt", "=bee=a bee")  # fmt: skip
    pq.write_table(given.slice(0, 2), tmp_path / "few.parquet")
    _, _, found = audit("--prompts", tmp_path / "vectors.parquet")
    (tmp_path / "w.csv").write_text("class;prompt\n'=bee;a bee\nant;an ant\ncow;a cow\n")
    _, _, looked_up = audit("--prompts", tmp_path / "w.csv")
    np.testing.assert_allclose(found["score"], looked_up["score"], rtol=1e-5, atol=1e-6)
    outcome, facts, flat = audit("--prompts", tmp_path / "vectors.parquet", images="flat")
    assert outcome.code == 0 and facts["reference"]["classes"] == sorted(CLASSES)
    assert flat["label"] == [None] * 24
    _, facts, _ = audit("--prompts", tmp_path / "vectors.parquet", "--normal", "ant", images="flat")
    assert facts["reference"]["classes"] == ["ant"]
    outcome, _, _ = audit("--prompts", tmp_path / "few.parquet")
    assert outcome.code == 2 and "class 'cow' has no vector among the prompts" in outcome.err
    outcome, _, _ = audit("--prompts", tmp_path / "vectors.parquet", *worded)
    assert outcome.code == 2 and "was given with --prompt or --class-prompt" in outcome.err


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "class,words\nant,an ant\n", "has the columns class, words. Needed: class, and"),
        ("b.csv", "class,prompt\nant,x\nant,y\n", "names class 'ant' twice"),
        ("c.csv", "class,prompt\nant,\n", "has no prompt for class 'ant'"),
        ("e.csv", "class,prompt\nbee,a bee\nant,an ant, red\n", "3 cells beside 'ant', under 2"),
        ("f.csv", "class,prompt\nant,an ant, red\n", "3 cells beside 'ant', under 2"),
        ("g.csv", "class,prompt\n", "has the columns of no row"),
        ("d.parquet", "no parquet", "could not be read"),
        ("t.parquet", {"class": ["ant"], "vector": ["text"]}, "that are not lists of numbers"),
        ("n.parquet", {"class": [1], "vector": [[1.0]]}, "class '=bee' has no vector"),
        ("none.csv", None, "could not be read"),
    ],
)
def test_tables_of_prompts_that_cannot_be_are_refused(audit, tmp_path, name, text, words):
    if isinstance(text, dict):
        pq.write_table(pa.table(text), tmp_path / name)
    elif text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    outcome, _, _ = audit("--prompts", tmp_path / name)
    assert outcome.code == 2 and words in outcome.err
