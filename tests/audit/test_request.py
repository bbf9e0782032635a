"""What an audit can refuse it refuses before any image is embedded or any index is built."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit import BlissError
from blissaudit.audit import request as request_module
from blissaudit.audit.classes import unmet_labels
from blissaudit.audit.folder import check_output
from blissaudit.errors import UsageError


@pytest.fixture
def nothing_embedded(monkeypatch):
    """Embedding images or captions fails the test."""

    def refuse(*given, **named):
        raise AssertionError("something was embedded")

    for name in ("embed_images", "build_index"):
        monkeypatch.setattr(request_module, name, refuse)


def write_embeddings(folder: Path, kind: str, vectors: np.ndarray) -> Path:
    for name in (f"{kind}_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / f"{kind}_emb" / f"{kind}_emb_0.npy", vectors)
    return folder


def image_embeddings(folder: Path, labels: list[str], vectors: np.ndarray | None = None) -> Path:
    """A folder of image embeddings: random ones of 64 dimensions, half those of the demo model."""
    if vectors is None:
        vectors = np.random.default_rng(5).standard_normal((len(labels), 64)).astype(np.float32)
    write_embeddings(folder, "img", vectors)
    paths = [f"{label}/{row}.png" for row, label in enumerate(labels)]
    table = pa.table({"image_path": paths, "label": labels})
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    return folder


def test_only_a_missing_column_is_answered_with_the_columns_that_are_there(tmp_path):
    table, pictures = tmp_path / "of.csv", tmp_path / "two.parquet"
    table.write_text("path,Part A,part_a\na.png,x,y\n")
    pq.write_table(pa.table({"left": [b"1"], "right": [b"2"], "part": ["x"]}), pictures)
    for spec, column, needed in (
        (table, "side", "one of path, Part A, part_a"),
        (table, "part-a", "one of Part A, part_a"),
        (pictures, "part", "a table or embeddings with it"),  # "one of them" is of its pictures
    ):
        with pytest.raises(UsageError, match=f"has no column '{column}'. Needed: {needed}"):
            request_module.column_of(str(spec), None, column)


def test_a_class_with_too_few_images_is_refused_first(
    bliss, collection, index, tmp_path, nothing_embedded
):
    few = shutil.copytree(collection, tmp_path / "few")
    for path in sorted((few / "house").iterdir())[2:]:
        path.unlink()
    refused = bliss(
        "audit", few, "--index", index, "-o", tmp_path / "own", "--fail-on", "small-classes"
    )
    assert refused.code == 1
    assert "class 'house' has 2 reference images. Needed: at least 3 in every class" in refused.err
    (sorted((few / "house").iterdir())[0]).unlink()
    against = ("--reference", few, "--index", index, "-o", tmp_path / "separate")
    refused = bliss("audit", collection, *against, "--fail-on", "small-classes")
    assert refused.code == 1
    assert "class 'house' has 1 reference image. Needed: at least 2 in every class" in refused.err
    nothing = ("--reference", few, "--normal", "house", "--index", index, "-o", tmp_path / "none")
    refused = bliss("audit", collection, *nothing)
    assert refused.code == 1 and "Needed: at least 2 in one class" in refused.err


def test_small_classes_are_set_aside_and_their_images_compared(bliss, collection, index, tmp_path):
    """Labels known before embedding (folders) and only after it (a tar), an unreadable image."""
    few, packed = tmp_path / "few", tmp_path / "few.tar"
    shutil.copytree(collection, few)
    for path in sorted((few / "house").iterdir())[3:]:
        path.unlink()
    next((few / "house").iterdir()).write_bytes(b"no image")  # three listed, two usable
    with tarfile.open(packed, "w") as archive:
        for path in sorted(few.glob("*/*.png")):
            name = f"{path.parent.name}-{path.stem}"
            archive.add(path, f"{name}.png")
            label = tarfile.TarInfo(f"{name}.cls")
            label.size = len(path.parent.name)
            archive.addfile(label, io.BytesIO(path.parent.name.encode()))
    tables = {}
    for given in (few, packed):
        out = tmp_path / f"{given.name}-out"
        done = bliss("audit", given, "--index", index, "-o", out, "--question", "mislabel")
        assert done.code == 0, done.err
        notice = "1 class with fewer than 3 images set aside: house (2)"
        assert done.err.count(notice) == 1
        assert "2 images of 1 class with too few images compared with the other" in done.out
        assert "not questioned because the reference lacks the class house" in done.out
        facts = json.loads((out / "run.json").read_text())
        assert facts["reference"]["classes"] == ["apple", "boat"]
        assert facts["reference"]["set_aside"] == {"house": 2}
        assert facts["images"]["set_aside"] == 2 and facts["images"]["failed"] == 1
        tables[given] = pq.read_table(out / "scores.parquet").sort_by("content")
        assert bliss("audit", given, "--index", index, "-o", out, "--question", "mislabel",
                     "--fail-on", "small-classes").code == 1  # fmt: skip
    one, other = tables.values()
    assert one["score"] == other["score"] and one["left_out"].to_pylist().count(False) == 2
    named = ("audit", few, "--index", index, "--question", "mislabel")
    shutil.copy(next((few / "boat").iterdir()), few / "loose.png")
    done = bliss(*named, "-o", tmp_path / "loose")
    assert "\n1 image without a label in no class: compared with all classes\n" in done.out
    (few / "loose.png").unlink()
    (few / "house").rename(tmp_path / "house")
    assert bliss(*named, "-o", tmp_path / "without").code == 0
    without = pq.read_table(tmp_path / "without" / "scores.parquet").sort_by("content")
    rows = [row for row in range(len(one)) if one["label"][row].as_py() != "house"]
    np.testing.assert_allclose(one.take(rows)["score"], without["score"], atol=1e-4)


def test_a_small_class_of_a_reference_is_set_aside(bliss, collection, index, tmp_path):
    """`reference fit`, a run against it and one against its images, and unlabelled images."""
    clean = tmp_path / "clean"
    shutil.copytree(collection, clean)
    for path in sorted((clean / "boat").iterdir())[1:]:
        path.unlink()
    fit = ("reference", "fit", clean, "--model", "demo", "--hold-out", 0)
    assert bliss(*fit, "-o", tmp_path / "no", "--fail-on", "small-classes").code == 1
    fitted = bliss(*fit, "-o", tmp_path / "fitted")
    assert fitted.code == 0 and "1 class with fewer than 2 images set aside: boat (1)" in fitted.err
    for reference in (clean, tmp_path / "fitted"):
        out = tmp_path / f"{reference.name}-out"
        done = bliss("audit", collection, "--reference", reference, "--index", index, "-o", out)
        assert done.code == 0, done.err
        assert json.loads((out / "run.json").read_text())["images"]["set_aside"] == 9
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in collection.glob("*/*.png"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    normal = [each for name in ("apple", "boat", "zebra") for each in ("--normal", name)]
    unlabelled = ("audit", flat, *normal, "--index", index, "-o", tmp_path / "flat-out")
    for _ in range(2):  # fitted, then read back
        done = bliss(*unlabelled)
        assert done.code == 0, done.err
        facts = json.loads((tmp_path / "flat-out" / "run.json").read_text())["reference"]
        assert set(facts["classes"]) | set(facts["set_aside"]) == {"apple", "boat", "zebra"}
        assert facts["set_aside"], facts


def test_questions_about_one_class_and_missing_calibration_classes_are_refused_first(
    bliss, collection, index, tmp_path, nothing_embedded
):
    one = ("audit", collection, "--index", index, "--normal", "apple", "-o", tmp_path / "out")
    for option in (("--robust",), ("--question", "mislabel")):
        refused = bliss(*one, *option)
        assert refused.code == 2 and "'apple' is the only class. Needed: " in refused.err
    shutil.copytree(collection / "boat", tmp_path / "clean" / "boat")
    by_class = ("--p-values", "per-class", "--calibration", tmp_path / "clean")
    refused = bliss("audit", collection, "--index", index, *by_class, "-o", tmp_path / "out")
    assert refused.code == 2 and "has no image of class 'apple'" in refused.err


def test_models_that_differ_are_refused_first(bliss, collection, index, tmp_path, nothing_embedded):
    narrow = image_embeddings(tmp_path / "narrow", ["apple"] * 3 + ["boat"] * 3)
    for option in ("--reference", "--calibration"):
        refused = bliss("audit", collection, "--index", index, option, narrow,
                        "-o", tmp_path / "out")  # fmt: skip
        assert refused.code == 1 and "Needed: both from the same model" in refused.err


def test_k_and_a_search_that_cannot_be_are_refused_first(
    bliss, collection, captions, index, tmp_path, nothing_embedded
):
    refused = bliss("audit", collection, "--index", index, "--k", 301, "-o", tmp_path / "out")
    assert refused.code == 2 and "of M = 300 texts" in refused.err
    missing = ("--corpus", tmp_path / "none.txt", "--model", "demo", "-o", tmp_path / "out")
    refused = bliss("audit", collection, *missing)
    assert refused.code == 2 and "none.txt" in refused.err


def test_a_clipn_of_another_model_is_refused_first(collection, index, tmp_path, nothing_embedded):
    other = SimpleNamespace(
        model={"weights_sha256": "0" * 64, "dimension": 128, "model": "other"}, folder="clipn"
    )
    manifest = json.loads((index / "manifest.json").read_text())
    assert manifest["model"]["weights_sha256"] != other.model["weights_sha256"]
    request = request_module.AuditRequest(
        images=str(collection),
        indexes=(str(index),),
        output=str(tmp_path / "out"),
        score="clipn_ctw",
    )
    with pytest.raises(BlissError, match="both from the same model and weights"):
        request_module.run_audit(request, no_prompts=other)


@pytest.mark.parametrize("fitted", [False, True])
def test_rounded_embeddings_are_recognised_in_the_reference(bliss, tmp_path, fitted):
    """float16 and scaled rows of the reference's images score as the float32 rows do."""
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((24, 64)).astype(np.float32) + rng.standard_normal(64)
    texts = write_embeddings(tmp_path / "texts", "text", rng.standard_normal((9, 64)))
    pq.write_table(
        pa.table({"caption": ["This is a photo of a a", "This is a photo of a b", *"cdefghi"]}),
        texts / "metadata" / "metadata_0.parquet",
    )
    assert bliss("index", "build", "--embeddings", texts, "-o", tmp_path / "index").code == 0
    labels = list("ab") * 12
    full = image_embeddings(tmp_path / "full", labels, rows)
    clean = full
    if fitted:
        clean = tmp_path / "fitted"
        fit = ("reference", "fit", "--embeddings", full, "--index", tmp_path / "index")
        assert bliss(*fit, "--hold-out", 0, "-o", clean).code == 0
    scores = {}
    for name, made in (
        ("full", rows),
        ("half", rows.astype(np.float16)),
        ("scaled", rows * np.float32(100)),
    ):
        given = image_embeddings(tmp_path / f"{name}-given", labels, made)
        out = tmp_path / f"{name}-out"
        done = bliss("audit", "--embeddings", given, "--reference", clean, "--index",
                     tmp_path / "index", "--k", 3, "--report", "none", "-o", out)  # fmt: skip
        assert done.code == 0, done.err
        table = pq.read_table(out / "scores.parquet")
        assert table["left_out"].to_pylist() == [True] * 24
        scores[name] = table["score"].to_numpy()
    np.testing.assert_allclose(scores["half"], scores["full"], atol=0.02)
    np.testing.assert_allclose(scores["scaled"], scores["full"], atol=1e-4)


