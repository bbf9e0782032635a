"""`bliss score`: score new images against a fitted reference."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import click

from .option_values import (
    audit_settings,
    decision_rule,
    embed_options,
    image_options,
    model_choice,
    open_given_index,
)
from .options import (
    COLLECTION,
    DECIDE,
    EXCLUDE,
    IMAGES,
    INDEX_NEEDED,
    MODEL,
    SCORE,
    SEARCH,
    SHOW,
    options,
    say,
)


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--reference", required=True, help="A folder `bliss reference fit` made.")
@INDEX_NEEDED
@click.option("--score", "name", default="bliss", show_default=True, help="Score that ranks.")
@options(MODEL, SCORE, SEARCH, EXCLUDE, IMAGES, COLLECTION, DECIDE, SHOW)
def score(
    images: tuple[str, ...], name: str, as_json: bool, max_failures: int | None, **given: Any
) -> None:
    """Score new images against a fitted reference; with a calibration sample, flag them too."""
    from ..audit.decisions import AuditQuestion, check_flagged, decide
    from ..audit.folder import TOP, json_summary
    from ..audit.models import encoder_for
    from ..audit.report.terminal import progress_lines, result_text
    from ..audit.request import check_failures
    from ..audit.run import audit_against
    from ..audit.scores import choose_score, rescored
    from ..corpora.images.opening import open_named
    from ..indexer.images.embedding import embed_images
    from ..scorer.reference_file import load_reference

    chosen = choose_score(name, separate=True, saved=True)
    question = AuditQuestion(rule=decision_rule(given))
    question.check_score(chosen.name)
    top = TOP if question.rule.top is None else question.rule.top
    listed = open_named(images, image_options(given))
    reference, index = load_reference(given["reference"]), open_given_index(given)
    question.check_reference(given["reference"], reference)
    encoder = encoder_for(model_choice(given), index, reference, say)
    with tempfile.TemporaryDirectory() as folder:
        embed = embed_options(given)
        found = embed_images(listed, encoder, folder, embed, progress_lines(), say)
    for failure in found.failures:
        say(f"{failure.path}: {failure.reason}")
    settings = audit_settings(given)
    result = audit_against(found, index, reference, settings)
    result = rescored(result, chosen, settings.weight)
    result = decide(result, question, settings, own=False)
    if as_json:
        click.echo(json.dumps(json_summary(result, top), indent=2))
    else:
        click.echo(result_text(result, top, "see above"))
    check_failures(found, max_failures)
    assert result.decision is not None
    check_flagged(result.decision, question.rule.fail_on)
