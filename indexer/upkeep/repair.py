"""Repair: damaged parts of an index are built again, and used if they come out the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...artefacts import link_file, sha256_of
from ...errors import BlissError
from ..store.folder import checked_names, part_of
from ..store.manifest import IndexFolder

REPAIRING = "repairing"
"""The folder, within the index, in which parts are built again."""


def damaged_parts(folder: Path) -> dict[int, list[str]]:
    """The files of each part that are missing or have changed; BlissError for other files."""
    opened = IndexFolder.open(folder)
    found: dict[int, list[str]] = {}
    for name in checked_names(opened.manifest.content, str(folder)):
        try:
            opened.check(name)
        except BlissError:
            number = part_of(name)
            if number is None:
                raise
            found.setdefault(number, []).append(name)
    return found


def check_planned(folder: Path, damaged: Mapping[int, Sequence[str]], parts: int) -> None:
    """Raise BlissError where a damaged part was added later by `bliss index add`."""
    later = [number for number in damaged if number >= parts]
    if later:
        shutil.rmtree(folder / REPAIRING, ignore_errors=True)
        raise BlissError(
            f"part {later[0]} of {folder}, which was added to the index later, is damaged",
            "parts of the corpora given here",
            "Restore it from a backup, `bliss index pull` it again, or build with --overwrite",
        )


def put_back(folder: Path, damaged: Mapping[int, Sequence[str]]) -> None:
    """Replace damaged files by those that were built again.

    Raises BlissError, and replaces none, unless each has the checksum in the manifest: files are
    reproduced on the machine and with the thread settings that built the index.
    """
    checksums, made = IndexFolder.open(folder).manifest.checksums, folder / REPAIRING
    names = [name for number in sorted(damaged) for name in damaged[number]]
    for name in names:
        if not (made / name).is_file() or sha256_of(made / name) != checksums[name]:
            shutil.rmtree(made, ignore_errors=True)
            raise BlissError(
                f"{name} of {folder} came out different when built again",
                "the machine, library versions and thread settings that made the index",
                "Repair it there, restore it from a backup, or build with --overwrite",
            )
    for name in names:
        link_file(made / name, folder / name)
    shutil.rmtree(made, ignore_errors=True)
