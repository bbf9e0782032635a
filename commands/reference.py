"""`bliss reference`: statistics to score new images with, later."""

from __future__ import annotations

from pathlib import Path

import click
import cloup

from . import options as opt
from .base import OUTPUT, Command, Output, option, progress_lines, say, section
from .presets import ENCODER, PRESET, with_preset


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
    from ..safe_text import terminal_text

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
        f"{images_used:,} image{'s' * (images_used != 1)} of {len(names)} "
        f"class{'es' * (len(names) != 1)}, {fitted.calibration_count:,} held out "
        f"for calibration, {len(found.failures):,} unreadable: {terminal_text(folder)}",
    )
    check_failures(found.failures, decoding.limits.unreadable)
