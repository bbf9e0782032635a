"""`bliss train clipn`: a "no" text tower over a frozen model, trained here or published."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import click

from ..errors import TooManyFailures
from . import options as opt
from .base import OUTPUT, Command, Output, grouped, option, progress_lines, say, section


@dataclass(frozen=True)
class TrainingOptions:
    """How the tower is trained."""

    steps: int
    pairs: int
    rate: float
    seed: int
    minutes: float | None


TRAINING = grouped(
    "training",
    TrainingOptions,
    section(
        "Training",
        option("--steps", type=int, default=1000, show_default=True, help="Batches to train on."),
        option("--pairs", type=int, default=256, show_default=True, help="Pairs per batch."),
        option("--rate", type=float, default=3e-4, show_default=True, help="Learning rate."),
        option("--seed", type=int, default=0, show_default=True, help="Seed of everything "
               "random."),
        option("--minutes", type=float, help="Stop training after so many."),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class PairOptions:
    """Where the image-caption pairs are."""

    captions: str
    images: str | None
    column: str | None
    image_column: str | None


PAIRS = grouped(
    "table",
    PairOptions,
    section(
        "Pairs",
        option("--captions", required=True, metavar="TABLE", help="A csv, tsv, jsonl or parquet "
               "file of image paths and captions; or demo, demo:N for N drawn pairs."),
        option("--image-root", "images", metavar="DIR", help="The folder that its paths are "
               "relative to [default: the table's folder]"),
        option("--column", help="Its caption column [default: the obvious one]"),
        option("--image-column", metavar="NAME", help="Its column of paths [default: image, "
               "path, … if there]"),
    ),
)  # fmt: skip


@click.command(cls=Command)
@PAIRS
@TRAINING
@opt.NEW_MODEL
@opt.DECODING
@section(
    "Output",
    option("-o", "--output", "folder", required=True, metavar="DIR", help="The folder for the "
           "trained tower."),
    opt.OVERWRITE,
)  # fmt: skip
@OUTPUT
def clipn(
    *,
    table: PairOptions,
    training: TrainingOptions,
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    folder: str,
    overwrite: bool,
    output: Output,
) -> None:
    """Train CLIPN's "no" text tower on image-caption pairs."""
    from ..safe_text import terminal_text
    from ..training import ClipnRequest, TrainingSettings, run_clipn

    request = ClipnRequest(
        **asdict(table),
        output=folder,
        model=model.choice(),
        settings=TrainingSettings(**asdict(training)),
        embed=decoding.embedding(overwrite),
    )
    facts = run_clipn(request, progress_lines(), say).manifest
    counts, losses = facts["counts"], facts["losses"]
    output.show(
        facts,
        f"{counts['pairs']:,} pairs of {counts['images']:,} images and {counts['captions']:,} "
        f"captions, {counts['failures']:,} images unreadable, {counts['dropped']:,} records empty\n"
        f"best after {facts['steps']:,} of {facts['last_step']:,} steps: losses "
        f"{losses['image_text']:.3f} (image-text) + {losses['text']:.3f} (text), "
        f"{losses['held_out']:.3f} on held-out pairs\n"
        f"CLIPN: {terminal_text(folder)}",
    )
    most = decoding.max_failures
    if most is not None and counts["failures"] > most:
        raise TooManyFailures(
            f"{counts['failures']:,} images could not be read",
            f"at most {most:,}, as --max-failures says",
            "Repair or remove them; the CLIPN trained on the readable ones is complete",
        )


@click.command("clipn-import", cls=Command)
@click.argument("checkpoint")
@opt.NEW_MODEL
@section(
    "Output",
    option("-o", "--output", "folder", required=True, metavar="DIR", help="The folder for the "
           "converted tower."),
    opt.OVERWRITE,
)  # fmt: skip
@OUTPUT
def clipn_import(
    *, checkpoint: str, model: opt.ModelOptions, folder: str, overwrite: bool, output: Output
) -> None:
    """Convert the "no" tower of a published CLIPN checkpoint for use here."""
    from ..safe_text import terminal_text
    from ..training import run_import

    run_import(checkpoint, folder, model.choice(), overwrite, say)
    output.show({"clipn": folder}, f"CLIPN: {terminal_text(folder)}")
