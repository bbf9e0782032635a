"""What an audit can refuse it refuses before any image is embedded or any index is built."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.audit import request as request_module


@pytest.fixture
def nothing_embedded(monkeypatch):
    """Embedding images or captions fails the test."""

    def refuse(*given, **named):
        raise AssertionError("something was embedded")

    for name in ("embed_images", "build_index"):
        monkeypatch.setattr(request_module, name, refuse)


def image_embeddings(folder: Path, labels: list[str]) -> Path:
    """A folder of random image embeddings of 64 dimensions, half as many as the demo model's."""
    vectors = np.random.default_rng(5).standard_normal((len(labels), 64)).astype(np.float32)
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", vectors)
    paths = [f"{label}/{row}.png" for row, label in enumerate(labels)]
    table = pa.table({"image_path": paths, "label": labels})
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    return folder


def test_a_class_with_too_few_images_is_refused_first(
    bliss, collection, index, tmp_path, nothing_embedded
):
    few = shutil.copytree(collection, tmp_path / "few")
    for path in sorted((few / "house").iterdir())[2:]:
        path.unlink()
    refused = bliss("audit", few, "--index", index, "-o", tmp_path / "own")
    assert refused.code == 1
    assert "class 'house' has 2 reference images. Needed: at least 3 in every class" in refused.err
    (sorted((few / "house").iterdir())[0]).unlink()
    against = ("--reference", few, "--index", index, "-o", tmp_path / "separate")
    refused = bliss("audit", collection, *against)
    assert refused.code == 1
    assert "class 'house' has 1 reference image. Needed: at least 2 in every class" in refused.err


def test_questions_about_one_class_and_missing_calibration_classes_are_refused_first(
    bliss, collection, index, tmp_path, nothing_embedded
):
    one = ("audit", collection, "--index", index, "--normal", "apple", "-o", tmp_path / "out")
    for option in (("--robust",), ("--question", "mislabel")):
        refused = bliss(*one, *option)
        assert refused.code == 2 and "'apple' is the only class. Needed: " in refused.err
    shutil.copytree(collection / "boat", tmp_path / "clean" / "boat")
    refused = bliss("audit", collection, "--index", index, "--per-class", "--calibration",
                    tmp_path / "clean", "-o", tmp_path / "out")  # fmt: skip
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
    with pytest.raises(request_module.BlissError, match="both from the same model and weights"):
        request_module.run_audit(request, no_prompts=other)
