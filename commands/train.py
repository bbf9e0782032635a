"""`bliss train`: train what some scores need, over a frozen model: `clipn` and `oecl`."""

from __future__ import annotations

from typing import Any

import click
import cloup

from ..safe_text import counted, terminal_text
from . import options as opt
from .base import OUTPUT, Command, Output, grouped, only_one, option, progress_lines, say, section
from .option_types import SEED

OECL_TRAINING = grouped(
    "training",
    dict,
    section(
        "Training",
        option("--alpha", default=1.0, show_default=True, help="α, the weight of the outliers' "
               "length."),
        option("--floor", default=1.0, show_default=True, help="Length that normals keep; 0: as "
               "published."),
        option("--epochs", default=200, show_default=True, help="Passes over the images."),
        option("--minutes", type=float, help="Stop training after so many."),
        option("--seed", type=SEED, default=0, show_default=True, help="Seed of views, split and "
               "training."),
    ),
)  # fmt: skip


@click.command(cls=Command)
@click.argument("normals")
@section(
    "Images",
    option("--outliers", metavar="DIR", help="Outlier images, or their embeddings."),
    option("--self", "turned", is_flag=True, help="Use NORMALS rotated by 180° and 270° as "
           "outliers."),
    option("--views", default=1, show_default=True, help="Cached views of each image file."),
)  # fmt: skip
@OECL_TRAINING
@opt.NEW_MODEL
@opt.DECODING
@section(
    "Output",
    option("-o", "--output", "folder", default="bliss-oecl", show_default=True, metavar="DIR",
           help="The folder for the trained head."),
    opt.OVERWRITE,
)  # fmt: skip
@OUTPUT
def oecl(
    *,
    normals: str,
    outliers: str | None,
    turned: bool,
    views: int,
    training: dict[str, Any],
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    folder: str,
    overwrite: bool,
    output: Output,
) -> None:
    """Train OECL on NORMALS, a folder of images or of their embeddings, against outliers.

    Two baselines are fitted beside it, and all are measured on images held out of training.
    """
    from ..audit import check_failures, encoder_for
    from ..training import OeclRequest, OeclSettings, needs_encoder, result_lines, run_oecl

    only_one(
        "what to train against",
        "Add --outliers DIR, or --self for rotated copies of NORMALS",
        outliers=outliers,
        self=turned,
    )
    request = OeclRequest(
        normals=normals,
        outliers=outliers,
        output=folder,
        views=views,
        settings=OeclSettings(**training),
        embed=decoding.embedding(overwrite),
    )
    encoder = None
    if model.model or needs_encoder(request):
        encoder = encoder_for(model.choice(), None, None, say)
    result = run_oecl(request, encoder, progress_lines())
    facts = {
        "images": result.counts,
        "auroc": result.auroc,
        "verdict": result.verdict,
        "head": folder,
    }
    output.show(
        facts, lambda: "\n".join(terminal_text(line) for line in result_lines(result, folder))
    )
    check_failures(result.failures, decoding.limits.unreadable)


CLIPN_TRAINING = grouped(
    "training",
    dict,
    section(
        "Training",
        option("--steps", type=int, default=1000, show_default=True, help="Batches to train on."),
        option("--pairs", type=int, default=256, show_default=True, help="Pairs per batch."),
        option("--rate", type=float, default=3e-4, show_default=True, help="Learning rate."),
        option("--seed", type=SEED, default=0, show_default=True, help="Seed of everything "
               "random."),
        option("--minutes", type=float, help="Stop training after so many."),
    ),
)  # fmt: skip


PAIRS = grouped(
    "table",
    dict,
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
@CLIPN_TRAINING
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
    table: dict[str, Any],
    training: dict[str, Any],
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    folder: str,
    overwrite: bool,
    output: Output,
) -> None:
    """Train CLIPN's "no" text tower on image-caption pairs."""
    from ..audit import check_failures
    from ..training import ClipnRequest, TrainingSettings, run_clipn

    request = ClipnRequest(
        **table,
        output=folder,
        model=model.choice(),
        settings=TrainingSettings(**training),
        embed=decoding.embedding(overwrite),
    )
    facts = run_clipn(request, progress_lines(), say).manifest
    counts, losses = facts["counts"], facts["losses"]
    output.show(
        facts,
        f"{counted(counts['pairs'], 'pair')} of {counted(counts['images'], 'image')} and "
        f"{counted(counts['captions'], 'caption')}; unreadable: {counts['failures']:,}, empty: "
        f"{counts['dropped']:,}\n"
        f"best after {facts['steps']:,} of {facts['last_step']:,} steps: losses "
        f"{losses['image_text']:.3f} (image-text) + {losses['text']:.3f} (text), "
        f"{losses['held_out']:.3f} on held-out pairs\n"
        f"CLIPN: {terminal_text(folder)}",
    )
    complete = "the CLIPN trained on the readable ones is complete"
    check_failures(counts["failures"], decoding.limits.unreadable, complete)


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
    from ..training import run_import

    run_import(checkpoint, folder, model.choice(), overwrite, say)
    output.show({"clipn": folder}, f"CLIPN: {terminal_text(folder)}")


@cloup.group()
def train() -> None:
    """Train what some scores need, over a frozen model."""


for command in (clipn, clipn_import, oecl):
    train.add_command(command)
