"""CPU seconds and peak memory of the same work in two checkouts, by turns.

Each job is one process of each checkout, run through the command line or the public names of
`blissaudit`, so that it means the same before and after a rebuild. The operating system counts the
CPU seconds of the process and of all its children, and the largest process's peak memory. The jobs
are smaller forms of search_cost, audit_overhead, bulk_scoring, audit_memory, index_scale and
encode_overlap.

Run as: BLISS_TEST_DATA=DIR python benchmarks/speed_kept.py OLD_CHECKOUT [--runs 7] [--record]
Each checkout needs its own `.venv`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import Report, compile_modules, setup_lines, test_data, unit, verdict

NEW = Path(__file__).resolve().parent.parent
ALLOWED, ALLOWED_MEMORY = 1.05, {"audit_memory": 1.10}
D = 512
SAME = ("--no-robust",)
"""An audit fitted once, as the code before did."""

SEARCH = """
import sys, numpy as np, blissaudit as ba
index = ba.open_index(sys.argv[1])
queries = np.load(sys.argv[2])
for _ in range(3):
    ba.search(index, queries, 10)
"""
SCORING = """
import sys, numpy as np, blissaudit as ba
images, labels, texts = (np.load(f"{sys.argv[1]}/{name}.npy") for name in ("n", "y", "t"))
moments = ba.fit_moments([f"c{i}" for i in range(200)], images, labels)
mean, std = ba.text_statistics(moments, texts)
print(std.sum())
"""


@dataclass(frozen=True)
class Job:
    """One piece of work: its arguments after the checkout's Python, and whether it is a command."""

    name: str
    arguments: Callable[[Path], list[str]]
    """From a new, empty folder to the arguments."""
    more: tuple[str, ...] = ()
    """Arguments without which the code as it is does more than the code before."""


