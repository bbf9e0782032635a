"""`bliss index tune`: measure kinds of search with image queries, and keep the one that serves."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import click

from .option_values import class_words, embed_options, image_options, model_choice
from .options import COLLECTION, DECODING, JSON, MODEL, WORDS, options, say


@click.command()
@click.argument("folder")
@click.option("--images", required=True, help="Images to search with, or their embeddings.")
@click.option("--min-recall", default=0.99, show_default=True, help="Of the k nearest captions.")
@click.option("--k", default=10, show_default=True, help="Captions retrieved per image.")
@click.option(
    "--kinds",
    multiple=True,
    metavar="KIND",
    help="A kind to try, as FAISS spells it. Repeatable [default: what suits the size]",
)
@click.option("--image-queries", default=4000, show_default=True, help="Images used at most.")
@click.option("--text-queries", default=1000, show_default=True, help="Own captions searched with.")
@click.option("--weight", default=0.5, show_default=True, help="λ of the scores compared.")
@click.option("--seed", default=0, show_default=True, help="Of every sample.")
@click.option("--dry-run", is_flag=True, help="Measure and choose, but store nothing.")
@JSON
@options(MODEL, WORDS, DECODING, COLLECTION)
def tune(
    folder: str, images: str, dry_run: bool, as_json: bool, max_failures: int | None, **given: Any
) -> None:
    """Choose how an index is searched, by its recall for images against exact search.

    Settings are chosen on half of the images; the fastest whose recall on the other half is shown
    to be --min-recall or more becomes the index's own. If none is, that is exact search.
    """  # fmt: skip
    from ..audit.classes import prompt_vectors
    from ..audit.models import encoder_for
    from ..audit.report.terminal import progress_lines
    from ..audit.request import check_failures, read_or_embed
    from ..errors import BlissError
    from ..evaluation.tuning import Candidates, MadeStructures, TuningOptions, settings_of
    from ..evaluation.tuning import tune as tune_index
    from ..evaluation.tuning_text import tuning_lines
    from ..indexer.search.index import open_index
    from ..indexer.search.install import install_structure, set_search_kind
    from ..indexer.search.kinds import SearchChoice, read_kind, training_note
    from ..safe_text import terminal_text

    asked = TuningOptions(
        given["min_recall"],
        **{name: given[name] for name in ("k", "image_queries", "text_queries", "weight", "seed")},
    )
    index, words = open_index(folder, SearchChoice(kind="exact")), class_words(given)
    settings = settings_of(given["kinds"], index.stored_count, index.model["dimension"])

    kinds = dict.fromkeys(kind for kind, _ in settings)
    for note in (training_note(read_kind(kind), index.stored_count) for kind in kinds):
        if note:
            say(note)

    @cache
    def encoder() -> Any:
        return encoder_for(model_choice(given), index, None, say)

    progress, embed = progress_lines(), embed_options(given)
    found = read_or_embed(images, encoder, image_options(given), embed, progress)
    at_hand = encoder() if given["model"] or encoder.cache_info().currsize else None

    def prompts(classes: Any) -> Any:
        try:
            return prompt_vectors(classes, words, index, at_hand)
        except BlissError:
            if at_hand is not None:
                raise
            return None  # no model, and the index does not hold them: mean images stand in

    with tempfile.TemporaryDirectory() as scratch:
        keep = MadeStructures(Path(scratch))
        each = Candidates(index, settings, keep)
        tuned = tune_index(index, found, each, asked, prompts, progress)
        # Shown first: what was measured must not be lost where the index cannot be written.
        if as_json:
            click.echo(json.dumps({**tuned.facts(), "stored": not dry_run}, indent=2))
        else:
            for line in tuning_lines(tuned):
                click.echo(terminal_text(line))
        chosen = tuned.chosen
        if not dry_run and chosen.kind in keep.made:
            install_structure(folder, keep.made[chosen.kind], chosen.parameters)
        elif not dry_run:
            set_search_kind(folder, chosen.kind)
    if not as_json:
        done = "--dry-run: nothing was stored" if dry_run else f"stored in {folder}"
        click.echo(terminal_text(done))
    check_failures(found, max_failures)
