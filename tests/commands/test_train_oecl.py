"""`bliss train oecl`, and scoring with what it made: whole outputs, options, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.demo.scenes import render_scene, sample_scene
from blissaudit.indexer.images.embedded import open_embedded_images
from blissaudit.scorer.scores.trained import load_head
from blissaudit.training.oecl import OeclResult, views_of
from blissaudit.training.oecl_training import TrainedHead
from PIL import Image

OTHERS = ("balloon", "cactus", "key", "moon")
D = 16
QUICK = ("--epochs", 6, "--views", 2, "--model", "demo", "--workers", 1)
MODEL_LINE = "model demo, device cpu (chosen), precision fp32 (chosen), batch 64 (chosen)\n"


@pytest.fixture(scope="module")
def strange(tmp_path_factory) -> Path:
    """Five pictures each of four kinds that `collection` has not."""
    rng, root = np.random.default_rng(8), tmp_path_factory.mktemp("strange") / "strange"
    for kind in OTHERS:
        (root / kind).mkdir(parents=True)
        for number in range(5):
            render_scene(sample_scene(rng, kind), 64).save(root / kind / f"{number}.png")
    return root


def embeddings(folder: Path, rows: np.ndarray, labels: list[str] | None = None) -> Path:
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / "img_emb" / "img_emb_0.npy", rows.astype(np.float32))
    columns = {"image_path": [f"{folder.name}/{row}" for row in range(len(rows))]}
    if labels:
        columns["label"] = labels
    pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0.parquet")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    """Embeddings: normals of two classes, outliers elsewhere, a test set of both, texts."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    axes = np.eye(D)

    def around(*centres, n):
        rows = np.repeat([axes[c] + axes[9] for c in centres], n, axis=0)
        return rows + 0.15 * rng.standard_normal((len(centres) * n, D))

    made = {
        "normals": embeddings(root / "normals", around(0, 1, n=15), ["ant"] * 15 + ["bee"] * 15),
        "outliers": embeddings(root / "outliers", around(2, 3, n=15)),
        "test": embeddings(
            root / "test", around(0, 1, 2, n=10), ["ant"] * 10 + ["bee"] * 10 + ["cat"] * 10
        ),
    }
    (root / "texts" / "text_emb").mkdir(parents=True)
    (root / "texts" / "metadata").mkdir()
    texts = np.concatenate([axes[:3] + axes[9], rng.standard_normal((20, D))])
    np.save(root / "texts" / "text_emb" / "text_emb_0.npy", texts.astype(np.float32))
    captions = [f"This is a photo of a {name}" for name in ("ant", "bee", "cat")]
    captions += [f"text {row}" for row in range(20)]
    pq.write_table(
        pa.table({"caption": captions}), root / "texts" / "metadata" / "metadata_0.parquet"
    )
    return {**made, "texts": root / "texts", "root": root}


