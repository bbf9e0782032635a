"""`bliss index tune`: what it prints, what it stores, and that a tuned index needs no flags."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.evaluation import index_tuning
from blissaudit.evaluation.tuning import settings_of
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.search.kinds import SearchChoice, candidate_settings
from helpers import small_worlds as small

M, D = 1500, 16
KIND = "IVF16,SQ8"


@pytest.fixture(scope="module")
def made(tmp_path_factory, bliss):
    """Images of three classes and an index of 1,500 texts with their prompts among them."""
    folder, rng = tmp_path_factory.mktemp("tune"), np.random.default_rng(0)
    centres = rng.standard_normal((3, D))
    rows = np.repeat(centres, 60, axis=0) + 1.2 * rng.standard_normal((180, D))
    labels = np.repeat(["ant", "bee", "cat"], 60).tolist()
    small.write_embeddings(folder / "images", "img", rows, label=labels)
    captions = [f"This is a photo of a {name}" for name in ("ant", "bee", "cat")]
    captions += [f"text {row}" for row in range(M - 3)]
    texts = np.vstack([centres, rng.standard_normal((M - 3, D))])
    small.write_embeddings(folder / "texts", "text", texts, caption=captions)
    assert (
        bliss("index", "build", "--embeddings", folder / "texts", "-o", folder / "index").code == 0
    )
    return folder


@pytest.fixture
def world(made, tmp_path):
    shutil.copytree(made, tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def clock(monkeypatch):
    """Each setting is 1.5 times as fast as the one measured before."""
    seconds = [0.18 / 1.5**number for number in range(30)]
    monkeypatch.setattr(index_tuning, "_seconds", lambda search: seconds.pop(0))


def tune(bliss, world, *more):
    return bliss(
        *("index", "tune", world / "index", "--images", world / "images", "--k", 5),
        *("--kind", KIND, "--min-recall", 0.9, "--text-queries", 60, *more),
    )


def manifest(world):
    return json.loads((world / "index" / "manifest.json").read_text())


def test_the_chosen_setting_is_the_indexs_own_from_then_on(bliss, world, clock):
    done = tune(bliss, world, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    chosen = facts["chosen"]
    assert chosen["kind"] == KIND and facts["stored"]
    stored = manifest(world)["search"]
    assert (stored["kind"], stored["rows"]) == (KIND, M)
    assert stored["parameters"] == stored["parameters"] | chosen["parameters"]
    assert (world / "index" / stored["file"]).is_file()
    images = read_image_embeddings(world / "images").vectors
    tuned = search(open_index(world / "index"), images, 5)
    exact = search(open_index(world / "index", SearchChoice(kind="exact")), images, 5)
    recall = np.mean(tuned.similarity >= exact.similarity[:, -1:])
    one = next(s for s in facts["settings"] if s["parameters"] == chosen["parameters"])
    assert recall == pytest.approx((one["recall"] + one["recall_first"]) / 2)
    audit = ("audit", "--embeddings", world / "images", "--index", world / "index", "--k", 5)
    assert bliss(*audit, "-o", world / "out").code == 0
    rows = pq.read_table(world / "out" / "scores.parquet")["caption_rows"].to_pylist()
    assert rows == tuned.rows.tolist()
    assert bliss("index", "verify", world / "index").code == 0


def test_lists_laid_out_by_the_images_are_stored_searched_and_made_again(bliss, world, clock):
    kind = f"Images,{KIND}"
    done = tune(bliss, world, "--kind", kind, "--min-recall", 0.3, "--json")
    facts = json.loads(done.out)
    assert {setting["kind"] for setting in facts["settings"]} == {"exact", KIND, kind}
    assert facts["chosen"]["kind"] == kind  # the later, the faster by this clock
    stored = manifest(world)["search"]
    assert stored["kind"] == kind
    images = read_image_embeddings(world / "images").vectors
    tuned = search(open_index(world / "index"), images, 5)
    exact = search(open_index(world / "index", SearchChoice(kind="exact")), images, 5)
    one = next(s for s in facts["settings"] if s["parameters"] == facts["chosen"]["parameters"]
               and s["kind"] == kind)  # fmt: skip
    recall = np.mean(tuned.similarity >= exact.similarity[:, -1:])
    assert recall == pytest.approx((one["recall"] + one["recall_first"]) / 2)
    assert bliss("index", "kind", world / "index", kind, "--set", "nprobe=16").code == 0
    whole = search(open_index(world / "index"), images, 5)
    assert np.mean(whole.rows == exact.rows) > 0.99
    (world / "index" / stored["file"]).write_bytes(b"x")
    failed = bliss(
        "index", "search", world / "index", "--image", world / "images", "--model", "demo"
    )
    damaged = bliss("audit", "--embeddings", world / "images", "--index", world / "index")
    assert failed.code and damaged.code == 1
    assert f"bliss index tune {world / 'index'} --images DIR --kind {kind}" in damaged.err


def test_the_whole_screen_and_a_dry_run_leaves_all_as_it_was(bliss, world, clock):
    before = {path: path.read_bytes() for path in world.rglob("*") if path.is_file()}
    done = tune(bliss, world, "--dry-run", "--text-queries", 40)
    assert {path: path.read_bytes() for path in world.rglob("*") if path.is_file()} == before
    lines = done.out.splitlines()
    assert lines[0] == (
        "the 5 nearest captions of 180 images against exact search: "
        "chosen on 90 of them, recall of the 90 held out"
    )
    settings = settings_of([KIND], M, D)
    assert len(settings) == 5
    shown = [line.removeprefix("*").removeprefix("-").split() for line in lines[4 : 5 + 5]]
    assert [line[0] for line in shown] == ["exact", *[KIND] * 5]
    assert [f"nprobe={setting['nprobe']}" for _, setting in settings] == [
        part for line in shown for part in line if part.startswith("nprobe")
    ]
    assert lines[-4:-1] == [
        "captions: 40 of the index's own, each left out of its own answer",
        "scores: BLISS against 3 classes as labelled, each image left out",
        lines[-2],
    ]
    assert lines[-2] == (
        f"chosen: {KIND} candidates=2 nprobe=16, the fastest whose recall is 0.9 or more: 1.0000 "
        "held out, at least 0.9673"
    )
    assert lines[-1] == "--dry-run: nothing was stored"
    assert [line.split(",")[0] for line in done.err.splitlines()] == ["settings measured: 6 of 6"]


def test_exact_stays_where_none_is_good_enough_and_replaces_what_was_there(bliss, world, clock):
    assert tune(bliss, world).code == 0
    assert manifest(world)["search"]["kind"] == KIND
    done = tune(bliss, world, "--min-recall", 0.99)
    assert done.code == 0
    assert done.out.splitlines()[-2:] == [
        "chosen: exact. 90 held-out images cannot show a recall of 0.99: that needs 299, even "
        "where each finds all its captions",
        f"stored in {world / 'index'}",
    ]
    assert manifest(world)["search"] == {"kind": "exact"}
    assert not list((world / "index" / "search").glob("*.faiss"))


def test_images_and_a_model_give_prompts_of_their_own(bliss, collection, index, tmp_path, clock):
    shutil.copytree(index, tmp_path / "index")
    done = bliss(
        *("index", "tune", tmp_path / "index", "--images", collection, "--dry-run"),
        *("--kind", "SQ8", "--kind", "HNSW8"),
    )
    assert done.code == 0, done.err
    assert "scores: BLISS against 3 classes as labelled, each image left out" in done.out
    assert "SQ8" in done.out and "HNSW8" in done.out
    assert done.err.splitlines()[0].startswith("model demo")


def test_options_change_what_is_measured(bliss, world, clock, monkeypatch):
    def facts(*more):
        seconds = [0.18 / 1.5**number for number in range(30)]
        monkeypatch.setattr(index_tuning, "_seconds", lambda search: seconds.pop(0))
        return json.loads(tune(bliss, world, "--dry-run", "--json", *more).out)

    plain = facts()
    assert plain == facts() | {"settings": [
        now | {name: then[name] for name in ("peak_bytes", "build_seconds")}
        for now, then in zip(facts()["settings"], plain["settings"], strict=True)
    ]}  # fmt: skip
    few = facts("--image-queries", 50, "--text-queries", 9, "--k", 3)
    assert few["image_queries"] == {"chosen_on": 25, "held_out": 25}
    assert (few["text_queries"], few["k"]) == (9, 3)
    column = [one["recall"] for one in plain["settings"]]
    assert column != [one["recall"] for one in facts("--seed", 1)["settings"]]
    heavy = [one["score_max"] for one in facts("--lambda", 5)["settings"]]
    assert heavy[1] > 2 * plain["settings"][1]["score_max"]
    worded = facts("--class-prompt", "ant=text 5")["settings"]
    assert worded[1]["score_mean"] != plain["settings"][1]["score_mean"]
    assert "mean images in place of prompts" in facts("--prompt", "{} here")["reference"]


def test_kinds_that_are_named_and_kinds_worth_a_try():
    usual = [setting for setting in candidate_settings(5000, 64) if setting[0] != "exact"]
    assert settings_of((), 5000, 64) == usual
    assert settings_of(("exact", "SQ8", "SQ8"), 5000, 64) == [s for s in usual if s[0] == "SQ8"]
    probes = [parameters["nprobe"] for _, parameters in settings_of(("IVF7,Flat",), 5000, 64)]
    assert probes == [1, 2, 4]
    breadths = [p["efSearch"] for _, p in settings_of(("HNSW12",), 5000, 64)]
    assert breadths == [32, 64, 128, 256, 512]
    assert len(settings_of(("SQ4",), 5000, 64)) == 1


def test_bad_requests_leave_the_index_alone(bliss, world):
    before = manifest(world)
    for more, code, words in (
        (("--min-recall", 2), 2, "a recall of 2.0 was asked for"),
        (("--kind", "Magic"), 2, "Magic"),
        (("--kind", "IVF9999,SQ8"), 2, "9,999 lists for 1,500 vectors"),
        (("--k", M), 2, f"k = {M + 1} was asked of an index of M = 1,500 texts"),
    ):
        done = tune(bliss, world, *more)
        assert (done.code, done.out) == (code, "") and words in done.err, done.err
    gone = bliss("index", "tune", world / "index", "--images", world / "nowhere")
    assert gone.code == 2 and "nowhere does not exist" in gone.err
    assert manifest(world) == before


def test_what_was_measured_is_shown_even_where_it_cannot_be_stored(
    bliss, world, clock, monkeypatch
):
    from blissaudit import indexer
    from blissaudit.errors import BlissError

    def full(*given):
        raise BlissError("the disk is full", "room", "Make some")

    monkeypatch.setattr(indexer, "install_structure", full)
    done = tune(bliss, world)
    assert done.code == 1 and "the disk is full" in done.err
    assert done.out.splitlines()[-1].startswith(f"chosen: {KIND}")
    assert manifest(world)["search"] == {"kind": "exact"}
