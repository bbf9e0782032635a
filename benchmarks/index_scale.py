"""An index of a million given vectors: build time against bare FAISS, and peak memory as it grows.

Clustered unit vectors of 512 dimensions, fp16, with a different caption each, are written in
clip-retrieval's layout, block by block. `bliss index build --embeddings` then indexes 250,000 and
1,000,000 of them, each in a process of its own. Its peak memory is the kernel's high-water mark of
that process (VmHWM); pages of mapped files count in it. Bare FAISS reads the same vectors,
normalises them, adds them to an fp16 index (SQfp16) and writes that: no captions, no checks, no
way to go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import verdict

DIMENSION, PART, CLUSTERS = 512, 50_000, 4000

STATUS = """
def peak():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("Vm"))
    return int(fields["VmHWM"].split()[0]) / 1024
"""
OURS = (
    STATUS
    + """
import json, sys, time
from blissaudit.indexer.build.build import index_embeddings
from blissaudit.indexer.build.build import IndexOptions
start = time.perf_counter()
index = index_embeddings(sys.argv[1], sys.argv[2])
print(json.dumps([time.perf_counter() - start, peak(), index.count]))
"""
)
BARE = (
    STATUS
    + """
import json, sys, time
from pathlib import Path
import faiss, numpy as np
start = time.perf_counter()
index = faiss.index_factory(int(sys.argv[3]), "SQfp16", faiss.METRIC_INNER_PRODUCT)
for path in sorted(Path(sys.argv[1], "text_emb").iterdir()):
    rows = np.load(path).astype(np.float32)
    faiss.normalize_L2(rows)
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
faiss.write_index(index, sys.argv[2])
print(json.dumps([time.perf_counter() - start, peak(), index.ntotal]))
"""
)
PLAN = (
    STATUS
    + """
import json, sys, time
from pathlib import Path
from blissaudit.corpora.captions import CaptionRules
from blissaudit.indexer.build.plan import make_plan
from blissaudit.corpora.registry import open_corpus
source = open_corpus(sys.argv[1])
start = time.perf_counter()
plan = make_plan([source], CaptionRules(), Path(sys.argv[2]), 32_768, [source.facts()])
print(json.dumps([time.perf_counter() - start, peak(), plan.count]))
"""
)


def write_vectors(folder: Path, count: int) -> Path:
    """`count` clustered unit vectors and their captions, one block in memory at a time."""
    for name in ("text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, DIMENSION), np.float32)
    for number, start in enumerate(range(0, count, PART)):
        size = min(PART, count - start)
        rows = centres[rng.integers(0, CLUSTERS, size)]
        rows += 0.7 * rng.standard_normal(rows.shape, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.save(folder / "text_emb" / f"text_emb_{number}.npy", rows.astype(np.float16))
        things = range(start, start + size)
        captions = [f"a picture of thing {n} beside thing {n * 7919 % 10_007}" for n in things]
        table = pa.table({"caption": captions})
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def write_texts(path: Path, count: int) -> Path:
    """A text file of `count` captions, a third of which are copies of earlier ones."""
    with open(path, "w", encoding="utf-8") as file:
        for n in range(count):
            m = n if n % 3 else n // 2
            file.write(f"a longer caption about thing {m} and thing {m * 7919 % 10_007}\n")
    return path


def run(code: str, *arguments: object) -> tuple[float, float, int]:
    """Seconds, peak MiB and count that a Python process prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak, count = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak, count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=(250_000, 1_000_000))
    chosen = parser.parse_args()
    print(f"{chosen.rows[1]:,} x {DIMENSION} clustered fp16 vectors with captions")
    peaks, plans = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in chosen.rows:
            source = write_vectors(folder / f"given-{rows}", rows)
            seconds, peak, count = run(OURS, source, folder / f"index-{rows}")
            assert count == rows
            peaks.append(peak)
            print(
                f"  {rows:>9,} vectors indexed: {seconds:7.1f} s, {rows / seconds:9,.0f} rows/s, "
                f"peak {peak:,.0f} MiB"
            )
        bare, bare_peak, _ = run(BARE, source, folder / "bare.faiss", DIMENSION)
        print(
            f"  {rows:>9,} in bare FAISS:   {bare:7.1f} s, {rows / bare:9,.0f} rows/s, "
            f"peak {bare_peak:,.0f} MiB; ours takes {seconds / bare:.2f} times as long"
        )
        for rows in chosen.rows:
            texts = write_texts(folder / f"texts-{rows}.txt", rows)
            seconds, peak, count = run(PLAN, texts, folder / f"plan-{rows}")
            plans.append(peak)
            print(
                f"  {rows:>9,} texts planned:   {seconds:7.1f} s, {rows / seconds:9,.0f} texts/s, "
                f"{count:,} kept, peak {peak:,.0f} MiB"
            )
    print(verdict("peak memory of indexing given vectors, growth", peaks[1] / peaks[0], 1.1, False))
    print(verdict("peak memory of the row plan, growth", plans[1] / plans[0], 1.1, False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
