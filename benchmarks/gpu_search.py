"""Claim: on a GPU, search and encoding reach a stated share of the card's own fp16 matrix rate.

Exact search over 1, 10 and 50 million x 512 fp16 texts in queries/s and, at 2 M d operations a
query, as a share of the rate that torch measures on the card for a large fp16 product; the same
for ViT-B/32 and ViT-B/16 image and text towers with random weights, by their counted operations.
For search the stage that limits is named: the GPU's scan, or ranking again on the CPU. The CPU's
top 10 over the first million are compared with the GPU's.

NOT RUN so far: no machine with a GPU was at hand where it was written, so none of its output is
recorded, and only its refusal was tried. Needs CUDA, 64 GiB of memory and 60 GiB of disk.

Run as: python benchmarks/gpu_search.py [--record]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from blissaudit.artefacts import write_array
from blissaudit.indexer.search.gpu import HoldingSearcher, StreamingSearcher, open_gpus
from blissaudit.indexer.search.plan import Machine, Task, gpu_memories, plan_search
from blissaudit.indexer.store.vectors import IndexRows
from blissaudit.indexer.vectors.nearest import exact_order, exact_search
from measuring import Report, begin, unit

CLAIM = "queries/s of exact fp16 search and encoder rates, as a share of the card's fp16 rate"
SIZES = (1_000_000, 10_000_000, 50_000_000)
D, K, QUERIES, PART = 512, 10, 4096, 1_000_000
RUNS = 3
TOWERS = ("ViT-B-32", "ViT-B-16")


def seconds(way: Callable[[], object], runs: int) -> float:
    """Median seconds after one run that is not counted."""
    way()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        way()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def matrix_rate(runs: int) -> float:
    """Operations a second of an 8,192 x 8,192 x 8,192 product in fp16."""
    import torch

    one = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)

    def multiply() -> None:
        for _ in range(10):
            one @ one
        torch.cuda.synchronize()

    return 10 * 2 * 8192**3 / seconds(multiply, runs)


def stored(folder: Path, count: int) -> dict:
    """A manifest over `count` seeded unit rows in fp16 parts, and its files."""
    from blissaudit.artefacts import sha256_of

    rng, checksums = np.random.default_rng(0), {}
    for number in range(count // PART):
        name = f"text_emb/text_emb_{number}.npy"
        if not (folder / name).is_file():
            rows = unit(rng.standard_normal((PART, D), np.float32)).astype(np.float16)
            write_array(folder / name, rows)
        checksums[name] = sha256_of(folder / name)
    parts = [PART] * (count // PART)
    return {"parts": parts, "model": {"dimension": D}, "checksums": checksums}


def search_rates(report: Report, folder: Path, peak: float) -> None:
    rng = np.random.default_rng(1)
    queries = unit(rng.standard_normal((QUERIES, D), np.float32))
    for count in SIZES:
        manifest = stored(folder, count)
        vectors = IndexRows(folder, manifest, resident=False)
        memories = gpu_memories()
        plan = plan_search(Task("", count, D, 2, gpus=(0,)), Machine(1 << 40, memories))
        report.say(f"  {plan.line}")
        held = plan.placement == "gpu"
        make = HoldingSearcher if held else StreamingSearcher
        searcher = make(open_gpus(faiss, (0,), plan), vectors)
        whole = seconds(lambda: searcher.search(queries, K), report.runs)  # noqa: B023
        hits = searcher.search(queries, K)
        wide = np.repeat(hits.rows, 7, axis=1)[:, :64]  # as many candidates as are ranked again
        again = seconds(lambda: exact_order(queries, vectors, wide), report.runs)  # noqa: B023
        limit = "ranking again on the CPU" if again > whole / 2 else "the scan on the GPU"
        share = 2 * count * D * QUERIES / (whole - again) / peak if whole > again else float("nan")
        report.say(
            f"    {QUERIES / whole:,.0f} queries/s ({plan.placement}); {whole:.3f} s, of which "
            f"{again:.3f} s ranking again; the scan is {share:.1%} of the card's rate; {limit} "
            "limits"
        )
        if count == SIZES[0]:
            plain = exact_search(queries[:256], vectors, K)
            same = all(set(a) == set(b) for a, b in zip(plain.rows, hits.rows[:256], strict=True))
            report.say(f"    top-{K} sets of 256 queries equal the CPU's: {same}")


def encoder_rates(report: Report, peak: float) -> None:
    import open_clip
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    for name in TOWERS:
        model = open_clip.create_model(name, precision="fp16", device="cuda").eval()
        pixels = torch.randn(512, 3, 224, 224, device="cuda", dtype=torch.float16)
        tokens = torch.randint(1, 40_000, (2048, 77), device="cuda")
        for what, encode, batch in (
            ("images", model.encode_image, pixels),
            ("texts", model.encode_text, tokens),
        ):
            with torch.no_grad():
                with FlopCounterMode(display=False) as counted:
                    encode(batch)

                def run(encode=encode, batch=batch) -> None:
                    encode(batch)
                    torch.cuda.synchronize()

                taken = seconds(run, report.runs)
            rate = len(batch) / taken
            share = counted.get_total_flops() / taken / peak
            report.say(f"  {name}: {rate:,.0f} {what}/s, {share:.1%} of the card's rate")


def main() -> int:
    if not gpu_memories() or not faiss.get_num_gpus():
        print("gpu_search: no CUDA GPU that FAISS can use is visible; nothing was measured")
        return 0 if "--record" not in sys.argv else 1
    import torch

    report = begin("gpu_search", CLAIM, RUNS)
    peak = matrix_rate(report.runs)
    report.say(f"\n{torch.cuda.get_device_name(0)}: fp16 products at {peak / 1e12:.0f} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        search_rates(report, Path(folder), peak)
    encoder_rates(report, peak)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
