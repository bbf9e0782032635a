"""What a GPU does: exact search and encoding, as shares of the card's own fp16 matrix rate.

Parts, in this order, each skipped where its share of the time is not left:

1. the rate of a large fp16 product;
2. exact search over 10^6 and 10^7 x 512 fp16 texts through the API (products of torch, candidates
   ranked again in float64): texts held on the GPU, and streamed to it for every search;
3. the same through FAISS, where its GPU build is at hand;
4. hits of the GPU against the core's search on the CPU, bit for bit;
5. image and text towers of the shapes of ViT-B/32 and ViT-L/14, random weights, fp16.

Run as: bash benchmarks/gpu.sh [--tiny]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from blissaudit.indexer.search.gpu import TorchScan, TorchSearcher
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.indexer.vectors.unit_rows import stored_unit_rows

TINY = "--tiny" in sys.argv[1:]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SECONDS = 225.0
"""After this no new part begins."""
D, K = 512, 10
SIZES = (5_000, 20_000) if TINY else (1_000_000, 10_000_000)
QUERIES = (16, 64) if TINY else (16, 4096)
SIDE = 256 if TINY else 8192
CHECKED = 2_000 if TINY else 200_000
START = time.monotonic()
TOWERS = {
    "ViT-B/32 image": (768, 12, 12, 50), "ViT-B/32 text": (512, 12, 8, 77),
    "ViT-L/14 image": (1024, 24, 16, 257), "ViT-L/14 text": (768, 12, 12, 77),
}  # fmt: skip
"""Width, layers, heads and tokens."""


class HalfRows:
    """Unit rows in fp16 in memory, as an index stores them."""

    def __init__(self, halves: np.ndarray) -> None:
        self.halves = halves

    def __len__(self) -> int:
        return len(self.halves)

    def __getitem__(self, wanted: slice | np.ndarray, /) -> np.ndarray:
        return stored_unit_rows(self.halves[wanted], "memory")

    def stored_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """All rows at once, as they are."""
        yield 0, self.halves

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Unit rows in float32, a part at a time."""
        for first in range(0, len(self), 65_536):
            yield first, self[first : first + 65_536]


def say(line: str) -> None:
    print(f"[{time.monotonic() - START:5.1f} s] {line}", flush=True)


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(way: Callable[[], Any], runs: int = 3) -> float:
    """Median seconds after one run that is not counted."""
    way()
    taken = []
    for _ in range(runs):
        synchronise()
        start = time.perf_counter()
        way()
        synchronise()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def matrix_rate() -> float:
    """Operations a second of a large fp16 product."""
    one = torch.randn(SIDE, SIDE, device=DEVICE).half()
    return 2 * SIDE**3 / seconds(lambda: one @ one, 5)


