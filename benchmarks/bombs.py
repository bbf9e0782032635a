"""Small files that unpack to gigabytes: peak memory of an audit with and without each of them.

Each collection is audited by `bliss audit` with the demo model, once without the bomb and once with
it. The main process's resident memory and the proportional set size of each of its processes are
sampled meanwhile. Nothing but a row of failures.csv may come of a bomb.
"""

from __future__ import annotations

import csv
import io
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import begin, verdict
from PIL import Image

MAIN_MIB, WORKER_MIB = 256, 512
SAMPLE_SECONDS = 0.01
PICTURES = 24
LABELLED = "labelled.parquet"


class Peaks(NamedTuple):
    """Highest bytes seen, and the reasons in failures.csv."""

    main: int
    worker: int
    reasons: list[str]


def pictures() -> list[bytes]:
    """Small PNGs of noise, alike in kind."""
    rng = np.random.default_rng(0)
    return [encoded(Image.fromarray(noise), "PNG") for noise in
            rng.integers(0, 256, (PICTURES, 32, 32, 3), dtype=np.uint8)]  # fmt: skip


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int) -> bytes:
    """A PNG of zeros."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = bytes(1 + width * channels * depth // 8)
    packer, packed = zlib.compressobj(9), []
    for _ in range(height):
        packed.append(packer.compress(row))
    packed.append(packer.flush())
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", b"".join(packed)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def tiff(*entries: tuple[int, int, int, int], body: bytes = b"") -> bytes:
    """A little-endian TIFF of tags (number, type, count, value) with `body` at byte 8."""
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries)) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory


def float_tiff() -> bytes:
    """Float grey of 15,500 x 15,500 pixels in one deflated strip."""
    side = 15_500
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(4 * side)) for _ in range(side)) + packer.flush()
    tags = {256: side, 257: side, 258: 32, 259: 8, 262: 1, 273: 8, 277: 1, 278: side, 339: 3}
    entries = [(tag, 4 if value > 65535 else 3, 1, value) for tag, value in tags.items()]
    return tiff(*entries, (279, 4, 1, len(body)), body=body)


def tile_tiff() -> bytes:
    """An image of 16 x 16 pixels in one tile of 40,000 x 40,000."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(40_000)) for _ in range(40_000)) + packer.flush()
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000}
    entries = [(tag, 3, 1, value) for tag, value in tags.items()]
    return tiff(*entries, (324, 4, 1, 8), (325, 4, 1, len(body)), body=body)


def progressive_jpeg() -> bytes:
    """8,600 x 8,600 pixels, progressive, without subsampling."""
    image = Image.new("RGB", (8_600, 8_600))
    return encoded(image, "JPEG", progressive=True, subsampling=0)


def webp() -> bytes:
    """16,000 x 14,000 pixels, lossless."""
    return encoded(Image.new("RGB", (8_000, 7_000)), "WEBP", lossless=True, method=0, quality=0)


def write_folder(root: Path, bomb: bytes | None) -> str:
    """A folder of pictures; the bomb is one of them."""
    root.mkdir(parents=True)
    for number, data in enumerate(pictures()):
        (root / f"{number:02d}.png").write_bytes(data)
    if bomb is not None:
        (root / "bomb.png").write_bytes(bomb)
    return str(root)


