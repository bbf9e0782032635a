"""A run's rows lead to their own pictures, whatever the collection: report, export and copy."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit import BlissError
from blissaudit.artefacts import read_json, write_json
from blissaudit.audit.adapters.to_fiftyone import to_fiftyone
from blissaudit.audit.folder import open_run
from blissaudit.audit.review.apply import COLUMNS
from blissaudit.audit.review.photographs import image_suffix
from helpers.pictures import thumbnail
from PIL import Image


def write_tar(path: Path, every: list[tuple[str, str, bytes]]) -> None:
    """An archive of (name, label, content); the same name may come again."""
    with tarfile.open(path, "w") as archive:
        for name, label, data in every:
            for suffix, content in (("png", data), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def made(collection, tmp_path_factory):
    """(folder of the collections, [(name, label, content)]); the names come twice."""
    root = tmp_path_factory.mktemp("made")
    files = sorted(collection.rglob("*.png"), key=lambda path: str(path.relative_to(collection)))
    every = [(str(n % 13), f.parent.name, f.read_bytes()) for n, f in enumerate(files)]
    every.insert(5, ("bad", "apple", b"x"))
    write_tar(root / "all.tar", every)
    shutil.copytree(collection, root / "folder")
    lines = [f"{f.relative_to(collection)},{f.parent.name}" for f in files]
    (root / "folder" / "x.csv").write_text("\n".join(["path,label", *lines]))
    pictures = pa.array(
        [{"bytes": data, "path": f"{name}.png"} for name, _, data in every],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    table = pa.table({"image": pictures, "label": [label for _, label, _ in every]})
    pq.write_table(table, root / "t.parquet", row_group_size=4)
    return root, every


@pytest.fixture(scope="module")
def runs(bliss, made, index, tmp_path_factory):
    """Audits of the archive and of the table, by their names."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("all.tar", "t.parquet"):
        done = bliss("audit", made[0] / name, "--index", index, "-o", root / name)
        assert done.code == 0, done.err
    return root


def page_of(path: Path):
    page = path.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    pictures = re.findall(r'<script type="text/plain" id="picture-\d+">([^<]*)</script>', page)
    return json.loads(data), [base64.b64decode(picture) for picture in pictures]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)


def assert_same_picture(shown: bytes, content: bytes) -> None:
    """The page's picture is the image's own thumbnail, and near to the image itself."""
    assert shown == thumbnail(content, 320)
    assert np.abs(pixels(shown) - pixels(content)).mean() < 8


@pytest.mark.parametrize("name", ["all.tar", "t.parquet"])
def test_the_page_shows_each_row_its_own_picture(runs, made, name):
    data, pictures = page_of(runs / name / "report.html")
    every = made[1]
    assert sorted(image["row"] for image in data["images"]) == [n for n in range(27) if n != 5]
    by_hash = {image["sha256"]: image["row"] for image in data["images"]}
    for image in data["images"]:
        assert_same_picture(pictures[image["picture"]], every[image["row"]][2])
        assert len(image["any"]) == 3
    assert len(by_hash) == len(pictures) == 26
    assert [image["picture"] for image in data["images"]] == list(range(26))
    stored = pq.read_table(runs / name / "images/metadata/metadata_0.parquet").to_pydict()
    rows = dict(zip(stored["image_path"], stored["row"], strict=True))
    if name == "t.parquet":  # its paths are unique, so a neighbour can be told by its own
        for image in data["images"]:
            for picture, _, path, *_ in image["any"]:
                assert_same_picture(pictures[picture], every[rows[path]][2])


def test_few_images_are_fetched_with_their_neighbours(bliss, runs, made, tmp_path):
    page = tmp_path / "few.html"
    assert bliss("report", runs / "t.parquet", "--top", 2, "-o", page).code == 0
    data, pictures = page_of(page)
    whole, _ = page_of(runs / "t.parquet" / "report.html")
    assert [image["row"] for image in data["images"]] == [i["row"] for i in whole["images"][:2]]
    assert_same_picture(pictures[0], made[1][data["images"][0]["row"]][2])
    stored = pq.read_table(runs / "t.parquet/images/metadata/metadata_0.parquet").to_pydict()
    rows = dict(zip(stored["image_path"], stored["row"], strict=True))
    near = [(picture, rows[path]) for image in data["images"] for picture, _, path, *_ in
            image["any"]]  # fmt: skip
    assert len(near) == 6
    for picture, row in near:
        size = 320 if row in {image["row"] for image in data["images"]} else 128
        assert pictures[picture] == thumbnail(made[1][row][2], size)


