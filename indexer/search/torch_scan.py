"""Exact search on a GPU through torch, for machines whose FAISS has no GPU build.

    product = fp16(query)·fp16(text), accumulated in float32, rounded to fp16

A block of texts at a time is multiplied with all queries, and the largest products are kept as
candidates. The core ranks them again in float64, and scans again where the bound on the error of
a product leaves a query uncertain; what stays uncertain is searched on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..vectors.nearest import Hits
from ..vectors.unit_rows import Rows, slices
from .gpu import GpuScan, scan_live, stored_blocks

OUTPUT_ERROR = 1e-3
"""A product below 2 is rounded by 2⁻¹¹ at most, and the sum in float32 by less than that again."""
PRODUCT_BYTES = 1 << 30
TEXTS_AT_ONCE = 262_144


def torch_sees_gpu() -> bool:
    """Whether torch is installed and has a CUDA GPU."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


class TorchSearcher:
    """Exact search of `rows` on a device of torch, where they stay if `held`."""

    def __init__(self, rows: Rows, device: str = "cuda", held: bool = True) -> None:
        self.rows, self.device, self.held = rows, device, held
        self._blocks: list[tuple[int, Any]] | None = None

    def search(self, queries: np.ndarray, k: int, live: np.ndarray | None = None) -> Hits:
        """See `Searcher`; UsageError for a k above MOST_SELECTED."""
        return scan_live(lambda texts: TorchScan(self, texts, k), self.rows, queries, k, live)

    def blocks(self, texts: Rows) -> Iterator[tuple[int, Any]]:
        """(first row, fp16 [m, d] on the device); all rows stay there where they may."""
        if texts is self.rows and self._blocks is not None:
            yield from self._blocks
            return
        kept: list[tuple[int, Any]] = []
        for first, block in stored_blocks(texts):
            for some in slices(len(block), TEXTS_AT_ONCE):
                moved = _moved(block[some], self.device)
                if self.held and texts is self.rows:
                    kept.append((first + some.start, moved))
                yield first + some.start, moved
        if kept:
            self._blocks = kept


class TorchScan(GpuScan):
    """A pass over all texts, see `Scanner`."""

    def __init__(self, searcher: TorchSearcher, texts: Rows, k: int) -> None:
        super().__init__(len(texts), k)
        self.searcher, self.texts = searcher, texts

    def error(self, queries: np.ndarray) -> np.ndarray:
        """float [n]: rounding of queries, texts and products to fp16."""
        return super().error(queries) + OUTPUT_ERROR

    def scan(self, queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Scanner`."""
        import torch

        device = self.searcher.device
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        halves = _moved(queries, device)
        values = torch.full((len(queries), wanted), -torch.inf, device=device)
        rows = torch.full((len(queries), wanted), -1, dtype=torch.int64, device=device)
        with torch.inference_mode():
            for first, texts in self.searcher.blocks(self.texts):
                for some in slices(len(queries), PRODUCT_BYTES // (2 * len(texts))):
                    products = halves[some] @ texts.T
                    best = products.topk(min(wanted, len(texts)), dim=1)
                    every = torch.cat([values[some], best.values.float()], dim=1)
                    numbers = torch.cat([rows[some], best.indices + first], dim=1)
                    kept = every.topk(wanted, dim=1)
                    values[some], rows[some] = kept.values, numbers.gather(1, kept.indices)
        return values.cpu().numpy(), rows.cpu().numpy()


def _moved(rows: np.ndarray, device: str) -> Any:
    """Rows in fp16 on a device."""
    import torch

    return torch.from_numpy(np.array(rows, np.float16, order="C", copy=None)).to(device)
