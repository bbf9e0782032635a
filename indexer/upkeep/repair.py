"""Damaged parts of a finished index made again from its corpora, if they come out the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...artefacts import check_checksum, link_file, read_manifest, sha256_of
from ...errors import BlissError
from ..store.folder import HOW_TO_BUILD, KIND, checked_names, part_of

REPAIRING = "repairing"
"""Where parts are made again, within the index."""


def damaged_parts(folder: Path) -> dict[int, list[str]]:
    """The files of each part that are missing or have changed; BlissError for other files."""
    manifest = read_manifest(folder, KIND, HOW_TO_BUILD)
    found: dict[int, list[str]] = {}
    for name in checked_names(manifest, str(folder)):
        try:
            check_checksum(folder, name, manifest)
        except BlissError:
            number = part_of(name)
            if number is None:
                raise
            found.setdefault(number, []).append(name)
    return found


def check_planned(folder: Path, damaged: Mapping[int, Sequence[str]], parts: int) -> None:
    """Raise BlissError where a damaged part is not of the request: `bliss index add` made it."""
    later = [number for number in damaged if number >= parts]
    if later:
        shutil.rmtree(folder / REPAIRING, ignore_errors=True)
        raise BlissError(
            f"part {later[0]} of {folder}, which was added to the index later, is damaged",
            "parts of the corpora given here",
            "Restore it from a backup, `bliss index pull` it again, or build with --overwrite",
        )


def put_back(folder: Path, damaged: Mapping[int, Sequence[str]]) -> None:
    """Put the files made again in the place of damaged ones.

    Raises BlissError, and puts back none, unless every one has the checksum of the manifest: they
    come out the same on the machine, and with the thread settings, that made the index.
    """
    manifest, made = read_manifest(folder, KIND, HOW_TO_BUILD), folder / REPAIRING
    names = [name for number in sorted(damaged) for name in damaged[number]]
    for name in names:
        if not (made / name).is_file() or sha256_of(made / name) != manifest["checksums"][name]:
            shutil.rmtree(made, ignore_errors=True)
            raise BlissError(
                f"{name} of {folder} came out differently than it was",
                "the machine, library versions and thread settings that made the index",
                "Repair it there, restore it from a backup, or build with --overwrite",
            )
    for name in names:
        link_file(made / name, folder / name)
    shutil.rmtree(made, ignore_errors=True)
