"""`bliss audit`: score every image of a collection."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from .option_values import (
    audit_settings,
    corpus_options,
    decision_rule,
    embed_options,
    image_options,
    model_choice,
    no_prompts,
    plain_options,
    ray_engine,
    say_plans,
    search_choice,
)
from .options import (
    CLIPN,
    COLLECTION,
    CORPUS,
    DECIDE,
    ENGINE,
    EXCLUDE,
    IMAGES,
    INDEX,
    MODEL,
    SCORE,
    SEARCH,
    SHOW,
    WORDS,
    options,
    say,
)
from .presets import ENCODER, PRESET, with_preset


@click.command()
@click.argument("images", required=False)
@click.option("--embeddings", help="Precomputed image embeddings instead of IMAGES.")
@click.option(
    "--image-root",
    help="The folder that the paths of --embeddings are relative to [default: theirs]",
)
@click.option("--reference", help="Clean images, their embeddings, or a fitted reference.")
@INDEX
@click.option("--corpus", help="A corpus to index [default: imagenet-1k]")
@click.option("--score", default="bliss", show_default=True, help="Score that ranks the images.")
@click.option("--head", help="A folder `bliss train oecl` made, for --score oecl.")
@click.option(
    "--question",
    default="stray",
    show_default=True,
    help="stray: does it belong to any class? mislabel: to its own?",
)
@click.option("--robust", is_flag=True, help="Refit once without images another class explains.")
@click.option("--calibration", help="Clean images, or their embeddings, for p-values.")
@click.option("-o", "--output", default="bliss-audit", show_default=True,
              help="The folder for scores and report.")  # fmt: skip
@click.option("--no-report", is_flag=True, help="Do not write report.html.")
@click.option(
    "--report-images",
    default=1000,
    show_default=True,
    help="Images shown one by one in report.html.",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Embed only every N-th part of the images, from the I-th on (0 to N - 1), score nothing.",
)
@options(
    CLIPN,
    CORPUS,
    MODEL,
    SCORE,
    SEARCH,
    EXCLUDE,
    WORDS,
    PRESET,
    IMAGES,
    COLLECTION,
    ENGINE,
    DECIDE,
    SHOW,
)
def audit(
    as_json: bool,
    max_failures: int | None,
    no_report: bool,
    report_images: int,
    shard: str | None,
    **given: Any,
) -> None:
    """Score every image of a collection, most anomalous first.

    IMAGES is a folder with one folder a class (the collection is then its own reference), or any
    folder of images with --reference or --normal; a csv, tsv or parquet file of paths and labels;
    tar shards; parquet or Arrow files; hf:owner/name or a dataset folder; the address of such.
    """
    from ..audit.decisions import AuditQuestion, check_flagged
    from ..audit.folder import TOP, check_output, json_summary, save_audit
    from ..audit.report.page import save_report
    from ..audit.report.terminal import progress_lines, result_text
    from ..audit.request import AuditRequest, check_failures, run_audit, run_shard
    from ..indexer.build.shards import parse_shard
    from ..indexer.search.kinds import DEFAULT_SEARCH
    from ..indexer.store.lock import only_run_in
    from ..safe_text import terminal_text

    if given["image_root"] is not None and given["embeddings"] is None:
        raise UsageError("--image-root was given without --embeddings", "both", "Leave it out")
    index_set = () if given["index"] else ("corpus", "keep_duplicates")
    model_set = () if given["index"] and not given["images"] else ENCODER
    given = with_preset(given, (*model_set, *index_set, "prompt", "k", "weight"))
    rule = decision_rule(given)
    top = TOP if given["top"] is None else given["top"]
    search = search_choice(given)
    if search != DEFAULT_SEARCH:
        say_plans(given["index"], search)
    request = AuditRequest(
        **{name: given[name] for name in ("images", "embeddings", "reference", "corpus")},
        indexes=given["index"],
        image_options=image_options(given),
        corpus_options=corpus_options(given),
        search=search,
        output=given["output"],
        model=model_choice(given),
        settings=audit_settings(given),
        embed=replace(embed_options(given), engine=ray_engine(given)),
        score=given["score"],
        keep_duplicates=given.get("keep_duplicates", False),
        head=given["head"],
        question=AuditQuestion(given["question"], given["robust"], given["calibration"], rule),
    )
    asked = {"command": "audit", **plain_options(given)}
    if shard is not None:
        if not given["overwrite"]:
            check_output(request.output, asked)
        for line in run_shard(request, parse_shard(shard), progress_lines(), say):
            click.echo(terminal_text(line))
        click.echo("The same command without --shard embeds what is missing and scores the images")
        return
    with only_run_in(Path(request.output)):
        if not given["overwrite"]:
            check_output(request.output, asked)
        result = run_audit(request, progress_lines(), say, no_prompts(given))
        save_audit(result, request.settings, request.output, asked)
        report = None if no_report else save_report(request.output, images=report_images)
    if as_json:
        click.echo(json.dumps(json_summary(result, top), indent=2))
    else:
        click.echo(result_text(result, top))
        click.echo(f"All scores: {terminal_text(str(Path(request.output) / 'scores.parquet'))}")
        if report is not None:
            click.echo(f"To look at them: {terminal_text(str(report))}")
    check_failures(result.images, max_failures)
    assert result.decision is not None
    check_flagged(result.decision, rule.fail_on)
