"""Check a finished caption index from end to end: every problem is found, not only the first.

Whether the files of one part of a caption index are sound and say the same.

Embed some captions of an index again and compare them with what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...artefacts import MANIFEST, check_checksum, read_manifest
from ...errors import BlissError
from ...tables import read_table
from ..encode.encoder import Encoder, encode_prompts
from ..search.structures import how_to_make_again
from ..store.folder import BESIDE, HOW_TO_BUILD, KIND, files_below, part_of
from ..store.manifest import count_problems, name_problems, type_problems
from ..store.parts import caption_files, metadata_file, vector_file
from ..store.removed import list_name, read_rows, removed_rows
from ..vectors.rows import load_vectors
from ..vectors.unit_rows import STORED_TOLERANCE, row_lengths

Progress = Callable[[str, int, int], None]
RESTORE = "Restore it from a backup, `bliss index pull` it again, or build the index again"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """One check: its name, what was looked at, and what is wrong."""

    name: str
    looked_at: str
    problems: tuple[Problem, ...] = ()


def verify_index(
    folder: Path, sample: int, encoder: Callable[[], Encoder], progress: Progress
) -> Iterator[Check]:
    """Every check in turn, as it is done; `sample` captions are embedded again, if not 0.

    Nothing is changed. What a check needs but an earlier one found wrong is not looked at again.
    Raises nothing for a damaged index; what `encoder` raises is passed on.
    """
    try:
        manifest = read_manifest(folder, KIND, HOW_TO_BUILD)
    except BlissError as error:
        yield Check("manifest", MANIFEST, (Problem(f"{error.given}", error.remedy),))
        return
    wrong = type_problems(manifest)
    if not wrong:
        wrong = [*count_problems(manifest), *name_problems(manifest)]
    usable = not wrong
    yield _told("manifest", f"{len(manifest['checksums'])} files listed", wrong, _OF_MANIFEST)
    if not usable and type_problems(manifest):
        return
    yield _stray_files(folder, manifest)
    damaged, check = _checksums(folder, manifest, progress)
    yield check
    if not usable:
        return
    whole = [
        number
        for number, rows in enumerate(manifest["parts"])
        if rows and number not in {part_of(name) for name in damaged}
    ]
    found, rows = [], 0
    for number in whole:
        progress("parts checked", number, len(manifest["parts"]))
        found += [Problem(what, RESTORE) for what in part_problems(folder, manifest, number)]
        rows += manifest["parts"][number]
    progress("parts checked", len(manifest["parts"]), len(manifest["parts"]))
    yield Check("vectors and captions", f"{rows:,} rows of {len(whole)} parts", tuple(found))
    if manifest["removed"] is not None or any(name.startswith("removed") for name in damaged):
        yield _removals(folder, manifest)
    if sample and not found:
        wrong = embedding_problems(folder, manifest, whole, sample, encoder())
        again = "Build the index again, with the model and prompts it names"
        yield _told("embeddings", f"{sample} captions embedded again", wrong, again)


_UNFINISHED = {
    "adding/": "bliss index add",
    "repairing/": "bliss index build --repair",
}
_OF_MANIFEST = "Restore manifest.json from a backup or `bliss index pull` the index again"


def check_whole(folder: Path, progress: Progress) -> None:
    """Raise BlissError unless every check but that of the embeddings finds an index sound."""

    def no_encoder() -> Encoder:
        raise AssertionError("nothing is embedded")

    checks = verify_index(folder, 0, no_encoder, progress)
    problems = [problem.what for check in checks for problem in check.problems]
    if problems:
        more = f" and {len(problems) - 1:,} more problems" if problems[1:] else ""
        raise BlissError(
            f"{folder} is not whole: {problems[0]}{more}",
            "an index as bliss wrote it",
            "`bliss index verify` says what to do about each",
        )


def _told(name: str, looked_at: str, wrong: list[str], remedy: str) -> Check:
    return Check(name, looked_at, tuple(Problem(what, remedy) for what in wrong))


def _stray_files(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """Files the manifest does not know, and links that lead out of the folder."""
    problems, there = [], files_below(folder)
    inside = folder.resolve()
    for name in there:
        path = folder / name
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            problems.append(Problem(f"{name} is a link out of the folder", "Put the file there"))
        elif name.startswith(tuple(_UNFINISHED)):
            continue
        elif name not in manifest["checksums"] and name not in BESIDE:
            why = "left by an interrupted write" if name.endswith(".tmp") else "not of the index"
            problems.append(Problem(f"{name} is {why}", "Delete it, or move it elsewhere"))
    for start, command in _UNFINISHED.items():
        if any(name.startswith(start) for name in there):
            again = f"Run the same command again, or delete {start}"
            problems.append(Problem(f"{start} is left by an interrupted `{command}`", again))
    return Check("files", f"{len(there)} there", tuple(problems))


def _checksums(
    folder: Path, manifest: Mapping[str, Any], progress: Progress
) -> tuple[set[str], Check]:
    """Which listed files are missing or changed, and the check that says so."""
    problems, damaged, size = [], set(), 0
    names = sorted(manifest["checksums"])
    for number, name in enumerate(names):
        progress("checksums compared", number, len(names))
        try:
            check_checksum(folder, name, manifest)
            size += (folder / name).stat().st_size
        except BlissError as error:
            damaged.add(name)
            problems.append(Problem(error.given, _repair(folder, manifest, name)))
    progress("checksums compared", len(names), len(names))
    looked_at = f"{len(names)} files, {size / 1e6:,.1f} MB"
    return damaged, Check("checksums", looked_at, tuple(problems))


def _repair(folder: Path, manifest: Mapping[str, Any], name: str) -> str:
    """What to do for one damaged file."""
    if name.startswith("search/"):
        return how_to_make_again(folder, manifest["search"]["kind"])
    if name.startswith("removed"):
        return "Restore it from a backup or `bliss index pull` the index again"
    number = part_of(name)
    additions = manifest.get("additions") or []
    built = additions[0]["first_part"] if additions else len(manifest["parts"])
    if number is not None and number < built:
        return f"Run the same `bliss index build` with --repair: it makes part {number} again"
    return RESTORE


def _removals(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """The list of removed rows, and that each earlier list is part of the next."""
    problems: list[Problem] = []
    count = sum(manifest["parts"])
    earlier = np.zeros(0, np.int64)
    try:
        rows = removed_rows(folder, manifest, count)
        assert rows is not None
        for number, entry in enumerate(manifest["removed"]["log"]):
            name = list_name(number + 1)
            check_checksum(folder, name, manifest)
            after = read_rows(folder / name, count)
            if not np.isin(earlier, after).all() or len(after) - len(earlier) != entry["rows"]:
                problems.append(Problem(f"{name} does not add {entry['rows']:,} rows", RESTORE))
            earlier = after
        looked_at = f"{len(rows):,} rows removed, in {len(manifest['removed']['log'])} steps"
    except BlissError as error:
        return Check("removed", "", (Problem(error.given, error.remedy),))
    return Check("removed", looked_at, tuple(problems))


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
        table = read_table(folder / name)
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


SAME = 0.999
"""Least cosine between a caption's stored and new embedding."""


