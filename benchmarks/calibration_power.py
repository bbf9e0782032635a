"""How much p-values find, and whether the rate holds, by how the clean images are used.

Run as: python benchmarks/calibration_power.py [--resamples 300] [--plus 40] [--record]

Each resample takes the 44 Caltech-101 classes whose name is among the captions. The clean images
are a share of the validation images and half of the test images, about 200, 600 or all of them,
three a class at least; the audited ones are the other half of the test images and images of the
other classes, 10 % of the whole. Images are flagged by Benjamini-Hochberg at 0.1 on p-values of
BLISS and of bliss+

- held out: a fifth of every class's clean images calibrates, the reference is fitted on the others;
- leave-one-out: the reference is fitted on all clean images, and each of them, left out of its
  class, calibrates;
- symmetric (AdaDetect, arXiv 2208.06685): clean and audited images, all of them filed under the
  class of the nearest prompt, are one reference, and each is left out of its class. The clean ones
  calibrate: scores do not depend on which are clean, so that the rate is guaranteed.

FDP is the share of normal images among the flagged, 0 where none is; power the share of strays
flagged.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from blissaudit import bliss_scores, exact_search, fit_moments, gather_texts
from blissaudit.scorer.bliss import Retrieved
from blissaudit.scorer.calibration import benjamini_hochberg, conformal_p_values, hold_out
from blissaudit.scorer.leave_one_out import NOTHING_LEFT_OUT, LeftOut
from blissaudit.scorer.reference import Reference
from blissaudit.scorer.scores.plus.score import fit_bliss_plus
from blissaudit.scorer.scores.registry import SCORES
from measuring import RESULTS, setup_lines
from planted_strays import Collection, class_prompts, embeddings, usable_classes

SIZES, STRAYS, LEVEL, HELD_OUT, FEWEST, K, WEIGHT = (200, 600, None), 0.1, 0.1, 0.2, 3, 10, 0.5
WAYS = ("held out", "leave-one-out", "symmetric")


class World:
    """All images with the texts nearest to each, searched once."""

    def __init__(self, real: Path, plus: bool) -> None:
        self.plus = plus
        parts = [embeddings(real / "caltech101" / part) for part in ("val", "test")]
        self.vectors = np.concatenate([rows for rows, _ in parts]).astype(np.float32)
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        names = np.array([label for _, labels in parts for label in labels])
        self.classes = sorted(usable_classes(real))
        number = {name: c for c, name in enumerate(self.classes)}
        self.labels = np.array([number.get(name, -1) for name in names])
        self.test = np.arange(len(names)) >= len(parts[0][0])
        normal = self.labels >= 0
        collection = Collection(self.vectors[normal], names[normal].tolist(), normal[normal])
        self.prompts = class_prompts(real, collection)[1]
        self.prompts = self.prompts / np.linalg.norm(self.prompts, axis=1, keepdims=True)
        texts = np.load(real / "texts" / "photo-of-a" / "text_emb" / "text_emb_0.npy")
        self.texts = np.asarray(texts / np.linalg.norm(texts, axis=1, keepdims=True), np.float32)
        self.found = gather_texts(exact_search(self.vectors, self.texts, K), self.texts)

    def retrieved(self, rows: np.ndarray) -> Retrieved:
        """The texts of some images."""
        found = self.found
        used, position = np.unique(found.position[rows], return_inverse=True)
        position = position.reshape(len(rows), K).astype(np.int32)
        return Retrieved(found.similarity[rows], found.rows[rows], position, found.vectors[used])

    def scores(self, rows: np.ndarray, reference: Reference, left_out: LeftOut) -> np.ndarray:
        """The score of some images."""
        found = self.retrieved(rows)
        if self.plus:
            fitted = fit_bliss_plus(reference, self.texts, SCORES["bliss+"].defaults)
            return fitted(self.vectors[rows], found, left_out)
        return bliss_scores(self.vectors[rows], found, reference, WEIGHT, left_out=left_out).score

    def reference(self, rows: np.ndarray, labels: np.ndarray) -> Reference:
        """Fitted on some images; classes without any are left out."""
        present, numbers = np.unique(labels, return_inverse=True)
        moments = fit_moments([self.classes[c] for c in present], self.vectors[rows], numbers)
        return Reference(moments, self.prompts[present])


def p_values(world: World, clean: np.ndarray, audited: np.ndarray, way: str) -> np.ndarray:
    """Of the audited images, by one of WAYS."""
    labels, left_out = world.labels[clean], NOTHING_LEFT_OUT
    if way == "held out":
        held = hold_out(labels, np.random.default_rng(0).permutation(len(labels)), HELD_OUT)
        reference = world.reference(clean[~held], labels[~held])
        clean = clean[held]
    else:
        filed = clean
        if way == "symmetric":
            filed = np.concatenate([clean, audited])
            labels = nearest_classes(world, filed)
        reference = world.reference(filed, labels)
        numbers = np.unique(labels, return_inverse=True)[1]
        left_out = LeftOut(np.arange(len(filed)), numbers)
    scores = world.scores(np.concatenate([clean, audited]), reference, left_out)
    return conformal_p_values(scores[: len(clean)], scores[len(clean) :])


def nearest_classes(world: World, rows: np.ndarray) -> np.ndarray:
    """The class of the prompt nearest to each image; each class has FEWEST of them or none."""
    cosines = world.vectors[rows] @ world.prompts.T
    counts = np.bincount(cosines.argmax(axis=1), minlength=len(world.prompts))
    usable = np.flatnonzero(counts >= FEWEST)
    return usable[cosines[:, usable].argmax(axis=1)]


def resample(world: World, size: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clean and audited images."""
    rng = np.random.default_rng(seed)
    normal = np.flatnonzero((world.labels >= 0) & world.test)
    half = np.zeros(len(world.labels), bool)
    for c in range(len(world.classes)):
        members = rng.permutation(normal[world.labels[normal] == c])
        half[members[: len(members) // 2]] = True
    pool = np.flatnonzero((world.labels >= 0) & (~world.test | half))
    share = 1.0 if size is None else size / len(pool)
    clean = np.concatenate([
        rng.permutation(members)[: max(FEWEST, round(share * len(members)))]
        for members in (pool[world.labels[pool] == c] for c in range(len(world.classes)))
    ])  # fmt: skip
    audited = normal[~half[normal]]
    count = round(len(audited) * STRAYS / (1 - STRAYS))
    others = np.flatnonzero((world.labels < 0) & world.test)
    audited = np.concatenate([audited, rng.choice(others, count, replace=False)])
    return clean, audited


def found_by(world: World, clean: np.ndarray, audited: np.ndarray, way: str) -> tuple[float, float]:
    """FDP and power of one of WAYS."""
    stray = world.labels[audited] < 0
    flagged = benjamini_hochberg(p_values(world, clean, audited, way)) <= LEVEL * (1 + 1e-9)
    false = float((flagged & ~stray).sum() / max(1, flagged.sum()))
    return false, float(flagged[stray].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("BLISS_TEST_DATA", "../shared"))
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--plus", type=int, default=40, help="resamples of bliss+")
    parser.add_argument("--symmetric", type=int, default=20, help="resamples of the symmetric way")
    parser.add_argument("--seed", type=int, default=5000)
    parser.add_argument("--record", action="store_true", help="write results/calibration_power.txt")
    chosen = parser.parse_args()
    lines = ["calibration_power", *setup_lines()]
    for name, count in (("BLISS", chosen.resamples), ("bliss+", chosen.plus)):
        if not count:
            continue
        several = min(count, chosen.symmetric)
        lines += ["", f"{name}, {count} resamples, {several} of the symmetric way, seeds from "
                  f"{chosen.seed}; FDP ± its standard error, power"]  # fmt: skip
        print("\n".join(lines[-2:]), flush=True)
        world = World(Path(chosen.data) / "real", name == "bliss+")
        lines += measured(world, range(chosen.seed, chosen.seed + count), several)
    if chosen.record:
        (RESULTS / "calibration_power.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measured(world: World, seeds: range, symmetric: int) -> Iterator[str]:
    """A line for each of SIZES."""
    for size in SIZES:
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for number, seed in enumerate(seeds):
            clean, audited = resample(world, size, seed)
            for way in WAYS if number < symmetric else WAYS[:2]:
                found[way].append(found_by(world, clean, audited, way))
        line = f"{len(clean):5} clean images: {'; '.join(map(cell, found, found.values()))}"
        print(line, flush=True)
        yield line


def cell(way: str, found: list[tuple[float, float]]) -> str:
    """Mean FDP with its standard error, and mean power."""
    fdp, power = np.array(found).T
    error = fdp.std(ddof=1) / np.sqrt(len(fdp))
    kept = "" if fdp.mean() - 2 * error <= LEVEL else " MISSED"
    return f"{way} {fdp.mean():.3f} ± {error:.3f}{kept}, {power.mean():.3f}"


if __name__ == "__main__":
    main()
