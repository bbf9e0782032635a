"""`bliss train clipn`, `clipn-import`, and --trained in audit and eval: whole outputs, options."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from blissaudit.artefacts import write_manifest
from blissaudit.demo.scenes import caption, render_scene, sample_scene
from blissaudit.errors import BlissError
from blissaudit.indexer.encode.encoder import ModelChoice
from blissaudit.indexer.encode.open_clip import load_encoder, load_model
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.training.clipn_folder import open_clipn
from blissaudit.training.clipn_tower import (
    NoTower,
    encode_no,
    load_no_tower,
    make_no_tower,
    no_vectors,
)

QUICK = ("--model", "demo", "--steps", "4", "--rate", "0.002", "--pairs", "32")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """48 pictures, a csv of their paths and captions with one record empty and one file broken."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(7)
    (folder / "pictures").mkdir()
    rows = []
    for number in range(48):
        scene = sample_scene(rng)
        render_scene(scene, 64).save(folder / "pictures" / f"{number}.png")
        rows.append((f"{number}.png", caption(scene, rng), "about nothing"))
    rows += [("0.png", "a second caption of it", "x"), ("1.png", " ", "x"), ("bad.png", "bad", "x")]
    (folder / "pictures" / "bad.png").write_bytes(b"no picture")
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "caption", "other"), *rows])
    return folder


@pytest.fixture(scope="module")
def made(bliss, tmp_path_factory):
    """A CLIPN of 192 drawn pairs, and what training it printed."""
    folder = tmp_path_factory.mktemp("clipn") / "made"
    outcome = bliss("train", "clipn", "--captions", "demo:192", *QUICK, "-o", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome


def train(bliss, table, folder, *more):
    return bliss(
        *("train", "clipn", "--captions", table / "pairs.csv", "--image-root", table / "pictures"),
        *(*QUICK, "--workers", "1", "-o", folder, *more),
    )


def tower(folder):
    return safetensors.numpy.load_file(open_clipn(folder).weights)


def test_training_says_what_it_did_and_writes_all_of_it(made):
    folder, outcome = made
    manifest = json.loads((folder / "manifest.json").read_text())
    losses = manifest["losses"]
    counts = manifest["counts"]
    assert outcome.out.splitlines() == [
        f"192 pairs of 192 images and {counts['captions']} captions; unreadable: 0, empty: 0",
        f"best after {manifest['steps']} of 4 steps: losses {losses['image_text']:.3f} "
        f"(image-text) + {losses['text']:.3f} (text), {losses['held_out']:.3f} on held-out pairs",
        f"CLIPN: {folder}",
    ]
    first, *progress = outcome.err.splitlines()
    assert first.startswith("model demo, device cpu (chosen)")
    assert progress[-1].startswith("steps trained: 4 of 4")
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "curve.csv", "curve.svg", manifest["weights"]
    }  # fmt: skip
    head, *points = (folder / "curve.csv").read_text().splitlines()
    assert head == "step,image_text,text,held_out" and len(points) == 4
    best = min(points, key=lambda line: float(line.split(",")[3]))
    assert int(best.split(",")[0]) == manifest["steps"] == losses["step"]
    assert (folder / "curve.svg").read_text().count("<polyline") == 3
    assert manifest["finished"] and manifest["source"] == "trained"
    assert manifest["captions"] == "demo:192"
    assert manifest["settings"] == {
        "steps": 4, "pairs": 32, "rate": 0.002, "seed": 0, "minutes": None
    }  # fmt: skip
    assert (
        manifest["model"]["weights_sha256"]
        == load_encoder(ModelChoice("demo")).facts["weights_sha256"]
    )


def test_the_same_command_gives_the_same_bytes(bliss, made, tmp_path):
    folder, _ = made
    again = ("train", "clipn", "--captions", "demo:192", *QUICK, "-o", tmp_path / "again")
    assert bliss(*again).code == 0
    name = open_clipn(folder).weights.name
    assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_what_is_saved_is_loaded_bit_for_bit(made, tmp_path):
    folder, _ = made
    loaded = load_model(ModelChoice("demo"))
    found = load_no_tower(loaded.model, open_clipn(folder).weights)
    for name, value in tower(folder).items():
        np.testing.assert_array_equal(found.state_dict()[name].numpy(), value)


