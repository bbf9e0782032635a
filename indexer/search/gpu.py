"""Search on GPUs: exact over fp16 vectors that are held there or streamed, or by a structure.

FAISS's module is passed in, so that tests can replace it. A GPU multiplies in fp16: it proposes
more rows than k, and their similarities are computed again on the CPU in float64. The bound on the
error of its products allows for the rounding; a query that is uncertain even with the most rows a
GPU selects is searched by a scan on the CPU.

Where FAISS has no GPU build, torch does the exact search, a block of texts at a time with all
queries:

    product = fp16(query)·fp16(text), accumulated in float32, rounded to fp16

The largest products are the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import BlissError, UsageError
from ..vectors.nearest import Hits, Scanner, certain_hits, check_k
from ..vectors.rows import SelectedRows, select_blocks
from ..vectors.unit_rows import Blocks, Rows, blocks_of, slices
from .plan import Plan
from .searchers import ExactSearcher
from .structures import FaissStructure, drop_unselected, reason

MOST_SELECTED = 2048
"""FAISS selects no more rows of a query on a GPU, and probes no more lists."""
ROW_ERROR = 1e-3
"""Products with a stored row differ by no more from those with its unit row: 2⁻¹¹ of rounding to
fp16, and as much for a length that rounding changed."""
FIRST_SELECTED = 64
ADDED_AT_ONCE = 65_536
QUERY_BYTES = 256 << 20


@dataclass(frozen=True)
class Gpus:
    """FAISS, the GPUs it may use, and where the plan wants things; memory there is made once."""

    faiss: Any
    numbers: tuple[int, ...]
    plan: Plan
    resources: dict[int, Any] = field(default_factory=dict)

    def resource(self, number: int) -> Any:
        """FAISS's memory and streams on one GPU."""
        if number not in self.resources:
            self.resources[number] = self.faiss.StandardGpuResources()
        return self.resources[number]


def faiss_sees_gpu(faiss: Any) -> bool:
    """Whether this FAISS can use a GPU."""
    return hasattr(faiss, "knn_gpu") and faiss.get_num_gpus() > 0


def open_gpus(faiss: Any, numbers: tuple[int, ...], plan: Plan) -> Gpus:
    """The GPUs `numbers`, or all for (); UsageError where FAISS has no GPU to work on."""
    if not hasattr(faiss, "StandardGpuResources") or not hasattr(faiss, "knn_gpu"):
        raise UsageError(
            "a search on a GPU was asked for with a FAISS that was built without GPU support",
            "faiss-gpu",
            "Install faiss-gpu in place of faiss-cpu, or pass --search device=cpu",
        )
    visible = faiss.get_num_gpus()
    if not visible or any(number >= visible for number in numbers):
        raise UsageError(
            f"a search on GPU {', '.join(map(str, numbers)) or 'cuda'} was asked for and FAISS "
            f"sees {visible}",
            "a CUDA GPU that this FAISS can use",
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or pass --search device=cpu",
        )
    return Gpus(faiss, numbers or tuple(range(visible)), plan)


class StreamingSearcher:
    """Exact search of `rows` on the first GPU, to which their blocks are sent for every search."""

    def __init__(self, gpus: Gpus, rows: Rows) -> None:
        self.gpus, self.rows = gpus, rows

    def search(self, queries: np.ndarray, k: int, live: np.ndarray | None = None) -> Hits:
        """See `Searcher`; UsageError for a k that FAISS cannot select on a GPU."""
        return scan_live(lambda texts: StreamScan(self.gpus, texts, k), self.rows, queries, k, live)


def scan_live(
    scan_of: Callable[[Rows], Scanner],
    rows: Rows,
    queries: np.ndarray,
    k: int,
    live: np.ndarray | None,
) -> Hits:
    """`Searcher.search` among `rows` by a scan of those that are live; the CPU searches again where
    it leaves a query uncertain."""
    _check_selected(k, rows, live)
    queries = np.ascontiguousarray(queries, np.float32)
    texts = rows if live is None else SelectedRows(rows, live)
    hits, uncertain = certain_hits(queries, texts, k, scan_of(texts))
    if uncertain.size:
        _fill_hits(hits, uncertain, ExactSearcher(texts).search(queries[uncertain], k))
    return hits if live is None else Hits(hits.similarity, live[hits.rows])


