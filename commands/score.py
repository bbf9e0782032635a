"""`bliss score`: score new images against a fitted reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options as opt
from .base import OUTPUT, Output, command, option, progress_lines, say, section
from .option_types import EngineName

if TYPE_CHECKING:
    from ..indexer import SearchChoice


@command()
@click.argument("images", nargs=-1, required=True)
@section(
    "Reference and captions",
    option("--reference", required=True, metavar="DIR", help="A folder that `bliss reference "
           "fit` made."),
    opt.INDEX_NEEDED,
)  # fmt: skip
@section(
    "Scoring",
    option("--score", "name", default="auto", show_default=True, help="Score that ranks the "
           "images; auto: bliss+ where it can be fitted, else bliss."),
)  # fmt: skip
@opt.SCORING
@opt.SEARCH
@opt.COLLECTION
@opt.FLAGGING
@opt.MODEL
@opt.ENGINE
@opt.SCORE_DECODING
@section("Output", opt.TOP)
@OUTPUT
def score(
    *,
    images: tuple[str, ...],
    reference: str,
    index: tuple[str, ...],
    name: str,
    scoring: opt.ScoringOptions,
    search: SearchChoice | None,
    collection: opt.CollectionOptions,
    flagging: opt.FlaggingOptions,
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    engine: EngineName,
    top: int,
    output: Output,
) -> None:
    """Score new images against a fitted reference, and flag them where it held images out."""
    from ..artefacts import temporary_folder
    from ..audit import (
        AuditQuestion,
        FittedPlus,
        audit_against,
        calibrated_on_itself,
        check_failures,
        check_flagged,
        choose_score,
        decide,
        encoder_for,
        json_summary,
        rescored,
        result_text,
    )
    from ..corpora import open_named
    from ..indexer import embed_images
    from ..scorer import load_reference

    question = AuditQuestion(("stray",), rule=flagging.rule(decoding.limits.flagged))
    chosen = choose_score(question.score_for(name), separate=True, saved=True)
    question.check_score(chosen.name)
    listed = open_named(images, collection.options())
    fitted, captions = load_reference(reference), opt.open_searched(index, search)
    question.check_reference(reference, fitted)
    if question.rule.leave_one_out:
        fitted = calibrated_on_itself(fitted)
    encoder = encoder_for(model.choice(), captions, fitted, say)
    with temporary_folder() as scratch:
        embed = decoding.embedding(engine=opt.ray_engine(engine, model))
        found = embed_images(listed, encoder, scratch / "images", embed, progress_lines(), say)
        for failure in found.failures:
            say(f"{failure.path}: {failure.reason}")
        settings = scoring.settings()
        plus = FittedPlus(chosen, settings.weight)
        result = audit_against(found, captions, fitted, settings, engine=embed.engine, plus=plus)
        result = rescored(result, chosen, settings.weight, plus=plus)
        result = decide(result, question, settings, own=False)
    output.show(json_summary(result, top), lambda: result_text(result, top, "see above"))
    check_failures(found.failures, decoding.limits.unreadable)
    assert result.decision is not None
    check_flagged(result.decision, question.rule.fail_on)
