"""Claim: pairs finds swapped captions, and the keep list keeps what it promises.

Run as: python benchmarks/pairs.py [--runs 20 seeds] [--record], with BLISS_TEST_DATA set

Real: 500 image-caption pairs of COCO with 5, 20 or 50 % of the captions swapped among themselves.
Average precision of finding the swapped at 5 % by the score with full sums and with the 10 nearest
rivals, by the cosine, and by the cosine standardised over the images; then what is wrong among the
kept at level 0.05. Also with captions from outside the collection in place of swapped ones: 330 of
the pairs, some with captions of the other 170.

Synthetic: pairs of 64 dimensions in clusters, 5 % swapped: all rivals summed, then 10 rivals
through inverted lists, each beside the bare search of the nearest text of every image.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from blissaudit.indexer import nearest_searcher
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.pairs import Pairs, PairScores, PairSettings, score_pairs
from measuring import Report, begin, measured, test_data, unit, verdict

CLAIM = "swapped captions are found, and at most 5 % of the kept pairs are swapped"
DIMENSION, CLUSTER = 64, 10
EXACT, LISTS = 60_000, 200_000
"""Synthetic pairs; raise them to 200,000 and 1,000,000 where there is CPU for it."""


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


def synthetic(report: Report, count: int, lists: bool) -> None:
    """Time and memory of one collection, beside bare search."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((count // CLUSTER, DIMENSION), np.float32)
    images = centres[np.arange(count) % len(centres)]
    images = unit(images + 0.7 * rng.standard_normal(images.shape, np.float32))
    texts = unit(images + 0.12 * rng.standard_normal(images.shape, np.float32))
    text = swapped(count, 0.05, 0)
    wrong = text != np.arange(count)
    pairs = Pairs(images, texts, np.arange(count), text)
    how = "the 10 nearest rivals through inverted lists" if lists else "all rivals"
    report.say(f"synthetic, {count:,} pairs of {DIMENSION} dimensions, {how}")
    searches = [None, None]
    if lists:
        started = time.process_time()
        searches = [nearest_searcher(rows).search for rows in (texts, images)]
        report.say(f"  inverted lists of both sides: {time.process_time() - started:.0f} s CPU")
    nearest = searches[0] or (lambda some, k: exact_search(some, texts, k))
    started = time.process_time()
    for first in range(0, count, 16_384):
        nearest(images[first : first + 16_384], 10 if lists else 1)
    bare = time.process_time() - started
    started = time.process_time()
    settings = PairSettings(full=not lists)
    found, seconds, extra = measured(lambda: score_pairs(pairs, settings, *searches, suggest=0))
    used = time.process_time() - started
    say_costs(report, found, wrong, (bare, used, seconds), extra)


def say_costs(
    report: Report,
    found: PairScores,
    wrong: np.ndarray,
    seconds: tuple[float, float, float],
    extra: int | None,
) -> None:
    """The lines on one synthetic collection."""
    bare, used, wall = seconds
    memory = "not measured" if extra is None else f"{extra / 2**20:,.0f} MiB"
    report.say(f"  scores, p-values and suggestions {used:.0f} s CPU ({wall:.0f} s), bare search "
               f"of one side {bare:.0f} s CPU; peak extra memory {memory}")  # fmt: skip
    report.say(
        f"  average precision {average_precision(found.score, wrong):.2f}; wrong among the kept "
        f"{wrong[found.kept].mean():.4f}, right ones kept {found.kept[~wrong].mean():.3f}, random "
        f"share {found.random_share:.3f}"
    )


def main() -> None:
    data = test_data()
    if data is None:
        sys.exit("BLISS_TEST_DATA is not set to the folder of real embeddings")
    report = begin("pairs", CLAIM, runs=20)
    real(report, data / "real" / "coco-pairs")
    synthetic(report, EXACT, lists=False)
    synthetic(report, LISTS, lists=True)
    report.finish()


if __name__ == "__main__":
    main()
