"""`bliss eval`: measure scores on the draws of a protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .option_values import (
    check_repeated_addresses,
    class_words,
    embed_options,
    image_options,
    model_choice,
    no_prompts,
    open_given_index,
    plain_options,
)
from .options import CLIPN, COLLECTION, IMAGES, INDEX_NEEDED, MODEL, SEARCH, WORDS, options, say
from .presets import ENCODER, PRESET, asked_for, with_preset

HOW = ("output", "repeats", "as_json", "device", "workers", "overwrite", "max_failures")
"""Options that say how an evaluation is done, not what it measures."""


def _repeat(context: click.Context, option: click.Parameter, path: str | None) -> dict | None:
    """Take every option that is not given from the evaluation recorded at `path`."""
    if path is None:
        return None
    from ..evaluation.report import read_evaluation

    recorded = read_evaluation(path)
    context.default_map = dict(recorded["asked"])
    context.default_map.pop("allow_torchscript", None)  # no file may say that code is to be run
    if isinstance(context.default_map.get("index"), str):  # before several could be given
        context.default_map["index"] = [context.default_map["index"]]
    return recorded


@click.command("eval")
@click.option(
    "--from",
    "repeats",
    metavar="FILE",
    is_eager=True,
    callback=_repeat,
    help="Repeat the evaluation of an eval.json, and say whether its numbers came out again.",
)
@click.option("--reference", required=True, help="Clean images in class folders, or embeddings.")
@click.option("--test", required=True, help="Images to test, or their embeddings.")
@click.option("--ood", multiple=True, metavar="NAME=FOLDER", help="An outlier set. Repeatable.")
@INDEX_NEEDED
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
@click.option("--head", help="A folder `bliss train oecl` made, for --score oecl.")
@click.option("--draws", type=int, help="Random draws [default: the protocol's]")
@click.option("--seed", type=int, help="Of every random choice [default: the protocol's]")
@click.option("--shots", help="Reference images a class: 1, 2, 4, 8, 16, all.")
@click.option("--contamination", type=float, help="Share of the reference that is anomalous.")
@click.option("--baseline", help="The score that the others are compared with, draw by draw.")
@click.option("--k", default=10, show_default=True, help="Captions retrieved per image.")
@click.option("-o", "--output", default="bliss-eval", show_default=True,
              help="The folder for embeddings and results.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@options(CLIPN, MODEL, SEARCH, WORDS, PRESET, IMAGES, COLLECTION)
def evaluate(
    as_json: bool, max_failures: int | None, repeats: dict[str, Any] | None, **given: Any
) -> None:
    """Measure scores on the draws of a protocol: one table, and eval.json to repeat it."""
    from ..artefacts import MANIFEST, read_json
    from ..audit.classes import class_prompts, prompt_vectors
    from ..audit.models import encoder_for
    from ..audit.report.terminal import progress_lines
    from ..audit.request import check_failures
    from ..evaluation.report import SUMMARY, differences, heading, markdown_table, notes
    from ..evaluation.request import LabelVectors, holds_images, run_eval
    from ..indexer.store.lock import only_run_in
    from ..safe_text import terminal_text
    from ..scorer.scores.registry import SCORES

    asked = {n: v for n, v in given.items() if n not in HOW and asked_for(n)}
    model_asked = given["model"] is not None
    check_repeated_addresses(given)
    images = holds_images([given["reference"], given["test"], *_outliers(given).values()])
    given = with_preset(given, (*(ENCODER if images else ()), "prompt", "k"))
    request, words = _eval_request(given, asked, repeats), class_words(given)
    index = open_given_index(given)
    encoder, no = None, no_prompts(given)
    if model_asked or images:
        encoder = encoder_for(model_choice(given), index, None, say)
    labels = LabelVectors(
        lambda classes: prompt_vectors(classes, words, index, encoder),
        no and (lambda classes: no(class_prompts(classes, words), index.model)),
        no and read_json(Path(given["clipn"]) / MANIFEST),
    )
    with only_run_in(Path(request.output)):
        result, rows, sets = run_eval(request, index, labels, SCORES, encoder, progress_lines())
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        lines = [heading(result, request.protocol), "", *markdown_table(rows).splitlines(), ""]
        for line in [*lines, *notes(result), f"All of it: {Path(request.output) / SUMMARY}"]:
            click.echo(terminal_text(line))
    if repeats is not None:
        from ..artefacts import read_json

        for line in differences(repeats, read_json(Path(request.output) / SUMMARY)):
            say(line)
    for found in sets:
        check_failures(found, max_failures)


def _eval_request(
    given: dict[str, Any], asked: dict[str, Any], repeats: dict[str, Any] | None
) -> Any:
    from dataclasses import replace

    from ..evaluation.protocols import find_protocol, protocol_from
    from ..evaluation.request import EvalRequest, parse_shots

    protocol = None
    if repeats is not None and given["protocol"] == repeats["asked"].get("protocol"):
        protocol = protocol_from(repeats["protocol"], "the evaluation to repeat")
    names = ("draws", "seed", "contamination")
    changes: dict[str, Any] = {name: given[name] for name in names if given[name] is not None}
    if given["shots"] is not None:
        changes["shots"] = parse_shots(given["shots"])
    if given["normal"]:
        changes["among"] = given["normal"]
    return EvalRequest(
        reference=given["reference"],
        test=given["test"],
        outliers=_outliers(given),
        protocol=replace(protocol or find_protocol(given["protocol"]), **changes),
        worded=tuple(class_words(given).labels),
        **{name: given[name] for name in ("scores", "k", "baseline", "output")},
        embed=embed_options(given),
        asked=plain_options(asked),
        head=given["head"],
        image_options=image_options(given),
    )


def _outliers(given: dict[str, Any]) -> dict[str, str]:
    from ..evaluation.request import parse_outliers

    return parse_outliers(given["ood"])
