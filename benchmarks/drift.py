"""Claim: drift names what is new: the caption of a 21st class among the first ten.

Run as: python benchmarks/drift.py [--runs 400 draws] [--record], with BLISS_TEST_DATA set

Each draw takes 20 of the 44 Caltech-101 classes whose names are captions, the images of val and
test together, halved at random into old and new, and puts images of a 21st class into the new half:
1, 2 or 5 % of it. The captions are the 2,283 "a photo of a ..." ones. Found: a caption of that
class's name among the first ten that gained. Beside it, the same captions in the order of their
products with the difference of the two means. Then with ten times as many old images as new ones.

The null: images of 20 classes, drawn anew and halved at random each time; nothing is new. Level:
how often the p-value of everything is at most 0.05. False discoveries: how often any caption has
q <= 0.1, which is the false discovery rate where all are false.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from blissaudit import exact_search, gather_texts
from blissaudit.indexer.vectors.nearest import Hits
from blissaudit.scorer.questions.drift import count_captions, largest_captions, smallest_p
from measuring import begin, test_data, verdict
from planted_strays import embeddings, plain, usable_classes

CLAIM = "the caption of a new 21st class is among the first ten that gained"
K, CLASSES, FIRST = 10, 20, 10
FIRST_SEED = 5000
"""The order of captions was chosen on the draws of seeds 0 to 399."""
SHARES = {0.01: 58, 0.02: 88, 0.05: 95}
"""The share of the new set that is new, and the percentage of draws to reach."""


class World:
    """All images with their captions, retrieved once."""

    def __init__(self, real: Path) -> None:
        parts = [embeddings(real / "caltech101" / split) for split in ("val", "test")]
        self.images = np.concatenate([vectors for vectors, _ in parts]).astype(np.float32)
        self.labels = np.array([label for _, labels in parts for label in labels])
        texts = real / "texts" / "photo-of-a"
        self.texts = np.load(texts / "text_emb" / "text_emb_0.npy").astype(np.float32)
        names = pq.read_table(texts / "metadata" / "metadata_0.parquet")["name"].to_pylist()
        self.names = np.array([plain(name) for name in names])
        self.usable = usable_classes(real)
        self.hits = exact_search(self.images, self.texts, K)

    def captions(self, rows: np.ndarray) -> np.ndarray:
        """The captions of some images, with the moments of these."""
        hits = Hits(self.hits.similarity[rows], self.hits.rows[rows])
        return largest_captions(self.images[rows], gather_texts(hits, self.texts))[0]


def find_new(world: World, draws: int, share: float, old_share: float) -> tuple[float, float, int]:
    """Percentages of draws that find the 21st class, by captions and by means; median images."""
    found, by_means, sizes = [], [], []
    for seed in range(draws):
        rng = np.random.default_rng(FIRST_SEED + seed)
        classes = rng.choice(world.usable, CLASSES + 1, replace=False)
        normal = rng.permutation(np.flatnonzero(np.isin(world.labels, classes[:CLASSES])))
        extra = np.flatnonzero(world.labels == classes[CLASSES])
        old = round(old_share * len(normal))
        count = min(len(extra), max(1, round(share * (len(normal) - old) / (1 - share))))
        rows = np.concatenate([normal, rng.choice(extra, count, replace=False)])
        is_new = np.arange(len(rows)) >= old
        counts = count_captions(world.captions(rows), is_new)
        named = np.flatnonzero(world.names == plain(str(classes[CLASSES])))
        first = counts.text[counts.order(gained=True)[:FIRST]]
        found.append(np.isin(named, first).any())
        images = world.images[rows]
        apart = images[is_new].mean(axis=0) - images[~is_new].mean(axis=0)
        by_means.append(np.isin(named, np.argsort(-(world.texts @ apart))[:FIRST]).any())
        sizes.append(count)
    return 100 * float(np.mean(found)), 100 * float(np.mean(by_means)), int(np.median(sizes))


def nothing_new(world: World, draws: int) -> tuple[float, float]:
    """The level of the p-value of everything at 0.05, and the false discovery rate of captions."""
    below, discovered = [], []
    for seed in range(draws):
        rng = np.random.default_rng(10_000 + seed)
        classes = rng.choice(world.usable, CLASSES, replace=False)
        rows = rng.permutation(np.flatnonzero(np.isin(world.labels, classes)))
        is_new = np.arange(len(rows)) >= len(rows) // 2
        counts = count_captions(world.captions(rows), is_new, permutations=199, seed=seed)
        below.append(counts.p <= 0.05)
        discovered.append(np.nanmin(counts.q) <= 0.1)
    return float(np.mean(below)), float(np.mean(discovered))


def main() -> None:
    data = test_data()
    if data is None:
        sys.exit("BLISS_TEST_DATA is not set to the folder of real embeddings")
    report = begin("drift", CLAIM, runs=400)
    draws, world = report.runs, World(data / "real")
    started = time.process_time()
    report.say(f"one half old, one half new, {draws} draws: found among the first {FIRST}")
    for share, target in SHARES.items():
        found, means, size = find_new(world, draws, share, 0.5)
        line = f"by captions {found:.1f} %, by the difference of the means {means:.1f} %"
        report.say(f"  {share:.0%} of the new half (median {size} images): {line}")
        report.say(verdict(f"draws that find it at {share:.0%}", found, target, at_least=True))
    few = max(1, draws // 4)
    report.say(f"ten times as many old images, {few} draws")
    for share in (0.02, 0.05, 0.1):
        found, means, size = find_new(world, few, share, 10 / 11)
        line = f"by captions {found:.1f} %, by the difference of the means {means:.1f} %"
        report.say(f"  {share:.0%} of the new images (median {size}): {line}")
    least = [f"{smallest_p(1000, 100, images):.2g}" for images in (3, 5)]
    report.say("  (with 1,000 old and 100 new images, 3 of something new cannot have a p-value "
               f"below {least[0]}, 5 below {least[1]})")  # fmt: skip
    null = draws * 5 // 4
    report.say(f"nothing new, {null} draws of 20 classes, 199 permutations each")
    level, discoveries = nothing_new(world, null)
    report.say(verdict("level at 0.05", level, 0.03, at_least=True))
    report.say(verdict("level at 0.05", level, 0.07, at_least=False))
    report.say(verdict("false discovery rate of captions at 0.1", discoveries, 0.1, at_least=False))
    report.say(f"{time.process_time() - started:.0f} s of CPU")
    report.finish()


if __name__ == "__main__":
    main()