def write_tar(root: Path, bomb: tuple[bytes, int] | None) -> str:
    """A tar; the bomb is the content of a header of that type before a last member."""
    root.mkdir(parents=True)
    with tarfile.open(root / "a.tar", "w") as archive:
        for number, data in enumerate(pictures()):
            member = tarfile.TarInfo(f"{number:02d}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if bomb is not None:
            header = tarfile.TarInfo("header")
            header.type, header.size = bomb[0], bomb[1]
            content = b"".join(
                b"%d %x=\n" % (len(b"%x" % n) + 5, n) for n in range(0x10000, 0x10000 + 200_000)
            )
            content = (content * (1 + bomb[1] // len(content)))[: bomb[1]]
            archive.addfile(header, io.BytesIO(content))
            archive.addfile(tarfile.TarInfo("last.png"), io.BytesIO())
    return str(root / "a.tar")


def write_parquet(root: Path, bomb: dict[str, object] | None) -> str:
    """A parquet file; the bomb is a column of one huge value of zeros, written in some way."""
    root.mkdir(parents=True)
    images = pictures()
    with pq.ParquetWriter(
        root / "a.parquet", pa.schema([("image", pa.binary())]), compression="zstd", **(bomb or {})
    ) as writer:
        writer.write_table(pa.table({"image": pa.array(images, pa.binary())}))
        if bomb is not None:
            huge = pa.DictionaryArray.from_arrays(
                pa.array([0] * 32, pa.int32()), pa.array([bytes(60 << 20)], pa.binary())
            )
            writer.write_table(pa.table({"image": huge.cast(pa.binary())}))
    return str(root / "a.parquet")


def write_arrow(root: Path, bomb: str | None) -> str:
    """An Arrow stream; the bomb is a compressed batch of zeros."""
    root.mkdir(parents=True)
    schema = pa.schema([("image", pa.binary())])
    options = pa.ipc.IpcWriteOptions(compression=bomb)
    with pa.ipc.new_stream(root / "a.arrow", schema, options=options) as writer:
        writer.write_table(pa.table({"image": pa.array(pictures(), pa.binary())}))
        if bomb is not None:
            zeros = pa.array([bytes(100 << 20)] * 16, pa.binary())
            writer.write_table(pa.table({"image": zeros}))
    return str(root / "a.arrow")


def write_rows(root: Path, bomb: int | None) -> str:
    """A parquet file; the bomb is a group of so many rows without an image."""
    root.mkdir(parents=True)
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(root / "a.parquet", schema) as writer:
        writer.write_table(pa.table({"image": pa.array(pictures(), pa.binary())}))
        if bomb is not None:
            nothing = pa.table({"image": pa.nulls(bomb, pa.binary())})
            writer.write_table(nothing, row_group_size=bomb)
    return str(root / "a.parquet")


def write_labels(root: Path, bomb: int | None) -> str:
    """A parquet file with labels; the bomb is a label of so many bytes for 1,000 rows."""
    root.mkdir(parents=True)
    schema = pa.schema([("image", pa.binary()), ("label", pa.string())])
    images = pictures()
    with pq.ParquetWriter(root / LABELLED, schema, compression="zstd") as writer:
        writer.write_table(pa.table({"image": images, "label": ["a"] * len(images)}, schema))
        if bomb is not None:
            many = {"image": [images[0]] * 1000, "label": ["x" * bomb] * 1000}
            writer.write_table(pa.table(many, schema))
    return str(root / LABELLED)


Writer = Callable[..., str]
BOMBS: dict[str, tuple[Writer, Callable[[], object]]] = {
    "float TIFF": (write_folder, float_tiff),
    "TIFF, one large tile": (write_folder, tile_tiff),
    "PNG of 16-bit colours": (write_folder, lambda: png(15_000, 15_000, 16, 6)),
    "PNG of 1-bit grey": (write_folder, lambda: png(22_000, 22_000, 1, 0)),
    "progressive JPEG": (write_folder, progressive_jpeg),
    "lossless WebP": (write_folder, webp),
    "tar with a pax header": (write_tar, lambda: (tarfile.XHDTYPE, 2 << 20)),
    "tar with a GNU long name": (write_tar, lambda: (tarfile.GNUTYPE_LONGNAME, 64 << 20)),
    "parquet, dictionary": (write_parquet, lambda: {"use_dictionary": True}),
    "parquet, plain pages": (write_parquet, lambda: {"use_dictionary": False}),
    "parquet, shared prefixes": (
        write_parquet,
        lambda: {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}},
    ),
    "parquet, rows without an image": (write_rows, lambda: 50_000_000),
    "parquet, long labels": (write_labels, lambda: 1 << 20),
    "Arrow, zstd": (write_arrow, lambda: "zstd"),
    "Arrow, lz4": (write_arrow, lambda: "lz4"),
}


def audit(images: str, output: Path) -> Peaks:
    """Audit a collection and watch the memory."""
    captions = output.with_name(f"{output.name}.txt")
    command = [sys.executable, "-m", "blissaudit", "audit", images, "--model", "demo",
               "--corpus", str(captions), "--output", str(output)]  # fmt: skip
    if Path(images).name != LABELLED:
        command += ["--normal", "a drawing of a house"]
    captions.write_text("".join(f"a drawing of {number} houses\n" for number in range(100)))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    main, worker = 0, 0
    while process.poll() is None:
        main = max(main, memory(f"/proc/{process.pid}/status", "VmRSS:"))
        for child in decoders(process.pid):
            worker = max(worker, memory(f"/proc/{child}/smaps_rollup", "Pss:"))
        time.sleep(SAMPLE_SECONDS)
    assert process.stdout is not None
    said = process.stdout.read().decode("utf-8", "replace")
    if process.returncode == 1 and "could be read" in said:  # the collection is refused as a whole
        return Peaks(main, worker, [said[said.rindex("the first: ") :].partition("). ")[0]])
    if process.returncode != 0:
        raise SystemExit(
            f"the audit of {Path(images).name} ended with {process.returncode}: {said}"
        )
    with open(output / "failures.csv", encoding="utf-8", newline="") as lines:
        reasons = [record["reason"] for record in csv.DictReader(lines)]
    return Peaks(main, worker, reasons)


def decoders(pid: int) -> list[int]:
    """The decode workers that a process has started by any of its threads.

    A child that has not become another program yet still shares the memory of its parent.
    """
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                if b"decode_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        except OSError:
            continue
    return found


def memory(file: str, name: str) -> int:
    """Bytes of one line of a file of /proc; 0 where the process has gone."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def main() -> None:
    """Audit every bomb and compare."""
    report = begin("bombs", "small files that unpack to gigabytes cost no memory", 1)
    plain: dict[Writer, Peaks] = {}
    main_most = worker_most = 0.0
    unlisted = 0
    report.say(f"  {'bomb':36} {'KiB':>7} {'main +MiB':>9} {'worker MiB':>10}  failures.csv")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (write, make)) in enumerate(BOMBS.items()):
            root = Path(folder) / str(number)
            if write not in plain:
                plain[write] = audit(write(root / "plain", None), root / "plain-out")
            images = write(root / "bomb", make())
            size = sum(path.stat().st_size for path in (root / "bomb").rglob("*.*"))
            peaks = audit(images, root / "bomb-out")
            more = (peaks.main - plain[write].main) / 2**20
            worker = peaks.worker / 2**20
            main_most, worker_most = max(main_most, more), max(worker_most, worker)
            unlisted += not peaks.reasons
            first = f"{len(peaks.reasons)}: {peaks.reasons[0]}" if peaks.reasons else "NONE"
            report.say(f"  {name:36} {size >> 10:7,} {more:9.0f} {worker:10.0f}  {first}")
    report.say(verdict("MiB in the main process above the same", main_most, MAIN_MIB, False))
    report.say(verdict("MiB in a worker process", worker_most, WORKER_MIB, False))
    report.say(verdict("bombs without a row in failures.csv", unlisted, 0, False))
    report.finish()


if __name__ == "__main__":
    main()