@pytest.mark.parametrize("kind", ["all.tar", "t.parquet", "folder", "folder/x.csv", "embeddings"])
def test_a_separate_reference_of_any_kind_is_shown(bliss, runs, made, index, tmp_path, kind):
    reference = runs / "t.parquet" / "images" if kind == "embeddings" else made[0] / kind
    command = ("audit", made[0] / "all.tar", "--index", index, "--reference", reference)
    assert bliss(*command, "-o", tmp_path / "out", "--report", 3).code == 0
    data, pictures = page_of(tmp_path / "out" / "report.html")
    shown = [picture for image in data["images"] for picture, *_ in image["any"]]
    assert len(shown) == 9
    if kind == "embeddings":  # nothing says where the images of a table's embeddings are
        assert shown == [None] * 9
        return
    thumbnails = {thumbnail(data, 128) for n, (*_, data) in enumerate(made[1]) if n != 5}
    assert {pictures[picture] for picture in shown} <= thumbnails


def test_photographs_behind_embeddings_are_shown(bliss, collection, index, tmp_path):
    files = sorted(collection.rglob("*.png"))
    vectors = tmp_path / "vectors"
    (vectors / "img_emb").mkdir(parents=True)
    (vectors / "metadata").mkdir()
    assert bliss("audit", collection, "--index", index, "-o", tmp_path / "first").code == 0
    stored = np.load(tmp_path / "first/images/img_emb/img_emb_0.npy")
    np.save(vectors / "img_emb" / "img_emb_0.npy", stored)
    names = [str(file.relative_to(collection)) for file in files]
    labels = [file.parent.name for file in files]
    names[3] = "../../secret.png"
    table = pa.table({"image_path": names, "label": labels})
    pq.write_table(table, vectors / "metadata" / "metadata_0.parquet")
    command = ("audit", "--embeddings", vectors, "--model", "demo", "--index", index)
    root = ("--image-root", collection)
    assert bliss(*command, *root, "-o", tmp_path / "second").code == 0
    data, pictures = page_of(tmp_path / "second" / "report.html")
    assert len(data["images"]) == len(pictures) + 1 == 26
    for image in data["images"]:
        if image["row"] == 3:
            assert image["no_picture"] == "its path leaves the folder of the collection"
        else:
            assert_same_picture(pictures[image["picture"]], files[image["row"]].read_bytes())
    assert bliss(*command, "-o", tmp_path / "third").code == 0
    assert page_of(tmp_path / "third" / "report.html")[1] == []
    shutil.copytree(collection, vectors, dirs_exist_ok=True)
    assert bliss("report", tmp_path / "third").code == 0
    assert len(page_of(tmp_path / "third" / "report.html")[1]) == 25


def test_a_changed_or_missing_archive_shows_no_wrong_picture(bliss, made, index, tmp_path):
    archive = tmp_path / "all.tar"
    shutil.copy(made[0] / "all.tar", archive)
    assert bliss("audit", archive, "--index", index, "-o", tmp_path / "out").code == 0
    every = list(made[1])
    write_tar(archive, [every[1], every[0], *every[2:20]])
    assert bliss("report", tmp_path / "out").code == 0
    data, pictures = page_of(tmp_path / "out" / "report.html")
    for image in data["images"]:
        row = image["row"]
        if row < 2:
            assert image["no_picture"] == "its content has changed since the audit"
        elif row >= 20:
            assert "no readable image at this row" in image["no_picture"]
        else:
            assert_same_picture(pictures[image["picture"]], every[row][2])
    archive.unlink()
    before = (tmp_path / "out" / "report.html").read_bytes()
    refused = bliss("report", tmp_path / "out")
    assert refused.code == 1
    assert f"none of the {len(data['images'])} pictures was found in " in refused.err
    assert (tmp_path / "out" / "report.html").read_bytes() == before
    without = tmp_path / "without.html"
    assert bliss("report", tmp_path / "out", "--output", without).code == 0
    data, pictures = page_of(without)
    assert pictures == []
    assert {image["no_picture"] for image in data["images"]} == {f"{archive} does not exist"}
    outcome = bliss("export", tmp_path / "out", "--save-to-disk", tmp_path / "set")
    assert outcome.code == 1
    assert f"cannot be read: {archive} does not exist" in outcome.err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["all.tar", "t.parquet"])
def test_an_export_holds_the_bytes_of_each_row(bliss, runs, made, tmp_path, name):
    import datasets

    outcome = bliss("export", runs / name, "--save-to-disk", tmp_path / "set")
    assert (outcome.code, outcome.out) == (0, f"26 images: {tmp_path}/set\n")
    read = datasets.load_from_disk(str(tmp_path / "set"))
    table = pq.read_table(runs / name / "scores.parquet").to_pydict()
    assert [*read["row"]] == table["row"]
    assert [*read["score"]] == table["score"]
    raw = read.cast_column("image", datasets.Image(decode=False))
    for row, picture in zip(raw["row"], raw["image"], strict=True):
        assert picture["bytes"] == made[1][row][2]