def random_halves(count: int, seed: int) -> np.ndarray:
    """Unit rows in fp16 [count, D], drawn on the device."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    rows = np.empty((count, D), np.float16)
    for first in range(0, count, 1 << 20):
        drawn = torch.randn(min(1 << 20, count - first), D, device=DEVICE, generator=generator)
        drawn /= drawn.norm(dim=1, keepdim=True)
        rows[first : first + len(drawn)] = drawn.half().cpu().numpy()
    return rows


def search(rate: float) -> None:
    """Queries a second of each size, held and streamed, and the agreement with the CPU."""
    queries = stored_unit_rows(random_halves(max(QUERIES), 1), "queries")
    for count in SIZES:
        if time.monotonic() - START > SECONDS / 2:
            say(f"M = {count:,}: left out, the time is short")
            continue
        rows = HalfRows(random_halves(count, 0))
        for held in (True, False):
            searcher = TorchSearcher(rows, DEVICE, held)
            for n in QUERIES:
                some = queries[:n]
                runs = 3 if held else 1
                taken = seconds(lambda s=searcher, q=some: s.search(q, K), runs)
                share = 2 * n * count * D / taken / rate
                where = "held on the device" if held else "streamed"
                say(
                    f"exact, M = {count:,}, n = {n:,}, {where}: {n / taken:,.0f} queries/s, "
                    f"{share:.1%} of the fp16 rate"
                )
            scan = TorchScan(searcher, rows, K)
            taken = seconds(lambda s=scan: s.scan(queries, s.first), 1)
            say(f"  of the last, {taken:.3f} s to propose {scan.first} rows a query on the device")
            if DEVICE == "cuda":
                peak = torch.cuda.max_memory_allocated() / 2**30
                say(f"  most device memory: {peak:.1f} GiB")
                torch.cuda.reset_peak_memory_stats()
            del searcher
        faiss_search(rows, queries, rate)
        if count == SIZES[0]:
            checked = HalfRows(rows.halves[:CHECKED])
            there = TorchSearcher(checked, DEVICE).search(queries[:64], K)
            here = exact_search(queries[:64], checked, K)
            same = np.array_equal(there.rows, here.rows)
            same = same and there.similarity.tobytes() == here.similarity.tobytes()
            say(f"=> hits of {CHECKED:,} texts equal the CPU's bit for bit: {same}")


def faiss_search(rows: HalfRows, queries: np.ndarray, rate: float) -> None:
    """FAISS's flat index on the GPU through the API, where there is one."""
    try:
        import faiss
        from blissaudit.indexer.search.gpu import HoldingSearcher, faiss_sees_gpu, open_gpus
        from blissaudit.indexer.search.plan import Plan
    except ImportError as error:
        say(f"FAISS: left out ({error})")
        return
    if not faiss_sees_gpu(faiss):
        say("FAISS: left out, it has no GPU build or sees no GPU")
        return
    gpus = open_gpus(faiss, (), Plan("gpu", 0, 0, ""))
    searcher = HoldingSearcher(gpus, rows)
    for n in QUERIES:
        taken = seconds(lambda q=queries[:n]: searcher.search(q, K))
        share = 2 * n * len(rows) * D / taken / rate
        say(f"  FAISS, n = {n:,}: {n / taken:,.0f} queries/s, {share:.1%} of the fp16 rate")


def towers(rate: float) -> None:
    """Rows a second of transformers of each shape, and their share of the fp16 rate."""
    for name, (width, layers, heads, tokens) in TOWERS.items():
        if time.monotonic() - START > SECONDS:
            say(f"{name}: left out, the time is over")
            continue
        layers, batch = (1, 2) if TINY else (layers, 256)
        layer = torch.nn.TransformerEncoderLayer(
            width, heads, 4 * width, activation="gelu", batch_first=True, norm_first=True
        )
        model = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        dtype = torch.float16 if DEVICE == "cuda" else torch.float32
        model = model.to(DEVICE, dtype).eval()
        inputs = torch.randn(batch, tokens, width, device=DEVICE, dtype=dtype)
        with torch.inference_mode():
            taken = seconds(lambda m=model, x=inputs: m(x), 3)
        # 12 width² multiplications a token for weights, 2 tokens·width for attention.
        operations = 2 * layers * tokens * (12 * width**2 + 2 * tokens * width)
        share = operations * batch / taken / rate
        say(f"{name} shape: {batch / taken:,.0f} a second, {share:.1%} of the fp16 rate")


def main() -> int:
    if DEVICE == "cpu" and not TINY:
        print("gpu: torch sees no CUDA GPU. Run with --tiny for a rehearsal on the CPU.")
        return 2
    name = (
        torch.cuda.get_device_name()
        if DEVICE == "cuda"
        else "CPU, a rehearsal: no rates of it count"
    )
    say(f"device: {name}; torch {torch.__version__}, numpy {np.__version__}")
    rate = matrix_rate()
    say(f"fp16 product of {SIDE} x {SIDE}: {rate / 1e12:.2f} TFLOP/s")
    search(rate)
    towers(rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
