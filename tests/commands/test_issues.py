"""One run lists strays, wrong labels, copies, leaks and bad pictures, each with what to do."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.demo.scenes import render_scene, sample_scene
from PIL import Image


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Ten pictures a class with one error of each kind, and another collection with one of them."""
    root, rng = tmp_path_factory.mktemp("issues"), np.random.default_rng(3)

    def draw(path, kind):
        path.parent.mkdir(parents=True, exist_ok=True)
        render_scene(sample_scene(rng, kind), 96).save(path)

    for kind in ("apple", "boat", "house"):
        for number in range(10):
            draw(root / "set" / kind / f"{number}.png", kind)
    draw(root / "set/apple/clock.png", "clock")
    draw(root / "set/boat/is_house.png", "house")
    shutil.copy(root / "set/apple/1.png", root / "set/apple/1copy.png")
    shutil.copy(root / "set/house/1.png", root / "set/boat/copy.png")
    with Image.open(root / "set/house/2.png") as picture:
        picture.resize((80, 80)).save(root / "set/house/small.png")
    Image.new("RGB", (96, 96), (3, 3, 3)).save(root / "set/house/black.png")
    (root / "other").mkdir()
    shutil.copy(root / "set/apple/3.png", root / "other" / "x.png")
    return root


@pytest.fixture(scope="module")
def issues(bliss, index, world, tmp_path_factory):
    """What the terminal said, and the issues by image and kind."""
    out = tmp_path_factory.mktemp("out") / "out"
    outcome = bliss("audit", world / "set", "--index", index, "-o", out, "--flag", 1,
                    "--against", world / "other", "--report", "none")  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = pq.read_table(out / "issues.parquet").to_pylist()
    return outcome.out, out, rows


def test_every_kind_is_found_with_what_to_do(issues):
    _, _, rows = issues
    found = {(row["image"], row["kind"], row["suggestion"]): row for row in rows}
    told = {key: row["evidence"] for key, row in found.items()}
    expected = {
        ("boat/is_house.png", "label", "file under house"): "filed under boat, looks like house",
        ("apple/1copy.png", "copy", "keep apple/1.png, leave this out"): "the same file as apple/1",
        ("house/small.png", "near-copy", "keep house/2.png, leave this out"): "the same picture as",
        ("apple/3.png", "leak", "take it out of one of the two"): "the same file as x.png of the",
        ("boat/copy.png", "label", "file all under one class"): "filed under boat, copies of it un",
        ("house/1.png", "label", "file all under one class"): "filed under house, copies of it u",
        ("house/black.png", "quality", "see whether it is of use"): "empty: 0, below 0.03",
    }
    assert expected.keys() <= told.keys()
    for key, start in expected.items():
        assert told[key].startswith(start)
    strays = [row["image"] for row in rows if row["kind"] == "stray"]
    assert strays == ["apple/clock.png"]
    copy = next(row for row in rows if row["image"] == "apple/1copy.png" and row["kind"] == "copy")
    near = next(row for row in rows if row["kind"] == "near-copy")
    assert copy["severity"] == 100 > near["severity"] > 80
    assert copy["other"] == "apple/1.png" and near["other"] == "house/2.png"


def test_the_terminal_counts_each_kind_and_names_the_worst(issues):
    out, folder, rows = issues
    images = len({row["row"] for row in rows})
    assert f"\n\n{len(rows)} issues of {images} images:\n" in out
    counts = json.loads((folder / "run.json").read_text())["issues"]
    assert set(counts) == {"stray", "label", "copy", "near-copy", "leak", "quality"}
    for kind, count in counts.items():
        assert f"{count:8,}  {kind:<9}  worst: " in out
        assert count == sum(row["kind"] == kind for row in rows)
    assert "no pictures were compared" not in out


