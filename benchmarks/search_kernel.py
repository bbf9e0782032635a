"""Claim: exact search through the API runs at the machine's rate for any number of queries.

FAISS multiplies with BLAS from 250 queries at 512 dimensions, and its wheel's OpenBLAS takes old
kernels on CPUs that it does not know, unless OPENBLAS_CORETYPE names one. Both searches run in
three processes: with the environment as found, with the variable unset, and with the kernel that
the CPU's instructions allow. They take turns in every round. Hits must equal those of FAISS's
candidates ranked in float64, bit for bit.

Run as: python benchmarks/search_kernel.py [--record] [--runs N]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from blissaudit.indexer.vectors.nearest import SPARE, exact_order, exact_search
from measuring import begin, kernels_line, unit, verdict

CLAIM = "exact search through the API against faiss.knn, by number of queries and kernel"
TEXTS, DIMENSION, K = 100_000, 512, 10
RUNS = 5
TARGETS = {1: 0.9, 4: 0.9, 16: 3.0, 64: 5.0, 200: 5.0, 1000: 3.0}
"""How many times FAISS's rate with the variable unset."""
BEST_TARGET = 0.95
CHOICES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def best_kernel() -> str:
    """The newest kernel of FAISS's OpenBLAS for this CPU's instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else ""


def environments() -> dict[str, dict[str, str]]:
    """The three environments by name."""
    unset = {name: value for name, value in os.environ.items() if name not in CHOICES}
    kernel = best_kernel()
    best = {**unset, "OPENBLAS_CORETYPE": kernel} if kernel else unset
    return {"as found": dict(os.environ), "unset": unset, f"best ({kernel or 'unknown'})": best}


def serve() -> None:
    """Answer lines 'ours N' and 'faiss N' with the seconds of one search, 'same N' with a word."""
    import faiss

    rng = np.random.default_rng(0)
    texts = unit(rng.standard_normal((TEXTS, DIMENSION), np.float32))
    queries = unit(rng.standard_normal((max(TARGETS), DIMENSION), np.float32))
    vectors = texts

    def bare(some: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return faiss.knn(some, texts, k, metric=faiss.METRIC_INNER_PRODUCT)

    bare(queries, K)
    print(kernels_line(), flush=True)
    for line in sys.stdin:
        name, count = line.split()
        some = queries[: int(count)]
        if name == "same":
            found = exact_search(some, vectors, K)
            similarity, rows = exact_order(some, vectors, bare(some, K + SPARE)[1])
            same = found.similarity.tobytes() == similarity[:, :K].tobytes()
            print(same and np.array_equal(found.rows, rows[:, :K]), flush=True)
            continue
        start = time.perf_counter()
        if name == "ours":
            exact_search(some, vectors, K)
        else:
            bare(some, K)
        print(time.perf_counter() - start, flush=True)


def main() -> None:
    report = begin("search_kernel", CLAIM, RUNS)
    report.say(
        f"\nM = {TEXTS:,}, d = {DIMENSION}, k = {K}; median of {report.runs} alternated runs"
    )
    processes = {}
    for name, environment in environments().items():
        command = [sys.executable, __file__, "--serve"]
        pipe = subprocess.PIPE
        processes[name] = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def ask(environment: str, what: str, n: int) -> str:
        process = processes[environment]
        print(what, n, file=process.stdin, flush=True)
        return process.stdout.readline().strip()

    try:
        for name, process in processes.items():
            report.say(f"  {name}: {process.stdout.readline().strip()}")
        best = list(processes)[-1]
        for n, target in TARGETS.items():
            ways = [(name, what) for name in processes for what in ("ours", "faiss")]
            seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
            for turn in range(report.runs):
                for way in ways[:: -1 if turn % 2 else 1]:
                    seconds[way].append(float(ask(*way, n)))
            median = {way: statistics.median(times) for way, times in seconds.items()}
            same = all(ask(name, "same", n) == "True" for name in processes)
            load = os.getloadavg()[0]
            report.say(f"\nn = {n:,}, load {load:.1f}; equal bit for bit to FAISS's ranked: {same}")
            for name in processes:
                ours, bare = median[name, "ours"], median[name, "faiss"]
                report.say(f"  {name}: ours {n / ours:,.0f} queries/s, FAISS {n / bare:,.0f}")
                against = median["unset", "faiss"] / ours
                report.say(verdict("ours against FAISS unset", against, target, at_least=True))
                if n == max(TARGETS):
                    against = median[best, "faiss"] / ours
                    report.say(
                        verdict("ours against FAISS's best", against, BEST_TARGET, at_least=True)
                    )
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    report.finish()


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        main()
