"""What the benchmarks share: alternated timing, peak extra memory, set-up lines, the record.

Two ways of doing a thing are timed in one process, by turns, so that a slow spell of the machine
meets both; medians are compared. Peak extra memory is the kernel's own high-water mark of this
process's resident memory (VmHWM, set back through /proc/self/clear_refs just before) minus its
resident memory just before, of an untimed run, which also warms up what comes after. Freed memory
is given back to the system first, so that nothing hides in it. Only Linux has this; elsewhere the
peak is not measured, and the output says so.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import ctypes
import gc
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from blissaudit.indexer.vectors.blas import kernels_in_use

RESULTS = Path(__file__).resolve().parent / "results"
LIBRARIES = ("numpy", "torch", "open_clip_torch", "pillow", "pyarrow")
FAISS = ("faiss-gpu", "faiss-cpu")


@dataclass
class Report:
    """The printed output of one benchmark, kept so that it can be recorded."""

    name: str
    record: bool
    runs: int
    """How often each way is timed."""
    lines: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        """Print one line and keep it."""
        print(line, flush=True)
        self.lines.append(line)

    def finish(self) -> None:
        """Write results/NAME.txt if asked to; ValueError if it would name this machine."""
        if not self.record:
            return
        text = "\n".join(self.lines) + "\n"
        places = (os.getcwd(), os.path.expanduser("~"), tempfile.gettempdir(), platform.node())
        for private in (*places, os.environ.get("BLISS_TEST_DATA", "")):
            if len(private) > 3 and private in text:
                raise ValueError(f"a path or name of this machine is in the record of {self.name}")
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.txt").write_text(text, encoding="utf-8")


def begin(name: str, claim: str, runs: int) -> Report:
    """Read the command line, and print the claim and the set-up; `runs` is the default."""
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--record", action="store_true", help=f"write results/{name}.txt")
    parser.add_argument("--runs", type=int, default=runs, help="timed runs of each way")
    chosen = parser.parse_args()
    report = Report(name, chosen.record, chosen.runs)
    report.say(f"{name}: {claim}")
    for line in setup_lines():
        report.say(line)
    return report


def setup_lines() -> list[str]:
    """Machine, libraries, threads and load: what a reader needs to compare numbers."""
    import faiss
    import torch

    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    for name in FAISS:
        try:
            libraries.append(f"{name} {version(name)}")
        except ModuleNotFoundError:
            continue
    threads = f"torch {torch.get_num_threads()}, faiss {faiss.omp_get_max_threads()}"
    set_blas = os.environ.get("OPENBLAS_NUM_THREADS") or f"all {usable_cores()} usable cores"
    load = f", load before {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return [
        f"  machine: {os.cpu_count()} x {processor()}, {total_memory()}, {platform.system()}{load}",
        f"  libraries: Python {platform.python_version()}, {', '.join(libraries)}",
        f"  threads: {threads}, numpy {set_blas}; CPU only",
        f"  kernels: {kernels_line()}",
    ]


def kernels_line() -> str:
    """The BLAS kernels that are really in use, and the variable that chooses OpenBLAS's."""
    chosen = os.environ.get("OPENBLAS_CORETYPE", "unset")
    each = [f"{name} {kernels}" for name, kernels in kernels_in_use().items()]
    return f"{'; '.join(each)} (OPENBLAS_CORETYPE {chosen})"


def usable_cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processor() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def total_memory() -> str:
    """The machine's memory in GiB, where it can be asked."""
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    return f"{pages / 2**30:.0f} GiB"


@dataclass(frozen=True)
class Timing:
    """What one way cost: seconds of each timed run, and its peak extra memory."""

    seconds: list[float]
    extra_bytes: int | None

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    def line(self, name: str) -> str:
        """One line for the report."""
        spread = f"{min(self.seconds):.3f} to {max(self.seconds):.3f}"
        memory = "not measured"
        if self.extra_bytes is not None:
            memory = f"{self.extra_bytes / 2**20:,.1f} MiB"
        return (
            f"  {name}: median {self.median:.3f} s of {len(self.seconds)} ({spread}), "
            f"peak extra memory {memory}"
        )


def alternate(ways: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, Timing]:
    """Time every way `runs` times by turns, after one untimed run each for its peak memory."""
    peaks = {name: peak_extra(way) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            gc.collect()
            start = time.perf_counter()
            made = ways[name]()
            seconds[name].append(time.perf_counter() - start)
            del made
    return {name: Timing(seconds[name], peaks[name]) for name in ways}


def peak_extra(way: Callable[[], Any]) -> int | None:
    """Bytes of resident memory that running `way` once needs on top of what is there now."""
    return measured(way)[2]


def measured(way: Callable[[], Any]) -> tuple[Any, float, int | None]:
    """One run for what takes long: what it gives, its seconds, and its peak extra bytes."""
    gc.collect()
    before: int | None = None
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    start = time.perf_counter()
    made = way()
    seconds = time.perf_counter() - start
    return made, seconds, None if before is None else _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"{name} is not in /proc/self/status")


def verdict(what: str, value: float, target: float, at_least: bool) -> str:
    """One line: the number, its target, and whether it is met."""
    met = value >= target if at_least else value <= target
    bound = "at least" if at_least else "at most"
    return f"  => {what}: {value:.3g} (target {bound} {target:g}: {'met' if met else 'MISSED'})"


def compile_modules(checkout: Path) -> None:
    """Compile the package's modules, as installing it does, so that no timed run has to."""
    compileall.compile_dir(checkout, quiet=2, rx=re.compile(r"/\.venv/"))


def test_data() -> Path | None:
    """The folder of real data, if BLISS_TEST_DATA names one."""
    folder = os.environ.get("BLISS_TEST_DATA")
    return Path(folder) if folder and Path(folder).is_dir() else None


def unit(rows: np.ndarray) -> np.ndarray:
    """float32 rows of length 1."""
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
