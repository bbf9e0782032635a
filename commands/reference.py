"""`bliss reference`: statistics to score new images with, later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .option_values import class_words, embed_options, image_options, model_choice
from .options import COLLECTION, IMAGES, MODEL, WORDS, options, say
from .presets import ENCODER, PRESET, with_preset


@click.group()
def reference() -> None:
    """Fit reference statistics once, for scoring new images later."""


@reference.command()
@click.argument("images", required=False)
@click.option("--embeddings", help="Precomputed image embeddings instead of IMAGES.")
@click.option("--index", multiple=True, help="An index whose captions hold the label prompts (no "
              "model). Repeatable.")  # fmt: skip
@click.option("-o", "--output", required=True, help="The folder for the fitted reference.")
@click.option("--calibration", default=0.2, show_default=True, help="Share of images held out.")
@options(MODEL, WORDS, PRESET, IMAGES, COLLECTION)
def fit(images: str | None, calibration: float, max_failures: int | None, **given: Any) -> None:
    """Save moments, label prompts and a held-out calibration sample of clean images."""
    from ..audit.fitting import FitRequest, run_fit
    from ..audit.report.terminal import progress_lines
    from ..audit.request import check_failures
    from ..indexer.store.lock import only_run_in
    from ..safe_text import terminal_text

    model_set = () if images is None and given["index"] else ENCODER
    given = with_preset(given, (*model_set, "prompt"))
    request = FitRequest(
        images=images,
        **{name: given[name] for name in ("embeddings", "output")},
        indexes=given["index"],
        image_options=image_options(given),
        model=model_choice(given),
        words=class_words(given),
        calibration_share=calibration,
        embed=embed_options(given),
    )
    with only_run_in(Path(request.output)):
        fitted, found = run_fit(request, progress_lines(), say)
    counts = fitted.moments.counts
    click.echo(
        f"{counts.sum():,} images of {len(counts)} classes, {fitted.calibration_count:,} held out "
        f"for calibration, {len(found.failures):,} unreadable: {terminal_text(given['output'])}"
    )
    check_failures(found, max_failures)
