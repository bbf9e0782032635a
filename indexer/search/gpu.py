"""Search on GPUs: exact over fp16 vectors that lie there or are streamed, or through a structure.

FAISS's module is given, so that tests can give another one. A GPU multiplies in fp16; it proposes
more rows than are asked for, and their similarities are computed again on the CPU in float64. The
proof that none is missing allows for the rounding; a query that cannot be proved from the most
rows a GPU selects is finished by a scan on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ...errors import BlissError, UsageError
from ..vectors.nearest import Hits, Reach, Vectors, certain_hits, check_k
from ..vectors.rows import exact_search, select_vectors
from .approximate import Exact, Structure
from .plan import Plan
from .structures import drop_unselected, reason

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


def open_gpus(faiss: Any, numbers: tuple[int, ...], plan: Plan) -> Gpus:
    """The GPUs `numbers`, or all for (); UsageError where FAISS has no GPU to work on."""
    if not hasattr(faiss, "StandardGpuResources") or not hasattr(faiss, "knn_gpu"):
        raise UsageError(
            "a search on a GPU was asked for with a FAISS that was built without GPU support",
            "faiss-gpu",
            "Install faiss-gpu in place of faiss-cpu, or pass --search-device cpu",
        )
    visible = faiss.get_num_gpus()
    if not visible or any(number >= visible for number in numbers):
        raise UsageError(
            f"a search on GPU {', '.join(map(str, numbers)) or 'cuda'} was asked for and FAISS "
            f"sees {visible}",
            "a CUDA GPU that this FAISS can use",
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or pass --search-device cpu",
        )
    return Gpus(faiss, numbers or tuple(range(visible)), plan)


def exact_on(gpus: Gpus, held: bool) -> Exact:
    """Exact search on GPUs; `held`: what is searched is put there once, and not streamed."""
    placed: list[tuple[Vectors, Any]] = []

    def find(vectors: Vectors, queries: np.ndarray, k: int, kept: np.ndarray | None) -> Hits:
        check_k(k, vectors.count if kept is None else len(kept))
        if k > MOST_SELECTED:
            raise UsageError(
                f"k = {k:,} was asked of a search on a GPU",
                f"{MOST_SELECTED:,} or less, the most FAISS selects there",
                "Pass --search-device cpu",
            )
        queries = np.ascontiguousarray(queries, np.float32)
        if not held:
            return _streamed(gpus, vectors, queries, k, kept)
        index = next((index for of, index in placed if of is vectors), None)
        if index is None:
            index = place_vectors(gpus, vectors)
            placed.append((vectors, index))
        shown = None if kept is None else _mask(vectors.count, kept)

        def scan(some: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
            with gpu_errors():
                rough, rows = index.search(some, wanted)
            return rough, rows if shown is None else np.where(shown[rows], rows, -1)

        hits, unsure = certain_hits(queries, vectors, k, scan, _reach(queries, vectors, k))
        if unsure.size:
            rest = _streamed(gpus, vectors, queries[unsure], k, kept)
            hits.similarity[unsure], hits.rows[unsure] = rest.similarity, rest.rows
        return hits

    return find


def _streamed(
    gpus: Gpus, vectors: Vectors, queries: np.ndarray, k: int, kept: np.ndarray | None
) -> Hits:
    """Exact hits by sending every block through the first GPU."""
    faiss, number = gpus.faiss, gpus.numbers[0]
    chosen = vectors if kept is None else select_vectors(vectors, kept)
    blocks = chosen.stored or chosen.blocks
    limit = max(gpus.plan.gpu // 2, 64 << 20)

    def scan(some: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        halves = some.astype(np.float16)
        merged = faiss.ResultHeap(len(some), wanted, keep_max=True)
        for first, block in blocks():
            with gpu_errors():
                rough, rows = faiss.knn_gpu(
                    gpus.resource(number),
                    halves,
                    np.ascontiguousarray(block, np.float16),
                    min(wanted, len(block)),
                    metric=faiss.METRIC_INNER_PRODUCT,
                    device=number,
                    vectorsMemoryLimit=limit,
                    queriesMemoryLimit=QUERY_BYTES,
                )
            merged.add_result(rough, rows + first)
        merged.finalize()
        return merged.D, merged.I

    hits, unsure = certain_hits(queries, chosen, k, scan, _reach(queries, chosen, k))
    if unsure.size:
        rest = exact_search(chosen, queries[unsure], k, None)
        hits.similarity[unsure], hits.rows[unsure] = rest.similarity, rest.rows
    return hits if kept is None else Hits(hits.similarity, kept[hits.rows])


def _reach(queries: np.ndarray, vectors: Vectors, k: int) -> Reach:
    most = min(vectors.count, MOST_SELECTED)
    halved = queries.astype(np.float16).astype(np.float32)
    error = np.linalg.norm(queries - halved, axis=1) + ROW_ERROR
    return Reach(min(max(FIRST_SELECTED, 2 * k), most), most, error)


def place_vectors(gpus: Gpus, vectors: Vectors) -> Any:
    """A FAISS index of all vectors in fp16: on each GPU, or spread over them in row order."""
    faiss = gpus.faiss
    dimension = vectors.fetch(np.zeros(1, np.int64)).shape[1]
    each = []
    with gpu_errors():
        for number in gpus.numbers:
            config = faiss.GpuIndexFlatConfig()
            config.useFloat16, config.device = True, number
            each.append(faiss.GpuIndexFlatIP(gpus.resource(number), dimension, config))
        spread = gpus.plan.placement == "gpu-shards"
        share = -(-vectors.count // len(each)) if spread else vectors.count
        for first, block in vectors.blocks():
            for start in range(0, len(block), ADDED_AT_ONCE):
                piece = block[start : start + ADDED_AT_ONCE]
                for index, some in _destined(each, first + start, piece, share, spread):
                    index.add(np.ascontiguousarray(some))
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


def _destined(
    each: list[Any], first: int, piece: np.ndarray, share: int, spread: bool
) -> Iterator[tuple[Any, np.ndarray]]:
    """Which index takes which rows of a piece: all of them all, or each the rows of its share."""
    for number, index in enumerate(each):
        if not spread:
            yield index, piece
            continue
        some = piece[max(0, number * share - first) : max(0, (number + 1) * share - first)]
        if len(some):
            yield index, some


def structure_on(gpus: Gpus, structure: Structure) -> Structure:
    """A structure moved to the GPUs in fp16, whole on each or spread over them."""
    faiss = gpus.faiss
    with gpu_errors():
        if len(gpus.numbers) == 1:
            options = faiss.GpuClonerOptions()
            options.useFloat16 = True
            number = gpus.numbers[0]
            moved = faiss.index_cpu_to_gpu(gpus.resource(number), number, structure.held, options)
        else:
            options = faiss.GpuMultipleClonerOptions()
            options.useFloat16 = True
            options.shard = gpus.plan.placement == "gpu-shards"
            resources = [gpus.resource(number) for number in gpus.numbers]
            moved = faiss.index_cpu_to_gpu_multiple_py(
                resources, structure.held, options, list(gpus.numbers)
            )
    return replace(
        structure,
        lists=min(structure.lists, MOST_SELECTED),
        most=min(structure.most, MOST_SELECTED),
        selects=False,
        propose=partial(_propose, faiss, moved),
        exact=exact_on(gpus, held=False),
    )


def _propose(
    faiss: Any,
    moved: Any,
    queries: np.ndarray,
    wanted: int,
    parameters: Mapping[str, int],
    selected: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `search_structure`; a GPU takes no selection, so what is not selected is dropped."""
    with gpu_errors():
        if "nprobe" in parameters:
            probes = min(parameters["nprobe"], MOST_SELECTED)
            faiss.GpuParameterSpace().set_index_parameter(moved, "nprobe", probes)
        rough, rows = moved.search(queries, wanted)
    return rough, rows if selected is None else drop_unselected(rows, selected)


def _mask(count: int, kept: np.ndarray) -> np.ndarray:
    """bool [count + 1]: the rows of `kept`; the last is for row -1, none."""
    shown = np.zeros(count + 1, bool)
    shown[kept] = True
    return shown


@contextmanager
def gpu_errors() -> Iterator[None]:
    """What FAISS complains of on a GPU, as an error that says what else can be done."""
    try:
        yield
    except RuntimeError as error:
        raise BlissError(
            f"the search on the GPU failed: {reason(error)}",
            "a GPU with room for this search, and a kind it holds",
            "Pass --search-kind exact, --search-shards with more GPUs, or --search-device cpu",
        ) from error
