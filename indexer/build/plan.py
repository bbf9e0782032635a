"""The row plan of a caption index: which captions are kept, in which order, cut into parts.

One text-only pass over all sources, in the order given, cleans the captions and counts what it
drops, by reason; of equal captions the first row of the first source is kept. What is kept is cut
into parts of a fixed number of rows, a parquet file each (caption, source, source_row). Encoding
reads only these files, so its result does not depend on where a run stopped.

`plan.json` is written last: a plan without it, or whose files have changed, is made again from the
start. Memory does not depend on the number of captions.

DuckDB, used only here, groups equal captions and spills what does not fit. It starts with little
memory and gets twice as much only when it fails for lack of it, so that the memory needed hardly
depends on the number of captions.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...artefacts import (
    check_checksum,
    read_json,
    sha256_of,
    temporary_folder,
    write_atomically,
    write_json,
)
from ...corpora import (
    COUNTS,
    JSON,
    CaptionRules,
    TextBatch,
    TextSource,
    clean_texts,
    closed_after,
    no_usable_text,
    rules_for,
)
from ...errors import BlissError
from ...tables import file_batches, open_table, read_batches

LEAST_MEMORY, MOST_MEMORY = 32 << 20, 16 << 30
ROWS = 32_768
"""Rows of a row group, and rows given to DuckDB at once."""
FIRSTS_SCHEMA = pa.schema([("ordinal", pa.int64())])

_QUERY = "SELECT min(ordinal) AS ordinal FROM staged GROUP BY caption ORDER BY ordinal"


def write_first_rows(staged: Path, firsts: Path) -> None:
    """Write to `firsts` the int64 `ordinal` of the first row of each caption, ascending.

    `staged` is a parquet file with the columns caption and ordinal. Raises BlissError where the
    disk is too full for what does not fit into memory.
    """
    memory = LEAST_MEMORY
    while True:
        try:
            write_atomically(firsts, partial(_write, staged, firsts.parent, memory))
            return
        except _NeedsMemory:
            memory *= 2


class _NeedsMemory(Exception):
    """DuckDB needs more memory than it was given."""


def _write(staged: Path, folder: Path, memory: int, file: IO[bytes]) -> None:
    with pq.ParquetWriter(file, FIRSTS_SCHEMA, compression="zstd") as writer:
        with closed_after(_first_rows(staged, folder, memory)) as batches:
            for batch in batches:
                writer.write_batch(batch)


def _first_rows(staged: Path, folder: Path, memory: int) -> Iterator[pa.RecordBatch]:
    import duckdb

    settings = {
        "memory_limit": f"{memory}B",
        "threads": "1",
        "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false",
    }
    # Arrow and DuckDB open no path that is not UTF-8: Arrow reads an open file instead, and DuckDB
    # spills to the system's temporary folder.
    is_utf8 = not any("\ud800" <= character <= "\udfff" for character in str(folder))
    spill = folder if is_utf8 else None
    try:
        with (
            temporary_folder(spill) as scratch,
            duckdb.connect(config={**settings, "temp_directory": f"{scratch}/spill"}) as connection,
            open(staged, "rb") as opened,
            open_table(opened) as file,
        ):
            schema = pa.schema([("caption", pa.string()), ("ordinal", pa.int64())])
            batches = read_batches(file, ROWS, schema.names)
            connection.register("staged", pa.RecordBatchReader.from_batches(schema, batches))
            yield from connection.sql(_QUERY).to_arrow_reader(ROWS)
    except duckdb.OutOfMemoryException as error:
        if memory < MOST_MEMORY and "max_temp_directory_size" not in str(error):
            raise _NeedsMemory from error
        raise _no_room(folder, error) from error
    except duckdb.IOException as error:
        raise _no_room(folder, error) from error


def _no_room(folder: Path, error: Exception) -> BlissError:
    reason = (str(error).strip().splitlines() or [""])[0]
    return BlissError(
        f"duplicate captions could not be found in {folder} ({reason})",
        "space on its disk for a copy of all captions",
        "Free some space or choose another folder, then run the same command again",
    )


RECORD = "plan.json"
STAGED, FIRSTS = "staged.parquet", "first_rows.parquet"
"""Every clean caption, and which of them are first among equals; deleted with a finished plan."""
UNDECODABLE = "undecodable"
TEXTS_AT_ONCE = 4096

PLANNED = pa.schema([("caption", pa.string()), ("source", pa.int32()), ("source_row", pa.int64())])
"""Columns of a part."""
_STAGED = pa.schema([*PLANNED, ("ordinal", pa.int64())])


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
    """SHA-256 of the planned rows, however they are stored."""

    @property
    def count(self) -> int:
        """All rows together."""
        return sum(self.parts)


def open_plan(folder: Path) -> RowPlan | None:
    """The finished plan in `folder`; None where there is none or one of its files has changed."""
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
        yield from file_batches(path, size)
    except (OSError, pa.ArrowException) as error:
        raise BlissError(
            f"{path} could not be read ({error})",
            "the plan as bliss wrote it",
            "Run the same command again to make a new plan",
        ) from error


def make_plan(
    sources: Sequence[TextSource],
    rules: CaptionRules,
    folder: Path,
    part_rows: int,
    expected: Sequence[Mapping[str, JSON]],
    on_read: Callable[[int], None] = lambda read: None,
) -> RowPlan:
    """Make the plan in `folder`, replacing what is there.

    `expected` are the facts of the sources. Captions of KnownCaptions, which come before the
    sources with facts, are not planned again. `on_read` is called with the number of texts read.
    Raises BlissError for a source without usable text, for one that cannot be read to its end or
    has changed meanwhile (the plan is not finished then), and where the disk cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    known = sum(isinstance(source, KnownCaptions) for source in sources)
    counted = (*COUNTS, UNDECODABLE)
    counts: list[dict[str, int]] = [dict.fromkeys(counted, 0) for _ in sources]
    write_atomically(folder / STAGED, lambda file: _stage(sources, rules, counts, file, on_read))
    if rules.deduplicate:
        write_first_rows(folder / STAGED, folder / FIRSTS)
    parts: list[int] = []
    content = [hashlib.sha256() for _ in PLANNED]
    sources, planned_counts = sources[known:], counts[known:]
    kept = np.zeros(len(sources), np.int64)
    with closed_after(_planned(folder, rules.deduplicate, known)) as batches:
        for table in _cut(batches, part_rows):
            number = len(parts)
            _write_part(folder, number, table)
            _update_digests(content, table)
            kept += np.bincount(table["source"], minlength=len(sources))
            parts.append(len(table))
    for each, rows in zip(planned_counts, kept.tolist(), strict=True):
        each["duplicate"] = each["read"] - rows - sum(each[n] for n in COUNTS[1:-2])
        each["kept"] = rows
    for source, facts in zip(sources, expected, strict=True):
        _check_unchanged(source, facts)
    names = [plan_file(number) for number in range(len(parts))]
    digest = hashlib.sha256(b"".join(column.digest() for column in content)).hexdigest()
    record = {
        "parts": parts,
        "counts": planned_counts,
        "digest": digest,
        "checksums": {name: sha256_of(folder / name) for name in names},
    }
    write_json(folder / RECORD, record)
    for name in (STAGED, FIRSTS):
        (folder / name).unlink(missing_ok=True)
    undecodable = tuple(each.pop(UNDECODABLE) for each in planned_counts)
    return RowPlan(folder, tuple(parts), tuple(planned_counts), undecodable, digest)


