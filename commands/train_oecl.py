"""`bliss train oecl`: a head that makes known outliers short, beside its baselines."""

from __future__ import annotations

from typing import Any

import click

from ..errors import UsageError
from .option_values import embed_options, model_choice
from .options import IMAGES, MODEL, options, say


@click.command()
@click.argument("normals")
@click.option("--outliers", help="Outlier images, or their embeddings.")
@click.option("--self", "turned", is_flag=True, help="Instead: NORMALS turned by 180° and 270°.")
@click.option("-o", "--output", default="bliss-oecl", show_default=True,
              help="The folder for the trained head.")  # fmt: skip
@click.option("--alpha", default=1.0, show_default=True, help="α, weight of the outliers' length.")
@click.option(
    "--floor", default=1.0, show_default=True, help="Length normals keep; 0: as published."
)
@click.option("--epochs", default=200, show_default=True, help="Passes over the images.")
@click.option("--minutes", type=float, help="Stop training after so many.")
@click.option("--views", default=1, show_default=True, help="Cached views of each image file.")
@click.option("--seed", default=0, show_default=True, help="Of views, split and training.")
@options(MODEL, IMAGES)
def oecl(turned: bool, max_failures: int | None, **given: Any) -> None:
    """Train OECL on NORMALS, a folder of images or of their embeddings, against outliers.

    Two baselines are fitted beside it, and all are measured on images held out of training.
    """
    from ..audit.models import encoder_for
    from ..audit.report.terminal import progress_lines
    from ..audit.request import check_failures
    from ..safe_text import terminal_text
    from ..training.oecl import OeclRequest, needs_encoder, result_lines, run_oecl
    from ..training.oecl_training import OeclSettings

    if turned == (given["outliers"] is not None):
        raise UsageError(
            f"{'both' if turned else 'neither'} of --outliers and --self were given",
            "one of them: what to train against",
            "Add --outliers DIR, or --self for turned copies of NORMALS",
        )
    names = ("alpha", "floor", "epochs", "minutes", "seed")
    request = OeclRequest(
        **{name: given[name] for name in ("normals", "outliers", "output", "views")},
        settings=OeclSettings(**{name: given[name] for name in names}),
        embed=embed_options(given),
    )
    encoder = None
    if given["model"] or needs_encoder(request):
        encoder = encoder_for(model_choice(given), None, None, say)
    result = run_oecl(request, encoder, progress_lines())
    for line in result_lines(result, request.output):
        click.echo(terminal_text(line))
    check_failures(result, max_failures)
