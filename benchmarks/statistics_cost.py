"""Claim: scoring from moments costs a fraction of scoring from a similarity matrix.

Both ways start from the same hits and embeddings and end with the same scores. Ours fits moments
and calls `bliss_scores`. The direct way holds the float32 similarities of all reference images to
all texts at once (BLAS), takes numpy's mean and std over each class's rows and gathers what the
hits need. Three cheaper rivals are shown beside it: the same centred in place, without numpy's
temporaries; class by class in blocks of texts; and the blocks over the distinct retrieved texts
alone, which shows how much of the gain is asking only for those.

Run as: python benchmarks/statistics_cost.py [--record]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from blissaudit.scorer.bliss import bliss_scores, gather_texts
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.reference import Reference
from measuring import Report, alternate, begin, test_data, verdict
from synthetic import (
    FEW_DISTINCT,
    MANY_DISTINCT,
    MORE_DISTINCT,
    World,
    caltech_world,
    clustered_world,
)

CLAIM = "statistics and external scores, ours against the direct way"
WEIGHT, EPSILON = 0.5, 1e-8
TEXTS_AT_ONCE = 8192
FASTER, SMALLER = 50.0, 1 / 20
RUNS = 5

Statistics = tuple[np.ndarray, np.ndarray]


def ours(world: World) -> np.ndarray:
    """float64 [n] scores from the moments of each class."""
    names = tuple(str(number) for number in range(len(world.prompts)))
    moments = fit_moments(names, world.references, world.labels)
    retrieved = gather_texts(world.hits, world.texts)
    return bliss_scores(world.images, retrieved, Reference(moments, world.prompts), WEIGHT).score


def direct(world: World) -> np.ndarray:
    """float64 [n] scores from the whole similarity matrix, held at once, as numpy would."""
    similarity = world.references @ world.texts.T
    statistics = [
        (similarity[rows].mean(axis=0), similarity[rows].std(axis=0)) for rows in class_rows(world)
    ]
    return scores_from(world, statistics, world.hits.rows)


def direct_in_place(world: World) -> np.ndarray:
    """As `direct`, with each class's rows centred in place and no temporaries."""
    similarity = world.references @ world.texts.T
    statistics = [rows_statistics(similarity[rows]) for rows in class_rows(world)]
    return scores_from(world, statistics, world.hits.rows)


def in_blocks(world: World) -> np.ndarray:
    """As `direct`, but one class and one block of texts at a time."""
    return scores_from(world, block_statistics(world, world.texts), world.hits.rows)


def distinct_alone(world: World) -> np.ndarray:
    """As `in_blocks`, for the texts that some image retrieved and no others."""
    rows, position = np.unique(world.hits.rows, return_inverse=True)
    statistics = block_statistics(world, world.texts[rows])
    return scores_from(world, statistics, position.reshape(world.hits.rows.shape))


def block_statistics(world: World, texts: np.ndarray) -> list[Statistics]:
    """Mean and deviation of every class's similarity to each text."""
    made = []
    for rows in class_rows(world):
        mean, std = np.empty(len(texts), np.float32), np.empty(len(texts), np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            block = slice(start, start + TEXTS_AT_ONCE)
            mean[block], std[block] = rows_statistics(world.references[rows] @ texts[block].T)
        made.append((mean, std))
    return made


def rows_statistics(similarity: np.ndarray) -> Statistics:
    """Mean and population deviation over the rows of float32 [r, m], which is used up."""
    mean = similarity.mean(axis=0)
    similarity -= mean
    variance = np.einsum("ij,ij->j", similarity, similarity)
    variance /= len(similarity)
    return mean, np.sqrt(variance, out=variance)


def scores_from(world: World, statistics: list[Statistics], position: np.ndarray) -> np.ndarray:
    """float64 [n], the lowest ICS + λ·ETS of each image, given every class's statistics."""
    best = np.full(len(world.images), np.inf)
    prompt_cosine = world.images @ world.prompts.T
    for number, (rows, (mean, std)) in enumerate(zip(class_rows(world), statistics, strict=True)):
        own = world.references[rows] @ world.prompts[number]
        ics = -(prompt_cosine[:, number] - own.mean()) / (own.std() + EPSILON)
        pull = (world.hits.similarity - mean[position]) / (std[position] + EPSILON)
        np.minimum(best, ics + WEIGHT * pull.mean(axis=1), out=best)
    return best


def class_rows(world: World) -> Iterator[slice]:
    """The rows of each class; references are sorted by class, so these are views."""
    bounds = np.searchsorted(world.labels, np.arange(len(world.prompts) + 1))
    for start, stop in pairwise(bounds):
        yield slice(int(start), int(stop))


def compare(report: Report, title: str, world: World, with_target: bool) -> None:
    """Time the five ways in one world and print their ratios."""
    report.say(f"\n{title}: {world.size}")
    ways: dict[str, Callable[[World], np.ndarray]] = {
        "ours": ours,
        "direct, whole matrix": direct,
        "direct, whole matrix, in place": direct_in_place,
        "direct, class-by-class blocks": in_blocks,
        "direct, blocks, distinct texts alone": distinct_alone,
    }
    expected = ours(world)
    for name, way in ways.items():
        if way is not ours:
            report.say(f"  scores of {name}: max |difference| {max_gap(way(world), expected):.1e}")
    timings = alternate({name: (lambda w=way: w(world)) for name, way in ways.items()}, report.runs)
    for name, timing in timings.items():
        report.say(timing.line(name))
    mine = timings["ours"]
    for name, timing in timings.items():
        if timing is not mine:
            report.say(f"  ours is {timing.median / mine.median:.1f} times as fast as {name}")
    whole = timings["direct, whole matrix"]
    memory = None
    if mine.extra_bytes is not None and whole.extra_bytes:
        memory = mine.extra_bytes / whole.extra_bytes
        report.say(f"  peak extra memory, ours / whole matrix: 1/{1 / memory:.1f}")
    if with_target:
        report.say(verdict("speed-up", whole.median / mine.median, FASTER, at_least=True))
        if memory is not None:
            report.say(verdict("share of the memory", memory, SMALLER, at_least=False))


def max_gap(one: np.ndarray, other: np.ndarray) -> float:
    """Largest absolute difference."""
    return float(np.abs(one - other).max())


def main() -> None:
    report = begin("statistics_cost", CLAIM, RUNS)
    compare(report, "repeating hits (the claim)", clustered_world(FEW_DISTINCT), True)
    compare(report, "hits that repeat less", clustered_world(MORE_DISTINCT), False)
    compare(report, "hits that hardly repeat", clustered_world(MANY_DISTINCT), False)
    data = test_data()
    if data is None:
        report.say("\nreal Caltech images: skipped, BLISS_TEST_DATA names no folder")
    else:
        compare(report, "real Caltech images", caltech_world(data / "real"), False)
    report.finish()


if __name__ == "__main__":
    main()
