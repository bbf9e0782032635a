"""The row plan of a caption index: which captions are kept, in which order, cut into parts.

One text-only pass over all sources, in the order given, cleans the captions and drops by reason;
of equal captions the first row of the first source stays. What is kept is cut into parts of a
fixed number of rows, a parquet file each (caption, source, source_row). Whatever is made of the
captions later is cut from these files, so it does not depend on where a run stopped.

`plan.json` comes last: a plan without it, or whose files have changed, is made again from the
start; a finished one never is. Memory does not depend on how many captions there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..artefacts import check_checksum, read_json
from ..errors import BlissError
from ..indexer.build.first_rows import ROWS
from .captions import COUNTS

RECORD = "plan.json"
UNDECODABLE = "undecodable"

PLANNED = pa.schema([("caption", pa.string()), ("source", pa.int32()), ("source_row", pa.int64())])
"""Columns of a part."""


@dataclass(frozen=True)
class RowPlan:
    """A finished plan."""

    folder: Path
    parts: tuple[int, ...]
    """Rows of each part."""
    counts: tuple[dict[str, int], ...]
    """What became of each source's texts, with the keys `captions.COUNTS`."""
    undecodable: tuple[int, ...]
    """Texts of each source with bytes that are not UTF-8, whatever became of them."""
    digest: str
    """SHA-256 of what is planned, the same for every way of storing it."""

    @property
    def count(self) -> int:
        """All rows together."""
        return sum(self.parts)


def open_plan(folder: Path) -> RowPlan | None:
    """The finished plan in `folder`; None where there is none or a file of it has changed."""
    if not (folder / RECORD).is_file():
        return None
    try:
        record = read_json(folder / RECORD)
        names = [plan_file(number) for number in range(len(record["parts"]))]
        if sorted(names) != sorted(record["checksums"]):
            return None
        for name in names:
            check_checksum(folder, name, record)
        counts = tuple({name: int(each[name]) for name in COUNTS} for each in record["counts"])
        undecodable = tuple(int(each.get(UNDECODABLE, 0)) for each in record["counts"])
        parts = tuple(int(rows) for rows in record["parts"])
        return RowPlan(folder, parts, counts, undecodable, str(record["digest"]))
    except (BlissError, KeyError, TypeError, AttributeError, ValueError):
        return None


def plan_file(number: int) -> str:
    """Name of the file of one part."""
    return f"plan_{number}.parquet"


def read_plan_part(plan: RowPlan, number: int) -> pa.Table:
    """Caption, source (its number) and source_row of every row of one part."""
    return pa.Table.from_batches(plan_batches(plan, number, ROWS), PLANNED)


def plan_batches(plan: RowPlan, number: int, size: int) -> Iterator[pa.RecordBatch]:
    """The rows of one part, at most `size` at a time; BlissError where they cannot be read."""
    path = plan.folder / plan_file(number)
    try:
        with open(path, "rb") as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
            yield from file.iter_batches(size, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise BlissError(
            f"{path} could not be read ({error})",
            "the plan as bliss wrote it",
            "Run the same command again: the plan is then made again",
        ) from error