def test_embeddings_alone_say_what_could_not_be_looked_for(bliss, index, issues, tmp_path):
    _, folder, _ = issues
    foreign = shutil.copytree(folder / "images", tmp_path / "foreign")
    (foreign / "manifest.json").unlink()
    table = pq.read_table(foreign / "metadata" / "metadata_0.parquet")
    pq.write_table(table.select(["image_path", "label"]), foreign / "metadata/metadata_0.parquet")
    command = ("audit", "--embeddings", foreign, "--index", index, "--model", "demo")
    options = ("--question", "copy,quality", "--report", "none")
    outcome = bliss(*command, *options, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "no pictures were compared: only equal files and equal vectors" in outcome.out
    assert "36 images without measures of picture quality" in outcome.out
    found = pq.read_table(tmp_path / "out" / "issues.parquet").to_pylist()
    assert {(row["image"], row["kind"]) for row in found} == {
        ("apple/1copy.png", "near-copy"),
        ("house/1.png", "near-copy"),
    }
    assert all(row["severity"] > 90 for row in found)


def test_copies_in_several_splits_are_leaks(bliss, index, issues, world, tmp_path):
    """The splits that a column of a table of files, or of the embeddings' metadata, tells."""
    _, folder, _ = issues
    own = folder / "images" / "metadata" / "metadata_0.parquet"
    names = pq.read_table(own, columns=["image_path", "label"])
    splits = ["test" if name.endswith(("1copy.png", "small.png")) else "train"
              for name in names["image_path"].to_pylist()]  # fmt: skip
    table = names.append_column("split", pa.array(splits))
    shutil.copytree(world / "set", tmp_path / "set")
    lines = [",".join(row.values()) for row in table.to_pylist()]
    (tmp_path / "set" / "of.csv").write_text("\n".join(["path,label,split", *lines]))
    foreign = shutil.copytree(folder / "images", tmp_path / "foreign")
    (foreign / "manifest.json").unlink()
    pq.write_table(table, foreign / "metadata" / "metadata_0.parquet")
    embedded = ("--embeddings", foreign, "--image-root", tmp_path / "set", "--model", "demo")

    def found(column, *given):
        out = tmp_path / f"{column}{len(given)}"
        return out, bliss("audit", *given, "--index", index, "-o", out, "--question", "copy",
                          "--against", f"column={column}", "--report", "none")  # fmt: skip

    for given in ((tmp_path / "set" / "of.csv",), embedded):
        out, outcome = found("split", *given)
        assert outcome.code == 0, outcome.err
        leaks = {row["image"]: row for row in pq.read_table(out / "issues.parquet").to_pylist()
                 if row["kind"] == "leak"}  # fmt: skip
        pairs = {"apple/1.png", "apple/1copy.png", "house/2.png", "house/small.png"}
        assert leaks.keys() == pairs
        assert leaks["house/small.png"]["evidence"] == (
            "the same picture as house/2.png of the split train"
        )
        stored = pq.read_table(out / "copies.parquet").to_pylist()
        assert {row["image"] for row in stored if row["leak"]} == pairs
        assert {row["split"] for row in stored if row["leak"]} == {"test", "train"}
        _, outcome = found("part", *given)
        assert outcome.code == 2 and "no column 'part'" in outcome.err
    _, outcome = found("part", world / "set")
    assert "set has no column 'part'. Needed: a table or embeddings with it." in outcome.err


def test_a_fitted_reference_tells_leaks_too(bliss, index, world, tmp_path):
    for number in range(2):
        shutil.copytree(world / "set" / "apple", tmp_path / "ref" / f"apple{number}")
    fit = ("reference", "fit", tmp_path / "ref", "--model", "demo", "--hold-out", 0)
    assert bliss(*fit, "-o", tmp_path / "fitted").code == 0
    outcome = bliss("audit", world / "set", "--index", index, "-o", tmp_path / "out", "--question",
                    "copy", "--against", tmp_path / "fitted", "--report", "none")  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = pq.read_table(tmp_path / "out" / "issues.parquet").to_pylist()
    leaks = [row for row in rows if row["kind"] == "leak"]
    assert len(leaks) == 12 and {row["label"] for row in leaks} == {"apple"}
    assert leaks[0]["evidence"] == "the same file as an image of the other collection"
