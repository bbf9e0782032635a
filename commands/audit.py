"""`bliss audit`: score every image of a collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .options import (
    COLLECTION,
    CORPUS,
    IMAGES,
    MODEL,
    SCORE,
    SHOW,
    WORDS,
    audit_settings,
    corpus_options,
    embed_options,
    image_options,
    model_choice,
    options,
    plain_options,
    say,
)


@click.command()
@click.argument("images", required=False)
@click.option("--embeddings", help="Precomputed image embeddings instead of IMAGES.")
@click.option(
    "--image-root",
    help="The folder that the paths of --embeddings are relative to [default: theirs]",
)
@click.option("--reference", help="Clean images, their embeddings, or a fitted reference.")
@click.option("--index", help="A caption index.")
@click.option("--corpus", help="A corpus to index [default: imagenet-1k]")
@click.option("--score", default="bliss", show_default=True, help="Score that ranks the images.")
@click.option("-o", "--output", default="bliss-audit", show_default=True)
@options(CORPUS, MODEL, SCORE, WORDS, IMAGES, COLLECTION, SHOW)
def audit(top: int, as_json: bool, max_failures: int | None, **given: Any) -> None:
    """Score every image of a collection, most anomalous first.

    IMAGES is a folder with one folder a class (the collection is then its own reference), or any
    folder of images with --reference or --normal; a csv, tsv or parquet file of paths and labels;
    tar shards; parquet or Arrow files; hf:owner/name or a dataset folder; the address of such.
    """
    from ..artefacts import only_run_in
    from ..audit.outputs import check_output, json_summary, save_audit
    from ..audit.request import AuditRequest, check_failures, run_audit
    from ..audit.safe_text import terminal_text
    from ..audit.terminal import progress_lines, result_text

    if given["image_root"] is not None and given["embeddings"] is None:
        raise UsageError("--image-root was given without --embeddings", "both", "Leave it out")
    request = AuditRequest(
        **{name: given[name] for name in ("images", "embeddings", "reference", "index", "corpus")},
        image_options=image_options(given),
        corpus_options=corpus_options(given),
        output=given["output"],
        model=model_choice(given),
        settings=audit_settings(given),
        embed=embed_options(given),
        score=given["score"],
    )
    asked = {"command": "audit", **plain_options(given)}
    with only_run_in(Path(request.output)):
        if not given["overwrite"]:
            check_output(request.output, asked)
        result = run_audit(request, progress_lines(), say)
        save_audit(result, request.settings, request.output, asked)
    if as_json:
        click.echo(json.dumps(json_summary(result, top), indent=2))
    else:
        click.echo(result_text(result, top))
        click.echo(f"All scores: {terminal_text(str(Path(request.output) / 'scores.parquet'))}")
    check_failures(result.images, max_failures)
