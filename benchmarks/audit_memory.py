"""Peak memory of `bliss audit --embeddings` on 10,000 to 1,000,000 images of 512 dimensions.

Images of ten classes lie on disk as fp16 parts of 50,000; they are their own reference and retrieve
from 1,000 captions, few enough for the time to go into the path that is measured. Each size is one
command in a process of its own, without report.html; its peak is the kernel's high-water mark.
The vectors of up to 131,072 images, 2,048 bytes each as float32, are held in memory; more of them
stay on disk, as do hits and scores. The target is the growth from the second size to the last where
strays alone are looked for in one fit. The audit of every question, which also looks for copies and
wrong labels, is beside it: for copies, more than 100,000 vectors are searched in lists that are
held in memory as float16.

Run as: python benchmarks/audit_memory.py [--sizes 10000 100000 1000000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import unit

SIZES = (10_000, 100_000, 1_000_000)
PART, CLASSES, CAPTIONS, DIMENSION = 50_000, 10, 1000, 512
VECTOR = 4 * DIMENSION
WAYS = {"strays, fitted once": ("--question", "stray", "--no-robust"), "every question": ()}
ALLOWED = 1.1
"""Largest peak of the last size as a multiple of that of the second."""

RUN = """
import sys
from blissaudit import cli
code = cli.run(sys.argv[1:])
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
sys.exit(code)
"""


def write(folder: Path, kind: str, number: int, rows: np.ndarray, table: pa.Table) -> None:
    """One part in clip-retrieval's layout."""
    for name in (f"{kind}_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{kind}_emb" / f"{kind}_emb_{number}.npy", rows.astype(np.float16))
    pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")


def make_images(folder: Path, count: int, centres: np.ndarray) -> None:
    """Unit rows around class centres, a part at a time."""
    rng = np.random.default_rng(1)
    for number, first in enumerate(range(0, count, PART)):
        rows = np.arange(first, min(count, first + PART))
        labels = rows % CLASSES
        noise = rng.standard_normal((len(rows), DIMENSION), np.float32)
        vectors = unit(centres[labels] + 0.6 * noise / np.float32(np.sqrt(DIMENSION)))
        paths = [
            f"class{label}/image-{row:07d}.jpg" for row, label in zip(rows, labels, strict=True)
        ]
        names = [f"class{label}" for label in labels]
        write(folder, "img", number, vectors, pa.table({"image_path": paths, "label": names}))


def bliss(*arguments: str) -> int:
    """One command in a process of its own; its peak resident memory in KiB."""
    command = [sys.executable, "-P", "-c", RUN, *arguments]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return int(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=3, default=SIZES)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((CLASSES, DIMENSION), np.float32))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BLISS_CACHE"] = str(folder / "cache")
        texts = rng.standard_normal((CAPTIONS, DIMENSION), np.float32) / np.sqrt(DIMENSION)
        texts[:CLASSES] = 0.3 * texts[:CLASSES] + centres
        texts[CLASSES:] += 0.5 * centres[np.arange(CLASSES, CAPTIONS) % CLASSES]
        captions = [f"This is a photo of a class{c}" for c in range(CLASSES)]
        captions += [f"caption {row}" for row in range(CLASSES, CAPTIONS)]
        write(folder / "texts", "text", 0, unit(texts), pa.table({"caption": captions}))
        index = str(folder / "index")
        base = bliss("index", "build", "--embeddings", str(folder / "texts"), "-o", index)
        print(f"building the index of {CAPTIONS:,} captions: {base / 1024:,.0f} MiB")
        peaks = []
        for size in chosen.sizes:
            images = folder / f"images-{size}"
            make_images(images, size, centres)
            stored = size * VECTOR / 2**20
            print(f"{size:,} images, their vectors as float32 {stored:,.0f} MiB", flush=True)
            for way, more in WAYS.items():
                output, start = folder / f"out-{size}-{len(more)}", time.monotonic()
                audit = ("audit", "--embeddings", str(images), "--index", index, "-o", str(output))
                peak = bliss(*audit, "--report", "none", *more)
                seconds = time.monotonic() - start
                print(f"  {way}: {seconds:.0f} s, peak {peak / 1024:,.0f} MiB", flush=True)
                if more:
                    peaks.append(peak)
    small, middle, large = peaks
    more = (large - middle) * 1024 / (chosen.sizes[2] - chosen.sizes[1])
    met = "met" if large <= ALLOWED * middle else "MISSED"
    print(f"  {chosen.sizes[1]:,} / {chosen.sizes[0]:,} images: {middle / small:.2f}")
    print(f"  bytes of the peak for one more image beyond {chosen.sizes[1]:,}: {more:,.0f}")
    print(
        f"=> {chosen.sizes[2]:,} / {chosen.sizes[1]:,} images: {large / middle:.2f} "
        f"(at most {ALLOWED}: {met})"
    )
    return 0 if met == "met" else 1


if __name__ == "__main__":
    sys.exit(main())
