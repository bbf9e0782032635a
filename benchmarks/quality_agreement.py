"""How far picture quality agrees with cleanvision on the Caltech-101 photographs of val and test.

Run as: BLISS_TEST_DATA=DIR python benchmarks/quality_agreement.py --cleanvision PYTHON [--record]

PYTHON is the interpreter of an environment with cleanvision (0.3.7 was used), which is no
dependency: it needs pandas, matplotlib and datasets. Both see the same files; scores are compared
image by image, and which images are issues. `grayscale` differs on purpose (see docs/copies.md).
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from blissaudit.audit.pictures.quality import THRESHOLDS, quality_scores
from blissaudit.indexer import EmbeddedImages, Preprocessing
from blissaudit.indexer.images.decoding import DecodingLimits, decode_image
from measuring import Report, setup_lines

THEIRS = """
import sys
from cleanvision import Imagelab
names = [line.strip() for line in open(sys.argv[1])]
issues = "dark light odd_aspect_ratio low_information blurry grayscale odd_size".split()
lab = Imagelab(filepaths=names)
lab.find_issues({issue: {} for issue in issues}, n_jobs=1, verbose=False)
lab.issues.to_csv(sys.argv[2])
"""
SQUASH = Preprocessing((224, 224), "bicubic", "squash", (0.5,) * 3, (0.5,) * 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cleanvision", metavar="PYTHON", required=True)
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    report = Report("quality_agreement", asked.record, 1)
    report.say("quality_agreement: picture quality beside cleanvision's")
    for line in setup_lines():
        report.say(line)
    root = Path(os.environ["BLISS_TEST_DATA"]) / "real" / "caltech101"
    files = sorted(str(path) for path in root.glob("*/images/*/*.jpg"))
    began = time.process_time()
    values = [decode_image(file, SQUASH, DecodingLimits()).measures.quality for file in files]
    report.say(
        f"  {len(files):,} photographs decoded and measured: {time.process_time() - began:.0f} s"
    )
    ours = quality_scores(images(files, values))
    theirs = of_cleanvision(asked.cleanvision, files)
    report.say("  issue              ours  cleanvision  both  |difference| median, 99 %  of scores")
    for issue, (score, flagged) in theirs.items():
        mine = ours[issue] < THRESHOLDS[issue]
        apart = np.abs(ours[issue] - score)
        spread = (
            ""
            if issue == "grayscale"
            else f"{np.median(apart):.4f}, {np.quantile(apart, 0.99):.4f}"
        )
        report.say(
            f"  {issue:<18} {mine.sum():>4} {flagged.sum():>12} {(mine & flagged).sum():>5}  "
            + spread
        )
    agree = np.mean([(ours[i] < THRESHOLDS[i]) == flagged for i, (_, flagged) in theirs.items()])
    report.say(f"  decisions that agree: {100 * agree:.2f} %")
    report.finish()


def images(files: list[str], values: list[tuple[float, ...]]) -> EmbeddedImages:
    """Images without vectors."""
    n = len(files)
    nothing = np.zeros((n, 1), np.float32)
    return EmbeddedImages(
        nothing,
        np.arange(n),
        files,
        [None] * n,
        files,
        (),
        {},
        "",
        quality=np.array(values, np.float32),
    )


def of_cleanvision(python: str, files: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores, and which images are issues, of each of cleanvision's issues."""
    with tempfile.TemporaryDirectory() as folder:
        names, found = Path(folder) / "names.txt", Path(folder) / "found.csv"
        names.write_text("\n".join(files), encoding="utf-8")
        subprocess.run(
            [python, "-c", THEIRS, str(names), str(found)], check=True, capture_output=True
        )
        with found.open(newline="") as file:
            rows = {row[""]: row for row in csv.DictReader(file)}
    ordered = [rows[file] for file in files]
    issues = [name.removesuffix("_score") for name in ordered[0] if name.endswith("_score")]
    return {
        issue: (
            np.array([float(row[f"{issue}_score"]) for row in ordered]),
            np.array([row[f"is_{issue}_issue"] == "True" for row in ordered]),
        )
        for issue in issues
    }


if __name__ == "__main__":
    main()
