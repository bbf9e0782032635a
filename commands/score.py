"""`bliss score`: score new images against a fitted reference."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import click

from .base import OUTPUT, Output, command, progress_lines, say, section
from .options import (
    COLLECTION,
    DECODING,
    FLAGGING,
    INDEX_NEEDED,
    MODEL,
    SCORING,
    SEARCH,
    TOP,
    CollectionOptions,
    DecodingOptions,
    FlaggingOptions,
    ModelOptions,
    ScoringOptions,
    open_searched,
    option,
)

if TYPE_CHECKING:
    from ..indexer.search.kinds import SearchChoice


@command()
@click.argument("images", nargs=-1, required=True)
@section(
    "Reference and captions",
    option(
        "--reference",
        required=True,
        metavar="DIR",
        help="A folder that `bliss reference fit` made.",
    ),
    INDEX_NEEDED,
)
@section(
    "Scoring",
    option(
        "--score", "name", default="bliss", show_default=True, help="Score that ranks the images."
    ),
)
@SCORING
@SEARCH
@COLLECTION
@FLAGGING
@MODEL
@DECODING
@section("Output", TOP)
@OUTPUT
def score(
    *,
    images: tuple[str, ...],
    reference: str,
    index: tuple[str, ...],
    name: str,
    scoring: ScoringOptions,
    search: SearchChoice | None,
    collection: CollectionOptions,
    flagging: FlaggingOptions,
    model: ModelOptions,
    decoding: DecodingOptions,
    top: int,
    output: Output,
) -> None:
    """Score new images against a fitted reference, and flag them where it held images out."""
    from ..audit.decisions import check_flagged
    from ..audit.folder import json_summary
    from ..audit.models import encoder_for
    from ..audit.report.terminal import result_text
    from ..audit.request import (
        Asked,
        Sources,
        answered,
        check_bliss_only,
        check_failures,
        check_reference,
    )
    from ..audit.run import audit_against
    from ..audit.scores import choose_score, rescored
    from ..corpora.images.opening import open_named
    from ..indexer.images.embedding import embed_images
    from ..scorer.reference_file import load_reference

    chosen = choose_score(name, separate=True, saved=True)
    asked = Asked(rule=flagging.rule())
    check_bliss_only(asked, chosen.name)
    listed = open_named(images, collection.options())
    fitted, captions = load_reference(reference), open_searched(index, search)
    check_reference(asked, reference, fitted)
    encoder = encoder_for(model.choice(), captions, fitted, say)
    with tempfile.TemporaryDirectory() as scratch:
        embed = decoding.embedding()
        found = embed_images(listed, encoder, scratch, embed, progress_lines(), say)
    for failure in found.failures:
        say(f"{failure.path}: {failure.reason}")
    settings = scoring.settings()
    result = audit_against(found, captions, fitted, settings)
    result = rescored(result, chosen, None, settings.weight)
    result = answered(result, asked, Sources(None, None, own=False), settings)
    output.show(json_summary(result, top), lambda: result_text(result, top, "see above"))
    check_failures(found, decoding.max_failures)
    assert result.decision is not None
    check_flagged(result.decision, asked.rule.fail_on)