def _stage(
    sources: Sequence[TextSource],
    rules: CaptionRules,
    counts: list[dict[str, int]],
    file: IO[bytes],
    on_read: Callable[[int], None],
) -> None:
    """Write every clean caption, numbered through all sources."""
    with pq.ParquetWriter(file, _STAGED, compression="zstd", use_dictionary=False) as writer:
        with closed_after(_clean(sources, rules, counts, on_read)) as batches:
            for table in _cut(batches, ROWS):
                writer.write_table(table)


def _clean(
    sources: Sequence[TextSource],
    rules: CaptionRules,
    counts: list[dict[str, int]],
    on_read: Callable[[int], None],
) -> Iterator[pa.RecordBatch]:
    ordinal = read = 0
    for number, source in enumerate(sources):
        own = rules_for(source, rules)
        count = counts[number]
        with closed_after(source.batches(TEXTS_AT_ONCE)) as batches:
            for some in batches:
                captions, positions = clean_texts(some.texts, own, count)
                count[UNDECODABLE] += some.undecodable
                on_read(read + count["read"])
                if captions:
                    columns = [
                        pa.array(captions, pa.string()),
                        pa.array(np.full(len(captions), number, np.int32)),
                        pa.array(some.rows[positions]),
                        pa.array(np.arange(ordinal, ordinal + len(captions))),
                    ]
                    ordinal += len(captions)
                    yield pa.record_batch(columns, schema=_STAGED)
        if count["read"] == sum(count[name] for name in COUNTS[1:-2]):
            raise no_usable_text(source, rules, count)
        read += count["read"]


