"""The end of a build or of an addition: counts are added up and the manifest is written.

After a build, near-duplicates are dropped first; after an addition, its parts are linked into
place.
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

ADDING = "adding"
"""The folder of an unfinished addition, in that of its index."""
NEAR = "near_duplicate"
FAILURES_LISTED = 1000
"""Failures that the manifest lists; all are counted."""


def finish_index(
    folder: Path,
    plan: RowPlan,
    progress: Callable[[str, int, int], None],
    truncated: Sequence[int | None] | None = None,
) -> None:
    """Write the manifest of an index whose parts are complete, and delete what only building used.

    `truncated` are the captions of each source that the model's token limit cuts, where known.
    Raises BlissError where not one embedding can be used.
    """
    begun = read_json(folder / BUILDING)
    facts, threshold = begun["facts"], begun["request"]["near_duplicates"]
    records = [read_json(folder / f"parts/part_{p}.json") for p in range(len(plan.parts))]
    parts = [record["rows"] for record in records]
    if not sum(parts):
        raise _nothing_usable(f"{plan.count:,} embeddings")
    by_source = np.sum([record["by_source"] for record in records], axis=0).tolist()
    dropped = np.empty(0, np.int64)
    if threshold is not None:
        dropped = near_duplicates(folder, parts, threshold, progress)
    removed = None
    if len(dropped):
        write_array(folder / REMOVED, dropped)
        log = {"reason": "near duplicate of an earlier row", "similarity": threshold}
        removed = {
            "file": REMOVED,
            "count": len(dropped),
            "log": [{**log, "rows": len(dropped)}],
        }
    near: list[int | None] = [None] * len(by_source)
    if threshold is not None:
        near = np.diff(np.searchsorted(dropped, np.cumsum(by_source)), prepend=0).tolist()
    sources = _described_sources(facts["sources"], plan, by_source, near, truncated)
    finish_building(
        folder,
        "text",
        len(parts),
        {
            "kind": KIND,
            "model": facts["model"],
            "dtype": facts["dtype"],
            "count": sum(parts),
            "counts": _total_counts(sources),
            "sources": sources,
            "prompts": _common_prompts(sources),
            "removed": removed,
            "search": {"kind": "exact"},
            "failures": [f for record in records for f in record["failures"]][:FAILURES_LISTED],
            "files": [REMOVED] if removed else [],
        },
    )


def finish_addition(
    folder: Path,
    manifest: Mapping[str, Any],
    plan: RowPlan,
    added: Sequence[Mapping[str, Any]],
    request: str,
    truncated: Sequence[int | None] | None = None,
) -> dict[str, int]:
    """Link the new parts into place, then write the manifest; the counts of what was added.

    `added` are the descriptions of the new sources, `request` is the digest of the addition's
    request. Raises BlissError where none of the new embeddings can be used or the disk cannot be
    written.
    """
    adding, first = folder / ADDING, len(manifest["parts"])
    checksums = dict(manifest["checksums"])
    normalised, failures = manifest.get("normalised", 0), list(manifest["failures"])
    by_source = np.zeros(len(added), np.int64)
    rows = []
    for number in range(len(plan.parts)):
        record = whole_part(adding, plan, number)
        assert record is not None
        if record["rows"]:
            names = zip(files_of_part(number), files_of_part(first + number), strict=True)
            for name, target in names:
                link_file(adding / name, folder / target)
                checksums[target] = record["checksums"][name]
        by_source += record["by_source"]
        normalised += record["counts"].get("normalised", 0)
        failures += record["failures"]
        rows.append(record["rows"])
    if not sum(rows):
        shutil.rmtree(adding, ignore_errors=True)
        raise _nothing_usable(f"{plan.count:,} new embeddings")
    near = [None] * len(added)
    sources = _described_sources(added, plan, by_source.tolist(), near, truncated)
    all_sources = [*manifest["sources"], *sources]
    counts = _total_counts(sources)
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
        "counts": _total_counts(all_sources),
        "sources": all_sources,
        "prompts": _common_prompts(all_sources),
        "failures": failures[:FAILURES_LISTED],
        "normalised": normalised,
        "additions": [*manifest.get("additions", ()), addition],
        "checksums": checksums,
    }
    (folder / EXPORT).unlink(missing_ok=True)
    write_json(folder / MANIFEST, changed)
    shutil.rmtree(adding, ignore_errors=True)
    return counts


def _described_sources(
    described: Sequence[Mapping[str, Any]],
    plan: RowPlan,
    rows: Sequence[int],
    near: Sequence[int | None],
    truncated: Sequence[int | None] | None,
) -> list[dict[str, Any]]:
    """The sources with their stored `rows` and counts.

    Of the counts `read` is the sum of the others and `kept` are the captions that can be found;
    `near` are the near-duplicates, None where they were not looked for.
    """
    sources = []
    cut = truncated or [None] * len(plan.counts)
    for number, (each, planned) in enumerate(zip(described, plan.counts, strict=True)):
        stored, dropped = rows[number], near[number]
        counts = {**planned, "unusable": planned["kept"] - stored, "kept": stored - (dropped or 0)}
        if dropped is not None:
            counts[NEAR] = dropped
        sources.append(
            {
                **each,
                "rows": stored,
                "counts": counts,
                "undecodable": plan.undecodable[number],
                "truncated": cut[number],
            }
        )
    return sources


def _total_counts(sources: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts by name over some sources; not all have every name."""
    names = dict.fromkeys(name for source in sources for name in source["counts"])
    return {name: sum(source["counts"].get(name, 0) for source in sources) for name in names}


def _common_prompts(sources: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The prompts of every source, where they are the same."""
    first: list[str] = sources[0]["prompts"]
    return first if all(source["prompts"] == first for source in sources) else None


def _nothing_usable(what: str) -> BlissError:
    return BlissError(
        f"none of the {what} can be used",
        "at least one vector that is neither zero nor infinite nor NaN",
        "Embed the texts again",
    )
