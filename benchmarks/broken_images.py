"""10,000 generated images, 500 of them broken in 16 ways: each of those listed, the rest scored.

Every broken file's name says in which way it is broken, so that the audit's failures.csv can be
checked way by way. Hanging and crashing decoders are real worker processes that sleep or die by a
signal at files of those names; nothing else about the run differs from `bliss audit`. Archives and
tables with damage of their own are audited beside it. Uses the demo model; needs no data.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from blissaudit.demo.scenes import all_captions
from blissaudit.safe_text import cell_text
from broken_files import REASONS, make_archives, make_collection, make_table

WORKER = """
import os, signal, sys, time
from blissaudit.indexer.images import decode_worker
real = decode_worker.decode_image
def trapped(path, preprocessing, limits):
    name = os.path.basename(path)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(path, preprocessing, limits)
decode_worker.decode_image = trapped
decode_worker.main()
"""

COMMAND = """
import os, sys
from blissaudit import cli
from blissaudit.audit import request
from blissaudit.indexer.images import workers as decode_process
decode_process.WORKER_COMMAND = (sys.executable, "-P", sys.argv[1])
listing = request.open_images
def list_and_lose(*given):
    found = listing(*given)
    for item in found.items(lambda row: False):
        if item.file and os.path.basename(item.file).startswith("vanished"):
            os.unlink(item.file)
    return found
request.open_images = list_and_lose
sys.exit(cli.run(sys.argv[2:]))
"""


def audit(folder: Path, images: Path | str, output: Path, index: Path) -> tuple[int, str, float]:
    """Run the audit in a process that permissions bind; exit status, stderr, seconds."""
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    arguments = ["audit", str(images), "--index", str(index), "-o", str(output)]
    arguments += ["--time-limit", "2", "--report", "none"]
    command = [sys.executable, "-P", "-c", COMMAND, str(worker), *arguments]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, preexec_fn=obey_permissions)
    return done.returncode, done.stderr.decode(errors="replace"), time.monotonic() - start


def obey_permissions() -> None:
    """Take from root, in a child, what lets it read every file (Linux)."""
    if os.getuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def results(output: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """(path, reason) of every failure and the path of every image that was scored."""
    with open(output / "failures.csv", encoding="utf-8", newline="") as file:
        failures = [
            (cell_text(row["path"]), cell_text(row["reason"])) for row in csv.DictReader(file)
        ]
    scored = pq.read_table(output / "scores.parquet", columns=["path", "score"])
    assert np.isfinite(scored["score"].to_numpy()).all()
    return failures, scored["path"].to_pylist()


def build_index(folder: Path) -> Path:
    """An index of some captions of the demo's world."""
    captions, index = folder / "captions.txt", folder / "index"
    captions.write_text("\n".join(sorted(all_captions())[::20]), encoding="utf-8")
    build = ["index", "build", str(captions), "--model", "demo", "-o", str(index)]
    subprocess.run(
        [sys.executable, "-P", "-m", "blissaudit", *build], check=True, capture_output=True
    )
    return index


def check(
    say: Callable[[str], None],
    total: int,
    broken: int,
    archives: bool = True,
    index: Path | None = None,
) -> bool:
    """Make everything, audit it, and say whether it is as it must be."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BLISS_CACHE"] = str(folder / "cache")
        index = index or build_index(folder)
        listed = make_collection(folder / "images", total, broken, rng)
        status, errors, seconds = audit(folder, folder / "images", folder / "out", index)
        if status:
            say(f"the audit ended with {status}: {errors[-500:]}")
            return False
        failures, scored = results(folder / "out")
        ways = Counter(path.partition("/")[2].partition("-")[0] for path, _ in failures)
        examples = {path.partition("/")[2].partition("-")[0]: reason for path, reason in failures}
        for way in REASONS:
            say(f"  {way:10} {ways[way]:4}  {examples.get(way, 'NOT LISTED')}")
        wrong = [
            (path, reason)
            for path, reason in failures
            if REASONS[path.partition("/")[2].partition("-")[0]] not in reason
        ]
        for path, reason in wrong:
            say(f"  another reason: {path}: {reason}")
        exact = {path for path, _ in failures} == listed and len(failures) == len(listed)
        rest = len(scored) == total - broken and not set(scored) & listed
        say(
            f"folder: {len(failures):,} of {broken:,} broken images in failures.csv "
            f"({'exactly those' if exact else 'NOT THOSE'}, {len(wrong)} with another reason), "
            f"{len(scored):,} of {total - broken:,} scored, {seconds:.0f} s"
        )
        whole = exact and rest and not wrong
        if not archives:
            return whole
        each = max(12, total // 20)
        tars, table = folder / "tars", folder / "t.parquet"
        expected: dict[str, tuple[Path | str, int, int]] = {
            "tar shards": (f"{tars}/s-{{0..2}}.tar", *make_archives(tars, each, rng)),
            "parquet": (table, *make_table(table, 2 * each, rng)),
        }
        for kind, (spec, good, bad) in expected.items():
            status, errors, seconds = audit(folder, spec, folder / kind, index)
            if status:
                say(f"{kind}: the audit ended with {status}: {errors[-500:]}")
                return False
            failures, scored = results(folder / kind)
            say(
                f"{kind}: {len(failures):,} of {bad:,} broken rows in failures.csv "
                f"({'; '.join(sorted({reason for _, reason in failures}))}), {len(scored):,} of "
                f"{good:,} scored, {seconds:.0f} s"
            )
            whole = whole and (len(failures), len(scored)) == (bad, good)
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--broken", type=int, default=500)
    chosen = parser.parse_args()
    whole = check(lambda line: print(line, flush=True), chosen.images, chosen.broken)
    print(f"=> every broken image listed with its reason, every other one scored: "
          f"{'met' if whole else 'MISSED'}")  # fmt: skip
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
