"""The end of a building: near-duplicates out, counts added up, the manifest over all parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import read_json, write_array
from ..corpora.plan import RowPlan
from ..errors import BlissError
from .build.near_duplicates import near_duplicates
from .build_log import timed
from .parts import BUILDING, finish_building
from .store.folder import KIND
from .store.removed import REMOVED

NEAR = "near_duplicate"
FAILURES_NAMED = 1000
"""Failures the manifest lists; all are counted."""


def finish_index(
    folder: Path,
    plan: RowPlan,
    progress: Callable[[str, int, int], None],
    truncated: Sequence[int | None] | None = None,
) -> None:
    """Write the manifest of an index whose parts are all whole; what only building needed goes.

    `truncated` are the captions of each source that the model's token limit cuts, where known.
    Raises BlissError where not one embedding can be used.
    """
    begun = read_json(folder / BUILDING)
    facts, request = begun["facts"], begun["request"]
    records = [read_json(folder / f"parts/part_{p}.json") for p in range(len(plan.parts))]
    parts = [record["rows"] for record in records]
    if not sum(parts):
        raise BlissError(
            f"none of the {plan.count:,} embeddings can be used",
            "at least one vector that is neither zero nor infinite nor NaN",
            "Embed the texts again",
        )
    by_source = np.sum([record["by_source"] for record in records], axis=0).tolist()
    threshold = request["near_duplicates"]
    gone = np.empty(0, np.int64)
    with timed(folder, "finish", rows=sum(parts)):
        if threshold is not None:
            gone = near_duplicates(folder, parts, threshold, progress)
        removed = None
        if len(gone):
            write_array(folder / REMOVED, gone)
            log = {"reason": "near duplicate of an earlier row", "similarity": threshold}
            removed = {"file": REMOVED, "count": len(gone), "log": [{**log, "rows": len(gone)}]}
        ends = np.cumsum(by_source)
        near = np.diff(np.searchsorted(gone, ends), prepend=0).tolist()
        sources = [
            {
                **described,
                "rows": rows,
                "counts": planned_counts(counts, rows, lost if threshold is not None else None),
                **altered,
            }
            for described, counts, rows, lost, altered in zip(
                facts["sources"],
                plan.counts,
                by_source,
                near,
                altered_counts(plan, truncated),
                strict=True,
            )
        ]
        finish_building(
            folder,
            "text",
            len(parts),
            {
                "kind": KIND,
                "model": facts["model"],
                "dtype": facts["dtype"],
                "count": sum(parts),
                "counts": _sum([source["counts"] for source in sources]),
                "sources": sources,
                "prompts": joint_prompts(sources),
                "removed": removed,
                "search": {"kind": "exact"},
                "failures": [f for record in records for f in record["failures"]][:FAILURES_NAMED],
                "files": [REMOVED] if removed else [],
            },
        )


def altered_counts(
    plan: RowPlan, truncated: Sequence[int | None] | None
) -> list[dict[str, int | None]]:
    """For each source the texts with undecodable bytes, and the captions cut by the token limit."""
    cut = truncated or [None] * len(plan.counts)
    return [
        {"undecodable": lost, "truncated": count}
        for lost, count in zip(plan.undecodable, cut, strict=True)
    ]


def planned_counts(
    planned: Mapping[str, int], rows: int, near: int | None = None
) -> dict[str, int]:
    """A source's counts: `read` is the sum of the others, `kept` what can be found."""
    counts = {**planned, "unusable": planned["kept"] - rows, "kept": rows - (near or 0)}
    return counts if near is None else {**counts, NEAR: near}


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(each[name] for each in counts) for name in counts[0]}


def joint_prompts(sources: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The prompts of every source, where they are the same."""
    first: list[str] = sources[0]["prompts"]
    return first if all(source["prompts"] == first for source in sources) else None
