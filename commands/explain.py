"""`bliss explain`: why images have their scores, and where in the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options as opt
from .base import OUTPUT, Output, command, option, say, section

if TYPE_CHECKING:
    from ..indexer import SearchChoice


@command()
@click.argument("images", nargs=-1, required=True)
@section(
    "Reference and captions",
    option("--reference", required=True, metavar="DIR", help="A folder that `bliss reference "
           "fit` made, or the folder `reference` of a run."),
    opt.INDEX_NEEDED,
)  # fmt: skip
@section(
    "Explanation",
    option("--class", "class_name", metavar="NAME", help="Class whose score is explained "
           "[default: the one an image is filed under, else the nearest]."),
    option("--part", default="total", show_default=True, metavar="total|label|captions|N",
           help="What the map shows: the whole score, the label prompt's or the captions' part, or "
           "the caption of the N-th strongest pull."),
)  # fmt: skip
@opt.SCORING
@opt.SEARCH
@opt.COLLECTION
@opt.MODEL
@section(
    "Output",
    option("-o", "--output", "folder", metavar="DIR", help="Write each image's map into DIR, as "
           "PNG over the picture and as npz."),
)  # fmt: skip
@OUTPUT
def explain(
    *,
    images: tuple[str, ...],
    reference: str,
    index: tuple[str, ...],
    class_name: str | None,
    part: str,
    scoring: opt.ScoringOptions,
    search: SearchChoice | None,
    collection: opt.CollectionOptions,
    model: opt.ModelOptions,
    folder: str | None,
    output: Output,
) -> None:
    """Print the terms of each image's score and its captions, and map the score over the image."""
    from ..audit import encoder_for, explain, explanation_text, kept_images, save_map
    from ..corpora import open_named
    from ..errors import BlissError
    from ..safe_text import terminal_text
    from ..scorer import load_reference

    listed = open_named(images, collection.options())
    fitted, captions = load_reference(reference), opt.open_searched(index, search)
    encoder = encoder_for(model.choice(), captions, fitted, say)
    kept = kept_images(reference, fitted)
    explained, failures = explain(
        listed.items(lambda row: False),
        fitted,
        captions,
        encoder,
        scoring.settings(),
        class_name=class_name,
        part=part,
        kept=kept,
    )
    if kept.remark():
        say(kept.remark())
    for failure in failures:
        say(f"{terminal_text(failure.path)}: {failure.reason}")
    if not explained:
        raise BlissError(
            f"none of {len(failures)} images could be read", "one image", "Correct IMAGE"
        )
    facts = [each.facts() for each in explained]
    text = explanation_text(explained)
    if folder is not None:
        for number, each in enumerate(explained):
            drawn, numbers = save_map(each, folder, f"{number + 1:04d}")
            facts[number].update(map=str(drawn), numbers=str(numbers))
        text += f"\n\nMaps: {terminal_text(folder)}"
    output.show(facts, text)
