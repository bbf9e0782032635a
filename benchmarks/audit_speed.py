"""A whole audit of embedded images against an earlier commit: CPU seconds, peak memory, scores.

Both run in this environment, by turns, each with an index of its own of the same texts: the earlier
one from `git archive`. This version audits as by default, which answers more questions than the
earlier one did and fits the reference twice. Images lie around class centres and are their
own reference, as in `audit_memory.py`; texts are mixtures of the same centres. "The same work" is
`--question stray --no-robust`, which is all that the earlier one did: its scores must be equal. CPU
seconds count every thread and process of a command.

Run as: python benchmarks/audit_speed.py [COMMIT] [--images N] [--classes N] [--texts N] [--runs N]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from audit_memory import DIMENSION, PART, RUN, write
from measuring import compile_modules, unit, verdict

CHECKOUT = Path(__file__).resolve().parents[1]
COMMIT = "8c30c78"
TIMES, MIB = 0.6, 1331
"""Largest share of the earlier CPU seconds, and largest peak."""


def make_inputs(folder: Path, images: int, classes: int, texts: int) -> None:
    """Embeddings of texts and images in clip-retrieval's layout, a part at a time."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((classes, DIMENSION), np.float32))
    names = [f"class{number}" for number in range(classes)]
    for kind, count in (("text", texts), ("img", images)):
        for number, first in enumerate(range(0, count, PART)):
            rows = np.arange(first, min(count, first + PART))
            near = centres[rows % classes]
            noise = rng.standard_normal(near.shape, np.float32) / np.float32(np.sqrt(DIMENSION))
            if kind == "img":
                near = near + 0.6 * noise
                paths = [f"class{row % classes}/image-{row:07d}.jpg" for row in rows]
                table = pa.table({"image_path": paths, "label": [names[r % classes] for r in rows]})
            else:
                near = near * np.where(rows < classes, 1, 0.5)[:, None] + noise
                captions = [
                    f"This is a photo of a {names[row]}" if row < classes else f"caption {row}"
                    for row in rows
                ]
                table = pa.table({"caption": captions})
            write(folder / kind, kind, number, unit(near), table)


def bliss(package: Path, cache: Path, *arguments: str) -> tuple[float, int]:
    """One command of the package in a folder: CPU seconds and its peak resident memory in KiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package), "BLISS_CACHE": str(cache)},
    )
    if done.returncode:
        raise SystemExit(f"bliss {' '.join(arguments)}: {done.stderr[-1000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, int(done.stdout.splitlines()[-1])


def scores(run: Path) -> np.ndarray:
    """float64 [n], the scores of a run, by path."""
    table = pq.read_table(run / "scores.parquet", columns=["path", "score"]).sort_by("path")
    return table["score"].to_numpy().astype(float)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", nargs="?", default=COMMIT)
    for name, count in (("images", 20_000), ("classes", 100), ("texts", 20_000), ("runs", 2)):
        parser.add_argument(f"--{name}", type=int, default=count)
    chosen = parser.parse_args()
    print(f"{chosen.images:,} images x {chosen.classes} classes x {chosen.texts:,} texts")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packages = {way: folder / way for way in ("earlier", "this version")}
        for each in packages.values():
            each.mkdir()
        earlier = packages["earlier"] / "blissaudit"
        earlier.mkdir()
        archive = subprocess.run(
            ["git", "-C", str(CHECKOUT), "archive", chosen.commit], stdout=subprocess.PIPE
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(earlier)], input=archive, check=True)
        (packages["this version"] / "blissaudit").symlink_to(CHECKOUT)
        for each in packages.values():
            compile_modules(each / "blissaudit")
        make_inputs(folder, chosen.images, chosen.classes, chosen.texts)
        for way, package in packages.items():
            index = ("index", "build", "--embeddings", str(folder / "text"), "-o")
            bliss(package, folder / f"cache {way}", *index, str(folder / f"index {way}"))
        ways = {
            "earlier": (),
            "this version": (),
            "the same work": ("--question", "stray", "--no-robust"),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        peaks = dict.fromkeys(ways, 0)
        for turn in range(chosen.runs):
            for way in list(ways)[:: -1 if turn % 2 else 1]:
                made_by = way if way in packages else "this version"
                inputs = ("--embeddings", folder / "img", "--index", folder / f"index {made_by}")
                audit = (
                    "audit",
                    *map(str, inputs),
                    "--score",
                    "bliss",
                    "-o",
                    str(folder / f"run {way} {turn}"),
                )
                cache = folder / f"cache {way} {turn}"
                taken, peak = bliss(packages[made_by], cache, *audit, *ways[way])
                seconds[way].append(taken)
                peaks[way] = max(peaks[way], peak)
        for way in ways:
            listed = ", ".join(f"{each:.1f}" for each in seconds[way])
            print(f"  {way}: {listed} s of CPU, peak {peaks[way] / 1024:,.0f} MiB")
        found = [scores(folder / f"run {way} 0") for way in ("earlier", "the same work")]
        print(f"  largest difference of a score: {np.abs(found[0] - found[1]).max():.1e}")
    print(f"  load after {os.getloadavg()[0]:.1f}")
    base = statistics.median(seconds["earlier"])
    for way in list(ways)[1:]:
        share = statistics.median(seconds[way]) / base
        print(verdict(f"{way}, share of the earlier CPU seconds", share, TIMES, at_least=False))
    peak = peaks["this version"] / 1024
    print(verdict("peak, MiB", peak, MIB, at_least=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