@pytest.fixture(scope="module")
def index(bliss, sets) -> Path:
    folder = sets["root"] / "index"
    assert bliss("index", "build", "--embeddings", sets["texts"], "-o", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def head(bliss, sets) -> Path:
    folder = sets["root"] / "head"
    asked = ("train", "oecl", sets["normals"], "--outliers", sets["outliers"], "--epochs", 100)
    assert bliss(*asked, "-o", folder).code == 0
    return folder


IMAGES_OUT = """\
Trained on 21 normal and 15 outlier images, 1 unreadable, for 6 epochs.
Contrastive loss {0} to {1}, outlier length {2} to {3}, floor {4} to {5}: {folder}/losses.csv
Held out: 5 normal and 5 outlier images, the outliers being whole classes: {held}

score                 AUROC
oecl, 2 views       {6:>7}
oecl                {7:>7}
outlier_logistic    {8:>7}
outlier_knn_ratio   {9:>7}

{verdict}
Score with it: bliss audit … --score oecl --trained {folder}
"""


def test_the_whole_output_for_image_files(bliss, collection, strange, tmp_path):
    outliers, folder = shutil.copytree(strange, tmp_path / "outliers"), tmp_path / "head"
    (outliers / "key" / "broken.png").write_bytes(b"no picture")
    asked = ("train", "oecl", collection, "--outliers", outliers, "-o", folder, *QUICK)
    outcome = bliss(*asked)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((folder / "manifest.json").read_text())
    curve = (folder / "losses.csv").read_text().splitlines()[1:]
    ends = [[f"{float(v):.3f}" for v in curve[row].split(",")[1:]] for row in (0, -1)]
    losses = [value for pair in zip(*ends, strict=True) for value in pair]
    names = ("oecl, 2 views", "oecl", "outlier_logistic", "outlier_knn_ratio")
    shown = [f"{100 * manifest['auroc'][name]:.2f}" for name in names]
    held = manifest["held_out"].rpartition(": ")[2]
    assert held in OTHERS
    assert outcome.out == IMAGES_OUT.format(
        *losses, *shown, folder=folder, held=held, verdict=manifest["verdict"]
    )
    assert outcome.err.startswith(MODEL_LINE)
    assert "images embedded: 26 of 26" in outcome.err
    assert "epochs trained: 6 of 6" in outcome.err
    assert len(curve) == 6
    assert manifest["kind"] == "oecl-head" and manifest["model"]["weights_sha256"]
    assert manifest["counts"] == {
        "normals": 21, "normals_held_out": 5, "outliers": 15, "outliers_held_out": 5,
    }  # fmt: skip
    assert manifest["settings"]["alpha"] == 1.0 and manifest["request"]["views"] == 2
    assert set(manifest["checksums"]) == {"head.safetensors", "losses.csv"}
    assert (folder / "views-normals" / "manifest.json").is_file()
    first = (folder / "head.safetensors").read_bytes()
    assert bliss(*asked).code == 0
    assert (folder / "head.safetensors").read_bytes() == first
    assert bliss(*asked, "--fail-on", "unreadable=0").code == 3
    refused = bliss(*asked, "--alpha", 0.5)
    assert (refused.code, refused.out) == (2, "")
    assert "was made with other settings (settings differ)" in refused.err
    assert bliss(*asked, "--alpha", 0.5, "--overwrite").code == 0
    assert (folder / "head.safetensors").read_bytes() != first


def test_turned_copies_as_outliers_and_an_audit_with_the_head(bliss, collection, tmp_path):
    folder = tmp_path / "head"
    outcome = bliss("train", "oecl", collection, "--self", "-o", folder, *QUICK)
    assert outcome.code == 0, outcome.err
    assert "Trained on 42 normal and 42 outlier images, 0 unreadable" in outcome.out
    assert (
        "Held out: 10 normal and 10 outlier images, the outliers being turned copies" in outcome.out
    )
    normals, outliers = (load_head(folder).arrays[name] for name in ("normals", "outliers"))
    assert len(normals) == len(outliers) == 42
    cached = open_embedded_images(folder / "views-normals", "cache")
    assert cached.model["preprocessing"]["views"]["quarter_turns"] == [0, 1, 2, 3]
    turns = views_of(cached.vectors, 4, 2)[:, :, 0]
    kept = [i for i, x in enumerate(turns) if (np.abs(normals - x[0]).max(axis=1) < 1e-6).any()]
    np.testing.assert_allclose(normals.reshape(21, 2, -1), turns[kept][:, :2], atol=1e-6)
    np.testing.assert_allclose(outliers.reshape(21, 2, -1), turns[kept][:, 2:], atol=1e-6)
    captions = tmp_path / "captions.txt"
    captions.write_text("a red key\na cactus\na moon at night\n")
    asked = ("audit", collection, "--corpus", captions, "--k", 2, "--model", "demo")
    outcome = bliss(*asked, "--score", "oecl", "--trained", folder, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    vectors = np.load(tmp_path / "out" / "images" / "img_emb" / "img_emb_0.npy")
    head = {name: array.astype(float) for name, array in load_head(folder).arrays.items()}
    hidden = np.maximum(vectors @ head["first"].T + head["first_bias"], 0)
    lengths = np.linalg.norm(hidden @ head["second"].T + head["second_bias"], axis=1)
    np.testing.assert_allclose(table["score"], -lengths, rtol=1e-5)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["request"]["trained"] == [str(folder)] and run["settings"]["score"] == "oecl"


EVAL_OUT = """\
folders: 1 draw, seed 0, 2 normal classes, 30 reference and 35 test images a draw, \
42.9 % anomalies
"""


def test_evaluating_a_head_on_embeddings(bliss, sets, index, head):
    rng = np.random.default_rng(5)
    rows = np.eye(D)[[2] * 15] + np.eye(D)[9] + 0.15 * rng.standard_normal((15, D))
    odd = embeddings(sets["root"] / "odd", rows)
    asked = (
        *("eval", "--reference", sets["normals"], "--test", sets["test"], "--index", index),
        *("--ood", f"odd={odd}", "--protocol", "folders", "-o", sets["root"] / "eval", "--k", 3),
        "--overwrite",
    )
    names = ("oecl", "outlier_logistic", "outlier_knn_ratio", "maximum_cosine")
    scores = [part for name in names for part in ("--score", name)]
    outcome = bliss(*asked, *scores, "--trained", head)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(EVAL_OUT)
    facts = json.loads((sets["root"] / "eval" / "eval.json").read_text())
    found = {row["score"]: row["auroc"] for row in facts["table"]}
    assert set(found) == set(names) and min(found[name] for name in names[:3]) > 0.95
    assert set(facts["head"]) == {"head.safetensors", "losses.csv"}
    outcome = bliss(*asked, "--score", "oecl")
    assert outcome.code == 2 and "oecl was used without a trained head" in outcome.err
    outcome = bliss(*asked, "--score", "knn", "--trained", head)
    assert outcome.code == 2 and "--trained was given with knn" in outcome.err


def test_a_head_of_another_model_is_refused(bliss, sets, index, tmp_path):
    rng = np.random.default_rng(1)
    narrow = [
        embeddings(tmp_path / name, rng.standard_normal((30, 8))) for name in ("normals", "far")
    ]
    head = tmp_path / "head"
    trained = bliss("train", "oecl", narrow[0], "--outliers", narrow[1], "-o", head, "--epochs", 2)
    assert trained.code == 0, trained.err
    message = f"{head} was made with an unnamed model, 8 dimensions and"
    audit = ("audit", "--embeddings", sets["test"], "--index", index, "-o", tmp_path / "out")
    outcome = bliss(*audit, "--score", "oecl", "--trained", head)
    assert outcome.code == 1 and message in outcome.err
    asked = ("eval", "--reference", sets["normals"], "--test", sets["test"], "--index", index)
    outcome = bliss(*asked, "--score", "oecl", "--trained", head, "-o", tmp_path / "eval")
    assert outcome.code == 1 and message in outcome.err
    mixed = bliss(
        "train", "oecl", sets["normals"], "--outliers", narrow[1], "-o", tmp_path / "mixed"
    )
    assert mixed.code == 1 and "Needed: both from the same model and weights" in mixed.err


@pytest.fixture(scope="module")
def trained(bliss, sets):
    """`trained(*options)` gives the arrays of a head trained on the embeddings."""

    def arrays(*options: object) -> dict[str, np.ndarray]:
        folder = sets["root"] / "options"
        asked = ("train", "oecl", sets["normals"], "--outliers", sets["outliers"], "-o", folder)
        outcome = bliss(*asked, "--epochs", 5, *options, "--overwrite")
        assert outcome.code == 0, outcome.err
        return dict(load_head(folder).arrays)

    return arrays


@pytest.fixture(scope="module")
def usual(trained):
    return trained()


@pytest.mark.parametrize(
    "options",
    [("--alpha", 0.1), ("--floor", 9), ("--epochs", 6), ("--minutes", 1e-9), ("--seed", 1)],
    ids=lambda options: options[0],
)
def test_every_option_changes_the_head(trained, usual, options):
    assert np.abs(trained(*options)["second"] - usual["second"]).max() > 1e-6


def test_views_change_the_head(bliss, collection, strange, tmp_path):
    found = []
    for views in (1, 3):
        folder = tmp_path / str(views)
        asked = ("train", "oecl", collection, "--outliers", strange, "-o", folder)
        outcome = bliss(*asked, *QUICK, "--views", views, "--epochs", 2)
        assert outcome.code == 0, outcome.err
        assert ("oecl, 3 views" in outcome.out) == (views == 3)
        found.append(load_head(folder).arrays)
    np.testing.assert_allclose(found[0]["normals"], found[1]["normals"], atol=1e-5)
    assert np.abs(found[0]["second"] - found[1]["second"]).max() > 1e-6


def test_outliers_as_embeddings_beside_normal_images(bliss, collection, strange, tmp_path):
    made = tmp_path / "made"
    first = bliss("train", "oecl", collection, "--outliers", strange, "-o", made, *QUICK)
    assert first.code == 0, first.err
    vectors = np.concatenate([load_head(made).arrays["outliers"], np.eye(128)[:9]])
    folder = embeddings(tmp_path / "strange", vectors)
    mixed = bliss(
        "train", "oecl", collection, "--outliers", folder, "-o", tmp_path / "mixed", *QUICK
    )
    assert mixed.code == 0, mixed.err
    assert "Trained on 21 normal and 19 outlier images" in mixed.out
    assert "chosen at random" in mixed.out


def test_bad_requests(bliss, sets, collection, strange, tmp_path):
    rng = np.random.default_rng(2)
    spoiled = rng.standard_normal((30, D))
    spoiled[4, 2], spoiled[6] = np.nan, 0
    copied = shutil.copytree(strange, tmp_path / "copied")
    shutil.copy(collection / "boat" / "3.png", copied / "key" / "9.png")
    with Image.open(collection / "apple" / "1.png") as picture:
        picture.save(copied / "moon" / "saved-again.bmp")
    normal = np.load(sets["normals"] / "img_emb" / "img_emb_0.npy")
    near = np.concatenate([rng.standard_normal((20, D)), normal[7:8] * 1.7])
    cases = [
        ((sets["normals"],), 2, "neither of --outliers and --self were given"),
        ((sets["normals"], "--self", "--outliers", "x"), 2, "both of --outliers and --self"),
        ((sets["normals"], "--self"), 2, f"{sets['normals']} holds embeddings, and no outliers"),
        (
            (sets["normals"], "--outliers", embeddings(tmp_path / "spoiled", spoiled)), 1,
            f"2 embeddings in {tmp_path / 'spoiled'} are zero or not finite (the first: spoiled/4)",
        ),
        (
            (sets["normals"], "--outliers", embeddings(tmp_path / "near", near)), 1,
            f"1 outlier image in {tmp_path / 'near'} is also among the normal ones "
            "(the first: near/20)",
        ),
        (
            (collection, "--outliers", copied, *QUICK), 1,
            f"2 outlier images in {copied} are also among the normal ones (the first: key/9.png)",
        ),
        (
            (sets["normals"], "--outliers", embeddings(tmp_path / "few", near[:6])), 1,
            "there are 6 images, of which 1 would be held out",
        ),
        ((sets["normals"], "--outliers", sets["outliers"], "--alpha", -1), 2, "alpha -1.0 was"),
        ((sets["normals"], "--outliers", sets["outliers"], "--epochs", 0), 2, "0 epochs was"),
        ((collection, "--self", "--views", 0), 2, "0 views were asked for"),
    ]  # fmt: skip
    for number, (asked, code, message) in enumerate(cases):
        outcome = bliss("train", "oecl", *asked, "-o", tmp_path / f"out-{number}")
        assert (outcome.code, outcome.out) == (code, ""), (asked, outcome.err)
        assert message in outcome.err, asked
        assert not (tmp_path / f"out-{number}" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (0.9, 0.95, "The baseline outlier_knn_ratio wins, by 5.00: use it instead of oecl."),
        (0.95, 0.95, "The baseline outlier_knn_ratio is as good as oecl, and simpler."),
        (0.97, 0.95, "oecl is ahead of the best baseline, outlier_knn_ratio, by 2.00."),
    ],
)
def test_the_verdict_is_plain(ours, theirs, verdict):
    values = {"oecl, 8 views": ours, "oecl": 0.5, "outlier_logistic": 0.6}
    result = OeclResult(
        TrainedHead({}, np.zeros((1, 3))), {}, "", {**values, "outlier_knn_ratio": theirs}, ()
    )
    assert result.verdict == verdict