def test_an_export_of_a_run_from_python_says_what_is_missing(bliss, runs, tmp_path):
    run = shutil.copytree(runs / "all.tar", tmp_path / "run")
    facts = read_json(run / "run.json")
    facts["request"] = {"command": "mine"}
    write_json(run / "run.json", facts)
    outcome = bliss("export", run, "--save-to-disk", tmp_path / "set")
    assert outcome.code == 1
    assert "the run does not say which collection it read" in outcome.err


def decide(run: Path, file: Path, *decisions: tuple[int, str, str]) -> Path:
    """A decisions file of (row, decision, new label)."""
    table = pq.read_table(run / "scores.parquet").to_pydict()
    paths = dict(zip(table["row"], table["path"], strict=True))
    stored = pq.read_table(run / "images/metadata/metadata_0.parquet").to_pydict()
    hashes = dict(zip(stored["row"], stored["sha256"], strict=True))
    with open(file, "w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for row, decision, label in decisions:
            writer.writerow([row, paths[row], hashes[row], decision, label])
    return file


@pytest.mark.parametrize("name", ["all.tar", "t.parquet"])
def test_a_copy_of_what_is_no_folder_names_files_by_their_rows(bliss, runs, made, tmp_path, name):
    run = runs / name
    decisions = decide(run, tmp_path / "d.csv", (0, "remove", ""), (1, "relabel", "house"))
    command = ("apply", decisions, "--run", run, "--copy", tmp_path / "clean")
    outcome = bliss(*command, "--list", tmp_path / "clean.csv")
    assert outcome.code == 0, outcome.err
    found = {str(f.relative_to(tmp_path / "clean")): f.read_bytes()
             for f in (tmp_path / "clean").rglob("*") if f.is_file()}  # fmt: skip
    assert found == {
        f"{'house' if row == 1 else label}/row-{row}.png": data
        for row, (_, label, data) in enumerate(made[1])
        if row not in (0, 5)
    }
    assert len((tmp_path / "clean.csv").read_text().splitlines()) == 26
    assert bliss(*command).code == 0, "a repeated apply is no error"


def test_hostile_names_and_labels_of_an_archive_write_nothing_outside(bliss, made, index, tmp_path):
    every = [(f"a/{n}", label, data) for n, (_, label, data) in enumerate(made[1])]
    every[3] = ("../../evil", *every[3][1:])
    for row in (4, 6, 7, 8):
        every[row] = (every[row][0], "../../evil", every[row][2])
    write_tar(tmp_path / "x.tar", every)
    assert bliss("audit", tmp_path / "x.tar", "--index", index, "-o", tmp_path / "out").code == 0
    rows = pq.read_table(tmp_path / "out" / "scores.parquet")["row"].to_pylist()
    assert 3 not in rows
    none = decide(tmp_path / "out", tmp_path / "none.csv")
    target = tmp_path / "deep" / "er" / "clean"
    outcome = bliss("apply", none, "--run", tmp_path / "out", "--copy", target)
    assert outcome.code == 1
    assert "its label '../../evil' holds a slash" in outcome.err
    decisions = [(row, "remove", "") for row in (4, 6, 7, 8)]
    removed = decide(tmp_path / "out", tmp_path / "some.csv", *decisions)
    assert bliss("apply", removed, "--run", tmp_path / "out", "--copy", target).code == 0
    assert not list(tmp_path.glob("evil*"))
    copied = {file.stem: file for file in target.rglob("*.png")}
    assert {int(stem.removeprefix("row-")) for stem in copied} == {*rows} - {4, 6, 7, 8}


def test_a_changed_archive_stops_the_copy_whole(bliss, made, index, tmp_path):
    archive = tmp_path / "all.tar"
    shutil.copy(made[0] / "all.tar", archive)
    run = tmp_path / "out"
    assert bliss("audit", archive, "--index", index, "-o", run, "--report", "none").code == 0
    write_tar(archive, [made[1][1], made[1][0], *made[1][2:]])
    none = decide(run, tmp_path / "none.csv")
    outcome = bliss("apply", none, "--run", run, "--copy", tmp_path / "clean")
    assert outcome.code == 1
    assert "all.tar/0.png cannot be copied: its content has changed" in outcome.err
    assert not (tmp_path / "clean").exists()
    assert not list(tmp_path.glob(".bliss-*"))


def test_fiftyone_refuses_what_are_no_files(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", SimpleNamespace())
    with pytest.raises(BlissError, match=r"are no files in a folder.*bliss export"):
        to_fiftyone(open_run(runs / "all.tar"), "mine")


def test_the_suffix_is_what_the_bytes_say():
    for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpeg"), ("WEBP", ".webp"), ("GIF", ".gif"),
                         ("BMP", ".bmp"), ("TIFF", ".tiff")):  # fmt: skip
        file = io.BytesIO()
        Image.new("RGB", (3, 2)).save(file, kind)
        assert image_suffix(file.getvalue()) == suffix
    assert image_suffix(hashlib.sha256(b"").digest()) == ""
