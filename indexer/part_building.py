"""The parts of a caption index, made from the row plan one by one, in any order, by anybody.

Encoding is left to the caller, who hands in (part number, raw vectors): one process, a cluster or
an array made elsewhere. Which parts there are, what each holds and how the folder ends follows from
the plan alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..artefacts import read_json
from ..corpora.captions import closed_after
from ..corpora.plan import RowPlan, plan_batches, read_plan_part
from ..corpora.prompts import fill_prompt
from .build.first_rows import ROWS
from .build_log import timed
from .parts import BUILDING, Part, files_of, finished_part, write_part
from .stage_rates import StageRates
from .store.sources import Described
from .vectors.unit_rows import normalise_rows

FAILURES_NAMED = 1000
"""Failures of a part that are listed; all are counted."""
ROWS_AT_ONCE = 2048
REASON = "the embedding is zero or not finite"


def missing_parts(folder: Path, plan: RowPlan) -> tuple[int, ...]:
    """The numbers of all parts that are not there, or not whole: their files are checked."""
    return tuple(p for p in range(len(plan.parts)) if whole_part(folder, plan, p) is None)


def whole_part(folder: Path, plan: RowPlan, number: int) -> dict[str, Any] | None:
    """The record of a part that is whole and of this plan, or None."""
    record = finished_part(folder, number)
    if record is None or record.get("plan") != plan.digest:
        return None
    there = files_of("text", number) if record.get("rows") else ()
    return record if sorted(record["checksums"]) == sorted(there) else None


def captions_of_part(folder: Path, plan: RowPlan, number: int) -> list[str]:
    """The planned captions of one part, in order."""
    captions: list[str] = []
    for batch in plan_batches(plan, number, ROWS):
        captions.extend(batch.column(0).to_pylist())
    return captions


def texts_of_part(
    plan: RowPlan, number: int, size: int, templates: Sequence[str] | None
) -> Iterator[list[str]]:
    """What is to be encoded of one part, at most `size` texts at a time.

    `templates` are those of `encoding_prompts`: each caption is put into its source's.
    """
    for batch in plan_batches(plan, number, size):
        captions = batch.column(0).to_pylist()
        if templates is not None:
            sources = batch.column(1).to_pylist()
            captions = [
                fill_prompt(templates[source], caption)
                for source, caption in zip(sources, captions, strict=True)
            ]
        yield captions


def build_parts(
    folder: Path,
    plan: RowPlan,
    encoded: Iterable[tuple[int, np.ndarray]],
    dtype: str,
    rates: StageRates | None = None,
) -> None:
    """Store every (part number, raw vectors float [m, d]), each while the next one is made.

    `rates` is filled in with how fast that was. Raises what making or storing one raised; parts
    stored by then stay.
    """
    measured = StageRates() if rates is None else rates

    def store(number: int, raw: np.ndarray) -> None:
        with measured.timing("writing", len(raw)):
            store_part(folder, plan, number, raw, dtype)

    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "parts") as writer, closed_after(iter(encoded)) as parts:
        for number, raw in parts:
            if writing is not None:
                writing.result()
            writing = writer.submit(store, number, raw)
        if writing is not None:
            writing.result()


def store_part(folder: Path, plan: RowPlan, number: int, raw: np.ndarray, dtype: str) -> None:
    """Store one part: unit rows as `dtype`, metadata, captions, and its record last.

    `raw` [m, d] has a vector for each planned row of the part; a row whose vector is zero or not
    finite is left out, counted and listed.
    """
    with timed(folder, "write", part=number, rows=len(raw)):
        described = read_json(folder / BUILDING)["facts"]["sources"]
        vectors, unusable, adjusted = _stored(raw, dtype)
        good = np.ones(len(raw), bool)
        good[unusable] = False
        table = read_plan_part(plan, number).combine_chunks()
        kept = table.filter(pa.array(good))
        source = kept["source"].to_numpy()
        part = Part(
            vectors,
            _metadata(kept, source, described),
            _failures(table.take(pa.array(unusable[:FAILURES_NAMED])), described),
            {"normalised": adjusted},
            {
                "plan": plan.digest,
                "by_source": np.bincount(source, minlength=len(described)).tolist(),
            },
        )
        write_part(folder, "text", number, part)


def _stored(raw: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Unit rows [g, d] of what is usable, int64 [u] rows that are not, and how many were adjusted.

    Block by block, so that only the result is held beside `raw`.
    """
    vectors = np.empty(raw.shape, dtype)
    unusable: list[np.ndarray] = []
    filled = adjusted = 0
    for start in range(0, len(raw), ROWS_AT_ONCE):
        made = normalise_rows(raw[start : start + ROWS_AT_ONCE])
        usable = np.delete(made.unit, made.unusable, axis=0) if len(made.unusable) else made.unit
        vectors[filled : filled + len(usable)] = usable
        unusable.append(made.unusable + start)
        filled += len(usable)
        adjusted += made.adjusted
    return vectors[:filled], np.concatenate(unusable), adjusted


def _metadata(kept: pa.Table, source: np.ndarray, described: Sequence[Described]) -> pa.Table:
    def of_source(name: str) -> pa.Array:
        values = pa.array([each[name] for each in described], pa.string())
        return values.take(pa.array(source))

    return pa.table(
        {
            "caption": kept["caption"],
            "source_row": kept["source_row"],
            "source": of_source("name"),
            "licence": of_source("licence"),
        }
    )


def _failures(lost: pa.Table, described: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "source": described[row["source"]]["name"],
            "source_row": row["source_row"],
            "caption": row["caption"],
            "reason": REASON,
        }
        for row in lost.to_pylist()
    )
