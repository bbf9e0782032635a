"""Verify a finished caption index from end to end, and report every problem, not only the first.

The manifest, stray files, checksums, vectors, captions and metadata of each part, removed rows, and
on request the embeddings of some captions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...artefacts import MANIFEST, read_array, read_manifest
from ...errors import BlissError
from ...safe_text import counted
from ...tables import read_table
from ..encode.encoder import Encoder, encode_prompts
from ..search.structures import how_to_make_again
from ..vectors.layout import caption_files, metadata_file, vector_file
from ..vectors.rows import load_vectors
from ..vectors.unit_rows import STORED_TOLERANCE, row_lengths
from .manifest import (
    HOW_TO_BUILD,
    KIND,
    UNLISTED,
    IndexFolder,
    IndexManifest,
    count_problems,
    files_below,
    name_problems,
    part_of,
    type_problems,
)
from .stored_rows import list_name, read_rows, removed_rows

Progress = Callable[[str, int, int], None]
RESTORE = "Restore it from a backup, `bliss index pull` it again, or build the index again"


@dataclass(frozen=True)
class Problem:
    """A problem, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """One check: its name, what was examined, and the problems."""

    name: str
    looked_at: str
    problems: tuple[Problem, ...] = ()


def verify_index(
    path: Path, sample: int, encoder: Callable[[], Encoder], progress: Progress
) -> Iterator[Check]:
    """Yield each check as it is done; `sample` captions are embedded again, unless it is 0.

    Nothing is changed. A check is skipped where an earlier one found what it depends on damaged.
    Does not raise for a damaged index; exceptions of `encoder` are passed on.
    """
    try:
        content = read_manifest(path, KIND, HOW_TO_BUILD)
    except BlissError as error:
        yield Check("manifest", MANIFEST, (Problem(f"{error.given}", error.remedy),))
        return
    unsound = type_problems(content)
    wrong = unsound or [*count_problems(content), *name_problems(content)]
    listed = f"{counted(len(content['checksums']), 'file')} listed"
    yield _check_of("manifest", listed, wrong, _OF_MANIFEST)
    if unsound:
        return
    folder = IndexFolder(path, IndexManifest.from_json(content, str(path)))
    manifest = folder.manifest
    yield _stray_files(folder)
    damaged, check = _checksums(folder, progress)
    yield check
    if wrong:
        return
    whole = [
        number
        for number, rows in enumerate(manifest.parts)
        if rows and number not in {part_of(name) for name in damaged}
    ]
    found, rows = [], 0
    for number in whole:
        progress("parts checked", number, len(manifest.parts))
        found += [Problem(what, RESTORE) for what in part_problems(folder, number)]
        rows += manifest.parts[number]
    progress("parts checked", len(manifest.parts), len(manifest.parts))
    yield Check(
        "vectors and captions",
        f"{counted(rows, 'row')} of {counted(len(whole), 'part')}",
        tuple(found),
    )
    if manifest.removed is not None or any(name.startswith("removed") for name in damaged):
        yield _removals(folder)
    if sample and not found:
        wrong = embedding_problems(folder, whole, sample, encoder())
        again = "Build the index again, with the model and prompts it names"
        yield _check_of("embeddings", f"{counted(sample, 'caption')} embedded again", wrong, again)


_UNFINISHED = {
    "adding/": "bliss index add",
    "repairing/": "bliss index build --repair",
}
_OF_MANIFEST = "Restore manifest.json from a backup or `bliss index pull` the index again"


def check_whole(folder: Path, progress: Progress) -> None:
    """Raise BlissError where any check but that of the embeddings finds a problem."""

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


def _check_of(name: str, looked_at: str, wrong: list[str], remedy: str) -> Check:
    return Check(name, looked_at, tuple(Problem(what, remedy) for what in wrong))


def _stray_files(folder: IndexFolder) -> Check:
    """Files that are not in the manifest, and links that lead out of the folder."""
    problems, there = [], files_below(folder.path)
    inside = folder.path.resolve()
    for name in there:
        path = folder.path / name
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            problems.append(Problem(f"{name} is a link out of the folder", "Put the file there"))
        elif name.startswith(tuple(_UNFINISHED)):
            continue
        elif name not in folder.manifest.checksums and name not in UNLISTED:
            unfinished = any(each.endswith(".tmp") for each in name.split("/"))
            why = "left by an interrupted write" if unfinished else "not of the index"
            problems.append(Problem(f"{name} is {why}", "Delete it, or move it elsewhere"))
    for start, command in _UNFINISHED.items():
        if any(name.startswith(start) for name in there):
            again = f"Run the same command again, or delete {start}"
            problems.append(Problem(f"{start} is left by an interrupted `{command}`", again))
    return Check("files", f"{len(there)} there", tuple(problems))


def _checksums(folder: IndexFolder, progress: Progress) -> tuple[set[str], Check]:
    """The listed files that are missing or have changed, and the check."""
    problems, damaged, size = [], set(), 0
    names = sorted(folder.manifest.checksums)
    for number, name in enumerate(names):
        progress("checksums compared", number, len(names))
        try:
            folder.check(name)
            size += (folder.path / name).stat().st_size
        except BlissError as error:
            damaged.add(name)
            problems.append(Problem(error.given, _repair(folder, name)))
    progress("checksums compared", len(names), len(names))
    looked_at = f"{counted(len(names), 'file')}, {size / 1e6:,.1f} MB"
    return damaged, Check("checksums", looked_at, tuple(problems))


