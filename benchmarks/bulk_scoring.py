"""Claim: a million embedded images of 10 classes are scored in 30 s and 2 GB on two cores.

Hits are given; images lie on disk as fp16 parts and are read a chunk at a time. What is timed goes
from hits to scores with all that the audit keeps of them: the distinct texts, the statistics of
every class for each, ICS, ETS, the best classes and the pulls. Every text is retrieved by some
image here, so nothing is saved by hits that repeat. The second case is 1,000 classes.

The direct way takes the similarity of every reference image to every text, a class and a block of
texts at a time, their means and deviations, then the same sums over hits. It is timed on part of
the work, as its lines say, and scaled. Ours is also compared with the float32 products of its
statistics alone, in blocks of the same shape. Memory is the peak of resident memory over what it
was just before, so what is given (hits, references, texts) is not in it and the scores are.

Run as: python benchmarks/bulk_scoring.py [--record] [--runs 0: both cases at a fiftieth]
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blissaudit.indexer.vectors import slices
from blissaudit.indexer.vectors.nearest import Hits
from blissaudit.indexer.vectors.rows import PartedRows
from blissaudit.scorer.bliss import BlissScores, bliss_scores, gather_texts
from blissaudit.scorer.moments import Moments, fit_moments
from blissaudit.scorer.reference import Reference
from blissaudit.scorer.statistics import TEXTS_AT_ONCE, factor_rows
from measuring import Report, begin, measured, unit, verdict
from statistics_cost import EPSILON, WEIGHT, block_statistics, class_rows
from synthetic import World, around, cluster_texts

CLAIM = "from given hits to scores, images on disk"
K = 10
PER_CLASS = 100
NOISE = 0.6
SECONDS, BYTES = 30.0, 2e9
PART = 50_000


@dataclass(frozen=True)
class Case:
    """A world without its images, which lie on disk."""

    world: World
    """Its `images` are the first of those on disk, for the direct way."""
    stored: PartedRows
    hits: Hits


def make_case(folder: Path, images: int, classes: int, seed: int = 0) -> Case:
    """Images near class centres, written in parts; their hits are texts pulled to that class."""
    rng = np.random.default_rng(seed)
    centres, texts = cluster_texts(rng, classes)
    labels = np.repeat(np.arange(classes), PER_CLASS)
    references = around(rng, centres, labels, NOISE)
    prompts = around(rng, centres, np.arange(classes), NOISE)
    nearest = (texts @ centres.T).argmax(axis=1)
    of_class = [np.flatnonzero(nearest == number) for number in range(classes)]
    rows = np.empty((images, K), np.int64)
    similarity = np.empty((images, K), np.float32)
    paths = []
    for start in range(0, images, PART):
        here = slice(start, min(images, start + PART))
        mine = rng.integers(0, classes, here.stop - start)
        vectors = around(rng, centres, mine, NOISE).astype(np.float16)
        paths.append(folder / f"{start}.npy")
        np.save(paths[-1], vectors)
        vectors = unit(vectors)
        for number in range(classes):
            some = np.flatnonzero(mine == number)
            rows[start + some] = rng.choice(of_class[number], (len(some), K))
        for column in range(K):
            found = np.einsum("nd,nd->n", vectors, texts[rows[here, column]])
            similarity[here, column] = found
    order = np.argsort(-similarity, axis=1, kind="stable")
    hits = Hits(np.take_along_axis(similarity, order, 1), np.take_along_axis(rows, order, 1))
    stored = PartedRows(paths)
    few = slice(0, min(images, 10_000))
    shown = Hits(hits.similarity[few], hits.rows[few])
    return Case(World(references, labels, prompts, texts, stored[few], shown), stored, hits)


def ours(case: Case, reference: Reference) -> BlissScores:
    """All that an audit keeps of every image."""
    retrieved = gather_texts(case.hits, case.world.texts)
    return bliss_scores(case.stored, retrieved, reference, WEIGHT)


def direct(world: World, classes: int) -> tuple[np.ndarray, float, float]:
    """Totals float64 [n, classes] of the first classes; seconds of statistics and of the sums."""
    few = np.searchsorted(world.labels, classes)
    part = World(
        world.references[:few],
        world.labels[:few],
        world.prompts[:classes],
        world.texts,
        world.images,
        world.hits,
    )
    statistics, first, _ = measured(lambda: block_statistics(part, part.texts))

    def totals() -> np.ndarray:
        made = np.empty((len(part.images), classes))
        cosine = part.images @ part.prompts.T
        for number, (rows, (mean, std)) in enumerate(
            zip(class_rows(part), statistics, strict=True)
        ):
            own = part.references[rows] @ part.prompts[number]
            ics = -(cosine[:, number] - own.mean()) / (own.std() + EPSILON)
            position = part.hits.rows
            pull = (part.hits.similarity - mean[position]) / (std[position] + EPSILON)
            made[:, number] = ics + WEIGHT * pull.mean(axis=1)
        return made

    made, second, _ = measured(totals)
    return made, first, second


def products(texts: np.ndarray, fitted: Moments, classes: int) -> None:
    """The products of texts with the factors of the first classes, and nothing else."""
    for part in fitted.parts[:classes]:
        rows = factor_rows(part)[0].astype(np.float32)
        for block in slices(len(texts), TEXTS_AT_ONCE):
            texts[block] @ rows.T


def compare(report: Report, images: int, classes: int, shown: int) -> tuple[float, float]:
    """One case: ours on all of it, the direct way on `shown` classes; our seconds and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(Path(folder), images, classes)
        world = case.world
        names = tuple(str(number) for number in range(classes))
        fitted, seconds, extra = measured(
            lambda: fit_moments(names, world.references, world.labels)
        )
        report.say(
            f"\nn = {images:,}, C = {classes:,}, M = {len(world.texts):,}, k = {K}, "
            f"{PER_CLASS} reference images a class, d = {world.texts.shape[1]}, "
            f"{len(np.unique(case.hits.rows)):,} distinct texts"
        )
        report.say(f"  moments, once for each reference: {seconds:.2f} s, {size(extra)}")
        scores, seconds, extra = measured(lambda: ours(case, Reference(fitted, world.prompts)))
        report.say(f"  ours: {seconds:.2f} s, peak extra memory {size(extra)}")
        texts = world.texts[np.unique(case.hits.rows)]
        _, alone, _ = measured(lambda: products(texts, fitted, shown))
        alone *= classes / shown
        report.say(
            f"  the products of its statistics alone, {shown} of {classes:,} classes, scaled: "
            f"{alone:.2f} s"
        )
        report.say(f"  ours / products: {seconds / alone:.2f}")
        totals, first, second = direct(world, shown)
        few = len(world.images)
        scaled = first * classes / shown, second * classes / shown * images / few
        report.say(
            f"  direct, {shown} of {classes:,} classes and {few:,} images, scaled: "
            f"statistics {scaled[0]:.1f} s, sums {scaled[1]:.1f} s"
        )
        report.say(f"  direct / ours: {sum(scaled) / seconds:.2f}")
        if shown == classes:
            gap = np.abs(totals.min(axis=1) - scores.score[:few]).max()
            report.say(f"  scores of the direct way: max |difference| {gap:.1e}")
        else:
            known = np.flatnonzero(scores.nearest[:few] < shown)
            gap = np.abs(totals.min(axis=1)[known] - scores.score[known]).max()
            report.say(f"  where one of those classes is nearest: max |difference| {gap:.1e}")
    return seconds, float(extra or 0)


def size(extra: int | None) -> str:
    """Bytes in words."""
    return "not measured" if extra is None else f"{extra / 2**20:,.0f} MiB"


def main() -> None:
    report = begin("bulk_scoring", CLAIM, 1)
    share = 1 if report.runs else 50
    seconds, extra = compare(report, 1_000_000 // share, 10, 10)
    report.say(verdict("seconds for a million images", seconds, SECONDS, at_least=False))
    report.say(verdict("bytes", extra, BYTES, at_least=False))
    compare(report, 100_000 // share, 1000 // share, max(1, 50 // share))
    report.finish()


if __name__ == "__main__":
    main()
