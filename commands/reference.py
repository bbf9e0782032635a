"""`bliss reference`, and what reads one: `bliss score` and `bliss explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from ..errors import BlissError
from ..safe_text import counted, terminal_text
from . import options as opt
from .base import OUTPUT, Command, Output, command, option, progress_lines, say, section
from .option_types import EngineName
from .presets import ENCODER, PRESET, with_preset

if TYPE_CHECKING:
    from ..indexer import SearchChoice


@cloup.group()
def reference() -> None:
    """Fit reference statistics once, for scoring new images later."""


@reference.command(cls=Command)
@click.argument("images", required=False)
@section(
    "Images",
    option("--embeddings", metavar="DIR", help="Precomputed image embeddings instead of IMAGES."),
)  # fmt: skip
@opt.COLLECTION
@section(
    "Images",
    option("--hold-out", default=0.2, show_default=True, metavar="SHARE",
           help="Share of the images held out for calibration."),
)  # fmt: skip
@opt.CLASSES
@section(
    "Classes",
    option("--index", multiple=True, help="An index whose captions hold the label prompts, so "
           "that no model is needed. Repeatable."),
)  # fmt: skip
@opt.NEW_MODEL
@section("Model", PRESET)
@opt.FIT_DECODING
@section(
    "Output",
    option("-o", "--output", "folder", required=True, metavar="DIR", help="The folder for the "
           "fitted reference."),
    opt.OVERWRITE,
)  # fmt: skip
@OUTPUT
def fit(
    *,
    images: str | None,
    embeddings: str | None,
    collection: opt.CollectionOptions,
    hold_out: float,
    classes: opt.ClassOptions,
    index: tuple[str, ...],
    model: opt.ModelOptions,
    preset: str | None,
    decoding: opt.DecodingOptions,
    folder: str,
    overwrite: bool,
    output: Output,
) -> None:
    """Save moments, label prompts and a held-out calibration sample of clean images."""
    from ..artefacts import only_run_in
    from ..audit import FitRequest, check_failures, run_fit

    model_set = () if images is None and index else ENCODER
    model, classes = with_preset(preset, (*model_set, "prompt"), model, classes, index=index)
    request = FitRequest(
        output=folder,
        images=images,
        embeddings=embeddings,
        indexes=index,
        image_options=collection.options(),
        model=model.choice(),
        words=classes.words(),
        calibration_share=hold_out,
        embed=decoding.embedding(overwrite),
        strict=decoding.limits.small_classes,
    )
    with only_run_in(Path(folder)):
        found = run_fit(request, progress_lines(), say)
    if found.before:
        say(f"{folder} was fitted by the same command before: nothing changed")
    fitted = found.reference
    images_used, names = int(fitted.moments.counts.sum()), list(fitted.classes)
    facts = {
        "images": images_used,
        "classes": names,
        "held_out": fitted.calibration_count,
        "set_aside": dict(fitted.set_aside),
        "unreadable": len(found.failures),
        "reference": folder,
    }
    output.show(
        facts,
        f"{counted(images_used, 'image')} of {counted(len(names), 'class', 'classes')}, "
        f"{fitted.calibration_count:,} held out for calibration, {len(found.failures):,} "
        f"unreadable: {terminal_text(folder)}",
    )
    check_failures(found.failures, decoding.limits.unreadable)


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
        audit_by,
        calibrated_on_itself,
        check_failures,
        check_flagged,
        choose_score,
        decide,
        encoder_for,
        json_summary,
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
        result = audit_by(
            chosen, found, captions, fitted, settings, question, own=False, engine=embed.engine
        )
        result = decide(result, question, settings, own=False)
    output.show(json_summary(result, top), lambda: result_text(result, top, "see above"))
    check_failures(found.failures, decoding.limits.unreadable)
    assert result.decision is not None
    check_flagged(result.decision, question.rule.fail_on)


@command()
@click.argument("images", nargs=-1, required=True)
@section(
    "Reference and captions",
    option("--reference", required=True, metavar="DIR", help="A folder that `bliss reference "
           "fit` made, or the folder `reference` of a run."),
    opt.INDEX_NEEDED,
)  # fmt: skip
@section(
    "Explanation",
    option("--class", "class_name", metavar="NAME", help="Class whose score is explained "
           "[default: the one an image is filed under, else the nearest]."),
    option("--part", default="total", show_default=True, metavar="total|label|captions|N",
           help="What the map shows: the whole score, the label prompt's or the captions' part, or "
           "the caption of the N-th strongest pull."),
)  # fmt: skip
@opt.SCORING
@opt.SEARCH
@opt.COLLECTION
@opt.MODEL
@section(
    "Output",
    option("-o", "--output", "folder", metavar="DIR", help="Write each image's map into DIR, as "
           "PNG over the picture and as npz."),
)  # fmt: skip
@OUTPUT
def explain(
    *,
    images: tuple[str, ...],
    reference: str,
    index: tuple[str, ...],
    class_name: str | None,
    part: str,
    scoring: opt.ScoringOptions,
    search: SearchChoice | None,
    collection: opt.CollectionOptions,
    model: opt.ModelOptions,
    folder: str | None,
    output: Output,
) -> None:
    """Print the terms of each image's score and its captions, and map the score over the image."""
    from ..audit import encoder_for, explain, explanation_text, kept_images, save_map
    from ..corpora import open_named
    from ..scorer import load_reference

    listed = open_named(images, collection.options())
    fitted, captions = load_reference(reference), opt.open_searched(index, search)
    encoder = encoder_for(model.choice(), captions, fitted, say)
    kept = kept_images(reference, fitted)
    explained, failures = explain(
        listed.items(lambda row: False),
        fitted,
        captions,
        encoder,
        scoring.settings(),
        class_name=class_name,
        part=part,
        kept=kept,
    )
    if kept.remark():
        say(kept.remark())
    for failure in failures:
        say(f"{terminal_text(failure.path)}: {failure.reason}")
    if not explained:
        raise BlissError(
            f"none of {len(failures)} images could be read", "one image", "Correct IMAGE"
        )
    facts = [each.facts() for each in explained]
    text = explanation_text(explained)
    if folder is not None:
        for number, each in enumerate(explained):
            drawn, numbers = save_map(each, folder, f"{number + 1:04d}")
            facts[number].update(map=str(drawn), numbers=str(numbers))
        text += f"\n\nMaps: {terminal_text(folder)}"
    output.show(facts, text)