class HoldingSearcher:
    """Exact search of `rows`, which are put on the GPUs at the first search and stay there."""

    def __init__(self, gpus: Gpus, rows: Rows) -> None:
        self.gpus, self.rows = gpus, rows

    @cached_property
    def index(self) -> Any:
        """FAISS's index of the rows on the GPUs."""
        return place_vectors(self.gpus, self.rows)

    def search(self, queries: np.ndarray, k: int, live: np.ndarray | None = None) -> Hits:
        """See `Searcher`; UsageError for a k that FAISS cannot select on a GPU."""
        _check_selected(k, self.rows, live)
        queries = np.ascontiguousarray(queries, np.float32)
        scanner = HeldScan(self.index, len(self.rows), k, live)
        hits, uncertain = certain_hits(queries, self.rows, k, scanner)
        if uncertain.size:
            rest = StreamingSearcher(self.gpus, self.rows).search(queries[uncertain], k, live)
            _fill_hits(hits, uncertain, rest)
        return hits


class GpuScan:
    """What scans on a GPU have in common: how many rows they select, and their error."""

    def __init__(self, count: int, k: int) -> None:
        self.most = min(count, MOST_SELECTED)
        self.first = min(max(FIRST_SELECTED, 2 * k), self.most)

    def error(self, queries: np.ndarray) -> np.ndarray:
        """float [n]: what rounding a query and the texts to fp16 can change a product by."""
        halved = queries.astype(np.float16).astype(np.float32)
        return np.linalg.norm(queries - halved, axis=1) + ROW_ERROR