def main() -> int:
    """Run every job by turns; 1 where a ratio is above what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout of the code before")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--only", nargs="*", help="names of jobs")
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    report = Report("speed_kept", chosen.record, chosen.runs)
    for checkout in (chosen.old, NEW):
        compile_modules(checkout)
    report.say("speed_kept: CPU seconds and peak memory, the code as it is against the code before")
    for line in setup_lines():
        report.say(line)
    missed = 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        making = multiprocessing.get_context("spawn").Process(target=make_data, args=(folder,))
        making.start()
        making.join()
        for job in jobs(folder):
            if not chosen.only or job.name in chosen.only:
                missed += compare(job, (chosen.old.resolve(), NEW), folder, report)
    report.finish()
    return min(missed, 1)


def compare(job: Job, checkouts: tuple[Path, Path], folder: Path, report: Report) -> int:
    """Alternate one job; how many of its two ratios are too large."""
    seconds: list[list[float]] = [[], []]
    peaks: list[list[float]] = [[], []]
    for turn in range(report.runs):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            cpu, peak = run(checkouts[side], job, folder)
            seconds[side].append(cpu)
            peaks[side].append(peak)
    before, after = (statistics.median(each) for each in seconds)
    memory = [statistics.median(each) for each in peaks]
    report.say()
    report.say(
        f"{job.name}: CPU median {before:.2f} s before, {after:.2f} s after, of {report.runs}; "
        f"peak {memory[0]:,.0f} MiB before, {memory[1]:,.0f} MiB after; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    results = [
        (f"{job.name}: CPU, after / before", after / before, ALLOWED),
        (f"{job.name}: peak memory", memory[1] / memory[0], ALLOWED_MEMORY.get(job.name, ALLOWED)),
    ]
    for what, value, target in results:
        report.say(verdict(what, value, target, at_least=False))
    return sum(value > target for _, value, target in results)


def run(checkout: Path, job: Job, folder: Path) -> tuple[float, float]:
    """CPU seconds of one run with its children, and MiB of the largest process."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    environment = {**os.environ, "BLISS_CACHE": str(output / "cache"), "OMP_NUM_THREADS": "2"}
    command = [str(checkout / ".venv/bin/python"), *job.arguments(output)]
    command += job.more if checkout == NEW else ()
    with open(folder / "log", "w+") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=output)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            raise SystemExit(f"{job.name} failed in {checkout.name}:\n{log.read()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def jobs(folder: Path) -> list[Job]:
    """The work, on what `make_data` wrote below `folder`."""
    command = ["-m", "blissaudit"]
    build = [*command, "index", "build"]
    audit = [*command, "audit", "--embeddings", str(folder / "images")]
    audit += ["--index", str(folder / "captions"), "--score", "bliss", "--question", "stray"]
    search = ["-c", SEARCH, str(folder / "index"), str(folder / "queries.npy")]
    vectors = ["--embeddings", str(folder / "vectors")]
    captions = [str(folder / "captions.txt"), "--model", "demo"]
    made = [
        Job("search_cost", lambda _: search),
        Job("bulk_scoring", lambda _: ["-c", SCORING, str(folder / "arrays")]),
        Job("audit_memory", lambda out: [*audit, "-o", str(out / "run")], SAME),
        Job("index_scale", lambda out: [*build, *vectors, "-o", str(out / "i")]),
        Job("encode_overlap", lambda out: [*build, *captions, "-o", str(out / "i")]),
    ]
    data = test_data()
    if data is not None:
        photographs = data / "real/caltech101/val/images"
        made.append(
            Job(
                "audit_overhead",
                lambda out: [
                    *command, "audit", str(photographs), "--model", "demo", "--score", "bliss",
                    "--question", "stray",
                    "-o", str(out / "run"),
                ],
                SAME,
            )
        )  # fmt: skip
    return made


def make_data(folder: Path) -> None:
    """Embeddings, arrays, captions and two indexes.

    In a process of its own: Linux counts the memory of the process that starts another as the
    other's own peak.
    """
    rng = np.random.default_rng(0)
    write_embeddings(folder / "vectors", clustered(rng, 250_000), "text_emb", "caption")
    np.save(folder / "queries.npy", clustered(rng, 1_000))
    write_embeddings(folder / "small", clustered(rng, 1_000), "text_emb", "caption")
    write_embeddings(folder / "images", clustered(rng, 100_000), "img_emb", "image_path")
    arrays = folder / "arrays"
    arrays.mkdir()
    np.save(arrays / "n", clustered(rng, 20_000))
    np.save(arrays / "y", np.arange(20_000) % 200)
    np.save(arrays / "t", clustered(rng, 20_000))
    for source, index in (("vectors", "index"), ("small", "captions")):
        command = [sys.executable, "-m", "blissaudit", "index", "build"]
        command += ["--embeddings", str(folder / source), "-o", str(folder / index)]
        subprocess.run(command, check=True, capture_output=True)
    (folder / "captions.txt").write_text(
        "".join(f"a photo of thing number {i} on a table\n" for i in range(30_000))
    )


def clustered(rng: np.random.Generator, rows: int) -> np.ndarray:
    """float32 [rows, 512] unit rows around 200 centres."""
    centres = unit(np.random.default_rng(1).standard_normal((200, D)))
    near = centres[rng.integers(0, 200, rows)]
    return unit(near + 0.05 * rng.standard_normal((rows, D), np.float32))


def write_embeddings(folder: Path, rows: np.ndarray, kind: str, column: str) -> None:
    """Rows in clip-retrieval's layout, with a name each and one of ten labels."""
    (folder / kind).mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / kind / f"{kind}_0.npy", rows.astype(np.float16))
    names = [f"thing {i}" for i in range(len(rows))]
    if column == "caption":
        names[:10] = [f"This is a photo of a kind{i}" for i in range(10)]
    labels = [f"kind{i % 10}" for i in range(len(rows))]
    pq.write_table(
        pa.table({column: names, "label": labels}), folder / "metadata" / "metadata_0.parquet"
    )


if __name__ == "__main__":
    sys.exit(main())