def _check_unchanged(source: TextSource, facts: Mapping[str, JSON]) -> None:
    if source.facts() != facts:
        raise BlissError(
            f"{source.spec} changed while it was read",
            "texts that do not change until the index is built",
            "Wait until it is complete, then run the same command again",
        )


def _planned(folder: Path, deduplicate: bool, known: int) -> Iterator[pa.RecordBatch]:
    """The rows to plan, in order, of the sources after the first `known`, renumbered from 0."""
    with closed_after(_kept(folder, deduplicate)) as batches:
        for batch in batches:
            if known:
                batch = batch.filter(pa.array(batch.column(1).to_numpy() >= known))
                source = pa.array((batch.column(1).to_numpy() - known).astype(np.int32))
                batch = pa.record_batch([batch.column(0), source, batch.column(2)], schema=PLANNED)
            yield batch


def _kept(folder: Path, deduplicate: bool) -> Iterator[pa.RecordBatch]:
    """The kept rows in order: the staged ones without later duplicates."""
    batches = file_batches(folder / STAGED, ROWS, PLANNED.names)
    if not deduplicate:
        yield from batches
        return
    with closed_after(batches), closed_after(file_batches(folder / FIRSTS, ROWS)) as more:
        ahead, start = np.empty(0, np.int64), 0
        for batch in batches:
            stop = start + len(batch)
            while not ahead.size or ahead[-1] < stop:
                some = next(more, None)
                if some is None:
                    break
                ahead = np.concatenate([ahead, some.column(0).to_numpy()])
            here = int(np.searchsorted(ahead, stop))
            yield batch.take(pa.array(ahead[:here] - start))
            ahead, start = ahead[here:], stop


def _cut(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows, the last one shorter."""
    waiting: list[pa.RecordBatch] = []
    there = 0
    for batch in batches:
        while there + len(batch) >= rows:
            head = batch.slice(0, rows - there)
            yield pa.Table.from_batches([*waiting, head]).combine_chunks()
            batch, waiting, there = batch.slice(rows - there), [], 0
        if len(batch):
            waiting.append(batch)
            there += len(batch)
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _write_part(folder: Path, number: int, table: pa.Table) -> None:
    write_atomically(
        folder / plan_file(number),
        lambda file: pq.write_table(table, file, row_group_size=ROWS, compression="zstd"),
    )


def _update_digests(content: Sequence[hashlib._Hash], table: pa.Table) -> None:
    """Add rows to the digest of each column; captions hold no newlines, so these separate them."""
    for batch in table.to_batches(ROWS):
        content[0].update("\n".join([*batch.column(0).to_pylist(), ""]).encode())
        for column in (1, 2):
            content[column].update(batch.column(column).to_numpy().astype("<i8").tobytes())


@dataclass(frozen=True)
class KnownCaptions:
    """Captions that an index already holds, as a source: its equals are duplicates.

    They are the `caption` columns of parquet files, clean and never empty.
    """

    files: Sequence[Path]
    spec: str = "the index"
    default_prompt: str = "{}"
    keeps_spaces: bool = True
    licence: str | None = None
    preset: str | None = None

    def facts(self) -> dict[str, JSON]:
        """Nothing: it appears in no manifest."""
        return {}

    def batches(self, size: int) -> Iterator[TextBatch]:
        """Every caption in order, at most `size` at a time; BlissError for an unreadable file."""
        first = 0
        for path in self.files:
            try:
                for batch in file_batches(path, size, ["caption"]):
                    texts = batch.column(0).to_pylist()
                    yield TextBatch(texts, np.arange(first, first + len(texts)))
                    first += len(texts)
            except (OSError, pa.ArrowException) as error:
                raise BlissError(
                    f"{path} could not be read ({error})",
                    "the captions as bliss wrote them",
                    "Run `bliss index verify` on the folder",
                ) from error
