"""`bliss corpora compare`: its numbers by hand and from audits, and that nothing is done twice."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit import indexer
from blissaudit.errors import BlissError
from blissaudit.evaluation.corpus_comparison import CorpusAnswer, compare_corpora
from blissaudit.scorer.robust import rank_correlation, top_in_common
from helpers import small_worlds as small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

NAMES = ("ant", "bee", "wasp")


@pytest.fixture(scope="module")
def world(tmp_path_factory, bliss):
    """Images of three classes, a text corpus near them and one far from them."""
    folder, rng = tmp_path_factory.mktemp("compare"), np.random.default_rng(0)
    centres = rng.standard_normal((3, 16))
    rows = np.repeat(centres, 8, axis=0) + 1.2 * rng.standard_normal((24, 16))
    labels = np.repeat(NAMES, 8).tolist()
    paths = [f"{label}/{number}" for number, label in enumerate(labels)]
    small.write_embeddings(folder / "images", "img", rows, image_path=paths, label=labels)
    prompts = [f"This is a photo of a {name}" for name in NAMES]
    near = centres.repeat(5, axis=0) + 0.8 * rng.standard_normal((15, 16))
    said = [f"{number} {name}s" for name in NAMES for number in range(5)]
    small.write_embeddings(
        folder / "near-texts", "text", np.vstack([centres, near]), caption=[*prompts, *said]
    )
    far = [f"text {row}" for row in range(20)]
    small.write_embeddings(folder / "far-texts", "text", rng.standard_normal((20, 16)), caption=far)
    for name in ("near", "far"):
        made = ("--embeddings", folder / f"{name}-texts", "-o", folder / name)
        assert bliss("index", "build", *made).code == 0
    return folder


def compare(bliss, world, *more, images=None):
    return bliss(
        *("corpora", "compare", images or world / "images", "--k", 4),
        *("--index", world / "near", "--index", world / "far", *more),
    )


def facts(bliss, world, *more):
    done = compare(bliss, world, "--json", *more)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_facts_by_hand():
    first = CorpusAnswer("a", 9, np.array([1.0, 2, 3, 4]), np.full((4, 2), 0.25), None, 1.0)
    named = np.array([True, False, False, True])
    similarity = np.array([[0.5, 0.25], [0.25, 0], [0, 0], [0, 0]], np.float32)
    other = CorpusAnswer("b", 7, np.array([2.0, 1, 3, 4]), similarity, named, 2.0)
    one, two = compare_corpora([first, other], np.array([False, False, True, True]))
    assert (one.rank_correlation, one.top_in_common, one.coverage) == (1, 4, 0.25)
    assert (one.names_label, one.auroc) == (None, 1)
    # Spearman of (1,2,3,4) and (2,1,3,4): 1 - 6·2/(4·15) = 0.8.
    assert two.rank_correlation == pytest.approx(0.8)
    assert (two.coverage, two.names_label, two.auroc, two.seconds) == (0.125, 0.5, 1, 2)
    with pytest.raises(BlissError, match=r"0 of 4 test images are anomalous"):
        compare_corpora([first, other], np.zeros(4, bool))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30))
def test_agreement_is_scipys_and_does_not_change_with_the_scale(pairs):
    a, b = np.array(pairs, float).T
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation(a, b) == pytest.approx(rank_correlation(np.exp(a), 5 * b - 3))
    assert top_in_common(a, a, 3) == min(3, len(a))
    assert top_in_common(a, -a, len(a)) == len(a)


def test_each_corpus_is_what_an_audit_with_it_says(bliss, world, tmp_path):
    found = facts(bliss, world)
    assert found["images"] == 24
    near, far = found["corpora"]
    fit = ("reference", "fit", "--embeddings", world / "images", "--hold-out", 0)
    assert bliss(*fit, "--index", world / "near", "-o", tmp_path / "reference").code == 0
    tables = {}
    for name in ("near", "far"):
        audit = ("audit", "--embeddings", world / "images", "--k", 4, "-o", tmp_path / name)
        asked = ("--reference", tmp_path / "reference", "--index", world / name)
        assert bliss(*audit, *asked).code == 0
        tables[name] = pq.read_table(tmp_path / name / "scores.parquet").to_pydict()
    a, b = (np.array(tables[name]["score"]) for name in ("near", "far"))
    assert far["rank_correlation"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    tops = [set(np.argsort(-s)[:20].tolist()) for s in (a, b)]
    assert far["top_in_common"] == len(tops[0] & tops[1])
    for facts_, table in ((near, tables["near"]), (far, tables["far"])):
        assert facts_["coverage"] == pytest.approx(np.mean(table["similarity"]), abs=1e-6)
        named = [
            any(re.search(rf"\b{label}(s|es)?\b", text) for text in texts)
            for label, texts in zip(table["label"], table["captions"], strict=True)
        ]
        assert facts_["names_label"] == np.mean(named)
        assert facts_["auroc"] is None
    assert near["names_label"] > far["names_label"] == 0


def test_the_whole_screen(bliss, world):
    done = compare(bliss, world, "--normal", "ant", "--normal", "bee")
    found = facts(bliss, world, "--normal", "ant", "--normal", "bee")["corpora"]
    width = max(len(str(world / name)) for name in ("near", "far"))
    lines = done.out.splitlines()
    assert re.sub(r" +", " ", lines[0]) == (
        "corpus texts agreement top 20 coverage names label AUROC seconds"
    )
    for line, name, each in zip(lines[1:3], ("near", "far"), found, strict=True):
        assert line.startswith(str(world / name).ljust(width))
        assert line[width:].split()[:-1] == [
            str(each["texts"]),
            f"{each['rank_correlation']:.3f}",
            str(each["top_in_common"]),
            f"{each['coverage']:.4f}",
            f"{each['names_label']:.1%}",
            f"{100 * each['auroc']:.2f}",
        ]
    assert lines[3:] == [
        "",
        f"24 images; agreement: rank correlation of the scores with {world / 'near'}'s; "
        "top 20: how many of its 20 most anomalous are the same",
        "coverage: mean cosine of the captions retrieved; "
        "names label: share of the images with one that names their label",
        "seconds: reading the index, search and scoring; embedding and fitting served all",
    ]


def test_truth_is_a_file_or_what_labels_say(bliss, world, tmp_path):
    table = pq.read_table(world / "images" / "metadata" / "metadata_0.parquet")
    stray = [label == "wasp" for label in table["label"].to_pylist()]
    lines = [
        f"{path},{'yes' if s else 'no'}"
        for path, s in zip(table["image_path"].to_pylist(), stray, strict=True)
    ]
    (tmp_path / "truth.csv").write_text("\n".join(["path,is_stray", *lines]))
    normal = ("--normal", "ant", "--normal", "bee")
    by_file = facts(bliss, world, *normal, "--truth", tmp_path / "truth.csv")["corpora"]
    by_label = facts(bliss, world, *normal)["corpora"]
    assert [each["auroc"] for each in by_file] == [each["auroc"] for each in by_label]
    assert all(0.5 < each["auroc"] <= 1 for each in by_file)
    pq.write_table(
        pa.table({"path": table["image_path"], "is_stray": [not s for s in stray]}),
        tmp_path / "turned.parquet",
    )
    turned = facts(bliss, world, *normal, "--truth", tmp_path / "turned.parquet")["corpora"]
    for each, other in zip(turned, by_file, strict=True):
        assert each["auroc"] == pytest.approx(1 - other["auroc"])
    (tmp_path / "short.csv").write_text("\n".join(["path,is_stray", *lines[2:]]))
    short = compare(bliss, world, "--truth", tmp_path / "short.csv")
    assert short.code == 2
    assert f"short.csv does not say whether {table['image_path'][0]} is a stray, nor 1" in short.err
    (tmp_path / "odd.csv").write_text("path,is_stray\nx,perhaps\n")
    odd = compare(bliss, world, "--truth", tmp_path / "odd.csv")
    assert odd.code == 1 and "odd.csv says is_stray = 'perhaps' of x" in odd.err


def test_images_are_embedded_once_and_the_reference_is_fitted_once(
    bliss, collection, captions, tmp_path, monkeypatch
):
    lines = captions.read_text().splitlines()
    indexes = []
    for name, some in (("one", lines[:150]), ("two", lines[150:]), ("three", lines[::2])):
        (tmp_path / f"{name}.txt").write_text("\n".join(some))
        build = ("index", "build", tmp_path / f"{name}.txt", "--model", "demo")
        assert bliss(*build, "-o", tmp_path / name).code == 0
        indexes += ["--index", tmp_path / name]
    counted = {"images": 0, "texts": 0, "fits": 0}
    load = indexer.load_encoder

    def counting(choice):
        encoder = load(choice)

        def images(pixels):
            counted["images"] += len(pixels)
            return encoder.encode_images(pixels)

        def texts(every):
            counted["texts"] += len(every)
            return encoder.encode_texts(every)

        return dataclasses.replace(encoder, encode_images=images, encode_texts=texts)

    from blissaudit.audit.fitting import reference as reference_fit

    fit = reference_fit.class_moments

    def fitting(*given):
        counted["fits"] += 1
        return fit(*given)

    monkeypatch.setattr(indexer, "load_encoder", counting)
    monkeypatch.setattr(reference_fit, "class_moments", fitting)
    done = bliss("corpora", "compare", collection, *indexes, "--json")
    assert done.code == 0, done.err
    assert counted == {"images": 26, "texts": 3, "fits": 1}
    assert [each["texts"] for each in json.loads(done.out)["corpora"]] == [150, 150, 150]


def test_every_option_of_scoring_changes_the_numbers(bliss, world):
    plain = facts(bliss, world)["corpora"]
    for option in (("--k", 2), ("--lambda", 3), ("--exclude", "near-labels=0.99")):
        changed = facts(bliss, world, *option)["corpora"]
        assert [(each["coverage"], each["rank_correlation"], each["texts"]) for each in plain] != [
            (each["coverage"], each["rank_correlation"], each["texts"]) for each in changed
        ]


def test_a_fitted_reference_brings_its_words(bliss, world, tmp_path):
    fit = ("reference", "fit", "--embeddings", world / "images", "--index", world / "near")
    assert bliss(*fit, "-o", tmp_path / "reference").code == 0
    with_it = facts(bliss, world, "--reference", tmp_path / "reference")["corpora"]
    assert [each["texts"] for each in with_it] == [18, 20]
    refused = compare(bliss, world, "--reference", tmp_path / "reference", "--normal", "ant")
    assert refused.code == 2 and "a fitted reference brings its classes" in refused.err
    clean = facts(bliss, world, "--reference", world / "images")["corpora"]
    assert clean[1]["rank_correlation"] == facts(bliss, world)["corpora"][1]["rank_correlation"]


def test_one_index_is_nothing_to_compare(bliss, world):
    done = bliss("corpora", "compare", world / "images", "--index", world / "near")
    assert done == (
        2,
        "",
        "\nbliss: one index was given. Needed: two or more to compare. Add --index DIR.\n",
    )