def embedding_problems(
    folder: Path, manifest: Mapping[str, Any], parts: Sequence[int], count: int, encoder: Encoder
) -> list[str]:
    """What is wrong with `count` captions spread evenly over the rows of `parts`.

    Each is embedded in the prompts of its source.
    """
    wanted = _spread(manifest["parts"], parts, count)
    found: list[str] = []
    ends = np.cumsum([source["rows"] for source in manifest["sources"]])
    first_rows = np.cumsum([0, *manifest["parts"]])
    for number, rows in wanted.items():
        column = read_table(folder / metadata_file(number), ["caption"])["caption"]
        captions = column.take(rows).to_pylist()
        stored = load_vectors(folder / vector_file("text", number))[rows].astype(np.float64)
        source = np.searchsorted(ends, first_rows[number] + rows, side="right")
        for each in np.unique(source):
            here = np.flatnonzero(source == each)
            prompts = manifest["sources"][each]["prompts"] or ["{}"]
            new = encode_prompts(encoder, [captions[i] for i in here], prompts)
            cosine = (stored[here] * new).sum(axis=1) / row_lengths(stored[here])
            found += [
                f"row {first_rows[number] + rows[here[i]]} has a cosine of {cosine[i]:.4f} with "
                f"its caption embedded again, below {SAME}"
                for i in np.flatnonzero(~(cosine >= SAME))
            ]
    return found


def _spread(sizes: Sequence[int], parts: Sequence[int], count: int) -> dict[int, np.ndarray]:
    """For each part, which of its rows are looked at."""
    total = sum(sizes[number] for number in parts)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
    found, first = {}, 0
    for number in parts:
        here = chosen[(chosen >= first) & (chosen < first + sizes[number])] - first
        if here.size:
            found[number] = here
        first += sizes[number]
    return found
