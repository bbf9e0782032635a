"""Check a finished caption index from end to end: every problem is found, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import MANIFEST, check_checksum, read_manifest
from ..errors import BlissError
from .encode.encoder import Encoder
from .part_checks import part_problems
from .resampling import embedding_problems
from .store.folder import BESIDE, HOW_TO_BUILD, KIND, files_below, part_of
from .store.manifest import count_problems, name_problems, type_problems
from .store.removed import list_name, read_rows, removed_rows
from .structure_reading import how_to_make_again

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
