"""`bliss pairs`: which captions do not fit their images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import click

from . import options as opt
from .base import OUTPUT, Output, command, grouped, option, progress_lines, say, section, with_files

if TYPE_CHECKING:
    from ..indexer import SearchChoice


CAPTIONS = grouped("given", SimpleNamespace, section(
    "Pairs",
    option("--captions", metavar="FILE", help="The captions of a folder of images: csv, tsv, jsonl "
           "or parquet with paths, COCO json [default: files beside the images]"),
    option("--caption-column", metavar="NAME", help="The column, JSON field or extension with "
           "captions [default: caption, text or sentence]"),
    option("--text-embeddings", metavar="DIR", help="Embeddings of the captions, where DATA is a "
           "folder of image embeddings [default: DATA]"),
    option("--image-root", metavar="DIR", help="The folder that paths in DATA are relative to "
           "[default: that of DATA]"),
    option("--image-column", metavar="NAME", help="The column of DATA with images or their paths; "
           "in tar archives the extension."),
    option("--follow-links", is_flag=True, help="Follow links that leave a folder of images."),
))  # fmt: skip


KEEPING = grouped("keeping", SimpleNamespace, section(
    "Scoring",
    option("--keep", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05,
           show_default=True, metavar="RATE", help="Keep pairs so that at most this share of them "
           "has a random caption."),
    option("--temperature", type=float, default=0.01, show_default=True, metavar="T",
           help="Temperature of the sums over rivals."),
    option("--k", default=10, show_default=True, help="Nearest rivals "
           "summed, where not all are."),
    option("--sums", type=click.Choice(["auto", "full", "top"]), default="auto", show_default=True,
           help="Sum over all rivals or the --k nearest; auto: all up to 200,000 images and "
           "captions."),
))  # fmt: skip


@command()
@click.argument("data")
@CAPTIONS
@KEEPING
@section("Better captions", opt.INDEX)
@opt.SEARCH
@opt.MODEL
@opt.DECODING
@section(
    "Output",
    option("-o", "--output", "folder", default="bliss-pairs", show_default=True, metavar="DIR",
           help="Output folder."),
    opt.OVERWRITE,
    option("--shown", "report", type=click.IntRange(0), default=200, show_default=True, metavar="N",
           help="Worst pairs that report.html shows; 0 writes none."),
    option("--top", type=click.IntRange(0), default=20, show_default=True, help="Pairs to show."),
)  # fmt: skip
@OUTPUT
def pairs(
    *,
    data: str,
    given: SimpleNamespace,
    keeping: SimpleNamespace,
    index: tuple[str, ...],
    search: SearchChoice | None,
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    folder: str,
    overwrite: bool,
    report: int,
    top: int,
    output: Output,
) -> None:
    """Rank image-caption pairs by how badly the caption fits, and list the pairs to keep.

    DATA is a folder of images with .txt or .json files beside them, tar shards, a table or
    dataset with images and captions, a csv, tsv, parquet or COCO json file of paths and captions,
    or a folder with embeddings of both (img_emb and text_emb), row by row.
    """
    from ..artefacts import only_run_in
    from ..audit import (
        PairRequest,
        check_failures,
        check_output,
        pairs_summary,
        pairs_text,
        run_pairs,
        save_pairs,
    )
    from ..corpora import ImageOptions
    from ..scorer import PairSettings

    full = {"auto": None, "full": True, "top": False}[keeping.sums]
    request = PairRequest(
        data=data,
        captions=given.captions,
        caption_column=given.caption_column,
        image_root=given.image_root,
        text_embeddings=given.text_embeddings,
        image_options=ImageOptions(
            image_column=given.image_column, follow_links=given.follow_links or None
        ),
        index=opt.open_searched(index, search) if index else None,
        output=folder,
        model=model.choice(),
        embed=decoding.embedding(overwrite),
        settings=PairSettings(keeping.keep, keeping.temperature, keeping.k, full),
    )
    asked = {
        "command": "pairs",
        **opt.recorded(given, keeping, model, data=data, index=index, search=search),
    }
    with only_run_in(Path(folder)):
        if not overwrite:
            check_output(folder, asked)
        found = run_pairs(request, progress_lines(), say)
        written = save_pairs(found, folder, asked, report)
    output.show(pairs_summary(found, top), lambda: with_files(pairs_text(found, top), written))
    check_failures(found.collection.images.failures, decoding.limits.unreadable)
