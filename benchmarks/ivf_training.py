"""Question: how much recall do inverted lists lose that k-means trains in less time?

Lists are trained with FAISS's 25 iterations over up to 256 texts of each list (of a sample of 64 a
list, 65,536 at least), as the package does it, and with fewer texts and iterations. Images of three
real sets, none of which has part in the training, then search each with the same `nprobe`, so the
share of the texts scanned is nearly equal. Texts are the 5,431 real ones, and mixtures of them as
in tuned_index.py. Seconds are of processor time on one thread, filling included.

Run as: python benchmarks/ivf_training.py [--record]
"""

from __future__ import annotations

import time

import faiss
import numpy as np
from blissaudit.indexer.search import structures
from blissaudit.indexer.search.kinds import read_kind
from blissaudit.indexer.vectors.nearest import exact_search
from measuring import begin, test_data, unit, verdict
from tuned_index import made_texts, real_texts

CLAIM = "inverted lists of short trainings against FAISS's own, by recall@10 of images"
SETS = {"Caltech-101": "caltech101/test", "SUN397": "sun397/val", "DTD": "dtd/test"}
QUERIES, K, MADE = 500, 10, 100_000
WORLDS = {"real": ("IVF64,SQ8", (4, 16, 32)), "mixtures": ("IVF1024,SQ8", (16, 64, 256))}
WAYS = {"FAISS's": (256, 25), "16 x 4": (16, 4), "64 x 6": (64, 6)}
"""Texts a list, and iterations."""
LEAST_RATIO, MOST_LOST = 2.5, 0.005


def build(kind: str, texts: np.ndarray, points: int, iterations: int) -> tuple[faiss.Index, float]:
    """A filled structure, and the seconds that took."""
    parsed = read_kind(kind)
    structure = structures.new_structure(parsed, texts.shape[1])
    start = time.process_time()
    structure.cp.max_points_per_centroid, structure.cp.niter = points, iterations
    structures.fill_structure(structure, parsed, texts, 1)
    return structure, time.process_time() - start


def recall(structure: faiss.Index, nprobe: int, queries: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true rows [n, k] among twice as many candidates, which are ranked again."""
    structure.nprobe = nprobe
    found = structure.search(queries, 2 * K)[1]
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def main() -> None:
    report = begin("ivf_training", CLAIM, 1)
    real = test_data() / "real"
    texts, _ = real_texts(real)
    worlds = {"real": texts, "mixtures": made_texts(texts, MADE)}
    sets = {
        name: unit(np.load(real / folder / "img_emb" / "img_emb_0.npy")[:QUERIES])
        for name, folder in SETS.items()
    }
    for world, (kind, probes) in WORLDS.items():
        rows = worlds[world]
        made = {way: build(kind, rows, *training) for way, training in WAYS.items()}
        truths = {name: exact_search(q, rows, K).rows for name, q in sets.items()}
        report.say(f"\n{world}, {len(rows):,} texts, {kind}, nprobe {probes}")
        recalls = {
            way: {
                name: [recall(structure, nprobe, queries, truths[name]) for nprobe in probes]
                for name, queries in sets.items()
            }
            for way, (structure, _) in made.items()
        }
        for way, (_, seconds) in made.items():
            report.say(f"{way}: built in {seconds:.1f} s; recall@{K} " + "; ".join(
                f"{name} {', '.join(f'{value:.3f}' for value in values)}"
                for name, values in recalls[way].items()))  # fmt: skip
            if way != "FAISS's":
                lost = [
                    before - after
                    for name in sets
                    for before, after in zip(
                        recalls["FAISS's"][name], recalls[way][name], strict=True
                    )
                ]
                ratio = made["FAISS's"][1] / seconds
                report.say(verdict("times as fast to build", ratio, LEAST_RATIO, at_least=True))
                report.say(verdict("most recall lost", max(lost), MOST_LOST, at_least=False))
    report.finish()


if __name__ == "__main__":
    main()
