"""`bliss index remove`, `add`, `verify` and `tune`: the upkeep of a finished caption index."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from ..errors import BlissError, UsageError
from ..safe_text import counted, terminal_text
from . import options as opt
from .base import OUTPUT, Command, Output, grouped, only_one, option, progress_lines, say, section
from .option_types import SEED, EngineName

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
    option("--seed", type=SEED, default=0, show_default=True, help="Seed of every sample."),
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
@opt.ENGINE
@opt.DECODING
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
    from ..artefacts import temporary_folder
    from ..audit import check_failures, encoder_for, prompt_vectors, read_or_embed
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
        if words.means:
            return None
        try:
            return prompt_vectors(names, words, index, loaded)
        except BlissError:
            if loaded is not None:
                raise
            return None  # no model, and the index does not hold them: mean images stand in

    with temporary_folder() as scratch:
        keep = MadeStructures(scratch)
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
    check_failures(found.failures, decoding.limits.unreadable)


@click.command(cls=Command)
@click.argument("folder")
@click.argument("corpus", nargs=-1)
@section(
    "Captions",
    option("--embeddings", metavar="DIR", help="Add precomputed text embeddings of the index's "
           "model."),
    option("--prompt", multiple=True, metavar="TEXT", help="Template; several are averaged "
           "[default: the index's, where it was built with --prompt, else by corpus]"),
    option("--licence", multiple=True, metavar="TEXT", help="The licence of the captions, or "
           "NAME=TEXT for each corpus."),
)  # fmt: skip
@opt.CORPUS
@opt.MODEL
@section(
    "Output",
    option("--overwrite", is_flag=True, help="Discard a different addition that was interrupted."),
)  # fmt: skip
@OUTPUT
def add(
    *,
    folder: str,
    corpus: tuple[str, ...],
    embeddings: str | None,
    prompt: tuple[str, ...],
    licence: tuple[str, ...],
    reading: opt.CorpusReading,
    model: opt.ModelOptions,
    overwrite: bool,
    output: Output,
) -> None:
    """Append the captions of every CORPUS that an index does not have.

    What is there stays as it is and can be searched meanwhile; captions that were removed stay
    removed. The same command again continues where it stopped.
    """
    from ..audit import encoder_for
    from ..indexer import AddOptions, add_captions, add_embeddings, local_folder, open_index
    from .text import added_text

    needed, remedy = "the captions to add", "Give a corpus, or --embeddings DIR"
    only_one(needed, remedy, CORPUS=corpus, embeddings=embeddings)
    if embeddings is not None and prompt:
        raise UsageError(
            "prompts were given with --embeddings",
            "no prompts: the texts are embedded already",
            "Leave --prompt out",
        )
    path = local_folder(folder)
    options = AddOptions(prompt or None, licence, overwrite)
    if embeddings is not None:
        made = add_embeddings(path, embeddings, reading.column, options, progress_lines())
    else:
        sources = [reading.open(each) for each in corpus]
        encoder = encoder_for(model.choice(), open_index(path), None, say)
        made = add_captions(path, sources, encoder, options, progress_lines())
    facts = {
        "texts": made.counts,
        "added_before": made.before,
        "captions": made.index.count,
        "folder": str(made.index.folder),
    }
    output.show(facts, lambda: added_text(made))


@click.command(cls=Command)
@click.argument("folder")
@grouped(
    "conditions",
    dict,
    section(
        "Which captions",
        option("--caption", metavar="REGEX", help="Captions that match this pattern (RE2)."),
        option("--contains", metavar="TEXT", help="Captions that contain this text, in any case."),
        option("--source", metavar="NAME", help="Captions from this source."),
        option("--like", metavar="TEXT", help="Captions similar to this text …"),
        option("--above", type=float, metavar="COSINE", help="… with a cosine above this."),
    ),
)  # fmt: skip
@section(
    "Removal",
    option("--dry-run", is_flag=True, help="Only show how many, with examples."),
    option("--undo", type=click.Choice(["last", "all"]), help="Restore removed captions."),
)
@opt.MODEL
@OUTPUT
def remove(
    *,
    folder: str,
    conditions: dict[str, Any],
    dry_run: bool,
    undo: str | None,
    model: opt.ModelOptions,
    output: Output,
) -> None:
    """Hide captions of an index from every search; its parts stay as they are.

    A caption is removed when it meets every condition given.
    """
    from ..audit import encoder_for
    from ..indexer import (
        CaptionFilter,
        local_folder,
        matching_rows,
        open_index,
        remove_rows,
        restore_rows,
    )
    from .text import choice_text, removals_text

    path = local_folder(folder)
    if undo:
        if dry_run or any(value is not None for value in conditions.values()):
            raise UsageError(
                "--undo was given with captions to remove", "one of the two", "Leave one out"
            )
        manifest, back = restore_rows(path, undo == "last")
        back_text = f"{counted(back, 'caption is', 'captions are')} back"
        text = f"{back_text if back else 'nothing to undo'}; {removals_text(manifest)}"
        output.show({"restored": back, "removed": manifest["removed"]}, text)
        return
    where, index = CaptionFilter(**conditions), open_index(path)

    def embed(text: str) -> np.ndarray:
        return encoder_for(model.choice(), index, None, say).encode_texts([text])[0]

    rows = matching_rows(index, where, embed)
    if not dry_run:
        remove_rows(path, rows, where.facts())
    facts = {
        "removed": 0 if dry_run else len(rows),
        "matching": len(rows),
        "captions_before": index.count,
        "where": where.facts(),
    }
    output.show(facts, lambda: choice_text(index, rows, not dry_run))


@click.command(cls=Command)
@click.argument("folder")
@section(
    "Checks",
    option("--embed", type=click.IntRange(0), default=0, metavar="N", help="Also embed N of its "
           "captions again and compare."),
)  # fmt: skip
@opt.MODEL
@OUTPUT
def verify(*, folder: str, embed: int, model: opt.ModelOptions, output: Output) -> None:
    """Check an index from end to end: one line per check, every problem with its remedy.

    Checksums, counts, vectors, captions and removals; exit code 1 where anything is wrong.
    """
    from ..audit import encoder_for
    from ..indexer import local_folder, open_index, verify_index
    from .text import check_text, verdict

    path, checks = local_folder(folder), []
    for check in verify_index(
        path,
        embed,
        lambda: encoder_for(model.choice(), open_index(path), None, say),
        progress_lines(),
    ):
        checks.append(check)
        if not output.as_json:
            click.echo(check_text(check))
    if output.as_json:
        output.show([asdict(check) for check in checks], "")
    end = verdict(folder, checks)
    if not output.as_json:
        click.echo(end)
