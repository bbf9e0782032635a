"""From an index's manifest and a caller's choice to the plan and the searcher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import read_manifest
from ...errors import UsageError
from ..store.addresses import folder_of
from ..store.folder import HOW_TO_BUILD, KIND
from ..store.vectors import IndexRows
from ..vectors.rows import SelectedRows
from ..vectors.unit_rows import Rows
from .gpu import Gpus, GpuStructureSource, HoldingSearcher, StreamingSearcher, open_gpus
from .install import MadeStructure
from .kinds import EXACT, SearchChoice, check_parameters, gpu_numbers
from .plan import Machine, Plan, Task, plan_search, this_machine
from .searchers import ExactSearcher, Searcher, StructureSearcher
from .structures import (
    FaissStructure,
    how_to_make_again,
    library,
    open_structure,
    read_structure,
    stored_kind,
)


def plan_for(
    folder: Path, manifest: Mapping[str, Any], choice: SearchChoice, machine: Machine | None = None
) -> Plan:
    """Where the vectors of an index will lie; UsageError where that cannot be as chosen."""
    task = task_of(folder, manifest, choice)
    return plan_search(task, machine or this_machine(with_gpus=task.gpus is not None))


def describe_plan(folder: str | Path, choice: SearchChoice) -> str:
    """One line: where the vectors of an index would lie and what that takes. Nothing is read."""
    path = folder_of(folder)
    return plan_for(path, read_manifest(path, KIND, HOW_TO_BUILD), choice).line


def describe_search(manifest: Mapping[str, Any]) -> str:
    """One line: how an index is searched where nothing else is asked for."""
    search = manifest["search"]
    if search["kind"] == EXACT:
        return "search: exact"
    stated = ", ".join(f"{name} {value}" for name, value in sorted(search["parameters"].items()))
    every = sum(manifest["parts"])
    rest = f"; the last {every - search['rows']:,} are scanned" if search["rows"] < every else ""
    return f"search: {search['kind']} ({stated}) over {search['rows']:,} stored rows{rest}"


def task_of(folder: Path, manifest: Mapping[str, Any], choice: SearchChoice) -> Task:
    """The size of a search; UsageError for a kind that the index does not have."""
    kind = stored_kind(folder, manifest)
    name = EXACT if kind is None else kind.name
    if choice.kind not in (None, EXACT, name):
        raise UsageError(
            f"search of kind {choice.kind} was asked for and {folder} has {name}",
            f"exact{'' if kind is None else f' or {name}'}",
            f"Make it first: `bliss index kind {folder} {choice.kind}`",
        )
    name = choice.kind or name
    if name == EXACT and choice.parameters:
        raise UsageError(
            f"{', '.join(choice.parameters)} were given for exact search",
            "no parameters: it has none",
            "Leave them out",
        )
    file = folder / manifest["search"]["file"] if name != EXACT else None
    return Task(
        str(folder),
        sum(manifest["parts"]),
        manifest["model"]["dimension"],
        4 if manifest.get("dtype") == "float32" else 2,
        name,
        file.stat().st_size if file is not None and file.is_file() else None,
        gpu_numbers(choice.device),
        choice.shards,
    )


def searcher_of(
    folder: Path, manifest: Mapping[str, Any], rows: IndexRows, choice: SearchChoice, plan: Plan
) -> Searcher:
    """The searcher of an index by plan; nothing is read before the first query."""
    kind = None if choice.kind == EXACT else stored_kind(folder, manifest)
    numbers = gpu_numbers(choice.device)
    gpus = None if numbers is None else open_gpus(library(), numbers, plan)
    if kind is None:
        if gpus is not None and plan.placement in ("gpu", "gpu-shards"):
            return HoldingSearcher(gpus, rows)
        return _exact(gpus, rows)
    stored = open_structure(folder, manifest, kind, choice.parameters)
    newer = IndexRows(folder, manifest, start=manifest["search"]["rows"])
    source = stored if gpus is None else GpuStructureSource(gpus, stored)
    return StructureSearcher(source, _exact(gpus, rows), _exact(gpus, newer))


def _exact(gpus: Gpus | None, rows: Rows) -> Searcher:
    return ExactSearcher(rows) if gpus is None else StreamingSearcher(gpus, rows)


def made_searcher(rows: Rows, made: MadeStructure, parameters: Mapping[str, int]) -> Searcher:
    """A searcher of all `rows` through a structure that was made and not installed."""
    chosen = check_parameters(made.kind, parameters)
    index = read_structure(made.path, how_to_make_again(made.path, made.kind.name))
    structure = FaissStructure(index, made.kind, chosen)
    nothing = SelectedRows(rows, np.zeros(0, np.int64))
    return StructureSearcher(structure, ExactSearcher(rows), ExactSearcher(nothing))
