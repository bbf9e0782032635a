"""Claim: an index tuned with image queries meets its recall on image queries it has not seen.

Real CLIP image embeddings (Caltech-101 test, SUN397 val) search the real text banks, all 5,431
texts as one index, and a corpus of 200,000 vectors made from them: x = a + t(b - a) + s(c - e),
renormalised, with a, b, c, e texts drawn from the banks, t uniform and s = 0.3. Its mean is the
texts' mean, so images and texts stay as far apart as they are (printed). It has no words: what it
shows is the search, not the captions.

Each table is what `bliss index tune` prints. Below it: how much higher the recall of text queries
is, and the recall of the chosen setting for the images that were not asked at all.

Run as: BLISS_TEST_DATA=../shared python benchmarks/tuned_index.py [--record]
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.corpora.captions import CaptionRules
from blissaudit.evaluation.index_tuning import EXACT, recall_of
from blissaudit.evaluation.tuning import (
    Candidates,
    MadeStructures,
    Tuning,
    TuningOptions,
    tune,
    tuning_lines,
)
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.images.embedded import EmbeddedImages, read_image_embeddings
from blissaudit.indexer.search.captions import CaptionIndex, search
from blissaudit.indexer.search.index import with_structure
from measuring import Report, begin, test_data, unit, verdict

CLAIM = "the chosen setting meets its recall target on image queries held out from choosing"
BANKS = ("photo-of-a", "a")
SETS = {"Caltech-101": "caltech101/test", "SUN397": "sun397/val"}
MADE, SPREAD = 200_000, 0.3
TARGET, IMAGES, TEXTS, NOT_ASKED = 0.99, 1600, 500, 400
SETTINGS = {
    "real": [
        ("SQ8", {}),
        *[("IVF64,SQ8", {"nprobe": n}) for n in (4, 8, 16, 32, 48)],
        *[("HNSW32", {"efSearch": n}) for n in (32, 128, 256)],
    ],
    "made": [
        *[("IVF1024,SQ8", {"nprobe": n}) for n in (4, 16, 64, 256, 512)],
        *[("IVF1024,SQ4", {"nprobe": n}) for n in (64, 512)],
    ],
}
"""Fewer than `bliss index tune` tries by itself, for time."""


def real_texts(real: Path) -> tuple[np.ndarray, list[str]]:
    """Vectors [5431, d] and captions of both banks."""
    vectors, captions = [], []
    for bank in BANKS:
        folder = real / "texts" / bank
        vectors.append(np.load(folder / "text_emb" / "text_emb_0.npy"))
        table = pq.read_table(folder / "metadata" / "metadata_0.parquet", columns=["caption"])
        captions += table["caption"].to_pylist()
    return unit(np.concatenate(vectors)), captions


def made_texts(texts: np.ndarray, count: int) -> np.ndarray:
    """`count` vectors between and around the real ones; see above."""
    rng = np.random.default_rng(0)
    made = np.empty((count, texts.shape[1]), np.float32)
    for start in range(0, count, 20_000):
        rows = slice(start, min(count, start + 20_000))
        a, b, c, e = texts[rng.integers(len(texts), size=(4, rows.stop - start))]
        t = rng.random((rows.stop - start, 1), np.float32)
        made[rows] = unit(a + t * (b - a) + SPREAD * (c - e))
    return made


def build(folder: Path, vectors: np.ndarray, captions: list[str]) -> CaptionIndex:
    """An index of all of them, in fp16; equal captions stay."""
    for name in ("text_emb", "metadata"):
        (folder / "texts" / name).mkdir(parents=True)
    np.save(folder / "texts" / "text_emb" / "text_emb_0.npy", vectors)
    table = pa.table({"caption": captions})
    pq.write_table(table, folder / "texts" / "metadata" / "metadata_0.parquet")
    options = IndexOptions(CaptionRules(deduplicate=False), dtype="float16")
    return index_embeddings(folder / "texts", folder / "index", "caption", options)


def corpora(real: Path, folder: Path) -> Iterator[tuple[str, CaptionIndex, np.ndarray]]:
    """Which kinds to try, an index and its vectors, for each corpus."""
    texts, captions = real_texts(real)
    yield "real", build(folder / "real", texts, captions), texts
    made = made_texts(texts, MADE)
    yield "made", build(folder / "made", made, [f"text {row}" for row in range(MADE)]), made


def gap(images: np.ndarray, texts: np.ndarray) -> float:
    """Distance of the mean image from the mean text."""
    means = [rows.astype(np.float64).mean(axis=0) for rows in (images, texts)]
    return float(np.linalg.norm(means[0] - means[1]))


def not_asked(tuned: Tuning, images: EmbeddedImages) -> np.ndarray:
    """NOT_ASKED images at most that were not among the queries, float32 [m, d]."""
    asked = {row.tobytes() for row in tuned.queries.images}
    every = np.asarray(images.vectors[:], np.float32)
    return every[[i for i, row in enumerate(every) if row.tobytes() not in asked][:NOT_ASKED]]


def tell(
    report: Report, tuned: Tuning, index: CaptionIndex, keep: MadeStructures, fresh: np.ndarray
) -> None:
    """What the table alone does not say, and whether the target is met."""
    chosen, k = tuned.chosen, tuned.options.k
    found = [one for one in tuned.measured if one.kind != EXACT]
    worst = max(found, key=lambda one: one.text_recall - one.recall)
    report.say(
        f"  text queries overstate recall by up to {worst.text_recall - worst.recall:.3f}: "
        f"{worst.text_recall:.3f} for {worst.recall:.3f}"
    )
    exact = next(one for one in tuned.measured if one.kind == EXACT)
    ratio = chosen.queries_per_second / exact.queries_per_second
    report.say(f"  the chosen setting answers {ratio:.1f} times as fast as exact search")
    tuned_index = index
    if chosen.kind != EXACT:
        tuned_index = with_structure(index, keep.made[chosen.kind], chosen.parameters)
    hits, truth = search(tuned_index, fresh, k), search(index, fresh, k)
    recall = float(recall_of(hits.similarity, truth.similarity).mean())
    report.say(f"  its recall for {len(fresh):,} images that were not asked: {recall:.4f}")
    report.say(verdict("held-out recall, lower bound", chosen.recall_bound, TARGET, at_least=True))
    report.say(verdict("recall of images not asked", recall, TARGET, at_least=True))


def main() -> None:
    report = begin("tuned_index", CLAIM, 1)
    data = test_data()
    if data is None:
        report.say("the real embeddings are not here: BLISS_TEST_DATA is not set")
        return
    with tempfile.TemporaryDirectory() as folder:
        sets = {name: read_image_embeddings(data / "real" / part) for name, part in SETS.items()}
        for name, index, texts in corpora(data / "real", Path(folder)):
            scratch = Path(folder) / f"{name}-structures"
            scratch.mkdir()
            keep = MadeStructures(scratch)
            for shown, images in sets.items():
                apart = gap(np.asarray(images.vectors[:]), texts)
                report.say(
                    f"\n{shown} images, {index.count:,} {name} texts; their means are {apart:.2f} "
                    "apart"
                )
                options = TuningOptions(TARGET, image_queries=IMAGES, text_queries=TEXTS)
                tuned = tune(index, images, Candidates(index, SETTINGS[name], keep), options)
                for line in tuning_lines(tuned):
                    report.say(f"  {line}".rstrip())
                tell(report, tuned, index, keep, not_asked(tuned, images))
    report.finish()


if __name__ == "__main__":
    main()
