"""`bliss eval`: measure scores on the draws of a protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import (
    COLLECTION,
    IMAGES,
    MODEL,
    WORDS,
    class_words,
    embed_options,
    image_options,
    model_choice,
    options,
    say,
)


@click.command("eval")
@click.option("--reference", required=True, help="Clean images in class folders, or embeddings.")
@click.option("--test", required=True, help="Images to test, or their embeddings.")
@click.option("--ood", multiple=True, metavar="NAME=FOLDER", help="An outlier set. Repeatable.")
@click.option("--index", required=True, help="A caption index.")
@click.option(
    "--protocol",
    default="random-6",
    show_default=True,
    help="A shipped protocol's name, random-K, or a JSON file.",
)
@click.option(
    "--score",
    "scores",
    multiple=True,
    metavar="NAME[:PARAMETER=NUMBER,…]",
    help="A score. Repeatable [default: every one]",
)
@click.option("--draws", type=int, help="Random draws [default: the protocol's]")
@click.option("--seed", type=int, help="Of every random choice [default: the protocol's]")
@click.option("--shots", help="Reference images a class: 1, 2, 4, 8, 16, all.")
@click.option("--contamination", type=float, help="Share of the reference that is anomalous.")
@click.option("--baseline", help="The score that the others are compared with, draw by draw.")
@click.option("--k", default=10, show_default=True, help="Captions retrieved per image.")
@click.option("-o", "--output", default="bliss-eval", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@options(MODEL, WORDS, IMAGES, COLLECTION)
def evaluate(as_json: bool, max_failures: int | None, **given: Any) -> None:
    """Measure scores on the draws of a protocol: one table, and eval.json to repeat it."""
    from ..artefacts import only_run_in
    from ..audit.classes import prompt_vectors
    from ..audit.models import encoder_for
    from ..audit.request import check_failures
    from ..audit.safe_text import terminal_text
    from ..audit.terminal import progress_lines
    from ..evaluation.report import heading, markdown_table, notes
    from ..evaluation.request import needs_encoder, run_eval
    from ..indexer.caption_index import open_index
    from ..scorer.scores.registry import SCORES

    request, words, index = _eval_request(given), class_words(given), open_index(given["index"])
    encoder = None
    if given["model"] or needs_encoder(request):
        encoder = encoder_for(model_choice(given), index, None, say)
    with only_run_in(Path(request.output)):
        result, rows, sets = run_eval(
            request,
            index,
            lambda classes: prompt_vectors(classes, words, index, encoder),
            SCORES,
            encoder,
            progress_lines(),
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        lines = [heading(result, request.protocol), "", *markdown_table(rows).splitlines(), ""]
        for line in [*lines, *notes(result), f"All of it: {Path(request.output) / 'eval.json'}"]:
            click.echo(terminal_text(line))
    for found in sets:
        check_failures(found, max_failures)


def _eval_request(given: dict[str, Any]) -> Any:
    from dataclasses import replace

    from ..evaluation.protocols import find_protocol
    from ..evaluation.request import EvalRequest, parse_outliers, parse_shots

    names = ("draws", "seed", "contamination")
    changes: dict[str, Any] = {name: given[name] for name in names if given[name] is not None}
    if given["shots"] is not None:
        changes["shots"] = parse_shots(given["shots"])
    if given["normal"]:
        changes["among"] = given["normal"]
    return EvalRequest(
        reference=given["reference"],
        test=given["test"],
        outliers=parse_outliers(given["ood"]),
        protocol=replace(find_protocol(given["protocol"]), **changes),
        worded=tuple(class_words(given).labels),
        **{name: given[name] for name in ("scores", "k", "baseline", "output")},
        embed=embed_options(given),
        image_options=image_options(given),
    )