def test_labels_that_no_class_of_the_reference_meets_are_named():
    """NFC and NFD, case, spaces; others; and nothing where all meet."""
    classes = ("caf\u00e9", "Stra\u00dfe", "tea_pot", "cup")
    labels = ["cafe\u0301", "STRASSE", "Tea pot", "cup", None, "zebra", "small"]
    alike, others = unmet_labels(labels, classes, {"small": 1}, "photos")
    assert alike == (
        "3 labels of photos differ from a class of the reference in case, spaces or Unicode form "
        "alone: 'STRASSE' for 'Stra\\xdfe', 'Tea pot' for 'tea_pot', 'cafe\\u0301' for 'caf\\xe9'"
    )
    assert others == "1 label of photos is no class of the reference: zebra"
    assert unmet_labels(["cup", None], classes, {}, "photos") == []
    (many,) = unmet_labels([f"c{n}" for n in range(9)], classes, {}, "x")
    assert many == "9 labels of x are no classes of the reference: c0, c1, c2, c3, c4 and 4 more"


def test_labels_are_compared_with_a_separate_reference(bliss, collection, index, tmp_path):
    clean = tmp_path / "clean"
    shutil.copytree(collection / "apple", clean / "Apple")
    shutil.copytree(collection / "boat", clean / "boat")
    audit = ("audit", collection, "--reference", clean, "--index", index, "--report", "none")
    done = bliss(*audit, "-o", tmp_path / "out")
    assert f"1 label of {collection} differs from a class of the reference" in done.err
    assert "'apple' for 'Apple'" in done.err
    assert f"1 label of {collection} is no class of the reference: house" in done.err
    refused = bliss(*audit, "--normal", "APPLE", "-o", tmp_path / "other")
    assert refused.code == 2 and "Correct --normal: 'Apple' is there" in refused.err


def test_a_run_that_left_no_image_out_is_repeated_without_a_refit(tmp_path):
    for facts in ({}, {"robust": None}, {"robust": {"dropped": 1}}):
        (tmp_path / "run.json").write_text(json.dumps({"request": {"k": 10}, **facts}))
        if facts.get("robust"):
            with pytest.raises(UsageError, match="robust differ"):
                check_output(tmp_path, {"k": 10, "robust": False})
        else:
            check_output(tmp_path, {"k": 10, "robust": False})
