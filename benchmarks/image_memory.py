"""Peak memory of reading and embedding 10,000 and 100,000 images, beside what the result holds.

Images come from generated tar shards and from a parquet file, are decoded by real worker processes
and encoded by a stub (a 64-d projection of the pixels), so that the time goes into the path that is
measured. Each size runs in a process of its own; its peak is the kernel's high-water mark, decoder
processes not counted. What grows with the images by right, the arrays and strings of the result and
the read-in manifest, is built again from the finished folder in another process and taken off.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZES = (10_000, 100_000)
ALLOWED = 1.10

RUN = """
import resource, sys
from pathlib import Path
import numpy as np
from blissaudit.corpora.images.opening import open_images
from blissaudit.indexer.encode.encoder import Encoder
from blissaudit.indexer.images.embedding import embed_images
from blissaudit.indexer.images.embedded import open_embedded_images
from blissaudit.indexer.encode.encoder import Preprocessing

def encode(pixels):
    return pixels.reshape(len(pixels), -1).astype(np.float32) @ PROJECTION

PROJECTION = np.random.default_rng(0).normal(size=(8 * 8 * 3, 64)).astype(np.float32)
facts = {"model": "stub", "pretrained": None, "weights_sha256": "0", "dimension": 64,
         "precision": "fp32", "preprocessing": {}}
squash = Preprocessing((8, 8), "bilinear", "squash", (0.5,) * 3, (0.5,) * 3)
encoder = Encoder(facts, squash, 64, lambda texts: np.zeros((len(texts), 64)), encode)

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

spec, folder, what = sys.argv[1:]
if what == "start":
    found = None
elif what == "open":
    found = open_embedded_images(Path(folder), spec)
else:
    import blissaudit.indexer.images.embedding as embedding
    embedding.open_embedded_images = lambda *given: None
    found = embed_images(open_images(spec), encoder, folder)
print(peak())
"""


def small_png(number: int) -> bytes:
    """An 8 x 8 image of its own."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_tars(folder: Path, total: int) -> str:
    """Shards of 5,000 images with class labels."""
    folder.mkdir()
    for shard, first in enumerate(range(0, total, 5_000)):
        with tarfile.open(folder / f"s-{shard:03d}.tar", "w") as archive:
            for number in range(first, min(total, first + 5_000)):
                for suffix, data in (("png", small_png(number)), ("cls", b"%d" % (number % 10))):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return f"{folder}/s-{{000..{shard:03d}}}.tar"


def make_table(path: Path, total: int) -> str:
    """One parquet file with row groups of 1,000 images."""
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, total, 1_000):
            rows = range(first, min(total, first + 1_000))
            images = [small_png(number) for number in rows]
            table = pa.table({"image": images, "label": [n % 10 for n in rows]}, schema)
            writer.write_table(table)
    return str(path)


def peak_kib(spec: str, folder: Path, what: str) -> int:
    """Peak resident memory of one process that does `what`."""
    command = [sys.executable, "-P", "-c", RUN, spec, str(folder), what]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return int(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES)
    chosen = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = peak_kib("", folder, "start")
        print(f"imports alone: {base / 1024:.0f} MiB")
        for kind in ("tar", "parquet"):
            peaks = []
            for size in chosen.sizes:
                make = make_tars if kind == "tar" else make_table
                spec = make(folder / f"{kind}-{size}", size)
                if kind == "parquet":
                    os.rename(spec, f"{spec}.parquet")
                    spec += ".parquet"
                out = folder / f"out-{kind}-{size}"
                start = time.monotonic()
                embedding = peak_kib(spec, out, "embed")
                seconds = time.monotonic() - start
                opening = peak_kib(spec, out, "open")
                peaks.append(embedding)
                print(
                    f"{kind}, {size:,} images: reading and embedding peak {embedding / 1024:.0f} "
                    f"MiB ({seconds:.0f} s), opening the result {opening / 1024:.0f} MiB"
                )
            ratio = peaks[1] / peaks[0]
            worst = max(worst, ratio)
            print(f"  {kind}: {chosen.sizes[1]:,} / {chosen.sizes[0]:,} images: {ratio:.3f}")
    met = "met" if worst <= ALLOWED else "MISSED"
    print(f"=> largest growth of the peak: {worst:.3g} (target at most {ALLOWED:g}: {met})")
    return 0 if met == "met" else 1


if __name__ == "__main__":
    sys.exit(main())
