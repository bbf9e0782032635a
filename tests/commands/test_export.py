"""A run as a Hugging Face dataset and as a FiftyOne one."""

from __future__ import annotations

import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit import BlissError
from blissaudit.audit.adapters.to_fiftyone import to_fiftyone
from blissaudit.audit.folder import open_run
from PIL import Image


@pytest.fixture(scope="module")
def run(bliss, collection, index, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    shutil.copytree(collection, root / "images")
    assert bliss("audit", root / "images", "--index", index, "-o", root / "out").code == 0
    return root


def test_saved_to_disk_and_read_back_by_datasets(bliss, run, tmp_path):
    import datasets

    outcome = bliss("export", run / "out", "--save-to-disk", tmp_path / "new/set")
    assert (outcome.code, outcome.out) == (0, f"26 images: {tmp_path}/new/set\n")
    read = datasets.load_from_disk(str(tmp_path / "new/set"))
    table = pq.read_table(run / "out/scores.parquet").to_pydict()
    assert set(read.column_names) == {"image", *table}
    assert [*read["path"]] == table["path"]
    assert [*read["captions"]] == table["captions"]
    np.testing.assert_array_equal(read["score"], table["score"])
    for row in (0, 17):
        with Image.open(run / "images" / table["path"][row]) as picture:
            np.testing.assert_array_equal(np.asarray(read[row]["image"]), np.asarray(picture))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
    again = bliss("export", run / "out", "--save-to-disk", tmp_path / "new/set")
    assert again.code == 2
    assert "already there" in again.err


def test_pushed_to_the_hub_private_unless_public(bliss, run, monkeypatch):
    import datasets

    pushed = []
    monkeypatch.setattr(
        datasets.Dataset, "push_to_hub", lambda self, name, **how: pushed.append((name, how))
    )
    assert bliss("export", run / "out", "--push-to-hub", "me/mine").out == "26 images: me/mine\n"
    assert bliss("export", run / "out", "--push-to-hub", "me/mine", "--public").code == 0
    assert pushed == [("me/mine", {"private": True}), ("me/mine", {"private": False})]

    def refuse(self, name, **how):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets.Dataset, "push_to_hub", refuse)
    outcome = bliss("export", run / "out", "--push-to-hub", "me/mine")
    assert outcome.code == 1
    assert "me/mine could not be uploaded (ConnectionError: no route)" in outcome.err


def test_a_picture_that_is_gone_is_named_and_nothing_is_left(bliss, run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    facts = (tmp_path / "copy/out/run.json").read_text()
    moved = facts.replace(str(run / "images"), str(tmp_path / "copy/images"))
    (tmp_path / "copy/out/run.json").write_text(moved)
    (tmp_path / "copy/images/boat/3.png").unlink()
    outcome = bliss("export", tmp_path / "copy/out", "--save-to-disk", tmp_path / "set")
    assert outcome.code == 1
    assert "picture boat/3.png" in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "neither of --save-to-disk and --push-to-hub"),
        (("--save-to-disk", "a", "--push-to-hub", "b/c"), "both of"),
        (("--save-to-disk", "a", "--public"), "--public was given with --save-to-disk"),
    ],
)
def test_export_says_what_it_needs(bliss, run, options, words):
    outcome = bliss("export", run / "out", *options)
    assert outcome.code == 2
    assert words in outcome.err


OPTIONAL = ("bliss_p", "bliss_q", "bliss_flagged")


class Sample(dict):
    def __init__(self, filepath):
        super().__init__()
        self.filepath = filepath


class Dataset:
    def __init__(self, name):
        self.name, self.samples = name, []

    def add_samples(self, samples):
        self.samples += samples


def test_fiftyone_gets_samples_as_its_documentation_has_them(run, monkeypatch):
    fake = SimpleNamespace(
        Sample=Sample, Dataset=Dataset, Classification=lambda label: ("classification", label)
    )
    monkeypatch.setitem(sys.modules, "fiftyone", fake)
    made = to_fiftyone(open_run(run / "out"), "mine")
    table = pq.read_table(run / "out/scores.parquet").to_pydict()
    order = np.argsort(table["rank"])
    assert made.name == "mine"
    assert [s.filepath for s in made.samples] == [
        str(run / "images" / table["path"][i]) for i in order
    ]
    first, worst = made.samples[0], order[0]
    assert {name: first[name] for name in first if name not in OPTIONAL} == {
        "ground_truth": ("classification", table["label"][worst]),
        "bliss_nearest": ("classification", table["nearest_class"][worst]),
        "bliss_captions": table["captions"][worst][:3],
        "bliss_score": table["score"][worst],
        "bliss_rank": 1,
    }


def test_fiftyone_gets_decisions_where_there_are_any_and_no_label_where_there_is_none(
    monkeypatch, tmp_path
):
    table = pa.table(
        {
            "path": ["a.png", "b.png"],
            "label": pa.array([None, "x"], pa.string()),
            "score": [1.0, 2.0],
            "rank": [2, 1],
            "nearest_class": ["x", "y"],
            "p": [0.5, 0.01],
            "q": pa.array([None, 0.02]),
            "flagged": [False, True],
            "captions": [["one"], ["two", "three", "four", "five"]],
        }
    )
    fake = SimpleNamespace(Sample=Sample, Dataset=Dataset, Classification=lambda label: label)
    monkeypatch.setitem(sys.modules, "fiftyone", fake)
    run = SimpleNamespace(
        columns=lambda names: table, source=str(tmp_path), facts={}, folder=tmp_path / "run"
    )
    made = to_fiftyone(run, "m")
    worst, other = made.samples
    assert worst.filepath == str(tmp_path / "b.png")
    assert (worst["bliss_p"], worst["bliss_q"], worst["bliss_flagged"]) == (0.01, 0.02, True)
    assert worst["bliss_captions"] == ["two", "three", "four"]
    assert "ground_truth" not in other
    assert "bliss_q" not in other
    assert (other["bliss_p"], other["bliss_flagged"]) == (0.5, False)


def test_fiftyone_missing_is_said(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(BlissError, match=r"FiftyOne is not installed.*pip install fiftyone"):
        to_fiftyone(open_run(run / "out"), "mine")
