"""Claim: exact search through a caption index costs hardly more than bare FAISS.

The index is built from seeded clustered vectors and already open and read; bare FAISS searches an
IndexFlatIP of the very same unit rows. What ours adds is a few more candidates, their
similarities again in float64, and their order.

Run as: python benchmarks/search_cost.py [--record]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.indexer.build.build import index_embeddings
from blissaudit.indexer.search.captions import CaptionIndex, search
from blissaudit.indexer.vectors.nearest import SPARE, exact_search
from measuring import Report, alternate, begin, verdict
from synthetic import FEW_DISTINCT, K, around, cluster_texts

CLAIM = "exact search through the API against faiss.IndexFlatIP.search"
CLASSES, QUERIES = 10, 2000
TARGET = 1.10
RUNS = 7


def build(folder: Path, vectors: np.ndarray) -> CaptionIndex:
    """An index of `vectors` [M, d] with made-up captions, by way of precomputed embeddings."""
    made = folder / "embeddings"
    (made / "text_emb").mkdir(parents=True)
    (made / "metadata").mkdir()
    np.save(made / "text_emb" / "text_emb_0.npy", vectors)
    captions = pa.table({"caption": [f"caption {row}" for row in range(len(vectors))]})
    pq.write_table(captions, made / "metadata" / "metadata_0.parquet")
    return index_embeddings(made, folder / "index", "caption")


def compare(report: Report, index: CaptionIndex, queries: np.ndarray) -> None:
    """Time ours, bare FAISS for k, and bare FAISS for as many candidates as ours fetches."""
    ((_, rows),) = index.vectors.blocks()
    bare = faiss.IndexFlatIP(rows.shape[1])
    bare.add(rows)
    report.say(
        f"\nM = {len(rows):,}, d = {rows.shape[1]}, n = {len(queries):,}, k = {K}, "
        "index open and in memory"
    )
    mine, (similarity, found) = search(index, queries, K), bare.search(queries, K)
    gap = float(np.abs(mine.similarity - similarity).max())
    report.say(
        f"  same row at the same rank: {(mine.rows == found).mean():.4%} (FAISS orders by "
        f"float32 rounding), max |difference| of similarities {gap:.1e}"
    )
    ours, plain, wider = "ours", f"bare FAISS, k = {K}", f"bare FAISS, k = {K + SPARE}"
    timings = alternate(
        {
            ours: lambda: search(index, queries, K),
            plain: lambda: bare.search(queries, K),
            wider: lambda: bare.search(queries, K + SPARE),
        },
        report.runs,
    )
    for name, timing in timings.items():
        report.say(timing.line(name))
    median = {name: timing.median for name, timing in timings.items()}
    report.say(f"  ours / bare FAISS for as many candidates: {median[ours] / median[wider]:.3f}")
    report.say(verdict("ours / bare FAISS", median[ours] / median[plain], TARGET, at_least=False))


def check_independence(report: Report, index: CaptionIndex, queries: np.ndarray) -> None:
    """Say whether a tenth of the queries, searched alone, give the very same bits."""
    ((_, rows),) = index.vectors.blocks()
    whole, part = search(index, queries, K), slice(0, len(queries) // 10)
    alone = exact_search(queries[part], rows, K)
    same = np.array_equal(alone.similarity, whole.similarity[part])
    same = same and np.array_equal(alone.rows, whole.rows[part])
    report.say(f"  {part.stop} of the queries alone give the same bits: {same}")


def main() -> None:
    report = begin("search_cost", CLAIM, RUNS)
    rng = np.random.default_rng(0)
    centres, texts = cluster_texts(rng, CLASSES)
    queries = around(rng, centres, rng.integers(0, CLASSES, QUERIES), FEW_DISTINCT)
    with tempfile.TemporaryDirectory() as folder:
        index = build(Path(folder), texts)
        del texts
        compare(report, index, queries)
        check_independence(report, index, queries)
    report.finish()


if __name__ == "__main__":
    main()
