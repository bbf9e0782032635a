"""`bliss train clipn`: a "no" text tower over a frozen model, trained here or published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import TooManyFailures
from .option_values import embed_options, model_choice
from .options import IMAGES, MODEL, options, say


@click.command()
@click.option(
    "--captions",
    required=True,
    metavar="TABLE",
    help="A csv, tsv, jsonl or parquet file of image paths and captions; "
    "or demo, demo:N for N drawn pairs.",
)
@click.option("--images", help="Where its paths start [default: the table's folder]")
@click.option("--column", help="Its caption column [default: the obvious one]")
@click.option("--image-column", help="Its column of paths [default: image, path, … if there]")
@click.option("--steps", type=int, default=1000, show_default=True, help="Batches to train on.")
@click.option("--pairs", type=int, default=256, show_default=True, help="Pairs in each step.")
@click.option("--rate", type=float, default=3e-4, show_default=True, help="Learning rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--minutes", type=float, help="Stop training then.")
@click.option("-o", "--output", required=True, help="The folder for what is made.")
@options(MODEL, IMAGES)
def clipn(max_failures: int | None, **given: Any) -> None:
    """Train CLIPN's "no" text tower on image-caption pairs."""
    from ..audit.report.terminal import progress_lines
    from ..safe_text import terminal_text
    from ..training.clipn import ClipnRequest, run_clipn
    from ..training.clipn_training import TrainingSettings

    names = ("captions", "output", "images", "column", "image_column")
    settings = ("steps", "pairs", "rate", "seed", "minutes")
    request = ClipnRequest(
        **{name: given[name] for name in names},
        model=model_choice(given),
        settings=TrainingSettings(**{name: given[name] for name in settings}),
        embed=embed_options(given),
    )
    made = run_clipn(request, progress_lines(), say)
    facts, counts = made.manifest, made.manifest["counts"]
    losses = facts["losses"]
    click.echo(
        f"{counts['pairs']:,} pairs of {counts['images']:,} images and {counts['captions']:,} "
        f"captions, {counts['failures']:,} images unreadable, {counts['dropped']:,} records empty\n"
        f"best after {facts['steps']:,} of {facts['last_step']:,} steps: losses "
        f"{losses['image_text']:.3f} (image-text) + {losses['text']:.3f} (text), "
        f"{losses['held_out']:.3f} on held-out pairs\n"
        f"CLIPN: {terminal_text(str(Path(given['output'])))}"
    )
    if max_failures is not None and counts["failures"] > max_failures:
        raise TooManyFailures(
            f"{counts['failures']:,} images could not be read",
            f"at most {max_failures:,}, as --max-failures says",
            "Repair or remove them; the CLIPN of the readable ones is whole",
        )


@click.command("clipn-import")
@click.argument("checkpoint")
@click.option("-o", "--output", required=True, help="The folder for what is made.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@MODEL
def clipn_import(checkpoint: str, output: str, overwrite: bool, **given: Any) -> None:
    """Save the "no" tower of a published CLIPN checkpoint for this program."""
    from ..safe_text import terminal_text
    from ..training.clipn import run_import

    run_import(checkpoint, output, model_choice(given), overwrite, say)
    click.echo(f"CLIPN: {terminal_text(output)}")
