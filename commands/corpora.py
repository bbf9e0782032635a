"""`bliss corpora`: the corpora that have a name, and a first look at any."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from .compare_corpora import compare
from .option_values import open_said
from .options import CORPUS, JSON


@click.group()
def corpora() -> None:
    """List, describe, look into and add named corpora."""


@corpora.command("list")
@JSON
def list_presets(as_json: bool) -> None:
    """List the corpora that have a name; give it where a CORPUS is asked for."""
    from ..corpora.registry import presets
    from .text import presets_text

    found = list(presets().values())
    click.echo(json.dumps(list(map(asdict, found)), indent=2) if as_json else presets_text(found))


@corpora.command()
@click.argument("name")
@JSON
def show(name: str, as_json: bool) -> None:
    """Say where the corpus NAME is, how it is read, and its licence."""
    from ..corpora.registry import find_preset
    from .text import preset_text

    found = find_preset(name)
    click.echo(json.dumps(asdict(found), indent=2) if as_json else preset_text(found))


@corpora.command()
@click.argument("corpus")
@click.option("--rows", default=1000, show_default=True, help="Rows to read.")
@JSON
@CORPUS
def peek(corpus: str, rows: int, as_json: bool, **given: Any) -> None:
    """Look at the first rows of CORPUS, a name or anything that can be indexed."""
    from ..corpora.peeking import LENGTH_EDGES
    from ..corpora.peeking import peek as first_look
    from .text import peek_text

    source = open_said(corpus, given)
    found = first_look(source, rows)
    if as_json:
        facts = {"corpus": source.spec, "preset": source.preset, "licence": source.licence}
        content = {**facts, "length_edges": LENGTH_EDGES, **asdict(found)}
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(peek_text(source.preset or source.spec, found))


@corpora.command()
@click.argument("file")
def add(file: str) -> None:
    """Keep the presets of a JSON FILE, so that their names can be used."""
    from ..corpora.registry import add_presets, user_file
    from ..safe_text import terminal_text

    names = add_presets(file)
    click.echo(terminal_text(f"added {', '.join(names)} to {user_file()}"))


corpora.add_command(compare)
