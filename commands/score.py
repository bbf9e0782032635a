"""`bliss score`: score new images against a fitted reference."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import click

from .options import (
    COLLECTION,
    IMAGES,
    MODEL,
    SCORE,
    SHOW,
    audit_settings,
    embed_options,
    image_options,
    model_choice,
    options,
    say,
)


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--reference", required=True, help="A folder `bliss reference fit` made.")
@click.option("--index", required=True, help="A caption index.")
@options(MODEL, SCORE, IMAGES, COLLECTION, SHOW)
def score(
    images: tuple[str, ...], as_json: bool, top: int, max_failures: int | None, **given: Any
) -> None:
    """Score new images against a fitted reference; with a calibration sample, p-values too."""
    from ..audit.models import encoder_for
    from ..audit.outputs import json_summary
    from ..audit.request import check_failures
    from ..audit.run import audit_against
    from ..audit.terminal import progress_lines, result_text
    from ..corpora.image_opening import open_named
    from ..indexer.caption_index import open_index
    from ..indexer.image_embedding import embed_images
    from ..scorer.reference_file import load_reference

    listed = open_named(images, image_options(given))
    reference, index = load_reference(given["reference"]), open_index(given["index"])
    encoder = encoder_for(model_choice(given), index, reference, say)
    with tempfile.TemporaryDirectory() as folder:
        found = embed_images(listed, encoder, folder, embed_options(given), progress_lines())
    for failure in found.failures:
        say(f"{failure.path}: {failure.reason}")
    result = audit_against(found, index, reference, audit_settings(given))
    if as_json:
        click.echo(json.dumps(json_summary(result, top), indent=2))
    else:
        click.echo(result_text(result, top, "see above"))
    check_failures(found, max_failures)
