"""`bliss corpora`: the corpora that have a name, and a first look at any."""

from __future__ import annotations

from dataclasses import asdict

import click
import cloup

from .base import OUTPUT, Command, Output, section
from .compare_corpora import compare
from .options import CORPUS, CorpusReading, option


@cloup.group()
def corpora() -> None:
    """List, describe, look into and add named corpora."""


@corpora.command("list", cls=Command)
@OUTPUT
def list_presets(*, output: Output) -> None:
    """List the corpora that have a name, which can be given wherever CORPUS is needed."""
    from ..corpora import presets
    from .text import presets_text

    found = list(presets().values())
    output.show([asdict(each) for each in found], lambda: presets_text(found))


@corpora.command(cls=Command)
@click.argument("name")
@OUTPUT
def show(*, name: str, output: Output) -> None:
    """Show where the corpus NAME is, how it is read, and its licence."""
    from ..corpora import find_preset
    from .text import preset_text

    found = find_preset(name)
    output.show(asdict(found), lambda: preset_text(found))


@corpora.command(cls=Command)
@click.argument("corpus")
@CORPUS
@section("Output", option("--rows", default=1000, show_default=True, help="Rows to read."))
@OUTPUT
def peek(*, corpus: str, reading: CorpusReading, rows: int, output: Output) -> None:
    """Look at the first rows of CORPUS, a name or anything that can be indexed."""
    from ..corpora import LENGTH_EDGES
    from ..corpora import peek as first_look
    from .text import peek_text

    source = reading.open(corpus)
    found = first_look(source, rows)
    facts = {"corpus": source.spec, "preset": source.preset, "licence": source.licence}
    output.show(
        {**facts, "length_edges": LENGTH_EDGES, **asdict(found)},
        lambda: peek_text(source.preset or source.spec, found),
    )


@corpora.command(cls=Command)
@click.argument("file")
@OUTPUT
def add(*, file: str, output: Output) -> None:
    """Add the presets of a JSON FILE to your own, so that their names can be used."""
    from ..corpora import add_presets, user_file
    from ..safe_text import terminal_text

    names = add_presets(file)
    output.show(
        {"added": names, "file": str(user_file())},
        terminal_text(f"added {', '.join(names)} to {user_file()}"),
    )


corpora.add_command(compare)
