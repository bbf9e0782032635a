"""CleanPatrick's layout is read as published, and every issue is judged as a ranking."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from blissaudit.demo.scenes import render_scene, sample_scene
from blissaudit.errors import BlissError, UsageError
from blissaudit.evaluation import judge_cleanpatrick, read_cleanpatrick
from PIL import Image

KINDS = ("apple", "boat", "house")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small folder of the layout: 27 pictures, two strays, two wrong labels, two copies."""
    root, rng = tmp_path_factory.mktemp("clean") / "data", np.random.default_rng(4)
    pictures = root / "fitzpatrick17k" / "images"
    pictures.mkdir(parents=True)
    (root / "CleanPatrick").mkdir()
    rows, wrong, strays = [], ("boat-0", "house-1"), ("apple-clock", "boat-umbrella")
    for kind in KINDS:
        for number in range(9):
            name = f"{kind}-{number}"
            shown = {"boat-0": "house", "house-1": "apple"}.get(name, kind)
            render_scene(sample_scene(rng, shown), 64).save(pictures / f"{name}.jpg", quality=95)
            rows.append((name, kind))
    for name in strays:
        kind, shown = name.split("-")
        render_scene(sample_scene(rng, shown), 64).save(pictures / f"{name}.jpg", quality=95)
        rows.append((name, kind))
    for number in (2, 3):
        with Image.open(pictures / f"apple-{number}.jpg") as picture:
            picture.resize((60, 60)).save(pictures / f"apple-{number}copy.jpg")
        rows.append((f"apple-{number}copy", "apple"))
    rows.append(("gone", "boat"))

    def write(path, heads, lines):
        with open(root / path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([heads, *lines])

    write("fitzpatrick17k/fitzpatrick17k.csv", ("", "md5hash", "label"),
          [(i, *row) for i, row in enumerate(rows)])  # fmt: skip
    names = [name for name, _ in rows]
    write("CleanPatrick/off_topic_samples.csv", ("md5hash", "label"),
          [(name, float(name in strays)) for name in names])  # fmt: skip
    write("CleanPatrick/label_errors.csv", ("md5hash", "label"),
          [(name, int(name in wrong)) for name in names[:27]])  # fmt: skip
    pairs = [(f"apple-{n},apple-{n}copy", 1) for n in (2, 3)] + [("boat-1, boat-2, boat-3", 0)]
    write("CleanPatrick/near_duplicates.csv", ("md5hash_list", "label"), pairs)
    return root


def test_the_layout_is_read_as_published(folder):
    found = read_cleanpatrick(folder)
    assert len(found.paths) == 31 and found.missing == 1
    assert found.paths[0] == "images/apple-0.jpg" and found.labels[0] == "apple"
    assert (found.off_topic == 1).sum() == 2 and (found.off_topic >= 0).all()
    assert (found.label_error == 1).sum() == 2 and (found.label_error == -1).sum() == 4
    assert found.near_duplicate.tolist() == [1, 1, 0, 0, 0]
    assert found.paths[found.pairs[0][1]] == "images/apple-2copy.jpg"


def test_rankings_are_judged_by_hand(folder):
    found = read_cleanpatrick(folder)
    rows = np.delete(np.arange(31), 5)  # one image could not be read
    off = found.off_topic[rows] + np.linspace(0, 0.5, 30)
    error = np.where(found.label_error[rows] == 1, 0.5, np.linspace(0, 1, 30))
    error[0] = np.nan
    vectors = np.eye(31, dtype=np.float32)[rows]
    vectors[found.pairs[0] - (found.pairs[0] > 5)] = vectors[0]
    judged = {row["issue"]: row for row in judge_cleanpatrick(
        found, rows, {"off-topic": off, "label error": error}, vectors)}  # fmt: skip
    assert judged["off-topic"]["auroc"] == judged["off-topic"]["precision@2"] == 1
    assert judged["off-topic"]["recall@10"] == 1 and judged["off-topic"]["ranked"] == 30
    assert judged["near-duplicate"]["ranked"] == 5
    assert judged["near-duplicate"]["precision@2"] == pytest.approx(0.5 + 0.5 * 0.25)
    assert judged["label error"]["ranked"] == 25 and 0.3 < judged["label error"]["auroc"] < 0.6


def test_the_command_judges_a_whole_audit(bliss, index, folder, tmp_path):
    out = tmp_path / "out"
    command = ("eval", "--preset", "cleanpatrick", "--test", folder, "--index", index, "-o", out)
    outcome = bliss(*command)
    assert outcome.code == 0, outcome.err
    facts = json.loads((out / "cleanpatrick.json").read_text())
    rows = {row["issue"]: row for row in facts["issues"]}
    assert (facts["images"], facts["missing"]) == (31, 1)
    assert all(rows[name]["auroc"] > 0.9 for name in rows)
    assert "off-topic: 2 of 31 ranked: auroc " in outcome.out
    assert "1 image of the table without a file" in outcome.out
    refused = bliss(*command, "--shots", "4")
    assert refused.code == 2 and "--shots was given with --preset cleanpatrick" in refused.err
    bare = bliss("eval", "--test", folder, "--index", index, "-o", out)
    assert bare.code == 2 and "--reference was not given" in bare.err


def test_other_folders_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match=r"fitzpatrick17k.csv is missing. Needed: fitzpatrick17k/"):
        read_cleanpatrick(tmp_path)
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / "CleanPatrick" / "label_errors.csv").write_text("md5hash,other\n")
    with pytest.raises(BlissError, match="has no column label"):
        read_cleanpatrick(tmp_path / "a")
    (tmp_path / "a" / "CleanPatrick" / "label_errors.csv").write_text("md5hash,label\nboat-0,x\n")
    with pytest.raises(BlissError, match=r"label 'x' was read\. Needed: 1 or 0"):
        read_cleanpatrick(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "fitzpatrick17k" / "images")
    with pytest.raises(BlissError, match="none of the 32 images of"):
        read_cleanpatrick(tmp_path / "a")
