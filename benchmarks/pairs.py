"""Claim: pairs finds swapped captions, and the keep list keeps what it promises.

Run as: python benchmarks/pairs.py [--runs 20 seeds] [--exact 200000] [--lists 1000000]
[--dimension 64] [--record], with BLISS_TEST_DATA set; about 30 minutes of CPU

Real: 500 image-caption pairs of COCO with 5, 20 or 50 % of the captions swapped among themselves.
Average precision of finding the swapped at 5 % by the score with full sums and with the 10 nearest
rivals, by the cosine, and by the cosine standardised over the images; then what is wrong among the
kept at level 0.05. Also with captions from outside the collection in place of swapped ones: 330 of
the pairs, some with captions of the other 170.

Synthetic: pairs in clusters of 10, 5 % swapped: all rivals of --exact pairs summed, then the 10
nearest rivals of --lists pairs through inverted lists, of which as many are searched as `bliss
pairs` does, 1 of 128. Beside each the bare search of the nearest texts of 20,000 images, times
their number. The peak of memory is what the searches and the scores take beside the embeddings.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from blissaudit.indexer import nearest_searcher, probes_for
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.questions.pairs import Pairs, PairScores, PairSettings, score_pairs
from measuring import Report, measured, setup_lines, test_data, unit, verdict

CLAIM = "swapped captions are found, and at most 5 % of the kept pairs are swapped"
CLUSTER, TIMED = 10, 20_000
"""Pairs that are alike, and images whose bare search is timed."""


def average_precision(score: np.ndarray, wrong: np.ndarray) -> float:
    """In percent, of finding `wrong` bool [n] by the largest `score` [n]."""
    hit = wrong[np.argsort(-score, kind="stable")]
    return 100 * float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean())


def swapped(count: int, share: float, seed: int) -> np.ndarray:
    """int64 [count], the caption of each image."""
    rows = np.random.RandomState(seed).choice(count, round(share * count), replace=False)
    text = np.arange(count)
    text[rows] = np.roll(rows, 1)
    return text


def real(report: Report, folder: Path) -> None:
    """The known answers."""
    images = np.load(folder / "img_emb" / "img_emb_0.npy")
    texts = np.load(folder / "text_emb" / "text_emb_0.npy")
    count = len(images)
    found: dict[str, list[float]] = {}
    for seed in range(report.runs):
        text = swapped(count, 0.05, seed)
        wrong = text != np.arange(count)
        pairs = Pairs(images, texts, np.arange(count), text)
        cosines = images @ texts[text].T
        own = np.diag(cosines)
        scores = {
            "full sums": score_pairs(pairs, PairSettings(full=True), suggest=0).score,
            "10 nearest rivals": score_pairs(pairs, PairSettings(full=False), suggest=0).score,
            "cosine": -own,
            "z by caption": -(own - cosines.mean(axis=0)) / cosines.std(axis=0),
        }
        for name, score in scores.items():
            found.setdefault(name, []).append(average_precision(score, wrong))
    report.say(f"real pairs, 5 % swapped, {report.runs} seeds: average precision")
    for name, values in found.items():
        report.say(f"  {name:<18} {np.mean(values):.2f} (deviation {np.std(values):.2f})")
    report.say(verdict("full sums", np.mean(found["full sums"]), 97.43, at_least=True))
    report.say(verdict("nearest rivals", np.mean(found["10 nearest rivals"]), 97.4, at_least=True))
    report.say("kept at level 0.05: wrong among them, right ones kept, random share estimated")
    for share in (0.05, 0.2, 0.5):
        made = []
        for seed in range(report.runs):
            text = swapped(count, share, seed)
            wrong = text != np.arange(count)
            made.append(judged(Pairs(images, texts, np.arange(count), text), wrong))
        report.say(line_of(f"{share:.0%} swapped", made))
    for share in (0.05, 0.2, 0.5):
        made = []
        for seed in range(report.runs):
            order = np.random.RandomState(seed).permutation(count)
            few = round(share * 330)
            text = order[:330].copy()
            text[:few] = order[330 : 330 + few]
            pairs = Pairs(images[order[:330]], texts[text], np.arange(330), np.arange(330))
            made.append(judged(pairs, np.arange(330) < few))
        report.say(line_of(f"{share:.0%} from outside", made))


def judged(pairs: Pairs, wrong: np.ndarray) -> tuple[float, float, float]:
    """Wrong among the kept, right ones kept, and the estimated share of random captions."""
    found = score_pairs(pairs, suggest=0)
    return float(wrong[found.kept].mean()), float(found.kept[~wrong].mean()), found.random_share


def line_of(name: str, made: list[tuple[float, float, float]]) -> str:
    """The means over seeds, and the deviation of the estimate."""
    wrong, right, share = np.mean(made, axis=0)
    spread = np.std(made, axis=0)[2]
    return f"  {name:<17} {wrong:.3f}  {right:.3f}  {share:.3f} (deviation {spread:.3f})"


def synthetic(report: Report, count: int, dimension: int, probes: int | None) -> None:
    """Time and memory of one collection, beside bare search."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((count // CLUSTER, dimension), np.float32)
    images = centres[np.arange(count) % len(centres)]
    images = unit(images + 0.7 * rng.standard_normal(images.shape, np.float32))
    texts = unit(images + 0.12 * rng.standard_normal(images.shape, np.float32))
    text = swapped(count, 0.05, 0)
    wrong = text != np.arange(count)
    pairs = Pairs(images, texts, np.arange(count), text)
    how = "all rivals" if probes is None else f"10 nearest rivals, {probes} lists searched"
    report.say(f"synthetic, {count:,} pairs of {dimension} dimensions, {how}")
    cpu = {}

    def scored() -> PairScores:
        searches = [None, None]
        started = time.process_time()
        if probes is not None:
            searches = [nearest_searcher(rows, probes).search for rows in (texts, images)]
            cpu["lists"] = time.process_time() - started
        nearest = searches[0] or (lambda some, k: exact_search(some, texts, k))
        few = rng.choice(count, min(count, TIMED), replace=False)
        started = time.process_time()
        nearest(images[few], 1 if probes is None else 10)
        cpu["bare"] = (time.process_time() - started) * count / len(few)
        started = time.process_time()
        found = score_pairs(pairs, PairSettings(full=probes is None), *searches, suggest=0)
        cpu["scores"] = time.process_time() - started
        return found

    found, seconds, extra = measured(scored)
    say_costs(report, found, wrong, cpu, seconds, extra)