def test_a_table_of_images_and_captions(bliss, table, tmp_path):
    outcome = train(bliss, table, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[0].endswith("unreadable: 1, empty: 1")
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts["pairs"] == 49 and counts["images"] == 48
    pq.write_table(parquet_of(table), table / "pairs.parquet")
    same = bliss(
        *("train", "clipn", "--captions", table / "pairs.parquet", *QUICK, "--workers", "1"),
        *("--image-root", table / "pictures", "-o", tmp_path / "parquet"),
    )
    assert same.code == 0, same.err
    for name, value in tower(tmp_path / "out").items():
        np.testing.assert_array_equal(tower(tmp_path / "parquet")[name], value)


def parquet_of(table):
    with open(table / "pairs.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(head)})


@pytest.fixture(scope="module")
def usual(bliss, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual") / "out"
    assert train(bliss, table, folder).code == 0
    return tower(folder)


@pytest.mark.parametrize(
    "more",
    [
        ("--steps", "2"),
        ("--pairs", "8"),
        ("--rate", "0.0005"),
        ("--seed", "1"),
        ("--column", "other", "--image-column", "path"),
        ("--minutes", "0.0000001"),
    ],
)
def test_every_option_changes_the_tower(bliss, table, usual, tmp_path, more):
    outcome = train(bliss, table, tmp_path / "out", *more)
    assert outcome.code == 0, outcome.err
    found = tower(tmp_path / "out")
    assert max(np.abs(found[name] - usual[name]).max() for name in found) > 1e-6


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--captions", "nothing.csv"), 2, "--captions nothing.csv was given. Needed: demo, or a"),
        (("--captions", "demo:1"), 2, "demo:N with N 2 or more"),
        (("--column", "nothing"), 2, "there is no column 'nothing'"),
        (("--image-column", "nothing"), 2, "there is no column 'nothing'"),
        (("--image-root", "elsewhere"), 2, "there is no 0.png in elsewhere"),
        (("--steps", "0"), 2, "--steps 0 was given"),
        (("--rate", "nan"), 2, "--rate nan was given"),
        (("--rate", "1e30"), 1, "the loss of step"),
        (("--model", "no-such"), 2, "model 'no-such' is unknown"),
    ],
)
def test_a_training_that_cannot_be_done(bliss, table, tmp_path, more, code, message):
    outcome = train(bliss, table, tmp_path / "out", *more)
    assert outcome.code == code and message in outcome.err


def test_too_many_unreadable_images_and_a_table_without_paths(bliss, table, tmp_path):
    outcome = train(bliss, table, tmp_path / "out", "--fail-on", "unreadable=0")
    assert outcome.code == 3 and "1 image could not be read" in outcome.err
    assert open_clipn(tmp_path / "out").manifest["finished"]
    (tmp_path / "words.csv").write_text("caption\na key\n")
    outcome = bliss("train", "clipn", "--captions", tmp_path / "words.csv", *QUICK, "-o", "x")
    assert outcome.code == 2 and "has no column image, image_path" in outcome.err


def test_a_finished_clipn_is_not_overwritten_unasked(bliss, made, table):
    folder, _ = made
    before = tower(folder)
    outcome = bliss("train", "clipn", "--captions", "demo:48", *QUICK, "-o", folder)
    assert outcome.code == 2 and "already holds" in outcome.err
    for name, value in tower(folder).items():
        np.testing.assert_array_equal(value, before[name])


def test_overwriting_leaves_one_tower(bliss, made, tmp_path):
    shutil.copytree(made[0], tmp_path / "copy")
    again = ("train", "clipn", "--captions", "demo:48", *QUICK, "-o", tmp_path / "copy")
    assert bliss(*again, "--overwrite").code == 0
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) == 1
    assert open_clipn(tmp_path / "copy").manifest["captions"] == "demo:48"


