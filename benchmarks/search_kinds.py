"""Claim: every kind of search is built about as fast as FAISS alone builds it, and finds the same.

Seeded clustered texts and image-like queries (the same clusters, shifted by a common vector, as
images lie apart from texts) at 10,000, 100,000 and 1,000,000 x 512. Ours goes the way of a user:
`index_embeddings`, then `set_search_kind`, then `search`, which ranks again against the stored
vectors. Bare FAISS makes the same factory string from the same rows in memory, trains on as many,
and writes its file. Recall is against exact search over the float32 vectors. Graphs are built by
all threads (`--threads`; a user's by one unless asked), by ours and by FAISS alone.

Run as: python benchmarks/search_kinds.py [--record]; SEARCH_KINDS_SIZES=10000,20000 tries it out.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.search.install import set_search_kind
from blissaudit.indexer.search.kinds import lists_for, read_kind, sample_size
from blissaudit.indexer.vectors.nearest import exact_search
from measuring import Report, begin, measured, unit

CLAIM = "build and search cost of each kind, against bare FAISS of the same kind"
SIZES = tuple(int(size) for size in os.environ.get("SEARCH_KINDS_SIZES", "10000,100000,1000000")
              .split(","))  # fmt: skip
D, K, QUERIES, CENTRES, RANK = 512, 10, 200, 500, 48
AT_ONCE = 100_000
RUNS = 3


@dataclass(frozen=True)
class Line:
    """What one kind cost at one size."""

    name: str
    count: int
    build: float
    bare_build: float
    peak: int | None
    size: int
    rate: float
    bare_rate: float
    recall: float


def world(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit texts float32 [count, D] and image-like queries [QUERIES, D]."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CENTRES, D), np.float32) / math.sqrt(D)
    spread = rng.standard_normal((RANK, D), np.float32) / math.sqrt(D * RANK)
    gap = rng.standard_normal(D).astype(np.float32) / math.sqrt(D)

    def draw(rows: int) -> np.ndarray:
        near = centres[rng.integers(0, CENTRES, rows)]
        within = rng.standard_normal((rows, RANK), np.float32) @ spread
        return near + within + 0.2 * rng.standard_normal((rows, D), np.float32) / math.sqrt(D)

    texts = np.empty((count, D), np.float32)
    for start in range(0, count, AT_ONCE):
        stop = min(count, start + AT_ONCE)
        texts[start:stop] = unit(draw(stop - start))
    return texts, unit(draw(QUERIES) + 0.8 * gap)


def write_embeddings(folder: Path, texts: np.ndarray) -> Path:
    for name in ("text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "text_emb" / "text_emb_0.npy", texts)
    captions = pa.table({"caption": [f"caption {row}" for row in range(len(texts))]})
    pq.write_table(captions, folder / "metadata" / "metadata_0.parquet")
    return folder


def bare(kind: str, texts: np.ndarray, path: Path) -> faiss.Index:
    """FAISS alone: train on as many rows as ours, add all, write the file."""
    made = faiss.index_factory(D, kind, faiss.METRIC_INNER_PRODUCT)
    parts = read_kind(kind)
    if not made.is_trained:
        rows = np.random.default_rng(0).choice(len(texts), sample_size(parts, len(texts)), False)
        made.train(texts[np.sort(rows)])
    made.add(texts)
    faiss.write_index(made, str(path))
    return made


def rate(search_all: Callable[[], object], runs: int) -> float:
    """Queries a second: the median of `runs` after one that is not counted."""
    search_all()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        search_all()
        seconds.append(time.perf_counter() - start)
    return QUERIES / float(np.median(seconds))


def recall(rows: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(rows, truth, strict=True)]))


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure_size(report: Report, count: int, folder: Path) -> list[Line]:
    """Every kind at one size; each line is said as soon as it is known."""
    texts, queries = world(count)
    source = write_embeddings(folder / "source", texts)
    truth = exact_search(queries, texts, K).rows
    lines: list[Line] = []
    for dtype, kind in (("float32", "Flat"), ("float16", "SQfp16")):
        options = IndexOptions(dtype=dtype)
        make = lambda: index_embeddings(source, folder / dtype, options=options)  # noqa: B023, E731
        index, build, peak = measured(make)
        alone, seconds, _ = measured(lambda: bare(kind, texts, folder / "bare"))  # noqa: B023
        params = None
        size = bytes_of(folder / dtype / "text_emb")
        lines.append(_line(f"exact {dtype}", count, (build, seconds, peak, size), index,
                           (alone, params), queries, truth, report))  # fmt: skip
        del index, alone
    shutil.rmtree(folder / "float32")
    for kind in (f"IVF{lists_for(count)},SQ8", "HNSW32"):
        make = functools.partial(
            set_search_kind, folder / "float16", kind, threads=faiss.omp_get_max_threads()
        )
        stated, build, peak = measured(make)
        index = open_index(folder / "float16")
        alone, seconds, _ = measured(lambda: bare(kind, texts, folder / "bare"))  # noqa: B023
        chosen = stated["parameters"]
        params = (
            faiss.SearchParametersIVF(nprobe=chosen["nprobe"])
            if "nprobe" in chosen
            else faiss.SearchParametersHNSW(efSearch=chosen["efSearch"])
        )
        size = (folder / "float16" / stated["file"]).stat().st_size
        set_to = ", ".join(f"{name} {chosen[name]}" for name in sorted(chosen))
        lines.append(_line(f"{kind} ({set_to})", count, (build, seconds, peak, size), index,
                           (alone, params), queries, truth, report))  # fmt: skip
        del index, alone
    return lines


def _line(name, count, built, index, alone, queries, truth, report) -> Line:  # noqa: PLR0913
    build, bare_build, peak, size = built
    structure, params = alone
    ours = rate(lambda: search(index, queries, K), report.runs)
    plain = rate(lambda: structure.search(queries, K, params=params), report.runs)
    found = search(index, queries, K).rows
    line = Line(name, count, build, bare_build, peak, size, ours, plain, recall(found, truth))
    bare_recall = recall(structure.search(queries, K, params=params)[1], truth)
    memory = "not measured" if peak is None else f"{peak / 2**20:,.0f} MiB"
    report.say(
        f"  {count:>9,} {name}: build {build:.1f} s (bare FAISS {bare_build:.1f} s, ratio "
        f"{build / bare_build:.2f}), peak extra memory {memory}, {size / 2**20:,.0f} MiB on disk; "
        f"{ours:,.0f} queries/s (bare {plain:,.0f}, ratio {ours / plain:.2f}), recall@{K} "
        f"{line.recall:.4f} (bare {bare_recall:.4f})"
    )
    return line


def growth(report: Report, lines: list[Line]) -> None:
    """The exponents of build time and of time per query, fitted over the sizes."""
    report.say("\nHow cost grows: seconds ~ M^exponent, fitted over the sizes")
    for start in ("exact float32", "exact float16", "IVF", "HNSW"):
        some = [line for line in lines if line.name.startswith(start)]
        if len(some) < 2:
            continue
        sizes = np.log([line.count for line in some])
        build = np.polyfit(sizes, np.log([line.build for line in some]), 1)
        query = np.polyfit(sizes, -np.log([line.rate for line in some]), 1)
        report.say(f"  {start}: build {build[0]:.2f}, query {query[0]:.2f}")


def same_bytes(report: Report) -> None:
    """Whether a kind gives the same file on one thread, on two, and again on two."""
    texts, _ = world(5_000)
    report.say("\nSame bytes of 5,000 vectors built by 1, 2 and 2 threads:")
    for kind in ("SQ8", "IVF64,SQ8", "IVF64,RaBitQ4", "HNSW32", "IVF64_HNSW16,SQ8"):
        made = []
        for threads in (1, 2, 2):
            faiss.omp_set_num_threads(threads)
            structure = faiss.index_factory(D, kind, faiss.METRIC_INNER_PRODUCT)
            structure.train(texts)
            structure.add(texts)
            made.append(faiss.serialize_index(structure).tobytes())
        report.say(f"  {kind}: {made[0] == made[1] == made[2]}")


def main() -> None:
    report = begin("search_kinds", CLAIM, RUNS)
    report.say(f"\nd = {D}, {QUERIES} image-like queries, k = {K}, {CENTRES} clusters, seed 0")
    lines: list[Line] = []
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            lines += measure_size(report, count, Path(folder))
    growth(report, lines)
    same_bytes(report)
    report.finish()


if __name__ == "__main__":
    main()
