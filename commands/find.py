"""`bliss find`: which audited images look like a text or another image."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from ..errors import UsageError
from .option_values import model_choice
from .options import JSON, MODEL, options, say


@click.command()
@click.argument("run")
@click.option("--text", help="Find images of this, worded as a caption.")
@click.option("--like", help="Find images like this one: a path in the run, or a file.")
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="Images to find.")
@JSON
@options(MODEL)
def find(run: str, text: str | None, like: str | None, k: int, as_json: bool, **given: Any) -> None:
    """Find images in an audited collection: what else looks like this?

    RUN is the output folder of `bliss audit`.
    """
    from ..audit.folder import open_run
    from ..audit.models import encoder_of_run
    from ..audit.review.find import find_by_text, find_like, found_text

    if (text is None) == (like is None):
        raise UsageError(
            f"{'neither' if text is None else 'both'} of --text and --like were given",
            "one of them: what to look for",
            'Add --text "…" or --like IMAGE',
        )
    opened = open_run(run)

    def encoder() -> Any:
        return encoder_of_run(model_choice(given), opened.facts["model"], run, say)

    if text is not None:
        found = find_by_text(opened, text, encoder(), k)
    else:
        assert like is not None
        found = find_like(opened, like, encoder, k)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        click.echo(found_text(found))
