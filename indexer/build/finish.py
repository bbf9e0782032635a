"""The end of a building: near-duplicates out, counts added up, the manifest over all parts.

The end of an addition to an index: its parts are linked into place, then the manifest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import MANIFEST, link_file, read_json, write_array, write_json
from ...errors import BlissError
from ..store.folder import KIND, files_of_part
from ..store.parts import BUILDING, finish_building
from ..store.removed import EXPORT, REMOVED
from .near_duplicates import near_duplicates
from .parts import whole_part
from .plan import RowPlan
from .rates import timed

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


ADDING = "adding"


def finish_addition(
    folder: Path,
    manifest: Mapping[str, Any],
    plan: RowPlan,
    added: Sequence[Mapping[str, Any]],
    request: str,
    truncated: Sequence[int | None] | None = None,
) -> dict[str, int]:
    """Put the new parts in place and the manifest after them; the counts of what was added.

    `added` are the sources of the addition as they are described, `request` its digest. Raises
    BlissError where none of the new embeddings can be used or the disk cannot be written.
    """
    adding, first = folder / ADDING, len(manifest["parts"])
    records = [whole_part(adding, plan, number) for number in range(len(plan.parts))]
    checksums = dict(manifest["checksums"])
    normalised, failures = manifest.get("normalised", 0), list(manifest["failures"])
    by_source = np.zeros(len(added), np.int64)
    for number, record in enumerate(records):
        assert record is not None
        if record["rows"]:
            ours = zip(files_of_part(number), files_of_part(first + number), strict=True)
            for name, target in ours:
                link_file(adding / name, folder / target)
                checksums[target] = record["checksums"][name]
        by_source += record["by_source"]
        normalised += record["counts"].get("normalised", 0)
        failures += record["failures"]
    rows = [record["rows"] for record in records if record is not None]
    if not sum(rows):
        shutil.rmtree(adding, ignore_errors=True)
        raise BlissError(
            f"none of the {plan.count:,} new embeddings can be used",
            "at least one vector that is neither zero nor infinite nor NaN",
            "Embed the texts again",
        )
    sources = [
        {**described, "rows": int(kept), "counts": planned_counts(counts, int(kept)), **altered}
        for described, counts, kept, altered in zip(
            added, plan.counts, by_source, altered_counts(plan, truncated), strict=True
        )
    ]
    every = [*manifest["sources"], *sources]
    counts = _sum_addition_finishing(sources)
    addition = {
        "first_part": first,
        "first_source": len(manifest["sources"]),
        "request": request,
        "counts": counts,
    }
    changed = {
        **manifest,
        "parts": [*manifest["parts"], *rows],
        "count": manifest["count"] + sum(rows),
        "counts": _sum_addition_finishing(every),
        "sources": every,
        "prompts": joint_prompts(every),
        "failures": failures[:FAILURES_NAMED],
        "normalised": normalised,
        "additions": [*manifest.get("additions", ()), addition],
        "checksums": checksums,
    }
    write_json(folder / MANIFEST, changed)
    (folder / EXPORT).unlink(missing_ok=True)
    shutil.rmtree(adding, ignore_errors=True)
    return counts


def _sum_addition_finishing(sources: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts by name over some sources; not all have every name."""
    names = dict.fromkeys(name for source in sources for name in source["counts"])
    return {name: sum(source["counts"].get(name, 0) for source in sources) for name in names}
