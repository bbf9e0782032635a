"""The search structure that an index's manifest names: what it must say of it, and reading it back.

Its checksum is compared before FAISS sees the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..artefacts import check_checksum
from ..errors import BlissError, UsageError
from .faiss_structures import read_structure, search_structure, takes_selection
from .search.approximate import Structure
from .search_choice import EXACT
from .search_kinds import Kind, check_asked, check_parameters, read_kind

FOLDER = "search"


def open_structure(
    folder: Path, manifest: Mapping[str, Any], parameters: Mapping[str, int] | None = None
) -> Callable[[], Structure]:
    """The structure that a manifest names, checked and read when first asked for.

    Raises BlissError now where the manifest does not say what it must, and later where the file
    is missing or has changed: both say how it is made again.
    """
    kind, search = stored_kind(folder, manifest), manifest["search"]
    assert kind is not None
    check_asked(kind, parameters or {})
    chosen = check_parameters(kind, {**search["parameters"], **(parameters or {})})
    loaded: list[Structure] = []

    def load() -> Structure:
        if not loaded:
            check_structure(folder, manifest)
            remedy = how_to_make_again(folder, kind.name)
            read = read_structure(folder / search["file"], remedy)
            if (read.ntotal, read.d) != (search["rows"], manifest["model"]["dimension"]):
                raise BlissError(
                    f"{folder / search['file']} holds {read.ntotal:,} vectors of {read.d}",
                    f"{search['rows']:,} of {manifest['model']['dimension']}",
                    remedy,
                )
            loaded.append(structure_of(read, kind, chosen))
        return loaded[0]

    return load


def structure_of(read: Any, kind: Kind, parameters: Mapping[str, int]) -> Structure:
    """A structure on the CPU, ready to propose."""
    return Structure(
        rows=read.ntotal,
        parameters=parameters,
        lists=kind.lists,
        most=read.ntotal,
        selects=takes_selection(read),
        propose=partial(search_structure, read),
        held=read,
    )


def stored_kind(folder: Path, manifest: Mapping[str, Any]) -> Kind | None:
    """The kind of search a manifest names, None for exact; BlissError where it says nonsense."""
    search = manifest.get("search", {"kind": EXACT})
    if isinstance(search, dict) and search.get("kind") == EXACT:
        return None
    try:
        kind = read_kind(search["kind"])
        check_parameters(kind, search["parameters"])
        rows, file = search["rows"], search["file"]
        usable = isinstance(rows, int) and 0 < rows <= sum(manifest["parts"])
        usable = usable and isinstance(file, str) and file.startswith(f"{FOLDER}/")
    except (UsageError, KeyError, TypeError, AttributeError):
        usable = False
    if not usable:
        raise BlissError(
            f"the manifest of {folder} does not say how the index is searched",
            "the manifest as bliss wrote it",
            how_to_make_again(folder, EXACT),
        )
    return kind


def check_structure(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise BlissError where a structure's file is missing or its bytes have changed."""
    search = manifest["search"]
    try:
        check_checksum(folder, search["file"], manifest)
    except BlissError as error:
        raise BlissError(
            error.given, error.needed, how_to_make_again(folder, search["kind"])
        ) from error


def how_to_make_again(folder: Path, kind: str) -> str:
    """The command that makes a kind's structure from the vectors."""
    return f"Make it again from the index's vectors with `bliss index kind {folder} {kind}`"
