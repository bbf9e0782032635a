"""Every kind of collection through the command: the same images, the same scores."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.review.photographs import open_photographs
from blissaudit.corpora.images.source import read_image_bytes


def pictures(collection: Path) -> list[tuple[str, str, bytes]]:
    """(relative path, class, bytes) of the collection's images, in the order they are listed."""
    files = sorted(collection.rglob("*.png"), key=lambda path: str(path.relative_to(collection)))
    return [(str(f.relative_to(collection)), f.parent.name, f.read_bytes()) for f in files]


@pytest.fixture(scope="module")
def made(collection, tmp_path_factory) -> Path:
    """The collection once more: as tar shards, as a table, as a flat folder with a label file."""
    root = tmp_path_factory.mktemp("made")
    every = pictures(collection)
    for shard in (0, 1):
        with tarfile.open(root / f"s-{shard}.tar", "w") as archive:
            for number, (_, label, data) in enumerate(every[shard * 13 : (shard + 1) * 13]):
                for suffix, content in (("png", data), ("cls", label.encode())):
                    member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    columns = {
        "picture": [data for *_, data in every],
        "twin": [data for *_, data in reversed(every)],
        "label": [label for _, label, _ in every],
        "half": [label if n % 2 else None for n, (_, label, _) in enumerate(every)],
    }
    pq.write_table(pa.table(columns), root / "t.parquet")
    (root / "flat").mkdir()
    lines = []
    for number, (_, label, data) in enumerate(every):
        (root / "flat" / f"{number:03d}.png").write_bytes(data)
        lines.append(f"{number:03d}.png,{label},{'' if number % 2 else label}")
    (root / "flat" / "labels.csv").write_text("\n".join(["path,label,half", *lines]))
    (root / "other.csv").write_text("\n".join(["path,label", *[f"flat/{x}" for x in lines]]
                                              ).replace(",apple\n", "\n"))  # fmt: skip
    return root


def audited(bliss, index, out, *arguments: object) -> dict[str, list]:
    done = bliss("audit", *arguments, "--index", index, "-o", out)
    assert done.code == 0, done.err
    return pq.read_table(out / "scores.parquet").to_pydict()


@pytest.fixture(scope="module")
def usual(bliss, collection, index, tmp_path_factory) -> dict[str, list]:
    return audited(bliss, index, tmp_path_factory.mktemp("usual") / "out", collection)


@pytest.mark.parametrize(
    "arguments",
    [
        ("s-{0..1}.tar",),
        ("t.parquet", "--image-column", "picture"),
        ("flat",),
        ("flat/labels.csv",),
        ("flat", "--labels", "flat/labels.csv"),
    ],
)
def test_the_same_images_give_the_same_scores(
    bliss, index, made, usual, tmp_path, arguments
) -> None:
    places = [f"{made}/{a}" if (not a.startswith("--") and "." in a) or a == "flat" else a
              for a in arguments]  # fmt: skip
    found = audited(bliss, index, tmp_path / "out", *places)
    for name in ("row", "label", "score", "rank", "nearest_class", "captions"):
        assert found[name] == usual[name], name
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    source = open_photographs(run["request"])
    assert source is not None
    expected = [path.read_bytes() for path in sorted((made / "flat").glob("*.png"))]
    rows = [int(row) for row in np.argsort(found["rank"])[:3]]
    assert dict(read_image_bytes(source, rows)) == {row: expected[row] for row in rows}


def test_columns_change_what_is_read(bliss, index, made, usual, tmp_path) -> None:
    table = made / "t.parquet"
    twin = audited(bliss, index, tmp_path / "a", table, "--image-column", "twin")
    assert twin["score"] != usual["score"]
    half = ("--image-column", "picture", "--label-column", "half")
    partial = audited(bliss, index, tmp_path / "b", table, *half)
    assert [label is None for label in partial["label"]] == [n % 2 == 0 for n in range(26)]
    run = json.loads((tmp_path / "b" / "run.json").read_text())
    assert sum(run["reference"]["images"]) == 13  # unlabelled images are in no class's reference
    assert len(partial["score"]) == 26 and np.isfinite(partial["score"]).all()
    assert partial["left_out"] == [n % 2 == 1 for n in range(26)]
    wrong = bliss("audit", table, "--index", index, "-o", tmp_path / "c", "--labels", "x.csv")
    assert (wrong.code, wrong.out) == (2, "")
    assert "--labels given for " in wrong.err


