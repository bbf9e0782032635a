"""`bliss index kind`: how an index is searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .option_values import named_numbers
from .options import say

if TYPE_CHECKING:
    from ..indexer.search.captions import CaptionIndex


@click.command()
@click.argument("folder")
@click.argument("kind")
@click.option("--set", "pairs", multiple=True, metavar="NAME=NUMBER", help="A search parameter "
              "the index keeps, such as nprobe=64. Repeatable [default: as before, else by "
              "kind]")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Threads to build with "
              "[default: FAISS's, and 1 where there is a graph]")  # fmt: skip
def kind(folder: str, kind: str, pairs: tuple[str, ...], threads: int | None) -> None:
    """Search the index in FOLDER by KIND from now on.

    KIND is exact, auto, or a factory string as FAISS spells it: SQfp16, IVF1024,SQ8, HNSW32,
    IVF1024,RaBitQ4 … Its structure is built from the stored vectors; until it is whole the index
    stays as it is.
    """
    from ..indexer.search.dispatch import describe_search
    from ..indexer.search.index import open_index
    from ..indexer.search.install import set_search_kind

    found = _told_kind(folder, kind)
    set_search_kind(folder, found, named_numbers("--set", pairs) or None, threads)
    click.echo(f"{folder}: {describe_search(open_index(folder).manifest)}")


def set_kind(index: CaptionIndex, kind: str | None) -> CaptionIndex:
    """A finished index with `kind` as its search; None, or the kind it has: as it is."""
    from ..indexer.search.index import open_index
    from ..indexer.search.install import set_search_kind

    if kind is None:
        return index
    set_search_kind(index.folder, _told_kind(index.folder, kind))
    return open_index(index.folder)


def _told_kind(folder: str | Path, kind: str) -> str:
    """The kind to set, once it is said why that one and whether the index is small for it."""
    from ..indexer.search.install import chosen_kind, note_of_size

    found, why = chosen_kind(folder, kind)
    if why:
        say(f"{kind} is {found}: {why}")
    note = note_of_size(folder, found)
    if note:
        say(note)
    return found
