"""`bliss drift`: what is new in a collection, in words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import options as opt
from .base import OUTPUT, Output, command, grouped, option, progress_lines, say, section, with_files

if TYPE_CHECKING:
    from ..indexer import SearchChoice


PARTED = grouped("parted", SimpleNamespace, section(
    "Images",
    option("--column", metavar="NAME", help="Compare images of OLD alone, by this column of its "
           "metadata or of the audit: instead of NEW."),
    option("--old", "old_value", metavar="VALUE", help="The column's value for old images."),
    option("--new", "new_value", metavar="VALUE", help="The column's value for new images."),
))  # fmt: skip


TESTING = grouped("testing", SimpleNamespace, section(
    "Comparison",
    opt.K,
    option("--fdr", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1,
           show_default=True, metavar="RATE", help="False discovery rate of the captions found."),
    option("--permutations", type=click.IntRange(0), default=999, show_default=True,
           help="Random memberships for the p-value of everything."),
    option("--ignore-classes", is_flag=True, help="Permute membership over all images, not within "
           "classes."),
))  # fmt: skip


@command()
@click.argument("old")
@click.argument("new", required=False)
@PARTED
@opt.COLLECTION
@section("Captions", opt.INDEX_NEEDED)
@opt.SEARCH
@TESTING
@opt.MODEL
@opt.DECODING
@section(
    "Output",
    option("-o", "--output", "folder", default="bliss-drift", show_default=True, metavar="DIR",
           help="Output folder."),
    opt.OVERWRITE,
    option("--shown", "report", type=click.IntRange(0), default=20, show_default=True, metavar="N",
           help="Captions a direction that report.html shows; 0 writes none."),
    option("--top", type=click.IntRange(0), default=10, show_default=True,
           help="Captions a direction to show."),
)  # fmt: skip
@OUTPUT
def drift(
    *,
    old: str,
    new: str | None,
    parted: SimpleNamespace,
    collection: opt.CollectionOptions,
    index: tuple[str, ...],
    search: SearchChoice | None,
    testing: SimpleNamespace,
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    folder: str,
    overwrite: bool,
    report: int,
    top: int,
    output: Output,
) -> None:
    """Compare two collections: which captions gained or lost, with p-values and examples.

    OLD and NEW are each a collection of images, a folder of image embeddings, or the output folder
    of `bliss audit`. With --column, OLD alone is split by the values of a column.
    """
    from ..artefacts import only_run_in
    from ..audit import (
        DriftRequest,
        DriftSettings,
        check_failures,
        check_output,
        drift_summary,
        drift_text,
        run_drift,
        save_drift,
    )

    values = None
    if parted.old_value is not None and parted.new_value is not None:
        values = (parted.old_value, parted.new_value)
    elif parted.old_value is not None or parted.new_value is not None:
        raise UsageError("one of --old and --new was given", "both", "Give the other one too")
    request = DriftRequest(
        old=old,
        new=new,
        index=opt.open_searched(index, search),
        column=parted.column,
        values=values,
        image_options=collection.options(),
        output=folder,
        model=model.choice(),
        embed=decoding.embedding(overwrite),
        settings=DriftSettings(
            testing.k, testing.fdr, testing.permutations, not testing.ignore_classes
        ),
    )
    asked = {
        "command": "drift",
        **opt.recorded(parted, collection, testing, model, compared=old, compared_with=new,
                       index=index, search=search),
    }  # fmt: skip
    with only_run_in(Path(folder)):
        if not overwrite:
            check_output(folder, asked)
        result, pictures = run_drift(request, progress_lines(), say)
        written = save_drift(result, pictures, folder, asked, report)
    output.show(drift_summary(result, top), lambda: with_files(drift_text(result, top), written))
    for images in (result.old, result.new):
        check_failures(images.failures, decoding.limits.unreadable)
