"""The end of a build or of an addition: counts are added up and the manifest is written.

After a build, near-duplicates are dropped first; after an addition, its parts are linked into
place.

Near-duplicates are found by embedding: greedily in row order, exactly, part by part. A row is
dropped if an earlier row that is kept has a cosine of at least the threshold with it, on the stored
vectors. All pairs of kept rows are compared, in blocks: the work grows with the square of the
number of rows. Products are computed in float32; those within rounding of the threshold again in
float64. The dropped rows of each part are written as soon as they are known.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import (
    BUILDING,
    MANIFEST,
    link_file,
    read_array,
    read_json,
    write_array,
    write_json,
)
from ...errors import BlissError
from ..store.manifest import KIND, files_of_part
from ..store.parts import finish_building
from ..store.stored_rows import EXPORT, REMOVED
from ..vectors.layout import vector_file
from ..vectors.nearest import ROUNDING
from ..vectors.rows import are_ascending_rows, load_vectors
from ..vectors.unit_rows import stored_unit_rows
from .parts import whole_part
from .plan import RowPlan

BLOCK, OTHERS = 1024, 8192
"""Rows that are compared at once, and with how many others."""


def near_duplicates(
    folder: Path, parts: Sequence[int], threshold: float, progress: Callable[[str, int, int], None]
) -> np.ndarray:
    """int64 [u], ascending, the stored rows to drop; `parts` are the stored rows of each part.

    Continues after the parts that an earlier run compared. Memory holds two parts as float32.
    """
    found: list[np.ndarray] = []
    done, total = 0, sum(parts)
    for number, rows in enumerate(parts):
        gone = _stored_result(folder, number, rows)
        if gone is None:
            gone = _part_duplicates(folder, number, found, threshold)
            write_array(_file(folder, number), gone)
        found.append(gone)
        done += rows
        progress("rows compared for near duplicates", done, total)
    starts = np.cumsum([0, *parts])
    return np.concatenate(
        [rows + start for rows, start in zip(found, starts, strict=False)]
    ).astype(np.int64)


def greedy_duplicates(rows: np.ndarray, kept: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """bool [m]: which of the unit rows [m, d] are dropped, given the earlier rows `kept`."""
    gone = np.zeros(len(rows), bool)
    for start in range(0, len(rows), BLOCK):
        mine = slice(start, min(len(rows), start + BLOCK))
        before = [*kept, rows[:start][~gone[:start]]]
        for others in before:
            _mark_near(rows[mine], gone[mine], others, threshold)
        near = _near(rows[mine], rows[mine], threshold)
        stays = ~gone[mine]
        for i in np.flatnonzero(stays):
            stays[i] = not (near[i, :i] & stays[:i]).any()
        gone[mine] = ~stays
    return gone


def _part_duplicates(
    folder: Path, number: int, found: Sequence[np.ndarray], threshold: float
) -> np.ndarray:
    """int64, the dropped rows of one part; `found` are those of the parts before it."""
    rows = _unit_rows(folder, number)
    gone = np.zeros(len(rows), bool)
    for earlier, lost in enumerate(found):
        others = _unit_rows(folder, earlier)
        if len(others) and len(rows):
            _mark_near(rows, gone, np.delete(others, lost, axis=0), threshold)
    left = np.flatnonzero(~gone)
    gone[left] = greedy_duplicates(rows[left], [], threshold)
    return np.flatnonzero(gone)


def _mark_near(rows: np.ndarray, gone: np.ndarray, others: np.ndarray, threshold: float) -> None:
    """Mark in `gone` bool [m] every one of the rows [m, d] that is near one of `others`."""
    for start in range(0, len(others), OTHERS):
        for first in range(0, len(rows), BLOCK):
            open_rows = first + np.flatnonzero(~gone[first : first + BLOCK])
            near = _near(rows[open_rows], others[start : start + OTHERS], threshold)
            gone[open_rows[near.any(axis=1)]] = True


def _near(rows: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """bool [m, o]: which pairs of unit rows have a cosine of at least the threshold."""
    cosine = rows @ others.T
    perhaps = cosine >= threshold - ROUNDING
    if not perhaps.any():
        return perhaps
    near = cosine >= threshold + ROUNDING
    unsure = np.nonzero(perhaps & ~near)
    for start in range(0, len(unsure[0]), OTHERS):
        i, j = (each[start : start + OTHERS] for each in unsure)
        near[i, j] = np.einsum("pd,pd->p", rows[i], others[j], dtype=np.float64) >= threshold
    return near


def _unit_rows(folder: Path, number: int) -> np.ndarray:
    path = folder / vector_file("text", number)
    if not path.is_file():
        return np.empty((0, 0), np.float32)
    return stored_unit_rows(load_vectors(path), str(path))


def _stored_result(folder: Path, number: int, rows: int) -> np.ndarray | None:
    """The dropped rows of a part that an earlier run wrote, or None."""
    try:
        gone = read_array(_file(folder, number))
    except BlissError:
        return None
    return gone if are_ascending_rows(gone, rows) else None


def _file(folder: Path, number: int) -> Path:
    return folder / "near" / f"near_{number}.npy"


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
