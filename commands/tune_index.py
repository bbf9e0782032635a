"""`bliss index tune`: measure kinds of search with image queries, and set the one that serves."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as opt
from .base import OUTPUT, Command, Output, option, progress_lines, say, section
from .option_types import EngineName

if TYPE_CHECKING:
    import numpy as np

    from ..indexer import Encoder


@click.command(cls=Command)
@click.argument("folder")
@section(
    "Queries",
    option("--images", required=True, help="Images to search with, or their embeddings."),
    option("--image-queries", default=4000, show_default=True, help="Images used at most."),
    option("--text-queries", default=1000, show_default=True, help="Captions of the index used "
           "as queries."),
    option("--seed", default=0, show_default=True, help="Seed of every sample."),
)  # fmt: skip
@section(
    "Choice",
    option("--min-recall", default=0.99, show_default=True, help="Recall of the k nearest "
           "captions to reach."),
    option("--kind", multiple=True, help="A kind to try, as FAISS spells it. Repeatable "
           "[default: what suits the size]"),
    opt.K,
    opt.LAMBDA,
    option("--dry-run", is_flag=True, help="Measure and choose, but store nothing."),
)  # fmt: skip
@opt.COLLECTION
@opt.CLASSES
@opt.MODEL
@opt.DECODING
@opt.ENGINE
@OUTPUT
def tune(
    *,
    folder: str,
    images: str,
    image_queries: int,
    text_queries: int,
    seed: int,
    min_recall: float,
    kind: tuple[str, ...],
    k: int,
    weight: float,
    dry_run: bool,
    collection: opt.CollectionOptions,
    classes: opt.ClassOptions,
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    engine: EngineName,
    output: Output,
) -> None:
    """Choose how an index is searched, by its recall for images against exact search.

    Settings are chosen on half of the images; the fastest whose recall on the other half is shown
    to be --min-recall or more becomes the index's own. If none is, that is exact search.
    """
    from ..audit import check_failures, encoder_for, prompt_vectors, read_or_embed
    from ..errors import BlissError
    from ..evaluation import Candidates, MadeStructures, TuningOptions, settings_of, tuning_lines
    from ..evaluation import tune as tune_index
    from ..indexer import (
        SearchChoice,
        install_structure,
        open_index,
        read_kind,
        set_search_kind,
        training_note,
    )
    from ..safe_text import terminal_text

    options = TuningOptions(
        min_recall,
        k=k,
        image_queries=image_queries,
        text_queries=text_queries,
        weight=weight,
        seed=seed,
    )
    index, words = open_index(folder, SearchChoice(kind="exact")), classes.words()
    settings = settings_of(kind, index.stored_count, index.model["dimension"])

    for each in dict.fromkeys(name for name, _ in settings):
        note = training_note(read_kind(each), index.stored_count)
        if note:
            say(note)

    @cache
    def encoder() -> Encoder:
        return encoder_for(model.choice(), index, None, say)

    progress = progress_lines()
    embed = decoding.embedding(engine=opt.ray_engine(engine, model))
    found = read_or_embed(images, encoder, collection.options(), embed, progress)
    loaded = encoder() if model.model or encoder.cache_info().currsize else None

    def prompts(names: Any) -> np.ndarray | None:
        try:
            return prompt_vectors(names, words, index, loaded)
        except BlissError:
            if loaded is not None:
                raise
            return None  # no model, and the index does not hold them: mean images stand in

    with tempfile.TemporaryDirectory() as scratch:
        keep = MadeStructures(Path(scratch))
        candidates = Candidates(index, settings, keep)
        tuned = tune_index(index, found, candidates, options, prompts, progress)
        # Shown first: what was measured must not be lost where the index cannot be written.
        output.show(
            {**tuned.facts(), "stored": not dry_run},
            lambda: "\n".join(map(terminal_text, tuning_lines(tuned))),
        )
        chosen = tuned.chosen
        if not dry_run and chosen.kind in keep.made:
            install_structure(folder, keep.made[chosen.kind], chosen.parameters)
        elif not dry_run:
            set_search_kind(folder, chosen.kind)
    if not output.as_json:
        done = "--dry-run: nothing was stored" if dry_run else f"stored in {folder}"
        click.echo(terminal_text(done))
    check_failures(found, decoding.max_failures)
