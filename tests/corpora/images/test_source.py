"""Collections inside tables, archives, label files and data sets: rows, labels, bytes, damage."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora import datasets as data_sets
from blissaudit.corpora.addresses import expand
from blissaudit.corpora.images.opening import open_images
from blissaudit.corpora.images.source import (
    LEAVES_FOLDER,
    LINK_OUT,
    ImageItem,
    ImageOptions,
    ImageSource,
    read_everything,
    read_image_bytes,
)
from blissaudit.corpora.images.tables import ImageTables
from blissaudit.errors import BlissError, UsageError
from PIL import Image

NAMES = {"info": {"features": {
    "image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
}}}  # fmt: skip


def png(value: int) -> bytes:
    """A small image of one grey."""
    file = io.BytesIO()
    Image.new("L", (3, 3), value).save(file, "PNG")
    return file.getvalue()


def everything(source: ImageSource) -> list[ImageItem]:
    return list(source.items(read_everything))


def labels(source: ImageSource) -> list[str | None]:
    return [item.label for item in source.items(read_everything)]


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def make_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            add(archive, name, data)
    return path


def make_table(path: Path, values: list[int | None], **columns: list) -> Path:
    """A parquet file as `datasets` writes it; None is a row without an image."""
    images = [None if v is None else {"bytes": png(v), "path": f"{v}.png"} for v in values]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), **columns})
    table = table.replace_schema_metadata({"huggingface": json.dumps(NAMES)})
    pq.write_table(table, path, row_group_size=2)
    return path


def test_a_table_gives_rows_labels_and_names_of_class_labels(tmp_path: Path) -> None:
    path = make_table(tmp_path / "a.parquet", [1, 2, None, 4], label=[0, 1, 1, -1])
    source = open_images(path)
    items = everything(source)
    assert [(item.row, item.path, item.label) for item in items] == [
        (0, "a.parquet/0/1.png", "cat"),
        (1, "a.parquet/1/2.png", "dog"),
        (2, "a.parquet/2", "dog"),
        (3, "a.parquet/3/4.png", None),
    ]
    assert [item.data for item in items] == [png(1), png(2), None, png(4)]
    assert items[2].problem == "the row holds no image"
    assert list(read_image_bytes(source, {3, 0, 2})) == [(0, png(1)), (3, png(4))]


def test_columns_are_chosen_by_option(tmp_path: Path) -> None:
    columns = {"a": [png(1)], "b": [png(2)], "kind": ["x"], "label": [7.0]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    path = tmp_path / "t.parquet"
    with pytest.raises(UsageError, match=r"several columns of images \(a, b\).*--image-column"):
        open_images(path)
    first = everything(open_images(path, ImageOptions("b")))
    assert [(item.data, item.label) for item in first] == [(png(2), "7")]
    second = everything(open_images(path, ImageOptions("a", "kind")))
    assert [(item.data, item.label) for item in second] == [(png(1), "x")]
    with pytest.raises(UsageError, match=r"no column 'c'. Needed: one of a, b, kind, label"):
        open_images(path, ImageOptions("a", "c"))
    with pytest.raises(UsageError, match=r"a split given for"):
        open_images(path, ImageOptions("a", split="train"))


def test_the_same_name_in_two_shards_is_two_images(tmp_path: Path) -> None:
    for number in (0, 1):
        make_table(tmp_path / f"s-{number:02d}.parquet", [5], label=[number])
    items = everything(open_images(f"{tmp_path}/s-{{00..01}}.parquet"))
    assert [(item.row, item.path) for item in items] == [
        (0, "s-00.parquet/0/5.png"),
        (1, "s-01.parquet/0/5.png"),
    ]


def test_a_path_in_a_table_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(png(9))
    (tmp_path / "in" / "a.png").write_bytes(png(1))
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "secret.png")
    paths = ["a.png", "../secret.png", str(tmp_path / "secret.png"), "b.png"]
    images = [{"bytes": None, "path": path} for path in paths]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind)}), tmp_path / "in" / "t.parquet")
    items = everything(open_images(tmp_path / "in" / "t.parquet"))
    assert [item.problem for item in items] == ["", LEAVES_FOLDER, LEAVES_FOLDER, LINK_OUT]
    assert items[0].file == str(tmp_path / "in" / "a.png")


def test_damaged_groups_and_files_fail_row_by_row_and_the_rest_is_read(tmp_path: Path) -> None:
    good = make_table(tmp_path / "c.parquet", [8], label=[0])
    broken = tmp_path / "a.parquet"
    make_table(broken, [1, 2, 3, 4], label=[0, 1, 0, 1])
    content = bytearray(broken.read_bytes())
    start = pq.read_metadata(broken).row_group(0).column(0).dictionary_page_offset or 4
    content[start : start + 40] = b"\xff" * 40
    broken.write_bytes(content)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not a table")
    items = everything(open_images(f"{tmp_path}/[abc].parquet"))
    assert [item.row for item in items] == list(range(6))
    assert [bool(item.problem) for item in items] == [True, True, False, False, True, False]
    assert "the table is damaged (" in items[0].problem and "magic bytes" in items[4].problem
    assert items[5].data == png(8)
    source = open_images(f"{tmp_path}/[abc].parquet")
    good.unlink()
    for use in (everything, lambda source: source.check()):
        with pytest.raises(BlissError, match=r"c\.parquet could not be read \(No such file"):
            use(source)


def test_skipped_rows_keep_their_numbers(tmp_path: Path) -> None:
    path = make_table(tmp_path / "t.parquet", list(range(9)), label=[0] * 9)
    tar = make_tar(tmp_path / "t.tar", [(f"{n}.png", png(n)) for n in range(9)])
    for spec in (path, tar):
        items = list(open_images(spec).items(lambda row: row not in (3, 7)))
        assert [item.row for item in items] == list(range(9))
        assert [item.row for item in items if item.data] == [3, 7]
        assert items[7].data == png(7)


def test_bytes_of_rows_are_found_in_one_pass_that_ends_early(tmp_path: Path) -> None:
    path = make_table(tmp_path / "t.parquet", list(range(9)), label=[0] * 9)
    source = open_images(path)
    read: list[int] = []

    class Counted:
        def __getattr__(self, name):
            return getattr(source, name)

        def items(self, skip):
            for item in source.items(skip):
                read.append(item.row)
                yield item

    assert list(read_image_bytes(Counted(), [4, 2, 2])) == [(2, png(2)), (4, png(4))]  # type: ignore[arg-type]
    assert read == [0, 1, 2, 3, 4]
    assert list(read_image_bytes(source, [])) == []


def test_labels_of_names_with_dots_and_by_other_suffixes(tmp_path: Path) -> None:
    members = [
        ("p.v1.png", png(1)), ("p.v1.cls", b"a"), ("p.v2.png", png(2)), ("p.v2.cls", b"b"),
        ("q.left.png", png(3)), ("q.right.png", png(4)), ("q.json", b'{"label": "c"}'),
        ("r.png", png(5)), ("r.class", b"d"), ("s.PNG", png(6)), ("s.LABEL", b"e"),
    ]  # fmt: skip
    tar = open_images(make_tar(tmp_path / "a.tar", members))
    assert [item.label for item in tar.items(read_everything)] == [*"abccde"]


def test_tar_samples_have_labels_beside_them(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.tar",
        [
            ("d/1.png", png(1)), ("d/1.cls", b"cat\n"), ("d/1.json", b'{"label": "no"}'),
            ("d/2.json", b'{"label": 7, "x": "y"}'), ("d/2.png", png(2)),
            ("d/3.txt", b" dog "), ("d/3.jpg", png(3)),
            ("d/4.png", png(4)), ("d/4.json", b"{not json"),
            ("d/5.seg.png", png(5)), ("d/5.png", png(6)), ("d/5.cls", b"two"),
            ("d/._6.png", b"hidden"), ("d/readme", b"x"),
        ],
    )  # fmt: skip
    items = everything(open_images(path))
    assert [(item.row, item.path, item.label, item.data) for item in items] == [
        (0, "a.tar/d/1.png", "cat", png(1)),
        (1, "a.tar/d/2.png", "7", png(2)),
        (2, "a.tar/d/3.jpg", "dog", png(3)),
        (3, "a.tar/d/4.png", None, png(4)),
        (4, "a.tar/d/5.seg.png", "two", png(5)),
        (5, "a.tar/d/5.png", "two", png(6)),
    ]
    assert labels(open_images(path, ImageOptions(label_column="x")))[:3] == [None, "y", None]
    only = everything(open_images(path, ImageOptions(image_column="seg.png")))
    assert [item.path for item in only] == ["a.tar/d/5.seg.png"]
    with pytest.raises(BlissError, match=r"holds no images.*correct --image-column"):
        everything(open_images(path, ImageOptions(image_column="bmp")))


def test_links_devices_and_names_that_leave_an_archive_fail(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "ok.png", png(1))
        for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
        device = tarfile.TarInfo("d.png")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
        add(archive, "../up.png", png(2))
        add(archive, "/root.png", png(3))
    items = everything(open_images(tmp_path / "a.tar"))
    link = "it is a link inside an archive, which is not followed"
    leaves = "its name leaves the archive"
    device_problem = "it is a folder, pipe or device, not a file"
    assert [item.problem for item in items] == ["", link, link, device_problem, leaves, leaves]
    assert [item.data is None for item in items] == [False] + [True] * 5


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_truncated_archive_loses_what_is_cut_and_says_so(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(1)
    noise = [rng.bytes(3000) for _ in range(5)]
    mode = "w:gz" if suffix.endswith("gz") else "w"
    whole = make_tar(tmp_path / f"a.{suffix}", [(f"{n}.png", d) for n, d in enumerate(noise)], mode)
    make_tar(tmp_path / f"b.{suffix}", [("9.png", png(9))], mode)
    assert [item.problem for item in everything(open_images(whole))] == [""] * 5
    content = whole.read_bytes()
    for cut in (len(content) * 2 // 5, 512 * 7 * 2 if suffix == "tar" else len(content) // 2):
        whole.write_bytes(content[:cut])
        items = everything(open_images(f"{tmp_path}/?.{suffix}"))
        assert [item.row for item in items] == list(range(len(items)))
        bad = [item for item in items if item.problem]
        assert len(bad) == 1 and "archive" in bad[0].problem
        assert items[-1].data == png(9) and items[-2].problem
        assert [item.data for item in items[:-2]] == noise[: len(items) - 2]


def test_archives_of_one_folder_and_brace_ranges(tmp_path: Path) -> None:
    for number in range(3):
        make_tar(tmp_path / f"s-{number:03d}.tar", [("0.png", png(number))])
    ranged = everything(open_images(f"{tmp_path}/s-{{000..002}}.tar"))
    assert [item.data for item in ranged] == [png(0), png(1), png(2)]
    assert [item.path for item in ranged][1] == "s-001.tar/0.png"
    assert everything(open_images(tmp_path)) == ranged
    assert expand("x{2..0}y{a,b}") == ["x2ya", "x2yb", "x1ya", "x1yb", "x0ya", "x0yb"]
    with pytest.raises(UsageError, match="names too many files"):
        expand("x{0..999999999}.tar")
    with pytest.raises(UsageError, match=r"s-003\.tar does not exist"):
        open_images(f"{tmp_path}/s-{{002..003}}.tar")
    with pytest.raises(UsageError, match=r"matches no file"):
        open_images(f"{tmp_path}/q-*.tar")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_label_file_names_paths_and_labels(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"list.{suffix}"
    records = [("a.png", "cat"), ("sub/b.png", ""), ("../out.png", "cat"), ("a.png", "dog")]
    if suffix == "parquet":
        paths, names = zip(*records, strict=True)
        pq.write_table(pa.table({"file_name": list(paths), "label": list(names)}), file)
    else:
        mark = "," if suffix == "csv" else "\t"
        lines = [f"file_name{mark}label", *(mark.join(record) for record in records)]
        file.write_text("\n".join(lines) + "\n")
    source = open_images(file)
    assert [(item.row, item.path, item.label) for item in everything(source)] == [
        (row, path, label or None) for row, (path, label) in enumerate(records)
    ]
    assert [item.problem for item in everything(source)] == ["", "", LEAVES_FOLDER, ""]
    assert source.labels == ("cat", None, "cat", "dog")
    with pytest.raises(UsageError, match=r"no column 'x'.*Correct --label-column"):
        open_images(file, ImageOptions(label_column="x"))


def test_a_flat_folder_takes_its_label_file(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png(1))
    text = "path,kind,label\nb.png,k1,dog\ngone.png,k2,cat\n../x.png,k3,cat\na.png,k4,\n"
    (tmp_path / "labels.csv").write_text(text)
    source = open_images(tmp_path)
    found = [(item.path, item.label, item.problem) for item in everything(source)]
    assert found[:3] == [("a.png", None, ""), ("b.png", "dog", ""), ("c.png", None, "")]
    assert found[3] == ("gone.png", "cat", "labels.csv names it, but it is not among the images")
    assert found[4][1:] == ("cat", LEAVES_FOLDER)
    other = tmp_path / "other.csv"
    other.write_text("path,label\na.png,one\n")
    assert open_images(tmp_path, ImageOptions(labels=str(other))).labels == ("one", None, None)
    kinds = open_images(tmp_path, ImageOptions(label_column="kind")).labels
    assert kinds is not None and kinds[:3] == ("k4", "k1", None)
    other.write_text("path,label\na.png,one\na.png,two\n")
    with pytest.raises(BlissError, match=r"gives a\.png the labels 'one' and 'two'"):
        open_images(tmp_path, ImageOptions(labels=str(other)))


def test_label_files_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    for text, message in (
        ("a,b\n1,2\n", r"has no column with paths among a, b"),
        ("path,label\na.png,x,y\n", r"line 2 of .* cannot be read \(3 fields under 2 columns\)"),
        ("path,label\n,x\n", r"record 1 of .* has no path"),
        ("path,label\n", r"has no records"),
        ("", r"names no columns"),
        ("sep=;\npath;label\na.png;x;y\n", r"line 3 of .* cannot be read \(3 fields under 2"),
    ):
        file.write_text(text)
        with pytest.raises(BlissError, match=message):
            open_images(file)
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(BlissError, match=r"bad\.parquet could not be read"):
        open_images(tmp_path / "bad.parquet")


def test_a_spreadsheets_line_with_its_separator_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "list.csv").write_text("sep=|\r\npath|label\r\na.png|x, y; z\r\n")
    assert [(i.path, i.label) for i in everything(open_images(tmp_path / "list.csv"))] == [
        ("a.png", "x, y; z")
    ]


def make_dataset():
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    images = [{"bytes": png(n), "path": f"{n}.png"} for n in range(3)]
    images[1]["bytes"] = b"broken"
    rows = {"image": images, "label": [1, 0, 1]}
    return datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict(rows, features=features),
            "test": datasets.Dataset.from_dict({k: v[:1] for k, v in rows.items()}, features),
        }
    )


def test_folders_that_datasets_saved(tmp_path: Path) -> None:
    made = make_dataset()
    made.save_to_disk(tmp_path / "saved")
    source = open_images(tmp_path / "saved")
    assert labels(source) == ["dog", "cat", "dog"]
    assert [item.data for item in everything(source)] == [png(0), b"broken", png(2)]
    assert labels(open_images(tmp_path / "saved", ImageOptions(split="test"))) == ["dog"]
    with pytest.raises(UsageError, match=r"no split 'dev'. Needed: one of train, test"):
        open_images(tmp_path / "saved", ImageOptions(split="dev"))
    assert labels(open_images(tmp_path / "saved" / "train")) == ["dog", "cat", "dog"]
    with pytest.raises(UsageError, match=r"the split train was given for .*no split"):
        open_images(tmp_path / "saved" / "train", ImageOptions(split="train"))
    state = tmp_path / "saved" / "train" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../test/state.json"}]}))
    with pytest.raises(BlissError, match=r"which leaves the folder"):
        open_images(tmp_path / "saved")
    state.write_text(json.dumps({"_data_files": 3}))
    with pytest.raises(BlissError, match=r"state\.json does not list what it should"):
        open_images(tmp_path / "saved")


def test_a_folder_of_parquet_shards_and_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    folder = tmp_path / "repo"
    (folder / "data").mkdir(parents=True)
    for split, made in make_dataset().items():
        made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    assert labels(open_images(folder)) == ["dog", "cat", "dog"]
    assert labels(open_images(folder, ImageOptions(split="test"))) == ["dog"]
    real = datasets.load_dataset_builder
    monkeypatch.setattr(data_sets, "_is_of_repository", lambda address, file: True)
    asked = []

    def load(address: str, **options: object) -> object:
        asked.append((address, options))
        return real(str(folder))

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    source = open_images("hf:owner/name", ImageOptions(split="test", revision="v1"))
    assert asked == [("hf://datasets/owner/name", {"name": None, "revision": "v1"})]
    assert labels(source) == ["dog"]
    facts = source.facts()
    assert (facts["spec"], facts["split"], facts["revision"]) == ("hf:owner/name", "test", "v1")


def test_repositories_of_archives_and_of_image_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    real = datasets.load_dataset_builder
    monkeypatch.setattr(data_sets, "_is_of_repository", lambda address, file: True)
    (tmp_path / "t").mkdir()
    make_tar(tmp_path / "t" / "train-0.tar", [("0.png", png(1)), ("0.cls", b"3")])
    for name in ("cat/a.png", "dog/a.png"):
        (tmp_path / "f" / name).parent.mkdir(parents=True)
        (tmp_path / "f" / name).write_bytes(png(2))
    for folder, expected in (("t", ["3"]), ("f", ["cat", "dog"])):
        monkeypatch.setattr(
            datasets, "load_dataset_builder", lambda *_, f=folder, **__: real(str(tmp_path / f))
        )
        source = open_images("hf:owner/name")
        assert labels(source) == expected
        assert dict(read_image_bytes(source, [0]))[0] in (png(1), png(2))


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def test_remote_folders_archives_and_tables(tmp_path: Path, memory) -> None:
    for name in ("cat/a.png", "dog/a.png", "dog/notes.txt"):
        memory.pipe(f"/set/{name}", png(1))
    source = open_images("memory://set")
    items = everything(source)
    assert [(item.path, item.label) for item in items] == [
        ("cat/a.png", "cat"),
        ("dog/a.png", "dog"),
    ]
    assert list(read_image_bytes(source, [1])) == [(1, png(1))]
    before = source.facts()["fingerprint"]
    memory.pipe("/set/cat/a.png", png(200) + b"longer")
    assert source.facts()["fingerprint"] != before
    memory.rm("/set/cat/a.png")
    assert list(read_image_bytes(source, [0, 1])) == [(1, png(1))]
    tar = make_tar(tmp_path / "a.tar", [("0.png", png(3)), ("0.cls", b"x")])
    memory.pipe("/shards/s-0.tar", tar.read_bytes())
    table = make_table(tmp_path / "a.parquet", [4], label=[1])
    memory.pipe("/shards/p.parquet", table.read_bytes())
    assert labels(open_images("memory://shards/s-{0..0}.tar")) == ["x"]
    assert labels(open_images("memory://shards/*.parquet")) == ["dog"]
    with pytest.raises(BlissError, match=r"memory://shards/none\.parquet could not be read"):
        open_images("memory://shards/none.parquet")
    with pytest.raises(UsageError, match=r"memory://nowhere does not exist|no collection"):
        open_images("memory://nowhere")


def test_what_an_address_lacks_is_said() -> None:
    with pytest.raises(UsageError, match=r"needs a package that is not installed.*s3fs"):
        everything(open_images("s3://bucket/a.tar"))
    with pytest.raises(UsageError, match=r"is no address that fsspec knows"):
        everything(open_images("nothing://bucket/a.tar"))


def test_a_source_whose_system_fails_in_the_middle_is_an_error(memory, monkeypatch) -> None:
    table = pa.table({"image": [os.urandom(50_000) for _ in range(40)]})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=4)
    memory.pipe("/t.parquet", file.getvalue())
    source = open_images("memory://t.parquet")
    items = source.items(read_everything)
    assert next(items).row == 0

    def read(self, *size):
        raise OSError("connection lost")

    opened = type(memory.open("/t.parquet"))
    monkeypatch.setattr(opened, "read", read, raising=False)
    with pytest.raises(BlissError, match=r"t\.parquet could not be read \(connection lost\)"):
        list(items)


@pytest.mark.parametrize(
    "name", ["Label", " label", "CATEGORY", "class_name", "labels ", "Class Name", "Species"]
)
def test_label_columns_in_other_spellings(tmp_path: Path, name: str) -> None:
    for value in (1, 2):
        (tmp_path / f"{value}.png").write_bytes(png(value))
    (tmp_path / "labels.csv").write_text(f" Path,{name}\n1.png,cat\n2.png,dog\n")
    assert labels(open_images(tmp_path)) == ["cat", "dog"]
    assert labels(open_images(tmp_path / "labels.csv")) == ["cat", "dog"]
    assert labels(open_images(tmp_path, ImageOptions(labels=str(tmp_path / "labels.csv")))) == [
        "cat",
        "dog",
    ]
    make_table(tmp_path / "t.parquet", [1, 2], **{name: ["cat", "dog"]})
    assert labels(open_images(tmp_path / "t.parquet")) == ["cat", "dog"]
    record = json.dumps({name: "cat"}).encode()
    make_tar(tmp_path / "t.tar", [("1.png", png(1)), ("1.json", record)])
    assert labels(open_images(tmp_path / "t.tar")) == ["cat"]


def test_a_label_column_is_found_or_its_lack_is_said(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    file = tmp_path / "kinds.csv"
    file.write_text("path,kind\n1.png,cat\n")
    given = ImageOptions(labels=str(file))
    with pytest.raises(UsageError, match=r"kinds.csv has no column with labels.*--label-column"):
        open_images(tmp_path, given)
    found = open_images(tmp_path, ImageOptions(labels=str(file), label_column="Kind"))
    assert labels(found) == ["cat"]
    said = r"holds labels \(label, labels, class, …\); --label-column names another"
    make_table(tmp_path / "t.parquet", [1], kind=["cat"])
    for table in (file, tmp_path / "t.parquet"):
        (line,) = open_images(table).notices
        assert re.search(said, line)
        assert not open_images(table, ImageOptions(label_column="kind")).notices
    make_table(tmp_path / "alone.parquet", [1])
    assert not open_images(tmp_path / "alone.parquet").notices
    for name in ("Image Path", "filepath"):
        file.write_text(f"{name};label\n1.png;cat\n")
        assert labels(open_images(file)) == ["cat"]
    file.write_text("path,Kind,KIND\n1.png,cat,dog\n")
    with pytest.raises(UsageError, match=r"has several columns like 'kind'.*one of Kind, KIND"):
        open_images(tmp_path, ImageOptions(labels=str(file), label_column="kind"))
    assert labels(open_images(file, ImageOptions(label_column="KIND"))) == ["dog"]


@pytest.mark.parametrize("name", ["label", " Label"])
def test_two_label_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    content = pa.struct({"bytes": pa.binary()})
    columns = [pa.array([], content), pa.array([], pa.string()), pa.array([], pa.string())]
    pq.write_table(pa.table(columns, names=["image", name, name]), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=rf"several columns called '{name}'.*Rename all but one"):
        open_images(tmp_path / "t.parquet")
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "t.csv").write_text(f"path,{name},{name}\n1.png,cat,dog\n")
    with pytest.raises(UsageError, match=r"several columns called"):
        open_images(tmp_path / "t.csv")


def test_captions_beside_images_are_no_classes(tmp_path: Path) -> None:
    record = json.dumps({"caption": "a dog", "url": "x", "status": "success"}).encode()
    make_tar(
        tmp_path / "0.tar",
        [
            ("1.png", png(1)), ("1.txt", b"a dog"), ("1.json", record),
            ("2.png", png(2)), ("2.txt", b"two dogs that run along the beach"),
            ("3.png", png(3)), ("3.txt", b"king charles spaniel"),
            ("4.png", png(4)), ("4.txt", b"one\ntwo"),
        ],
    )  # fmt: skip
    assert labels(open_images(tmp_path / "0.tar")) == [None, None, "king charles spaniel", None]
    assert labels(open_images(tmp_path / "0.tar", ImageOptions(label_column="txt")))[0] == "a dog"


@pytest.mark.parametrize("images_first", [True, False])
def test_labels_apart_from_their_images_are_noticed(tmp_path: Path, images_first: bool) -> None:
    images = [(f"{n}.png", png(n)) for n in range(3)]
    names = [(f"{n}.cls", b"cat") for n in range(3)]
    make_tar(tmp_path / "t.tar", images + names if images_first else names + images)
    with pytest.raises(BlissError, match=r"the image and the label of 0 do not follow each other"):
        everything(open_images(tmp_path / "t.tar"))
    make_tar(tmp_path / "t.tar", [*images, ("9.cls", b"cat")])
    assert labels(open_images(tmp_path / "t.tar")) == [None] * 3  # there is nothing to put right


def sparse_tar(path: Path, data: bytes, stated: int, kind: str = "0.1") -> Path:
    """An archive with a sparse member as GNU tar writes it: a hole of 512, `data`, another hole."""
    fields = {"GNU.sparse.name": "1.png", "GNU.sparse.size": str(stated)}
    if kind == "1.0":
        fields |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        fields["GNU.sparse.realsize"] = fields.pop("GNU.sparse.size")
        data = f"1\n512\n{len(data)}\n".encode().ljust(512, b"\0") + data
    elif kind == "0.1":
        fields |= {"GNU.sparse.numblocks": "1", "GNU.sparse.map": f"512,{len(data)}"}
    member = tarfile.TarInfo("1.png" if kind == "gnu" else "GNUSparseFile.1/1.png")
    member.size, member.pax_headers = len(data), {} if kind == "gnu" else fields
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(data))
        add(archive, "2.png", png(2))
    if kind == "gnu":  # type S, the map from byte 386 on, the size of the whole at 483
        header = bytearray(path.read_bytes())
        header[156:157], header[257:265] = b"S", b"ustar  \0"
        header[345:512] = bytes(167)
        header[386:410] = b"%011o\0%011o\0" % (512, len(data))
        header[483:495] = b"%011o\0" % stated
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header[:512])
        path.write_bytes(header)
    return path


@pytest.mark.parametrize("kind", ["0.1", "1.0", "gnu"])
def test_sparse_members_have_their_holes(tmp_path: Path, kind: str) -> None:
    path = sparse_tar(tmp_path / "t.tar", png(1), len(png(1)) + 5000, kind)
    first, second = everything(open_images(path))
    assert first.data == bytes(512) + png(1) + bytes(5000 - 512)
    assert (first.path, second.data) == ("t.tar/1.png", png(2))
    path = sparse_tar(tmp_path / "t.tar", png(1), 100 << 20, kind)
    first, second = everything(open_images(path))
    assert first.problem == "it is a sparse file larger than 16 MiB"
    assert second.data == png(2)


def test_what_follows_a_sparse_member_or_the_end_of_an_archive_is_missed_aloud(
    tmp_path: Path,
) -> None:
    path = sparse_tar(tmp_path / "t.tar", png(1), len(png(1)) + 5000)
    short = path.read_bytes()
    with tarfile.open(path) as archive:
        archive.next()
        short = short[: archive.next().offset]  # behind the first member
    path.write_bytes(short)
    first, lost = everything(open_images(path))
    assert (first.problem, lost.problem) == (
        "", "the archive ends early or is damaged from here on",
    )  # fmt: skip
    one, two = (make_tar(tmp_path / name, [(name + ".png", png(3))]) for name in "ab")
    path.write_bytes(one.read_bytes() + two.read_bytes())  # as `cat` does it, and tar stops there
    first, lost = everything(open_images(path))
    assert first.data == png(3)
    assert lost.problem == "the file goes on behind the end of the archive, which is not read"


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_images_in_base64_are_no_paths_and_no_labels(tmp_path: Path, name: str) -> None:
    """They are cut and said: whole, one of them fills a screen, a cell or a page."""
    (tmp_path / "0.png").write_bytes(png(0))
    long = base64.b64encode(bytes(range(256)) * 40).decode()

    def write(paths: list[str], labels: list[str]) -> Path:
        path = tmp_path / name
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"image": paths, "label": labels}), path)
        elif name.endswith(".jsonl"):
            lines = [{"image": p, "label": c} for p, c in zip(paths, labels, strict=True)]
            path.write_text("\n".join(map(json.dumps, lines)))
        else:
            rows = [f"{p},{c}" for p, c in zip(paths, labels, strict=True)]
            path.write_text("\n".join(["image,label", *rows]))
        return path

    path = write(["0.png", long, "0.png"], ["cup", "cup", long])
    first, second, third = everything(open_images(path))
    assert (first.path, first.label, first.problem) == ("0.png", "cup", "")
    assert second.path == f"{long[:48]}… ({len(long):,} characters)"
    assert "does the column hold images as base64" in second.problem and second.file is None
    assert third.label is None and third.problem == "its label is longer than 1,024 bytes"
    with pytest.raises(UsageError, match=r"names no file.*--image-column, or save the") as error:
        open_images(write([long] * 2, ["cup"] * 2))
    assert len(str(error.value)) < 600
    listed = open_images(tmp_path, ImageOptions(labels=str(write(["0.png", long], [long, "x"]))))
    found = everything(listed)
    assert [item.label for item in found] == [None, "x"]
    assert found[0].problem == "its label is longer than 1,024 bytes"
    assert "base64" in found[1].problem and len(found[1].path) < 100


def test_a_converted_branch_of_images_says_that_configurations_are_one(tmp_path: Path) -> None:
    table = ImageTables("hf:a/b", ("x", "y"), "image", None)
    assert table.notices == ()
    branch = replace(table, options=ImageOptions(revision="refs/convert/parquet"))
    assert "its configurations are read as one, 2 files: rows repeat" in branch.notices[0]
