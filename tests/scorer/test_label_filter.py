"""Hiding captions that say what a label says: which ones, and that they are gone everywhere."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.folder import open_run
from blissaudit.audit.report.page_data import facts_of
from blissaudit.errors import UsageError
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.vectors.rows import JoinedRows, remaining
from blissaudit.scorer import label_filter
from blissaudit.scorer.label_filter import (
    HiddenText,
    LabelFilter,
    label_texts,
    labels_near,
    word_forms,
)
from helpers import small_worlds as small
from hypothesis import given, settings
from hypothesis import strategies as st

CLASSES = ("cup", "golden_retriever", "pony")
CAPTIONS = [
    "a photo of a CUP",
    "two cups, one saucer",
    "a cupboard",
    "golden retrievers at play",
    "a retriever in golden light",
    "Golden-Retriever",
    "ponies",
    "a ponytail",
    "house of glass",
    "a fruitcup",
    "the cup's rim",
    "nothing",
]
WORDED = [0, 1, 3, 5, 6, 10]


def index_of(folder, vectors, captions):
    small.write_embeddings(folder / "source", "text", vectors, caption=captions)
    return index_embeddings(folder / "source", folder / "index", options=IndexOptions(part_rows=5))


@pytest.fixture
def index(tmp_path):
    return index_of(tmp_path, np.random.default_rng(0).standard_normal((12, 6)), CAPTIONS)


@pytest.mark.parametrize("at_once", [1, 5, 65_536])
def test_whole_words_next_to_each_other_whatever_case_and_number(index, monkeypatch, at_once):
    monkeypatch.setattr(label_filter, "CAPTIONS_AT_ONCE", at_once)
    prompts = small.unit(np.eye(3, 6))
    hidden = label_texts(index, index.vectors, CLASSES, prompts, LabelFilter(words=True))
    left = index.without(remaining(index.count, hidden.kept))
    assert hidden.kept.tolist() == [i for i in range(12) if i not in WORDED]
    assert (hidden.count, hidden.near, hidden.worded) == (6, 0, 6)
    assert left.captions_of(np.arange(6)) == [CAPTIONS[i] for i in hidden.kept]
    assert hidden.near_examples == ()
    assert hidden.worded_examples == (
        HiddenText("a photo of a CUP", "cup"),
        HiddenText("two cups, one saucer", "cup"),
        HiddenText("golden retrievers at play", "golden_retriever"),
        HiddenText("Golden-Retriever", "golden_retriever"),
        HiddenText("ponies", "pony"),
    )


@pytest.mark.parametrize(
    ("label", "word", "same"),
    [
        ("bus", "buses", True),
        ("buses", "bus", True),
        ("bus", "bu", False),
        ("box", "boxes", True),
        ("boxes", "box", True),
        ("pony", "ponies", True),
        ("ponies", "pony", True),
        ("house", "houses", True),
        ("houses", "house", True),
        ("glass", "glasses", True),
        ("glasses", "glass", True),
        ("glass", "glas", False),
        ("mouse", "mice", False),
        ("cat", "cattle", False),
    ],
)
def test_plurals_are_simple_and_go_both_ways(label, word, same):
    assert (word in word_forms(label)) == same


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.integers(1, 9))
def test_near_labels_are_those_of_a_float64_oracle_whatever_the_blocks(seed, cosine, size):
    rng = np.random.default_rng(seed)
    texts, prompts = (
        small.unit(rng.standard_normal((23, 4))),
        small.unit(rng.standard_normal((3, 4))),
    )
    products = texts.astype(float) @ prompts.astype(float).T
    if np.abs(products - cosine).min() < 1e-6:
        return
    expected = np.where(products.max(axis=1) >= cosine, products.argmax(axis=1), -1)
    blocks = JoinedRows([texts[i : i + size] for i in range(0, 23, size)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_filter, "TEXTS_AT_ONCE", 4)
        assert labels_near(blocks, prompts, cosine).tolist() == expected.tolist()
    assert labels_near(texts, prompts, cosine).tolist() == expected.tolist()


def test_a_text_exactly_at_the_cosine_is_hidden():
    texts = np.array([[0.6, 0.8], [0.8, 0.6]], np.float32)
    prompts = np.array([[1, 0]], np.float32)
    at = float(texts[1, 0])
    assert labels_near(texts, prompts, at).tolist() == [-1, 0]
    assert labels_near(texts, prompts, np.nextafter(at, 1)).tolist() == [-1, -1]


@pytest.fixture(scope="module")
def world(tmp_path_factory, bliss):
    """Three classes, an index with texts near and called like them, and one without those."""
    folder, rng = tmp_path_factory.mktemp("filter"), np.random.default_rng(0)
    names = ("cup", "key", "lamp")
    centres = rng.standard_normal((3, 16))
    rows = np.repeat(centres, 8, axis=0) + 1.2 * rng.standard_normal((24, 16))
    small.write_embeddings(folder / "images", "img", rows, label=np.repeat(names, 8).tolist())
    prompts = [f"This is a photo of a {name}" for name in names]
    near = centres + 0.1 * rng.standard_normal((3, 16))
    far = rng.standard_normal((40, 16))
    other = [f"text {row}" for row in range(39)] + ["many lamps"]
    small.write_embeddings(
        folder / "all", "text", np.vstack([far, near, centres]),
        caption=[*other, "mug", "opener", "light", *prompts],
    )  # fmt: skip
    made = ("--embeddings", folder / "all", "-o", folder / "index")
    assert bliss("index", "build", *made).code == 0
    fit = ("reference", "fit", "--embeddings", folder / "images", "--index", folder / "index")
    assert bliss(*fit, "--hold-out", 0, "-o", folder / "reference").code == 0
    for name, some in (("words", 39), ("near", 40)):
        kept = np.vstack([far[:some], near]) if name == "words" else far[:some]
        captions = [*other[:some], *(("mug", "opener", "light") if name == "words" else ())]
        small.write_embeddings(folder / f"not-{name}", "text", kept, caption=captions)
        made = ("--embeddings", folder / f"not-{name}", "-o", folder / f"without-{name}")
        assert bliss("index", "build", *made).code == 0
    return folder


@pytest.fixture
def audit(bliss, world, tmp_path):
    def audited(index, *more):
        output = tmp_path / "out"
        done = bliss(
            *("audit", "--embeddings", world / "images", "--reference", world / "reference"),
            *("--index", world / index, "-o", output, "--k", 5, "--overwrite", *more),
        )
        assert done.code == 0, done.err
        return pq.read_table(output / "scores.parquet"), done

    return audited


@pytest.mark.parametrize("score", ["bliss", "mcm", "eoe", "bliss+"])
@pytest.mark.parametrize(
    ("option", "without"),
    [
        (("--exclude", "near-labels=0.95"), "near"),
        (
            (
                "--exclude",
                "label-words",
            ),
            "words",
        ),
    ],
)
def test_hidden_captions_are_as_if_they_had_never_been(audit, score, option, without):
    found, _ = audit("index", "--score", score, *option)
    expected, _ = audit(f"without-{without}", "--score", score)
    rows = np.array(found["caption_rows"].to_pylist())
    there = np.array(expected["caption_rows"].to_pylist())
    if without == "words":
        there = np.where(there >= 39, there + 1, there)  # the 40th text is the one with a word
    assert rows.tolist() == there.tolist()
    assert found.drop(["caption_rows"]).equals(expected.drop(["caption_rows"]))
    plain, _ = audit("index", "--score", score)
    if score != "mcm":  # which takes no texts
        assert not plain["score"].equals(found["score"])


def test_the_filter_is_off_by_default_and_told_when_on(audit, world, tmp_path):
    _, done = audit("index")
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert "hidden" not in facts["index"] and "hidden" not in done.out
    _, done = audit("index", "--exclude", "near-labels=0.95", "--exclude", "label-words")
    assert (
        "24 images scored against 3 classes and 39 captions; 24 of them are in the reference and "
        "were left out of their own class\n"
        "7 more captions are hidden: 6 near a label's prompt, 4 with a label's words (such as "
        "'mug' for cup, 'many lamps' for lamp)\n"
    ) in done.out
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert facts["settings"]["exclude_near_labels"] == 0.95
    assert facts["settings"]["exclude_label_words"] is True
    hidden = facts["index"]["hidden"]
    assert (hidden["count"], hidden["near_labels"], hidden["label_words"]) == (7, 6, 4)
    assert hidden["worded_examples"][0] == {"caption": "many lamps", "label": "lamp"}
    shown = dict(facts_of(open_run(tmp_path / "out")))
    assert shown["Hidden captions"] == "7: 6 near a label's prompt, 4 with a label's words"
    _, done = audit("index", "--exclude", "near-labels=0.95", "--json")
    assert json.loads(done.out)["hidden_captions"]["count"] == 6


def test_a_prompt_that_is_hidden_still_names_its_class(bliss, world, tmp_path):
    """Without a model prompts are looked up in the index, before anything is hidden."""
    done = bliss(
        *("audit", "--embeddings", world / "images", "--index", world / "index", "--k", 5),
        *("--exclude", "near-labels=0.95", "-o", tmp_path / "out"),
    )
    assert done.code == 0 and "6 more captions are hidden" in done.out


def test_no_filter_that_hides_all_or_is_no_cosine(audit, bliss, world, tmp_path, index):
    every_way = small.unit(np.vstack([np.eye(6), -np.eye(6)]))
    with pytest.raises(UsageError, match=r"all 12 texts of .* are too like a normal label"):
        label_texts(index, index.vectors, list("abcdefghijkl"), every_way, LabelFilter(0.1))
    for wrong in ("0", "1.5", "nan"):
        done = bliss(
            *("audit", "--embeddings", world / "images", "--index", world / "index"),
            *("--exclude", f"near-labels={wrong}", "-o", tmp_path / "wrong"),
        )
        assert done.code == 2
        assert done.err == (
            f"\nbliss: a cosine of {float(wrong)} was given to exclude texts near labels. Needed: "
            "a number above 0 and at most 1. Try --exclude near-labels=0.95.\n"
        )
