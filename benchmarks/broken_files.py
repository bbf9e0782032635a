"""Generated image files that are broken in known ways, odd but whole ones, archives with damage."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.corpora.images.source import display_path
from blissaudit.demo.scenes import render_scene, sample_scene
from PIL import Image

KINDS = ("apple", "boat", "house", "clock")
SCENES = 60
"""Drawn scenes; every image is one of them with a patch of its own, so that no two are equal."""

REASONS = {
    "truncated": "the image data ends early",
    "empty": "the file is empty",
    "html": "not a JPEG",
    "magic": "not a JPEG",
    "noise": "",
    "bomb": "more pixels than the limit",
    "chunk": "damaged",
    "denied": "there is no permission",
    "folder": "it is a folder",
    "dangling": "does not exist",
    "loop": "could not be read",
    "outside": "leaves the folder",
    "pipe": "it is a pipe",
    "hang": "decoding took longer than",
    "crash": "the decoder process died (signal 11)",
    "vanished": "does not exist",
}
"""Way -> what its reason must hold."""
COSTLY = {"hang": 4, "crash": 12}
"""At most so many of the ways that cost a second or a process each."""


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scenes(rng: np.random.Generator) -> list[Image.Image]:
    """SCENES drawn scenes, KINDS in turn."""
    return [render_scene(sample_scene(rng, KINDS[n % len(KINDS)]), 48) for n in range(SCENES)]


def own_copy(scene: Image.Image, number: int) -> Image.Image:
    """A scene with its number in four pixels of a corner."""
    pixels = np.array(scene.convert("RGB"))
    pixels[0, :4, 0] = [number >> shift & 255 for shift in (24, 16, 8, 0)]
    return Image.fromarray(pixels)


def sixteen_bits(image: Image.Image) -> Image.Image:
    """The image in 16-bit grey."""
    return Image.fromarray(np.asarray(image.convert("L")) * np.uint16(257))


FINE: tuple[Callable[[Image.Image], tuple[str, bytes]], ...] = (
    lambda image: ("png", encoded(image)),
    lambda image: ("jpg", encoded(image, "JPEG", quality=95)),
    lambda image: ("JPEG", encoded(image.convert("CMYK"), "JPEG")),
    lambda image: ("gif", encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)])),
    lambda image: ("png", encoded(image.convert("P"))),
    lambda image: ("tiff", encoded(image, "TIFF")),
    lambda image: ("webp", encoded(image, "WEBP", lossless=True)),
    lambda image: (
        "png",
        encoded(Image.fromarray(np.asarray(image.convert("L")) * np.uint16(257))),
    ),
    lambda image: ("png", encoded(image.convert("LA"))),
    lambda image: ("bmp", encoded(image, "BMP")),
    lambda image: ("png", encoded(image, exif=b"Exif\0\0broken")),
)
"""Odd but whole: animated, CMYK, palette, 16 bits, transparency, a damaged EXIF block."""


def bomb() -> bytes:
    """A small PNG that says it has 3.6e9 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        found += struct.pack(">I", len(data)) + name + data
        found += struct.pack(">I", zlib.crc32(name + data))
    return found


def break_file(way: str, path: Path, image: Image.Image, outside: Path) -> None:
    """Put something broken at `path`."""
    jpeg, png = encoded(image, "JPEG"), encoded(image)
    damaged = bytearray(png)
    start = png.index(b"IDAT") + 4
    damaged[start : start + 8] = b"\xff" * 8
    contents = {
        "truncated": jpeg[: len(jpeg) * 9 // 10],
        "empty": b"",
        "html": b"<!DOCTYPE html><title>404</title>",
        "magic": b"\x00\x01\x02" + png[3:],
        "noise": jpeg[:3] + bytes(range(256)) * 4,
        "bomb": bomb(),
        "chunk": bytes(damaged),
    }
    if way == "folder":
        path.mkdir()
    elif way in ("dangling", "loop", "outside"):
        path.symlink_to({"dangling": "nothing.png", "loop": path.name}.get(way, outside))
    elif way == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(contents.get(way, png))
        if way == "denied":
            path.chmod(0)


def make_collection(root: Path, total: int, broken: int, rng: np.random.Generator) -> set[str]:
    """Fill class folders with `total` images; the shown paths of the broken ones."""
    (root.parent / "outside").mkdir()
    outside = root.parent / "outside" / "secret.png"
    drawn = scenes(rng)
    drawn[0].save(outside)
    ways = [way for way in REASONS if way not in COSTLY]
    plan = [way for way, most in COSTLY.items() for _ in range(min(most, broken // 16))]
    plan += [ways[n % len(ways)] for n in range(broken - len(plan))]
    for kind in KINDS:
        (root / kind).mkdir(parents=True)
    listed = set()
    for number in range(total):
        folder = root / KINDS[number % len(KINDS)]
        image = own_copy(drawn[number % SCENES], number)
        odd = os.fsdecode(b"caf\xe9-") if number % 50 == 7 else ""
        if number < broken:
            name = f"{plan[number]}-{odd}{number}.{'jpg' if number % 2 else 'png'}"
            break_file(plan[number], folder / name, image, outside)
            listed.add(display_path(f"{folder.name}/{name}"))
        else:
            suffix, data = FINE[number % len(FINE)](image)
            (folder / f"{odd}{number}.{suffix}").write_bytes(data)
    return listed


def make_archives(root: Path, each: int, rng: np.random.Generator) -> tuple[int, int]:
    """Three tar shards, one cut, one with a link; how many images are whole, how many rows not."""
    root.mkdir()
    drawn = scenes(rng)
    for shard in range(3):
        with tarfile.open(root / f"s-{shard}.tar", "w") as archive:
            for number in range(each):
                data = encoded(own_copy(drawn[number % SCENES], shard * each + number))
                for suffix, content in (("png", data), ("cls", KINDS[number % 4].encode())):
                    member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            if shard == 0:
                link = tarfile.TarInfo("link.png")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
                archive.addfile(link)
    whole = (root / "s-2.tar").read_bytes()
    with tarfile.open(root / "s-2.tar") as archive:
        members = archive.getmembers()
    cut = members[2 * (each // 2)]  # an image in the middle
    (root / "s-2.tar").write_bytes(whole[: cut.offset_data + cut.size // 2])
    return 2 * each + each // 2, 2


def make_table(path: Path, rows: int, rng: np.random.Generator) -> tuple[int, int]:
    """A parquet file with nulls, empty and broken images; how many rows are whole, how many not."""
    drawn, images, bad = scenes(rng), [], 0
    for number in range(rows):
        data = encoded(own_copy(drawn[number % SCENES], number))
        choice = {3: None, 17: b"", 31: data[:90]}.get(number % 40, data)
        bad += choice is not data
        images.append({"bytes": choice, "path": f"{number}.png"})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = [KINDS[number % 4] for number in range(rows)]
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), path)
    return rows - bad, bad
