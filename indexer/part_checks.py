"""Whether the files of one part of a caption index are sound and say the same."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BlissError
from .caption_store import caption_files
from .parts import metadata_file, vector_file
from .vectors.layout import load_vectors
from .vectors.unit_rows import STORED_TOLERANCE, row_lengths

ROWS_AT_ONCE = 16_384
COLUMNS = {"caption": "string", "source_row": "int64", "source": "string", "licence": "string"}


def part_problems(folder: Path, manifest: Mapping[str, Any], number: int) -> Iterator[str]:
    """What is wrong with part `number`, whose files are there as they were written."""
    yield from _vector_problems(folder, manifest, number)
    captions = yield from _stored_captions(folder, manifest["parts"][number], number)
    yield from _metadata_problems(folder, manifest, number, captions)


def _vector_problems(folder: Path, manifest: Mapping[str, Any], number: int) -> Iterator[str]:
    name = vector_file("text", number)
    try:
        array = load_vectors(folder / name)
    except BlissError as error:
        yield error.given
        return
    expected = (manifest["parts"][number], manifest["model"]["dimension"])
    if array.shape != expected or array.dtype != manifest["dtype"]:
        yield (
            f"{name} holds {array.dtype} of shape {array.shape}, "
            f"not {manifest['dtype']} of {expected}"
        )
        return
    for start in range(0, len(array), ROWS_AT_ONCE):
        rows = array[start : start + ROWS_AT_ONCE].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = row_lengths(rows)
        finite = np.isfinite(lengths)
        for wrong, what in (
            (~finite, "holding NaN or infinity"),
            (finite & (np.abs(lengths - 1) > STORED_TOLERANCE), "not of length 1"),
        ):
            found = np.flatnonzero(wrong)
            if found.size:
                yield f"{name} has {found.size:,} rows {what}, the first {start + found[0]:,}"


def _stored_captions(folder: Path, rows: int, number: int) -> Generator[str, None, pa.Array | None]:
    """Yields problems; returns the captions as an Arrow array, or None."""
    texts, starts = caption_files(number)
    try:
        offsets = np.load(folder / starts, allow_pickle=False)
        data = (folder / texts).read_bytes()
    except (OSError, ValueError, EOFError) as error:
        yield f"{starts} could not be read ({error})"
        return None
    sound = offsets.dtype == np.int64 and offsets.shape == (rows + 1,) and offsets[0] == 0
    if not sound or (np.diff(offsets) < 0).any() or offsets[-1] != len(data):
        yield f"{starts} does not cut {texts} into {rows:,} captions"
        return None
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    captions = pa.Array.from_buffers(pa.large_string(), rows, buffers)
    try:
        captions.validate(full=True)
    except pa.ArrowInvalid:
        yield f"{texts} holds bytes that are not UTF-8"
        return None
    return captions


def _metadata_problems(
    folder: Path, manifest: Mapping[str, Any], number: int, captions: pa.Array | None
) -> Iterator[str]:
    name, rows = metadata_file(number), manifest["parts"][number]
    try:
        table = pq.read_table(folder / name)
    except (OSError, ValueError, pa.ArrowException) as error:
        yield f"{name} could not be read ({error})"
        return
    kinds = {field.name: str(field.type).replace("large_", "") for field in table.schema}
    if kinds != COLUMNS:
        yield f"{name} has the columns {kinds}, not {COLUMNS}"
        return
    if len(table) != rows:
        yield f"{name} has {len(table):,} rows for {rows:,} vectors"
        return
    if captions is not None:
        same = table["caption"].cast(pa.large_string()).combine_chunks().equals(captions)
        if not same:
            yield f"{name} and {caption_files(number)[0]} hold different captions"
    names, licences = _expected_sources(manifest, number)
    if table["source"].to_pylist() != names or table["licence"].to_pylist() != licences:
        yield f"{name} names other sources or licences than the manifest"


def _expected_sources(
    manifest: Mapping[str, Any], number: int
) -> tuple[list[str], list[str | None]]:
    """Source and licence of each row of a part, by the manifest."""
    start = sum(manifest["parts"][:number])
    stop = start + manifest["parts"][number]
    names: list[str] = []
    licences: list[str | None] = []
    first = 0
    for source in manifest["sources"]:
        here = max(0, min(stop, first + source["rows"]) - max(start, first))
        names += [source["name"]] * here
        licences += [source["licence"]] * here
        first += source["rows"]
    return names, licences
