"""10,000 generated images, 500 of them broken in 16 ways: each of those listed, the rest scored.

Every broken file's name says in which way it is broken, so that the audit's failures.csv can be
checked way by way. Hanging and crashing decoders are real worker processes that sleep or die by a
signal at files of those names; nothing else about the run differs from `bliss audit`. Archives and
tables with damage of their own are audited beside it. Uses the demo model; needs no data.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import io
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.corpora.image_paths import display_path
from blissaudit.demo.captions import all_captions
from blissaudit.demo.scenes import render_scene, sample_scene
from PIL import Image

KINDS = ("apple", "boat", "house", "clock")
SCENES = 60
"""Drawn scenes; every image is one of them with a patch of its own, so that no two are equal."""

WORKER = """
import os, signal, sys, time
from blissaudit.indexer import decode_worker
real = decode_worker.decode_image
def trapped(path, preprocessing, limits):
    name = os.path.basename(path)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(path, preprocessing, limits)
decode_worker.decode_image = trapped
decode_worker.main()
"""

COMMAND = """
import os, sys
from blissaudit import cli
from blissaudit.audit import request
from blissaudit.indexer import decode_process
decode_process.WORKER_COMMAND = (sys.executable, "-P", sys.argv[1])
listing = request.open_images
def list_and_lose(*given):
    found = listing(*given)
    for item in found.items(lambda row: False):
        if item.file and os.path.basename(item.file).startswith("vanished"):
            os.unlink(item.file)
    return found
request.open_images = list_and_lose
sys.exit(cli.run(sys.argv[2:]))
"""

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


def audit(folder: Path, images: Path | str, output: Path, index: Path) -> tuple[int, str, float]:
    """Run the audit in a process that permissions bind; exit status, stderr, seconds."""
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    arguments = ["audit", str(images), "--index", str(index), "-o", str(output)]
    command = [sys.executable, "-P", "-c", COMMAND, str(worker), *arguments, "--time-limit", "2"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, preexec_fn=obey_permissions)
    return done.returncode, done.stderr.decode(errors="replace"), time.monotonic() - start


def obey_permissions() -> None:
    """Take from root, in a child, what lets it read every file (Linux)."""
    if os.getuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def results(output: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """(path, reason) of every failure and the path of every image that was scored."""
    with open(output / "failures.csv", encoding="utf-8", newline="") as file:
        failures = [(row["path"], row["reason"]) for row in csv.DictReader(file)]
    scored = pq.read_table(output / "scores.parquet", columns=["path", "score"])
    assert np.isfinite(scored["score"].to_numpy()).all()
    return failures, scored["path"].to_pylist()


def check(say: Callable[[str], None], total: int, broken: int, archives: bool = True) -> bool:
    """Make everything, audit it, and say whether it is as it must be."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BLISS_CACHE"] = str(folder / "cache")
        captions = folder / "captions.txt"
        captions.write_text("\n".join(sorted(all_captions())[::20]), encoding="utf-8")
        index = folder / "index"
        build = ["index", "build", str(captions), "--model", "demo", "-o", str(index)]
        subprocess.run(
            [sys.executable, "-P", "-m", "blissaudit", *build], check=True, capture_output=True
        )
        listed = make_collection(folder / "images", total, broken, rng)
        status, errors, seconds = audit(folder, folder / "images", folder / "out", index)
        if status:
            say(f"the audit ended with {status}: {errors[-500:]}")
            return False
        failures, scored = results(folder / "out")
        ways = Counter(path.partition("/")[2].partition("-")[0] for path, _ in failures)
        examples = {path.partition("/")[2].partition("-")[0]: reason for path, reason in failures}
        for way in REASONS:
            say(f"  {way:10} {ways[way]:4}  {examples.get(way, 'NOT LISTED')}")
        wrong = [
            (path, reason)
            for path, reason in failures
            if REASONS[path.partition("/")[2].partition("-")[0]] not in reason
        ]
        for path, reason in wrong:
            say(f"  another reason: {path}: {reason}")
        exact = {path for path, _ in failures} == listed and len(failures) == len(listed)
        rest = len(scored) == total - broken and not set(scored) & listed
        say(
            f"folder: {len(failures):,} of {broken:,} broken images in failures.csv "
            f"({'exactly those' if exact else 'NOT THOSE'}, {len(wrong)} with another reason), "
            f"{len(scored):,} of {total - broken:,} scored, {seconds:.0f} s"
        )
        whole = exact and rest and not wrong
        if not archives:
            return whole
        each = max(12, total // 20)
        tars, table = folder / "tars", folder / "t.parquet"
        expected: dict[str, tuple[Path | str, int, int]] = {
            "tar shards": (f"{tars}/s-{{0..2}}.tar", *make_archives(tars, each, rng)),
            "parquet": (table, *make_table(table, 2 * each, rng)),
        }
        for kind, (spec, good, bad) in expected.items():
            status, errors, seconds = audit(folder, spec, folder / kind, index)
            if status:
                say(f"{kind}: the audit ended with {status}: {errors[-500:]}")
                return False
            failures, scored = results(folder / kind)
            say(
                f"{kind}: {len(failures):,} of {bad:,} broken rows in failures.csv "
                f"({'; '.join(sorted({reason for _, reason in failures}))}), {len(scored):,} of "
                f"{good:,} scored, {seconds:.0f} s"
            )
            whole = whole and (len(failures), len(scored)) == (bad, good)
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--broken", type=int, default=500)
    chosen = parser.parse_args()
    whole = check(lambda line: print(line, flush=True), chosen.images, chosen.broken)
    print(f"=> every broken image listed with its reason, every other one scored: "
          f"{'met' if whole else 'MISSED'}")  # fmt: skip
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
