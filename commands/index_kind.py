"""`bliss index kind`: how an index is searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from .base import OUTPUT, Command, Output, option, say, section

if TYPE_CHECKING:
    from ..indexer import CaptionIndex


@click.command(cls=Command)
@click.argument("folder")
@click.argument("kind")
@section(
    "Search",
    option("--set", "pairs", multiple=True, metavar="NAME=NUMBER", help="A search parameter that "
           "the index stores, such as nprobe=64. Repeatable [default: as before, else by kind]"),
    option("--threads", type=click.IntRange(1), help="Threads to build with [default: FAISS's, "
           "and 1 where there is a graph]"),
)  # fmt: skip
@OUTPUT
def kind(
    *, folder: str, kind: str, pairs: tuple[str, ...], threads: int | None, output: Output
) -> None:
    """Search the index in FOLDER by KIND from now on.

    KIND is exact, auto, or a factory string as FAISS spells it: SQfp16, IVF1024,SQ8, HNSW32,
    IVF1024,RaBitQ4 … Its structure is built from the stored vectors; until it is complete the
    index stays as it is.
    """
    from ..indexer import describe_search, open_index, set_search_kind

    found = _chosen_kind(folder, kind)
    set_search_kind(folder, found, _named_numbers(pairs) or None, threads)
    manifest = open_index(folder).manifest
    output.show(
        {"folder": folder, "search": manifest.get("search")},
        lambda: f"{folder}: {describe_search(manifest)}",
    )


def set_kind(index: CaptionIndex, kind: str | None) -> CaptionIndex:
    """A finished index with `kind` as its search; unchanged for None, or the kind it has."""
    from ..indexer import open_index, set_search_kind

    if kind is None:
        return index
    set_search_kind(index.folder, _chosen_kind(index.folder, kind))
    return open_index(index.folder)


def _chosen_kind(folder: str | Path, kind: str) -> str:
    """The kind to set, after saying why that one, and whether the index is small for it."""
    from ..indexer import chosen_kind, size_note

    found, why = chosen_kind(folder, kind)
    if why:
        say(f"{kind} is {found}: {why}")
    note = size_note(folder, found)
    if note:
        say(note)
    return found


def _named_numbers(pairs: Sequence[str]) -> dict[str, int]:
    """NAME=NUMBER options as a mapping."""
    numbers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value.isascii() and value.isdigit()):
            raise UsageError(f"--set {pair!r} was given", "NAME=NUMBER", "Write --set nprobe=64")
        numbers[name] = int(value)
    return numbers
