"""Whether p-values and flags keep their promise on real embeddings.

Run as: python benchmarks/calibrated.py [--data ../shared] [--resamples 300]

Each resample draws 10 of the 44 Caltech-101 classes whose name is among the captions and splits
their images (validation and test) at random into a clean reference, 30 % of it held out for
calibration, and normal images to audit; images of other classes are added to those, 20 % of the
whole. Everything is done by the package's own calls. Reported are the share of normal images among
the flagged (0 where none is), the share of strays flagged, and one normal image's p-value from each
resample: those are independent and must be uniform. P-values by class need calibration images in
every class: they are tried on the three largest classes, half of whose images are held out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from blissaudit import audit_against, fit_reference, open_index
from blissaudit.audit.classes import ClassWords
from blissaudit.audit.decisions import DecisionRule, decided
from blissaudit.audit.run import AuditSettings, calibrated
from blissaudit.indexer.images.embedded import EmbeddedImages
from blissaudit.indexer.search.captions import CaptionIndex
from planted_strays import PROMPT, Collection, class_prompts, embeddings, usable_classes
from planted_truth import index_of
from scipy.stats import kstest

CLASSES, AUDITED, STRAYS, LEVEL = 10, 60, 0.2, 0.1
LARGE = 3
"""Classes by class: the largest, since each needs calibration images of its own."""
HELD_OUT, HELD_OUT_BY_CLASS = 0.3, 0.5


class Found(NamedTuple):
    """What one resample showed."""

    fdp: float
    power: float
    p: float
    """Of one normal image."""


def embedded(vectors: np.ndarray, labels: list[str], rng: np.random.Generator) -> EmbeddedImages:
    """Images as the package holds them, with hashes that make every split a random one."""
    hashes = tuple(f"{number:016x}" for number in rng.integers(0, 2**62, len(vectors)))
    paths = tuple(str(i) for i in range(len(vectors)))
    return EmbeddedImages(
        vectors, np.arange(len(vectors)), paths, tuple(labels), hashes, (), {"dimension": 512}, ""
    )


def resample(real: Path, index: CaptionIndex, seed: int, per_class: bool) -> Found:
    """One independent split, scored and decided."""
    rng = np.random.default_rng(seed)
    parts = [embeddings(real / "caltech101" / part) for part in ("val", "test")]
    vectors = np.concatenate([rows for rows, _ in parts])
    labels = np.array([label for _, names in parts for label in names])
    usable = usable_classes(real)
    if per_class:
        usable = sorted(usable, key=lambda name: -int((labels == name).sum()))[:LARGE]
    normal = sorted(rng.choice(usable, LARGE if per_class else CLASSES, replace=False).tolist())
    inside = rng.permutation(np.flatnonzero(np.isin(labels, normal)))
    audited, clean = inside[:AUDITED], inside[AUDITED:]
    count = round(AUDITED * STRAYS / (1 - STRAYS))
    strays = rng.choice(np.flatnonzero(~np.isin(labels, normal)), count, replace=False)
    worded, _ = class_prompts(real, Collection(vectors[clean], labels[clean].tolist(), clean < 0))
    words = ClassWords(tuple(normal), (PROMPT,), dict(pair.split("=", 1) for pair in worded))
    share = HELD_OUT_BY_CLASS if per_class else HELD_OUT
    images = embedded(vectors[clean], labels[clean].tolist(), rng)
    reference = fit_reference(images, index, None, words, share)
    rows = np.concatenate([audited, strays])
    result = audit_against(embedded(vectors[rows], [""] * len(rows), rng), index, reference)
    if per_class:
        result = calibrated(result, AuditSettings(), per_class=True)
    result = decided(result, DecisionRule(LEVEL, per_class=per_class), own=False)
    assert result.decision is not None and result.p_values is not None
    flagged, stray = result.decision.flagged, np.arange(len(rows)) >= AUDITED
    m = reference.calibration_count
    # Between two calibration scores any p would do: spread evenly, it is uniform exactly.
    p = float(result.p_values[0]) - rng.random() / (m + 1)
    return Found((flagged & ~stray).sum() / max(1, flagged.sum()), float(flagged[stray].mean()), p)


def resamples(real: Path, count: int, per_class: bool = False, start: int = 0) -> Iterator[Found]:
    """`count` of them, seeds from `start`."""
    with tempfile.TemporaryDirectory() as folder:
        index = open_index(index_of(real, Path(folder), "photo-of-a"))
        for seed in range(start, start + count):
            yield resample(real, index, seed, per_class)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("BLISS_TEST_DATA", "../shared"))
    parser.add_argument("--resamples", type=int, default=300)
    chosen = parser.parse_args()
    real = Path(chosen.data) / "real"
    print(f"{chosen.resamples} resamples of {CLASSES} classes, nominal rate {LEVEL}")
    for per_class in (False, True):
        found = list(resamples(real, chosen.resamples, per_class))
        fdp = np.array([each.fdp for each in found])
        error = fdp.std(ddof=1) / np.sqrt(len(fdp))
        power = np.mean([each.power for each in found])
        name = "p by class (--p-values per-class)" if per_class else "p of the score (default)"
        met = fdp.mean() <= LEVEL + error
        print(
            f"{name}: false discovery proportion {fdp.mean():.3f}, standard error {error:.3f}; "
            f"strays flagged {power:.3f} => at most {LEVEL} and its standard error: "
            f"{'met' if met else 'MISSED'}"
        )
        p = np.array([each.p for each in found])
        if per_class:
            print(f"  p of one normal image: at most 0.1 in {(p <= 0.1).mean():.3f} of resamples "
                  "(valid, not uniform: it is the largest over classes)")  # fmt: skip
            continue
        test = kstest(p, "uniform")
        print(
            f"  p of one normal image: Kolmogorov-Smirnov distance {test.statistic:.3f}, "
            f"p = {test.pvalue:.2f} => uniform: {'met' if test.pvalue > 0.01 else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