def test_the_split_config_and_labels_of_a_data_set(bliss, index, made, tmp_path) -> None:
    data = tmp_path / "set"
    data.mkdir()
    table = pq.read_table(made / "t.parquet", columns=["picture", "label"])
    pq.write_table(table, data / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 9), data / "test-00000-of-00001.parquet")
    assert len(audited(bliss, index, tmp_path / "a", data)["row"]) == 26
    test = audited(bliss, index, tmp_path / "b", f"{data}:test")
    assert len(test["row"]) == 9
    refused = bliss("audit", f"{data}:x/test", "--index", index, "-o", tmp_path / "c")
    assert (refused.code, refused.out) == (2, "")
    assert "has no config 'x'" in refused.err
    refused = bliss("audit", f"{data}:dev", "--index", index, "-o", tmp_path / "c")
    assert "has no split 'dev'" in refused.err


def test_other_commands_read_them_too(bliss, index, made, tmp_path) -> None:
    tars = f"{made}/s-{{0..1}}.tar"
    reference = tmp_path / "reference"
    fitted = bliss("reference", "fit", tars, "--model", "demo", "-o", reference)
    assert fitted.code == 0, fitted.err
    scored = bliss("score", tars, "--reference", reference, "--index", index, "--json")
    assert scored.code == 0, scored.err
    assert json.loads(scored.out)["counts"]["scored"] == 26
    against = ("--reference", made / "flat")
    found = audited(bliss, index, tmp_path / "out", tars, *against)
    assert found["left_out"] == [True] * 26
    done = bliss("eval", "--reference", tars, "--test", made / "t.parquet", "--image-column",
                 "picture", "--index", index, "--score", "bliss", "--protocol", "random-1",
                 "--draws", 1, "-o", tmp_path / "eval")  # fmt: skip
    assert done.code == 0, done.err


def test_a_tar_that_is_cut_in_the_middle(bliss, index, made, tmp_path) -> None:
    shutil.copy(made / "s-1.tar", tmp_path / "s-0.tar")
    content = (made / "s-0.tar").read_bytes()
    (tmp_path / "s-1.tar").write_bytes(content[: len(content) * 3 // 4])
    found = audited(bliss, index, tmp_path / "out", tmp_path / "s-{0..1}.tar")
    with open(tmp_path / "out" / "failures.csv", newline="") as file:
        (failure,) = csv.DictReader(file)
    assert "archive" in failure["reason"] and int(failure["row"]) == len(found["row"])


def test_photographs_behind_embeddings(bliss, collection, index, tmp_path) -> None:
    audited(bliss, index, tmp_path / "first", collection)
    embeddings = ("--embeddings", tmp_path / "first" / "images", "--model", "demo")
    root = ("--image-root", collection)
    audited(bliss, index, tmp_path / "second", *embeddings, *root)
    run = json.loads((tmp_path / "second" / "run.json").read_text())
    source = open_photographs(run["request"])
    assert source is not None and source.count == 26
    expected = [data for *_, data in pictures(collection)]
    assert dict(read_image_bytes(source, [4, 25])) == {4: expected[4], 25: expected[25]}
    without = open_photographs({"embeddings": run["request"]["embeddings"]})
    assert without is not None and dict(read_image_bytes(without, [4])) == {}
    assert open_photographs({"command": "mine"}) is None
    refused = bliss("audit", collection, *root, "--index", index, "-o", tmp_path / "third")
    assert (refused.code, refused.out) == (2, "")
    assert "--image-root was given without --embeddings" in refused.err
    gone = bliss("audit", *embeddings, "--image-root", tmp_path / "gone", "--index", index, "-o",
                 tmp_path / "third")  # fmt: skip
    assert gone.code == 2 and "gone is no folder. Needed: the folder of the images" in gone.err
    as_images = bliss("audit", embeddings[1], "--index", index, "-o", tmp_path / "third")
    assert as_images.code == 2 and "holds embeddings of images. Needed: images" in as_images.err


def test_a_grown_folder_with_the_same_command(bliss, collection, index, tmp_path) -> None:
    images = shutil.copytree(collection, tmp_path / "images")
    first = audited(bliss, index, tmp_path / "out", images)
    shutil.copy(images / "boat" / "3.png", images / "boat" / "2a.png")
    second = audited(bliss, index, tmp_path / "out", images)
    assert len(second["row"]) == len(first["row"]) + 1
    assert "boat/2a.png" in second["path"]


def test_links_out_of_a_folder_are_followed_when_asked(
    bliss, index, collection, usual, tmp_path
) -> None:
    for path, label, _ in pictures(collection):
        (tmp_path / "linked" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "linked" / path).symlink_to(collection / path)
    out = tmp_path / "out"
    refused = bliss("audit", tmp_path / "linked", "--index", index, "-o", out)
    assert refused.code == 1
    assert "holds no images" in refused.err and "--follow-links" in refused.err
    table = audited(bliss, index, out, tmp_path / "linked", "--follow-links")
    assert (table["path"], table["score"]) == (usual["path"], usual["score"])
    assert bliss("report", out).code == 0
    assert '"no_picture"' not in (out / "report.html").read_text()
