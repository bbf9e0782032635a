"""`bliss find`: which audited images look like a text or another image."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from .base import OUTPUT, Output, command, only_one, say, section
from .options import MODEL, TOP, ModelOptions, option

if TYPE_CHECKING:
    from ..indexer import Encoder


@command()
@click.argument("run")
@section(
    "Query",
    option("--text", help="Find images of this, worded as a caption."),
    option("--image", help="Find images like this one: a path in the run, or a file."),
    option(
        "--vector",
        metavar="FILE",
        help="Find images near this vector: an .npy file of one row, such as a text's embedding.",
    ),
)
@MODEL
@section("Output", TOP)
@OUTPUT
def find(
    *,
    run: str,
    text: str | None,
    image: str | None,
    vector: str | None,
    model: ModelOptions,
    top: int,
    output: Output,
) -> None:
    """Find images in an audited collection: what else looks like this?

    RUN is the output folder of `bliss audit`.
    """
    from ..audit import (
        encoder_of_run,
        find_by_text,
        find_by_vector,
        find_like,
        found_text,
        open_run,
    )

    if vector is None or text or image:
        query = text if vector is None else text or vector
        only_one("what to look for", 'Add --text "…", --image IMAGE or --vector FILE', text=query,
                 image=image)  # fmt: skip
        if vector is not None:
            raise UsageError("both of --text and --vector were given", "one", "Leave one out")
    opened = open_run(run)

    def encoder() -> Encoder:
        return encoder_of_run(model.choice(), opened.facts["model"], run, say)

    if vector is not None:
        found = find_by_vector(opened, vector, top)
    elif text is not None:
        found = find_by_text(opened, text, encoder(), top)
    else:
        assert image is not None
        found = find_like(opened, image, encoder, top)
    output.show([asdict(each) for each in found], lambda: found_text(found))
