"""Captions beside images: sidecars, tables, COCO files, shards; what names no image."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit import BlissError, UsageError
from blissaudit.corpora import open_captioned
from PIL import Image


def png(shade=0):
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def read(*given, **options):
    """Source rows and captions."""
    return [(each.row, each.text) for each in open_captioned(*given, **options).captions()]


def test_files_beside_images(images):
    (images / "0.txt").write_text("a cat\n\n a  dog\n")
    (images / "1.json").write_text(json.dumps({"caption": "a bird", "key": "00017"}))
    (images / "1.txt").write_text("not read")
    found = list(open_captioned(str(images)).captions())
    assert [each[:2] for each in found] == [(0, "a cat"), (0, "a dog"), (1, "a bird")]
    assert found[2].uid == "00017"
    (images / "2.alt").write_text("another")
    assert read(str(images), column="alt") == [(2, "another")]


RECORDS = [("0.png", "zero"), ("2.png", "two"), ("2.png", "deux"), ("9.png", "none")]


def write_table(path, suffix):
    names = {"file_name": [p for p, _ in RECORDS], "text": [t for _, t in RECORDS]}
    if suffix == "parquet":
        pq.write_table(pa.table(names), path)
    elif suffix == "jsonl":
        lines = [json.dumps({"file_name": p, "text": t}) for p, t in RECORDS]
        path.write_text("\n".join(lines))
    elif suffix == "json":
        every = dict.fromkeys(p for p, _ in RECORDS)
        content = {
            "images": [{"id": n, "file_name": p} for n, p in enumerate(every)],
            "annotations": [{"image_id": list(every).index(p), "caption": t} for p, t in RECORDS],
        }
        path.write_text(json.dumps(content))
    elif suffix == "txt":
        path.write_text("".join(f"{p}#{n}\t{t}\n" for n, (p, t) in enumerate(RECORDS)))
    else:
        sign = {"csv": ",", "tsv": "\t"}[suffix]
        lines = [("file_name", "text"), *RECORDS]
        path.write_text("".join(f"{sign.join(line)}\n" for line in lines))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "json", "txt"])
def test_a_file_of_captions(images, tmp_path, suffix):
    table = tmp_path / f"captions.{suffix}"
    write_table(table, suffix)
    expected = [(0, "zero"), (2, "two"), (2, "deux")]
    found = open_captioned(str(images), str(table))
    assert [each[:2] for each in found.captions()] == expected
    assert "1 of its 4 captions for images that are not there" in found.notices[0]
    alone = open_captioned(str(table), image_root=str(images))
    assert alone.source.paths == ("0.png", "2.png", "9.png")
    assert [each.text for each in alone.captions()] == [text for _, text in RECORDS]
    table.rename(images / f"captions.{suffix}")
    assert read(str(images)) == expected


def test_captions_may_be_long_and_several_in_a_cell(images):
    long = "a long caption " * 100
    for suffix, content in (
        ("csv", f"path,caption\n0.png,{long}\n"),
        ("jsonl", json.dumps({"path": "0.png", "captions": [long, "short"]})),
    ):
        (images / f"captions.{suffix}").write_text(content)
        found = read(str(images))
        assert found == [(0, long.strip()), (0, "short")][: len(found)]
        (images / f"captions.{suffix}").unlink()
    columns = {"path": ["0.png", "2.png"], "captions": [[long, "short"], []]}
    pq.write_table(pa.table(columns), images / "captions.parquet")
    assert read(str(images)) == [(0, long.strip()), (0, "short"), (2, "")]


def test_tar_shards(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        members = [
            ("a.png", png(1)), ("a.txt", b"a cat"), ("a.json", b'{"uid": "0f"}'),
            ("b.png", png(2)), ("b.json", b'{"caption": "' + b"long " * 400 + b'"}'),
            ("c.png", png(3)),
        ]  # fmt: skip
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    found = list(open_captioned(str(tmp_path / "0.tar")).captions())
    assert [(each.row, each.text[:9], each.uid) for each in found] == [
        (0, "a cat", "0f"), (1, "long long", "b"),
    ]  # fmt: skip
    assert len(found[1].text) == 1999  # longer than a label may be


def test_tables_with_images(tmp_path):
    table = pa.table({"image": [png(n) for n in range(3)], "key": ["x", "y", "z"],
                      "sentences": [["one", "uno"], [], ["three"]]})  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    found = list(open_captioned(str(tmp_path / "t.parquet")).captions())
    assert found == [(0, "one", "x"), (0, "uno", "x"), (2, "three", "z")]
    with pytest.raises(UsageError, match=r"no column 'alt'.*Correct --caption-column"):
        open_captioned(str(tmp_path / "t.parquet"), column="alt")
    pq.write_table(table.select(["image", "key"]), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="no column with captions among image, key"):
        open_captioned(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("c.csv", "file_name,text\nelsewhere.png,x\n", UsageError, "none of which is in"),
        ("c.csv", "file_name,label\n0.png,x\n", UsageError, "no column 'caption'"),
        ("c.json", "[1, 2]", UsageError, "no captions of images"),
        ("c.json", '{"images": [{"id": 1}], "annotations": []}', BlissError, "not a COCO caption"),
        ("c.json", "{", BlissError, "could not be read"),
        ("c.txt", "0.png a cat\n", UsageError, "line 1 of .* has no tab"),
        ("c.xml", "x", UsageError, "is no table of captions"),
    ],
)
def test_files_that_hold_no_captions_are_refused(images, tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        read(str(images), str(tmp_path / name))


def test_options_that_do_not_apply_are_refused(images, tmp_path):
    pq.write_table(pa.table({"image": [png()], "text": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"--captions was given with .*t\.parquet"):
        open_captioned(str(tmp_path / "t.parquet"), "c.csv")
    with pytest.raises(UsageError, match="--image-root was given with"):
        open_captioned(str(images), image_root="elsewhere")
    (tmp_path / "c.csv").write_text("path,text\n../../x.png,x\n")
    with pytest.raises(UsageError, match=r"--image-root .*gone is no folder"):
        open_captioned(str(tmp_path / "c.csv"), image_root=str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"names no file in .*--image-root"):
        open_captioned(str(tmp_path / "c.csv"))
    assert np.array_equal(read(str(images)), [])
