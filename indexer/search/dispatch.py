"""From an index's manifest and a caller's choice to the plan and the searcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError
from ..store.addresses import folder_of
from ..store.manifest import IndexFolder
from ..store.stored_rows import IndexRows
from ..vectors.rows import SelectedRows
from ..vectors.unit_rows import Rows
from .gpu import (
    Gpus,
    GpuStructure,
    HoldingSearcher,
    StreamingSearcher,
    TorchSearcher,
    faiss_sees_gpu,
    open_gpus,
    torch_sees_gpu,
)
from .install import MadeStructure
from .kinds import EXACT, SearchChoice, check_parameters, gpu_numbers, lists_for, read_kind
from .plan import Plan, Task, plan_search, this_machine
from .searchers import ExactSearcher, Searcher, Structure, StructureSearcher
from .structures import (
    FaissStructure,
    fill_structure,
    how_to_make_again,
    library,
    new_structure,
    read_structure,
    stored_structure,
)


def plan_for(folder: IndexFolder, choice: SearchChoice) -> Plan:
    """Where the vectors of an index will lie; UsageError where that cannot be as chosen."""
    task = task_of(folder, choice)
    return plan_search(task, this_machine(with_gpus=task.gpus is not None))


def describe_plan(folder: str | Path, choice: SearchChoice) -> str:
    """One line: where the vectors of an index would lie and what that takes. Nothing is read."""
    return plan_for(IndexFolder.open(folder_of(folder)), choice).line


def describe_search(manifest: Mapping[str, Any]) -> str:
    """One line: how an index is searched by default."""
    search = manifest["search"]
    if search["kind"] == EXACT:
        return "search: exact"
    stated = ", ".join(f"{name} {value}" for name, value in sorted(search["parameters"].items()))
    every = sum(manifest["parts"])
    rest = f"; the last {every - search['rows']:,} are scanned" if search["rows"] < every else ""
    return f"search: {search['kind']} ({stated}) over {search['rows']:,} stored rows{rest}"


def task_of(folder: IndexFolder, choice: SearchChoice) -> Task:
    """The size of a search; UsageError for a kind that the index does not have."""
    stored = stored_structure(folder)
    name = EXACT if stored is None else stored.kind.name
    if choice.kind not in (None, EXACT, name):
        raise UsageError(
            f"search of kind {choice.kind} was asked for and {folder.path} has {name}",
            f"exact{'' if stored is None else f' or {name}'}",
            f"Make it first: `bliss index kind {folder.path} {choice.kind}`",
        )
    name = choice.kind or name
    if name == EXACT:
        stored = None
        if choice.parameters:
            raise UsageError(
                f"{', '.join(choice.parameters)} were given for exact search",
                "no parameters: it has none",
                "Leave them out",
            )
    return Task(
        str(folder.path),
        folder.manifest.stored_count,
        folder.manifest.dimension,
        4 if folder.manifest.dtype == "float32" else 2,
        name,
        stored.path.stat().st_size if stored is not None and stored.path.is_file() else None,
        gpu_numbers(choice.device),
        choice.shards,
    )


def searcher_of(folder: IndexFolder, rows: IndexRows, choice: SearchChoice, plan: Plan) -> Searcher:
    """The searcher of an index by plan; nothing is read before the first query."""
    stored = None if choice.kind == EXACT else stored_structure(folder)
    numbers = gpu_numbers(choice.device)
    one_gpu = numbers is not None and len(numbers) <= 1
    if stored is None and one_gpu and not faiss_sees_gpu(library()) and torch_sees_gpu():
        device = f"cuda:{numbers[0]}" if numbers else "cuda"
        return TorchSearcher(rows, device, held=plan.placement == "gpu")
    gpus = None if numbers is None else open_gpus(library(), numbers, plan)
    if stored is None:
        if gpus is not None and plan.placement in ("gpu", "gpu-shards"):
            return HoldingSearcher(gpus, rows)
        return _exact(gpus, rows)
    chosen = stored.with_parameters(choice.parameters)
    newer = IndexRows(folder, start=chosen.rows)

    def load() -> Structure:
        structure = chosen.load()
        return structure if gpus is None else GpuStructure(gpus, structure)

    return StructureSearcher(load, _exact(gpus, rows), _exact(gpus, newer))


def open_searcher(
    folder: str | Path, choice: SearchChoice, rows: tuple[int, int] | None = None
) -> Searcher:
    """The searcher of an index without its captions, or of its stored rows first, last + 1 alone.

    Rows of a part are numbered from its first and searched exactly. Errors as of `open_index`.
    """
    opened = IndexFolder.open(folder_of(folder))
    if rows is None:
        plan = plan_for(opened, choice)
        return searcher_of(opened, IndexRows(opened, resident=plan.resident), choice, plan)
    choice = replace(choice, kind=EXACT, parameters=None)
    task = replace(task_of(opened, choice), count=rows[1] - rows[0])
    plan = plan_search(task, this_machine(with_gpus=task.gpus is not None))
    some = IndexRows(opened, rows[0], plan.resident, rows[1])
    return searcher_of(opened, some, choice, plan)


def _exact(gpus: Gpus | None, rows: Rows) -> Searcher:
    return ExactSearcher(rows) if gpus is None else StreamingSearcher(gpus, rows)


def made_searcher(rows: Rows, made: MadeStructure, parameters: Mapping[str, int]) -> Searcher:
    """A searcher of all `rows` through a structure that was made and not installed."""
    chosen = check_parameters(made.kind, parameters)
    index = read_structure(made.path, how_to_make_again(made.path, made.kind.name))
    structure = FaissStructure(index, made.kind, chosen)
    nothing = SelectedRows(rows, np.zeros(0, np.int64))
    return StructureSearcher(lambda: structure, ExactSearcher(rows), ExactSearcher(nothing))


EXACT_UP_TO = 50_000
"""Rows that `nearest_searcher` scans; more are searched through lists."""
PROBES = 16


def probes_for(count: int) -> int:
    """Lists of `count` rows to search where queries and rows are images and texts: 1 of 128.

    They lie apart, so that fewer find few of the nearest.
    """
    return max(PROBES, lists_for(count) // 128)


def nearest_searcher(rows: Rows, probes: int = PROBES) -> Searcher:
    """A searcher of rows in memory or on disk, for the nearest of many queries.

    Of more than EXACT_UP_TO rows it looks at `probes` lists of an inverted file in half precision,
    made in memory; similarities are exact, and very near rows are rarely missed.
    """
    if len(rows) <= EXACT_UP_TO:
        return ExactSearcher(rows)
    dimension = rows[:1].shape[1]
    kind = read_kind(f"IVF{lists_for(len(rows))},SQfp16")
    structure = new_structure(kind, dimension)
    fill_structure(structure, kind, rows, None)
    parameters = check_parameters(kind, {"nprobe": probes, "candidates": 1})
    nothing = SelectedRows(rows, np.zeros(0, np.int64))
    made = FaissStructure(structure, kind, parameters)
    return StructureSearcher(lambda: made, ExactSearcher(rows), ExactSearcher(nothing))
