"""Question: what do lists laid out by the user's own images find, and how briefly can they train?

Lists are trained with FAISS's 25 iterations over up to 256 texts of each list (of a sample of 64 a
list, 65,536 at least), as the package does it, and with fewer texts and iterations; plain, and laid
out by LAYING images of a set (`Images,IVF…`). Other images of the three real sets then search each.
Lists differ in size, so that recall is compared at an equal share of the texts scanned: for each
`nprobe` of FAISS's own lists, the largest of the others whose share is not larger. Texts are the
5,431 real ones, and mixtures of them as in tuned_index.py. Seconds are of processor time on one
thread, filling included.

Run as: python benchmarks/ivf_training.py [--made 1000000] [--record]
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import NamedTuple

import faiss
import numpy as np
from blissaudit.indexer.search import structures
from blissaudit.indexer.search.kinds import lists_for, read_kind
from blissaudit.indexer.vectors.nearest import exact_search
from measuring import begin, test_data, unit, verdict
from tuned_index import made_texts, real_texts

CLAIM = "inverted lists of short trainings against FAISS's own, by recall@10 of images"
SETS = {"Caltech-101": "caltech101/test", "SUN397": "sun397/val", "DTD": "dtd/test"}
QUERIES, LAYING, K = 500, 1000, 10
SHARES = (1 / 16, 1 / 4, 1 / 2)
"""Of the lists that FAISS's own are searched with."""
LONG = (256, 25)
SHORT = {"16 x 4": (16, 4), "64 x 6": (64, 6)}
"""Texts a list, and iterations."""
LEAST_RATIO, MOST_LOST = 2.5, 0.005


class Made(NamedTuple):
    """A filled structure, what it is asked, and the seconds that took."""

    structure: faiss.Index
    asked: structures.AskedByImages | None
    seconds: float


def build(kind: str, texts: np.ndarray, training: tuple[int, int], images: np.ndarray) -> Made:
    """A structure of `texts`, laid out by `images` where it is of such a kind."""
    parsed = read_kind(kind)
    start = time.process_time()
    transform = structures.image_transform(texts, images) if parsed.by_images else None
    structure = structures.new_structure(parsed, texts.shape[1], transform)
    inverted = faiss.extract_index_ivf(structure)
    inverted.cp.max_points_per_centroid, inverted.cp.niter = training
    structures.fill_structure(structure, parsed, texts, 1)
    seconds = time.process_time() - start
    asked = structures.AskedByImages(structure) if parsed.by_images else None
    return Made(structure, asked, seconds)


def shares(made: Made, queries: np.ndarray) -> np.ndarray:
    """Mean share of the texts in the first 1, 2, … lists that `queries` look at."""
    inverted = faiss.extract_index_ivf(made.structure)
    asked = queries if made.asked is None else made.asked(queries)
    if made.asked is not None:
        asked = faiss.downcast_VectorTransform(made.structure.chain.at(0)).apply(asked)
    order = inverted.quantizer.search(asked, inverted.nlist)[1]
    sizes = np.array([inverted.invlists.list_size(n) for n in range(inverted.nlist)])
    return sizes[order].cumsum(axis=1).mean(axis=0) / sizes.sum()


def recall(made: Made, nprobe: int, queries: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true rows [n, k] among twice as many candidates, which are ranked again."""
    faiss.extract_index_ivf(made.structure).nprobe = nprobe
    found = made.structure.search(queries if made.asked is None else made.asked(queries), 2 * K)[1]
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def main() -> None:
    own = argparse.ArgumentParser()
    own.add_argument("--made", type=int, default=100_000)
    chosen, sys.argv[1:] = own.parse_known_args()
    report = begin("ivf_training", CLAIM, 1)
    real = test_data() / "real"
    texts, _ = real_texts(real)
    sets = {}
    for name, folder in SETS.items():
        rows = unit(np.load(real / folder / "img_emb" / "img_emb_0.npy"))
        rows = rows[np.random.default_rng(0).permutation(len(rows))]
        sets[name] = rows[:QUERIES], rows[QUERIES : QUERIES + LAYING]
    for world, rows in (("real", texts), ("mixtures of them", made_texts(texts, chosen.made))):
        kind = f"IVF{lists_for(len(rows))},SQ8"
        plain = {"FAISS's": build(kind, rows, LONG, texts)}
        plain |= {way: build(kind, rows, training, texts) for way, training in SHORT.items()}
        long = plain["FAISS's"]
        report.say(f"\n{world}, {len(rows):,} texts, {kind}; FAISS's lists: {long.seconds:.1f} s")
        gained: dict[str, list[float]] = {}
        seconds: dict[str, list[float]] = {}
        for name, (queries, laying) in sets.items():
            truth = exact_search(queries, rows, K).rows
            ways = dict(plain)
            for way, training in {"FAISS's": LONG, **SHORT}.items():
                if way in SHORT or len(rows) <= 100_000:
                    ways[f"images, {way}"] = build(f"Images,{kind}", rows, training, laying)
            scanned = {way: shares(made, queries) for way, made in ways.items()}
            for probe in (max(1, int(share * len(scanned["FAISS's"]))) for share in SHARES):
                most = scanned["FAISS's"][probe - 1]
                before = recall(long, probe, queries, truth)
                line = [f"{name}, {most:.1%} scanned: FAISS's {before:.3f}"]
                for way, made in ways.items():
                    if made is not long:
                        fits = max(1, int((scanned[way] <= most).sum()))
                        after = recall(made, fits, queries, truth)
                        line.append(f"{way} {after:.3f}")
                        gained.setdefault(way, []).append(after - before)
                report.say("; ".join(line))
            for way, made in ways.items():
                seconds.setdefault(way, []).append(made.seconds)
        for way, gains in gained.items():
            ratio = long.seconds / float(np.median(seconds[way]))
            report.say(f"{way}: recall {min(gains):+.3f} to {max(gains):+.3f}, mean "
                       f"{np.mean(gains):+.3f}")  # fmt: skip
            report.say(verdict("  times as fast to build", ratio, LEAST_RATIO, at_least=True))
            report.say(verdict("  most recall lost", -min(gains), MOST_LOST, at_least=False))
    report.finish()


if __name__ == "__main__":
    main()