def _repair(folder: IndexFolder, name: str) -> str:
    """What to do for one damaged file."""
    if name.startswith("search/"):
        return how_to_make_again(folder.path, folder.manifest.search["kind"])
    if name.startswith("removed"):
        return "Restore it from a backup or `bliss index pull` the index again"
    number = part_of(name)
    additions = folder.manifest.content.get("additions") or []
    built = additions[0]["first_part"] if additions else len(folder.manifest.parts)
    if number is not None and number < built:
        return f"Run the same `bliss index build` with --repair: it makes part {number} again"
    return RESTORE


def _removals(folder: IndexFolder) -> Check:
    """The list of removed rows, and that each earlier list is part of the next."""
    problems: list[Problem] = []
    count = folder.manifest.stored_count
    earlier = np.zeros(0, np.int64)
    try:
        rows = removed_rows(folder)
        assert rows is not None and folder.manifest.removed is not None
        log = folder.manifest.removed["log"]
        for number, entry in enumerate(log):
            name = list_name(number + 1)
            folder.check(name)
            after = read_rows(folder.path / name, count)
            if not np.isin(earlier, after).all() or len(after) - len(earlier) != entry["rows"]:
                problems.append(
                    Problem(f"{name} does not add {counted(entry['rows'], 'row')}", RESTORE)
                )
            earlier = after
        looked_at = f"{counted(len(rows), 'row')} removed, in {counted(len(log), 'step')}"
    except BlissError as error:
        return Check("removed", "", (Problem(error.given, error.remedy),))
    return Check("removed", looked_at, tuple(problems))


ROWS_AT_ONCE = 16_384
COLUMNS = {"caption": "string", "source_row": "int64", "source": "string", "licence": "string"}


def part_problems(folder: IndexFolder, number: int) -> Iterator[str]:
    """The problems of part `number`, whose files match their checksums."""
    yield from _vector_problems(folder, number)
    captions = yield from _stored_captions(folder, folder.manifest.parts[number], number)
    yield from _metadata_problems(folder, number, captions)


def _vector_problems(folder: IndexFolder, number: int) -> Iterator[str]:
    name = vector_file("text", number)
    try:
        array = load_vectors(folder.path / name)
    except BlissError as error:
        yield error.given
        return
    expected = (folder.manifest.parts[number], folder.manifest.dimension)
    if array.shape != expected or array.dtype != folder.manifest.dtype:
        yield (
            f"{name} holds {array.dtype} of shape {array.shape}, "
            f"not {folder.manifest.dtype} of {expected}"
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
                first = f"{start + found[0]:,}"
                yield f"{name} has {counted(found.size, 'row')} {what}, the first {first}"


def _stored_captions(
    folder: IndexFolder, rows: int, number: int
) -> Generator[str, None, pa.Array | None]:
    """Yields problems; returns the captions as an Arrow array, or None."""
    texts, starts = caption_files(number)
    try:
        offsets = read_array(folder.path / starts)
        data = (folder.path / texts).read_bytes()
    except (OSError, BlissError) as error:
        yield f"{starts} could not be read ({error})"
        return None
    sound = offsets.dtype == np.int64 and offsets.shape == (rows + 1,) and offsets[0] == 0
    if not sound or (offsets[1:] < offsets[:-1]).any() or offsets[-1] != len(data):
        yield f"{starts} does not cut {texts} into {counted(rows, 'caption')}"
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
    folder: IndexFolder, number: int, captions: pa.Array | None
) -> Iterator[str]:
    name, rows = metadata_file(number), folder.manifest.parts[number]
    try:
        table = read_table(folder.path / name)
    except (OSError, ValueError, pa.ArrowException) as error:
        yield f"{name} could not be read ({error})"
        return
    kinds = {field.name: str(field.type).replace("large_", "") for field in table.schema}
    if kinds != COLUMNS:
        yield f"{name} has the columns {kinds}, not {COLUMNS}"
        return
    if len(table) != rows:
        yield f"{name} has {counted(len(table), 'row')} for {counted(rows, 'vector')}"
        return
    if captions is not None:
        same = table["caption"].cast(pa.large_string()).combine_chunks().equals(captions)
        if not same:
            yield f"{name} and {caption_files(number)[0]} hold different captions"
    names, licences = _expected_sources(folder.manifest, number)
    if table["source"].to_pylist() != names or table["licence"].to_pylist() != licences:
        yield f"{name} names other sources or licences than the manifest"


def _expected_sources(manifest: IndexManifest, number: int) -> tuple[list[str], list[str | None]]:
    """Source and licence of each row of a part, by the manifest."""
    start = sum(manifest.parts[:number])
    stop = start + manifest.parts[number]
    names: list[str] = []
    licences: list[str | None] = []
    first = 0
    for source in manifest.sources:
        here = max(0, min(stop, first + source.rows) - max(start, first))
        names += [source.name] * here
        licences += [source.licence] * here
        first += source.rows
    return names, licences


SAME = 0.999
"""Least cosine between a caption's stored and new embedding."""


def embedding_problems(
    folder: IndexFolder, parts: Sequence[int], count: int, encoder: Encoder
) -> list[str]:
    """What is wrong with `count` captions spread evenly over the rows of `parts`.

    Each is embedded in the prompts of its source.
    """
    wanted = _spread(folder.manifest.parts, parts, count)
    found: list[str] = []
    ends = np.cumsum([source.rows for source in folder.manifest.sources])
    first_rows = np.cumsum([0, *folder.manifest.parts])
    for number, rows in wanted.items():
        column = read_table(folder.path / metadata_file(number), ["caption"])["caption"]
        captions = column.take(rows).to_pylist()
        stored = load_vectors(folder.path / vector_file("text", number))[rows].astype(np.float64)
        source = np.searchsorted(ends, first_rows[number] + rows, side="right")
        for each in np.unique(source):
            here = np.flatnonzero(source == each)
            prompts = folder.manifest.sources[each].prompts or ("{}",)
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