class HeldScan(GpuScan):
    """A search of the vectors that lie on the GPUs; rows that are not `live` are dropped."""

    def __init__(self, index: Any, count: int, k: int, live: np.ndarray | None) -> None:
        super().__init__(count, k)
        self.index, self.shown = index, None
        if live is not None:
            self.shown = np.zeros(count + 1, bool)  # the last for row -1, none
            self.shown[live] = True

    def scan(self, queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        with gpu_errors():
            rough, rows = self.index.search(queries, wanted)
        return rough, rows if self.shown is None else np.where(self.shown[rows], rows, -1)


class StreamScan(GpuScan):
    """A search of each block of `texts` in turn, sent to the first GPU."""

    def __init__(self, gpus: Gpus, texts: Rows, k: int) -> None:
        super().__init__(len(texts), k)
        self.gpus, self.texts = gpus, texts

    def scan(self, queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        faiss, number = self.gpus.faiss, self.gpus.numbers[0]
        halves = queries.astype(np.float16)
        merged = faiss.ResultHeap(len(queries), wanted, keep_max=True)
        for first, block in stored_blocks(self.texts):
            with gpu_errors():
                rough, rows = faiss.knn_gpu(
                    self.gpus.resource(number),
                    halves,
                    np.ascontiguousarray(block, np.float16),
                    min(wanted, len(block)),
                    metric=faiss.METRIC_INNER_PRODUCT,
                    device=number,
                    vectorsMemoryLimit=max(self.gpus.plan.gpu // 2, 64 << 20),
                    queriesMemoryLimit=QUERY_BYTES,
                )
            merged.add_result(rough, rows + first)
        merged.finalize()
        return merged.D, merged.I


def stored_blocks(texts: Rows) -> Blocks:
    """Blocks of texts as they are stored, where they are: they go to the GPU in fp16 anyway."""
    if isinstance(texts, SelectedRows):
        return select_blocks(stored_blocks(texts.rows), texts.chosen)
    return texts.stored_blocks() if hasattr(texts, "stored_blocks") else blocks_of(texts)


def _check_selected(k: int, rows: Rows, live: np.ndarray | None) -> None:
    """Raise UsageError for a k that is not among the rows, or that a GPU does not select."""
    check_k(k, len(rows) if live is None else len(live))
    if k > MOST_SELECTED:
        raise UsageError(
            f"k = {k:,} was asked of a search on a GPU",
            f"{MOST_SELECTED:,} or less, the most FAISS selects there",
            "Pass --search device=cpu",
        )


def _fill_hits(hits: Hits, queries: np.ndarray, rest: Hits) -> None:
    """Put the hits of the queries int64 [u] in their place among `hits`."""
    hits.similarity[queries], hits.rows[queries] = rest.similarity, rest.rows


def place_vectors(gpus: Gpus, vectors: Rows) -> Any:
    """A FAISS index of all vectors in fp16: on each GPU, or spread over them in row order."""
    faiss = gpus.faiss
    dimension = vectors[np.zeros(1, np.int64)].shape[1]
    each = []
    with gpu_errors():
        for number in gpus.numbers:
            config = faiss.GpuIndexFlatConfig()
            config.useFloat16, config.device = True, number
            each.append(faiss.GpuIndexFlatIP(gpus.resource(number), dimension, config))
        spread = gpus.plan.placement == "gpu-shards"
        share = -(-len(vectors) // len(each)) if spread else len(vectors)
        for first, block in blocks_of(vectors):
            for some in slices(len(block), ADDED_AT_ONCE):
                start, batch = first + some.start, block[some]
                for number, index in enumerate(each):
                    here = slice(0, len(batch))
                    if spread:  # the rows of this GPU's share
                        low, high = number * share - start, (number + 1) * share - start
                        here = slice(max(0, low), max(0, high))
                    if len(batch[here]):
                        index.add(np.ascontiguousarray(batch[here]))
        if len(each) == 1:
            return each[0]
        if spread:
            joined = faiss.IndexShards(dimension, True, True)
            for index in each:
                joined.add_shard(index)
            return joined
        joined = faiss.IndexReplicas(dimension, True)
        for index in each:
            joined.add_replica(index)
        return joined


class GpuStructure:
    """A structure on the GPUs in fp16, whole on each or spread over them (see `Structure`).

    Raises BlissError where the GPUs have no room for it.
    """

    selects = False

    def __init__(self, gpus: Gpus, structure: FaissStructure) -> None:
        self.faiss = gpus.faiss
        self.rows, self.parameters = structure.rows, structure.parameters
        self.lists = min(structure.lists, MOST_SELECTED)
        self.most = min(structure.most, MOST_SELECTED)
        self.index, self.asked = _moved(gpus, structure.index), structure.asked

    def propose(
        self,
        queries: np.ndarray,
        wanted: int,
        parameters: Mapping[str, int],
        selected: np.ndarray | None,
    ) -> np.ndarray:
        """See `Structure`; a GPU takes no selection, so rows that are not selected are dropped."""
        with gpu_errors():
            if "nprobe" in parameters:
                probes = min(parameters["nprobe"], MOST_SELECTED)
                space = self.faiss.GpuParameterSpace()
                space.set_index_parameter(self.index, "nprobe", probes)
            _, rows = self.index.search(self.asked(queries), wanted)
        return rows if selected is None else drop_unselected(rows, selected)


def _moved(gpus: Gpus, index: Any) -> Any:
    """A FAISS index of the CPU on the GPUs."""
    faiss = gpus.faiss
    with gpu_errors():
        if len(gpus.numbers) == 1:
            options = faiss.GpuClonerOptions()
            options.useFloat16 = True
            number = gpus.numbers[0]
            return faiss.index_cpu_to_gpu(gpus.resource(number), number, index, options)
        options = faiss.GpuMultipleClonerOptions()
        options.useFloat16 = True
        options.shard = gpus.plan.placement == "gpu-shards"
        resources = [gpus.resource(number) for number in gpus.numbers]
        return faiss.index_cpu_to_gpu_multiple_py(resources, index, options, list(gpus.numbers))


@contextmanager
def gpu_errors() -> Iterator[None]:
    """Turn errors of FAISS on a GPU into a BlissError that says what to do instead."""
    try:
        yield
    except RuntimeError as error:
        raise BlissError(
            f"the search on the GPU failed: {reason(error)}",
            "a GPU with room for this search, and a kind it holds",
            "Pass --search exact, --search shards with more GPUs, or --search device=cpu",
        ) from error


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
                moved = _in_fp16(block[some], self.device)
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
        import torch

        device = self.searcher.device
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        halves = _in_fp16(queries, device)
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


def _in_fp16(rows: np.ndarray, device: str) -> Any:
    """Rows in fp16 on a device."""
    import torch

    return torch.from_numpy(np.array(rows, np.float16, order="C", copy=None)).to(device)