def say_costs(
    report: Report,
    found: PairScores,
    wrong: np.ndarray,
    cpu: dict[str, float],
    seconds: float,
    extra: int | None,
) -> None:
    """The lines on one synthetic collection."""
    memory = "not measured" if extra is None else f"{extra / 2**20:,.0f} MiB"
    lists = f"inverted lists of both sides {cpu['lists']:.0f} s CPU, " if "lists" in cpu else ""
    report.say(f"  {lists}bare search of one side {cpu['bare']:.0f} s CPU, scores, p-values and "
               f"suggestions {cpu['scores']:.0f} s CPU")  # fmt: skip
    report.say(f"  {seconds:.0f} s in all; peak memory beside the embeddings {memory}")
    report.say(
        f"  average precision {average_precision(found.score, wrong):.2f}; wrong among the kept "
        f"{wrong[found.kept].mean():.4f}, right ones kept {found.kept[~wrong].mean():.3f}, random "
        f"share {found.random_share:.3f}"
    )


def main() -> None:
    data = test_data()
    if data is None:
        sys.exit("BLISS_TEST_DATA is not set to the folder of real embeddings")
    parser = argparse.ArgumentParser(description=CLAIM)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--runs", type=int, default=20, help="seeds on the real pairs")
    parser.add_argument("--exact", type=int, default=200_000)
    parser.add_argument("--lists", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=64)
    chosen = parser.parse_args()
    report = Report("pairs", chosen.record, chosen.runs)
    report.say(f"pairs: {CLAIM}")
    for line in setup_lines():
        report.say(line)
    real(report, data / "real" / "coco-pairs")
    for count, probes in ((chosen.exact, None), (chosen.lists, probes_for(chosen.lists))):
        if count:
            synthetic(report, count, chosen.dimension, probes)
    report.finish()


if __name__ == "__main__":
    main()
