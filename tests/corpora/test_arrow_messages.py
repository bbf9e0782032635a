"""Arrow files whose messages claim more than they hold are refused before they are unpacked."""

from __future__ import annotations

import io
import resource
import struct
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.images.opening import open_images
from blissaudit.corpora.images.source import read_everything
from blissaudit.corpora.parquet_pages import PageTooLarge, arrow_batches, open_arrow_stream

from tests.corpora.images.test_source import png


def write(path: Path, batches: list[pa.RecordBatch], compression: str | None, file: bool) -> Path:
    make = pa.ipc.new_file if file else pa.ipc.new_stream
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with make(path, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def pictures(count: int = 3) -> pa.RecordBatch:
    values = [png(number) for number in range(count)]
    return pa.record_batch({"image": pa.array(values, pa.binary()), "label": ["x"] * count})


def zeros() -> pa.RecordBatch:
    values = pa.array([bytes(60 << 20)] * 4, pa.binary())
    return pa.record_batch({"image": values, "label": ["x"] * 4})


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_buffer_that_unpacks_to_much_more_is_not_unpacked(
    tmp_path: Path, file: bool, compression: str
) -> None:
    path = write(tmp_path / "a.arrow", [pictures(), zeros()], compression, file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items = list(open_images(path).items(read_everything))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert [item.data for item in items[:3]] == [png(n) for n in range(3)]
    (last,) = items[3:]
    assert "the table is not read: a record batch unpacks from " in last.problem
    assert grown < 100 << 10  # KiB


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("compression", ["zstd", "lz4", None])
def test_ordinary_files_are_read_whole(tmp_path: Path, file: bool, compression: str | None) -> None:
    labels = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), pa.array(["a", "b"]))
    batch = pa.record_batch({"image": pictures().column(0), "label": labels})
    path = write(tmp_path / "a.arrow", [batch, batch.slice(1)], compression, file)
    items = list(open_images(path).items(read_everything))
    assert [item.label for item in items] == ["a", "b", "a", "b", "a"]
    assert [item.data for item in items] == [png(n) for n in (0, 1, 2, 1, 2)]


def test_rows_that_take_no_bytes_are_not_counted_out(tmp_path: Path) -> None:
    schema = pa.schema([("image", pa.binary()), ("label", pa.string())])
    nothing = pa.record_batch({"image": pa.nulls(200_000, pa.binary()),
                               "label": pa.nulls(200_000, pa.string())}, schema)  # fmt: skip
    arrow = write(tmp_path / "a.arrow", [pictures(), nothing], "zstd", False)
    items = list(open_images(arrow).items(read_everything))
    assert len(items) == 4
    assert "the table is not read: it claims 200,003 rows in " in items[3].problem
    pq.write_table(pa.table(nothing.to_pydict(), schema), tmp_path / "a.parquet")
    (item,) = open_images(tmp_path / "a.parquet").items(read_everything)
    assert "the table is not read: it claims 200,000 rows in " in item.problem


def test_offsets_that_leave_the_batch_are_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", [pictures()], None, False)
    data = bytearray(path.read_bytes())
    offsets = struct.pack("<4i", *[sum(len(png(n)) for n in range(k)) for k in range(4)])
    at = data.index(offsets)
    data[at + 8 : at + 12] = struct.pack("<i", 1 << 30)
    path.write_bytes(data)
    (item,) = open_images(path).items(read_everything)
    assert "the table is damaged" in item.problem


@pytest.mark.parametrize("at", range(0, 600, 7))
def test_damaged_headers_are_one_plain_problem(tmp_path: Path, at: int) -> None:
    path = write(tmp_path / "a.arrow", [pictures(), pictures()], "zstd", False)
    data = bytearray(path.read_bytes())
    with open(path, "rb") as file, open_arrow_stream(file):
        first = file.tell()
    data[first + at] ^= 0xFF
    path.write_bytes(data)
    for item in open_images(path).items(read_everything):
        assert item.data is not None or item.problem


def test_too_large_names_both_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", [zeros()], "zstd", False)
    with open(path, "rb") as file, open_arrow_stream(file) as reader:
        with pytest.raises(PageTooLarge, match=r"from \d+ to 2516\d+ bytes, limit 32 MiB"):
            list(arrow_batches(file, reader, ["image"]))


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "tar"])
def test_a_label_that_is_no_name_fails_its_row_alone(tmp_path: Path, suffix: str) -> None:
    labels = ["a", "b" * 1025, "c" * 1024]
    path = tmp_path / f"a.{suffix}"
    if suffix == "tar":
        with tarfile.open(path, "w") as archive:
            for number, label in enumerate(labels):
                for name, data in (("png", png(number)), ("cls", label.encode())):
                    member = tarfile.TarInfo(f"{number}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    else:
        batch = pa.record_batch({"image": pictures().column(0), "label": labels})
        if suffix == "arrow":
            write(path, [batch], None, False)
        else:
            pq.write_table(pa.Table.from_batches([batch]), path)
    items = list(open_images(path).items(read_everything))
    assert [item.label for item in items] == ["a", None, "c" * 1024]
    assert [item.problem for item in items] == ["", "its label is longer than 1,024 bytes", ""]
    assert [item.data is None for item in items] == [False, True, False]