def checkpoint(path):
    """A synthetic one of the published layout over the demo's model."""
    loaded = load_model(ModelChoice("demo"))
    own = NoTower(loaded.model).state_dict()
    own["prompt_no"] = torch.full_like(own["prompt_no"], 0.1)
    own["prompt_no"][:, :, ::2] = -0.4
    state = {**loaded.model.state_dict(), **own}
    torch.save({"epoch": 10, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    return own


def test_a_published_checkpoint_is_imported(bliss, tmp_path):
    own = checkpoint(tmp_path / "clipn.pt")
    arguments = ("train", "clipn-import", tmp_path / "clipn.pt", "--model", "demo")
    outcome = bliss(*arguments, "-o", tmp_path / "out")
    assert outcome.code == 0 and outcome.out == f"CLIPN: {tmp_path / 'out'}\n"
    for name, value in tower(tmp_path / "out").items():
        np.testing.assert_array_equal(value, own[name].numpy())
    assert open_clipn(tmp_path / "out").manifest["source"]["name"] == "clipn.pt"
    outcome = bliss(*arguments, "-o", tmp_path / "out")
    assert outcome.code == 2 and "already holds" in outcome.err
    assert bliss(*arguments, "-o", tmp_path / "out", "--overwrite").code == 0


def audit(bliss, collection, index, folder, *more):
    return bliss("audit", collection, "--index", index, "-o", folder, "--top", "3", *more)


def scores_of(folder):
    return np.array(pq.read_table(folder / "scores.parquet").column("score"))


def test_audit_with_a_clipn(bliss, collection, index, made, tmp_path):
    """Whole output, and the scores from the definition."""
    name = ("--score", "clipn_atd", "--trained", made[0])
    outcome = audit(bliss, collection, index, tmp_path / "out", *name)
    assert outcome.code == 0, outcome.err
    head, *rest = outcome.out.splitlines()
    assert head.split() == ["score", "path", "nearest", "class", "resembles"]
    assert "ranked by clipn_atd; nearest class and captions are BLISS's" in rest
    found = pq.read_table(tmp_path / "out" / "scores.parquet")
    encoder = load_encoder(ModelChoice("demo"))
    texts = [f"This is a photo of a {kind}" for kind in ("apple", "boat", "house")]
    loaded = load_model(ModelChoice("demo"))
    no = encode_no(
        load_no_tower(loaded.model, open_clipn(made[0]).weights), loaded.tokenizer(texts), 2
    )
    images = read_image_embeddings(tmp_path / "out" / "images").vectors.astype(float)
    s, n = images @ encoder.encode_texts(texts).T.astype(float), images @ no.T.astype(float)
    weights = np.exp(100 * s) / np.exp(100 * s).sum(axis=1, keepdims=True)
    expected = (weights / (1 + np.exp(100 * (s - n)))).sum(axis=1)
    np.testing.assert_allclose(np.array(found.column("score")), expected, rtol=2e-3, atol=1e-9)
    asked = json.loads((tmp_path / "out" / "run.json").read_text())
    assert str(made[0]) in json.dumps(asked)
    other = ("--score", "clipn_ctw", "--trained", made[0])
    assert audit(bliss, collection, index, tmp_path / "ctw", *other).code == 0
    assert np.abs(scores_of(tmp_path / "ctw") - scores_of(tmp_path / "out")).max() > 1e-9


def test_prompts_and_the_clipn_matter_to_an_audit(bliss, collection, index, made, tmp_path):
    plain = ("--score", "clipn_atd", "--trained", made[0])
    assert audit(bliss, collection, index, tmp_path / "plain", *plain).code == 0
    checkpoint(tmp_path / "clipn.pt")
    bliss("train", "clipn-import", tmp_path / "clipn.pt", "--model", "demo", "-o", tmp_path / "b")
    for number, more in enumerate(
        (
            ("--score", "clipn_atd", "--trained", tmp_path / "b"),
            (*plain, "--prompt", "a drawing of a {}"),
            (*plain, "--prompt", "a drawing of a {}", "--prompt", "a photo of a {}"),
            (*plain, "--class-prompt", "boat=a small picture with a boat"),
        )
    ):
        folder = tmp_path / f"other-{number}"
        assert audit(bliss, collection, index, folder, *more).code == 0
        assert np.abs(scores_of(folder) - scores_of(tmp_path / "plain")).max() > 1e-6, more


def test_a_fitted_reference_brings_its_prompts(bliss, collection, index, made, tmp_path):
    fit = ("reference", "fit", collection, "--model", "demo", "-o", tmp_path / "fitted")
    assert bliss(*fit, "--prompt", "a drawing of a {}", "--prompt", "a {}").code == 0
    named = ("--score", "clipn_ctw", "--trained", made[0])
    against = ("--reference", tmp_path / "fitted")
    assert audit(bliss, collection, index, tmp_path / "saved", *named, *against).code == 0
    worded = ("--prompt", "a drawing of a {}", "--prompt", "a {}")
    assert audit(bliss, collection, index, tmp_path / "own", *named, *worded).code == 0
    np.testing.assert_array_equal(scores_of(tmp_path / "saved"), scores_of(tmp_path / "own"))


def test_an_audit_that_cannot_be_done(bliss, collection, index, made, tmp_path):
    for more, code, message in (
        (
            ("--score", "clipn_atd"),
            2,
            'clipn_atd was used without the labels\' "no" vectors. Needed: a trained',
        ),
        (
            ("--trained", made[0]),
            2,
            "--trained was given with the score bliss, which does not use it",
        ),
        (
            ("--score", "clipn_ctw", "--trained", index),
            1,
            f"--trained {index} was given, and nothing that `bliss train` made is there",
        ),
        (
            ("--score", "clipn_ctw", "--trained", tmp_path),
            1,
            f"--trained {tmp_path} was given, and nothing that `bliss train` made is there",
        ),
    ):
        outcome = audit(bliss, collection, index, tmp_path / "out", *more)
        assert outcome.code == code and message in outcome.err, outcome.err


def test_eval_with_a_clipn(bliss, collection, index, made, tmp_path):
    arguments = (
        *("eval", "--reference", collection, "--test", collection, "--index", index),
        *("--protocol", "leave-one-out", "--model", "demo", "--workers", "1"),
        *("--score", "clipn_ctw", "--score", "maximum_cosine"),
    )
    outcome = bliss(*arguments, "--trained", made[0], "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "| clipn_ctw |" in outcome.out
    facts = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert facts["clipn"]["weights"] == open_clipn(made[0]).weights.name
    assert set(facts["scores"]) == {"clipn_ctw", "maximum_cosine"} and not facts["skipped"]
    outcome = bliss(*arguments, "-o", tmp_path / "without")
    facts = json.loads((tmp_path / "without" / "eval.json").read_text())
    assert set(facts["scores"]) == {"maximum_cosine"} and "clipn" not in facts
    assert "Add --trained DIR" in facts["skipped"]["clipn_ctw"]


def test_vectors_are_cached_by_clipn_and_prompts(made, tmp_path, monkeypatch):
    monkeypatch.setenv("BLISS_CACHE", str(tmp_path))
    clipn, choice = open_clipn(made[0]), ModelChoice()
    prompts = [["a key"], ["a boat", "one boat"]]
    first = no_vectors(clipn, prompts, clipn.model, choice)
    loaded = load_model(ModelChoice("demo"))
    own = encode_no(
        load_no_tower(loaded.model, clipn.weights),
        loaded.tokenizer(["a key", "a boat", "one boat"]),
        3,
    ).astype(float)
    both = own[1] + own[2]
    np.testing.assert_allclose(first, [own[0], both / np.linalg.norm(both)], atol=1e-6)
    (cached,) = (tmp_path / "clipn").iterdir()
    monkeypatch.setattr("blissaudit.indexer.encode.open_clip.load_model", None)
    np.testing.assert_array_equal(no_vectors(clipn, prompts, clipn.model, choice), first)
    monkeypatch.undo()
    monkeypatch.setenv("BLISS_CACHE", str(tmp_path))
    cached.write_bytes(cached.read_bytes()[:90])
    np.testing.assert_array_equal(no_vectors(clipn, prompts, clipn.model, choice), first)
    no_vectors(clipn, prompts[:1], clipn.model, choice)
    assert len(list((tmp_path / "clipn").iterdir())) == 2


def test_a_changed_or_foreign_clipn_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setenv("BLISS_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(made[0], tmp_path / "copy"))
    clipn = open_clipn(folder)
    other = {**clipn.model, "weights_sha256": "0" * 64}
    with pytest.raises(
        BlissError, match=r"the images' index was made with .* weights 000000000000"
    ):
        no_vectors(clipn, [["a key"]], other, ModelChoice())
    content = clipn.weights.read_bytes()
    clipn.weights.write_bytes(content[:1000])
    with pytest.raises(BlissError, match="does not match the checksum"):
        open_clipn(folder)
    rest = {
        k: v for k, v in clipn.manifest.items()
        if k not in ("checksums", "kind", "format_version")
    }  # fmt: skip
    write_manifest(folder, "clipn", [clipn.weights.name], **rest)
    with pytest.raises(BlissError, match="could not be read"):
        no_vectors(open_clipn(folder), [["a key"]], clipn.model, ModelChoice())
    clipn.weights.write_bytes(content)
    write_manifest(folder, "clipn", [clipn.weights.name], **{**rest, "model": other})
    with pytest.raises(BlissError, match="the model given was made with"):
        no_vectors(open_clipn(folder), [["a key"]], other, ModelChoice())


def test_a_tower_with_a_broken_number_is_refused(tmp_path):
    loaded = load_model(ModelChoice("demo"))
    state = make_no_tower(loaded.model, loaded.tokenizer(["a"])).state_dict()
    state = {name: value.numpy().copy() for name, value in state.items()}
    state["ln_final_no.bias"][3] = np.nan
    safetensors.numpy.save_file(state, tmp_path / "t.safetensors")
    with pytest.raises(BlissError, match=r"ln_final_no\.bias with numbers that are not finite"):
        load_no_tower(loaded.model, tmp_path / "t.safetensors")
