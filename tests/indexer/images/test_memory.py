"""Small files that unpack to gigabytes are refused from their headers, with a reason."""

from __future__ import annotations

import io
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora import parquet_pages
from blissaudit.corpora.images.opening import open_images
from blissaudit.corpora.images.source import read_everything
from blissaudit.errors import BlissError
from blissaudit.indexer.encode.encoder import Preprocessing
from blissaudit.indexer.images import decoding
from blissaudit.indexer.images.decoding import (
    DecodingLimits,
    UnreadableImage,
    bytes_needed,
    decode_bytes,
    thumbnail,
)
from PIL import Image

EIGHT = Preprocessing((8, 8), "bicubic", "shortest", (0.5,) * 3, (0.5,) * 3)
MIB = 1 << 20


def saved(mode: str, size: tuple[int, int], form: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()


def needed(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return bytes_needed(image, data) - len(data)


@pytest.mark.parametrize(
    ("mode", "form", "options", "each"),
    [
        ("L", "PNG", {}, 1),
        ("1", "PNG", {}, 1),
        ("I;16", "PNG", {}, 2),
        ("RGB", "PNG", {}, 4),
        ("RGB", "JPEG", {}, 4),
        ("CMYK", "JPEG", {}, 4),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}, 10),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 2}, 7),
        ("RGB", "WEBP", {"lossless": True}, 20),
        ("P", "GIF", {}, 12),
    ],
)
def test_every_format_has_its_bytes_a_pixel(
    mode: str, form: str, options: dict[str, object], each: int
) -> None:
    assert needed(saved(mode, (200, 100), form, **options)) == each * 200 * 100


@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [
        ("F", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("RGB", "PNG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("P", "GIF", {}),
    ],
)
@pytest.mark.parametrize("small", [True, False])
def test_what_needs_too_much_memory_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, mode: str, form: str, options: dict[str, object], small: bool
) -> None:
    data = saved(mode, (700, 600), form, **options)
    decode_bytes(data, EIGHT, DecodingLimits())
    monkeypatch.setattr(decoding, "_load", None)
    limits = DecodingLimits(max_memory=1 * MIB)
    with pytest.raises(UnreadableImage, match=r"needs \d+ MiB, more than the limit of 1 MiB"):
        if small:
            thumbnail(data, 9, limits)
        else:
            decode_bytes(data, EIGHT, limits)


def test_a_tile_larger_than_its_image_counts() -> None:
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000}
    tags |= {324: 8, 325: 4}
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 3, 1, n) for tag, n in tags.items()) + bytes(4)
    data = struct.pack("<2sHI", b"II", 42, 12) + bytes(4) + directory
    with pytest.raises(UnreadableImage, match=r"decoding the image needs 3051 MiB"):
        decode_bytes(data, EIGHT, DecodingLimits())


def test_ordinary_large_photographs_are_within_the_limits() -> None:
    limit = DecodingLimits().max_memory
    assert 4 * 11_648 * 8_736 + 50 * MIB < limit  # 102 megapixels
    assert 4 * 50_000_000 + 200 * MIB < limit  # 16-bit colour, which Pillow keeps as 8-bit


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "RGBA", "F"])
def test_bands_give_the_pixels_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    rng = np.random.default_rng(0)
    kinds = {"I;16": np.uint16, "F": np.float32}
    shape = (61, 83) + ((len(mode),) if mode in ("RGB", "RGBA") else ())
    pixels = rng.integers(0, 256, shape).astype(kinds.get(mode, np.uint8)) * (
        200 if mode == "I;16" else 1
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    form = "TIFF" if mode == "F" else "PNG"
    Image.fromarray(pixels).save(file, form, exif=exif.tobytes())
    whole = decode_bytes(file.getvalue(), EIGHT, DecodingLimits())
    monkeypatch.setattr(decoding, "_BAND_PIXELS", 500)
    bands = decode_bytes(file.getvalue(), EIGHT, DecodingLimits())
    assert np.array_equal(whole[0], bands[0]) and whole[1:] == bands[1:]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_large_header_of_an_archive_is_not_read(tmp_path: Path, kind: bytes) -> None:
    content = saved("RGB", (8, 8), "PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("0.png")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        header = tarfile.TarInfo("header")
        header.type, header.size = kind, 20 * MIB
        archive.addfile(header, io.BytesIO(b"9 a=bcd\n" * (20 * MIB // 8)))
    tracemalloc.start()
    try:
        items = list(open_images(str(tmp_path / "a.tar")).items(read_everything))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [item.problem for item in items] == [
        "",
        "the archive is not read from here on: a header is larger than 256 KiB",
    ]
    assert peak < 4 * MIB


@pytest.mark.parametrize(
    "options",
    [{"use_dictionary": True}, {"use_dictionary": False}],
    ids=["dictionary", "plain"],
)
def test_a_page_that_unpacks_to_much_more_fails_by_itself(
    tmp_path: Path, options: dict[str, object]
) -> None:
    good = saved("RGB", (8, 8), "PNG")
    file = tmp_path / "a.parquet"
    with pq.ParquetWriter(
        file, pa.schema([("image", pa.binary())]), compression="zstd", **options
    ) as writer:
        writer.write_table(pa.table({"image": pa.array([good] * 3)}))
        writer.write_table(pa.table({"image": pa.array([bytes(34 * MIB)] * 2)}))
        writer.write_table(pa.table({"image": pa.array([good])}))
    before = pa.default_memory_pool().max_memory()
    items = list(open_images(str(file)).items(read_everything))
    assert [bool(item.problem) for item in items] == [False] * 3 + [True] * 2 + [False]
    assert "a page of column image unpacks from" in items[3].problem
    assert pa.default_memory_pool().max_memory() - before < 34 * MIB


@pytest.mark.parametrize(
    "options",
    [
        {"use_dictionary": True},
        {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}},
    ],
    ids=["dictionary", "shared prefixes"],
)
def test_values_that_stand_for_many_rows_are_read_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    pq.write_table(
        pa.table({"image": pa.array([b"x" * 10_000] * 64)}), tmp_path / "a.parquet", **options
    )
    monkeypatch.setattr(parquet_pages, "MAX_PAGE", 50_000)
    with open(tmp_path / "a.parquet", "rb") as opened, pq.ParquetFile(opened) as table:
        batches = list(parquet_pages.parquet_batches(table, opened, ["image"], 32, 0))
    assert max(len(batch) for batch in batches) <= 4
    assert sum(len(batch) for batch in batches) == 64


def test_label_files_that_unpack_to_much_more_are_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"path": ["x" * 100_000] * 2000}), tmp_path / "labels.parquet", compression="zstd"
    )
    with pytest.raises(BlissError, match="its texts unpack to more than 64 MiB"):
        open_images(str(tmp_path / "labels.parquet"))
