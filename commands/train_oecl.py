"""`bliss train oecl`: a head that makes the embeddings of known outliers short."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import click

from . import options as opt
from .base import OUTPUT, Command, Output, grouped, only_one, option, progress_lines, say, section


@dataclass(frozen=True)
class TrainingOptions:
    """How the head is trained."""

    alpha: float
    floor: float
    epochs: int
    minutes: float | None
    seed: int


TRAINING = grouped(
    "training",
    TrainingOptions,
    section(
        "Training",
        option("--alpha", default=1.0, show_default=True, help="α, the weight of the outliers' "
               "length."),
        option("--floor", default=1.0, show_default=True, help="Length that normals keep; 0: as "
               "published."),
        option("--epochs", default=200, show_default=True, help="Passes over the images."),
        option("--minutes", type=float, help="Stop training after so many."),
        option("--seed", default=0, show_default=True, help="Seed of views, split and training."),
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
@TRAINING
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
    training: TrainingOptions,
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
    from ..safe_text import terminal_text
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
        settings=OeclSettings(**asdict(training)),
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
    check_failures(result, decoding.max_failures)
