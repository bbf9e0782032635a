"""`bliss corpora`: the corpora that have a name, a first look at any, and how they compare."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

import click
import cloup

from ..errors import UsageError
from ..safe_text import terminal_text
from . import options as opt
from .base import OUTPUT, Command, Output, option, progress_lines, say, section
from .options import CORPUS, CorpusReading

if TYPE_CHECKING:
    from ..indexer import Encoder


@click.command(cls=Command)
@click.argument("images")
@section(
    "Comparison",
    option("--index", multiple=True, required=True, help="A caption index. Two or more."),
    option("--reference", metavar="DIR", help="Clean images, their embeddings, or a fitted "
           "reference."),
    option("--truth", metavar="FILE", help="A csv, tsv or parquet file of path and is_stray."),
)  # fmt: skip
@opt.COLLECTION
@opt.CLASSES
@opt.SCORING
@opt.MODEL
@opt.DECODING
@OUTPUT
def compare(
    *,
    images: str,
    index: tuple[str, ...],
    reference: str | None,
    truth: str | None,
    collection: opt.CollectionOptions,
    classes: opt.ClassOptions,
    scoring: opt.ScoringOptions,
    model: opt.ModelOptions,
    decoding: opt.DecodingOptions,
    output: Output,
) -> None:
    """Compare caption indexes on one set of images, against one reference.

    IMAGES is a collection of images, or a folder of embeddings. Images are embedded once and the
    reference is fitted once. AUROC is measured against --truth, or where labels tell: with --normal
    or --reference, images labelled with another class are strays.
    """
    from ..audit import (
        audit_each,
        check_failures,
        encoder_for,
        fit_reference,
        is_reference_folder,
        read_or_embed,
        read_truth,
        refuse_words,
        truth_of_labels,
        without_calibration,
    )
    from ..evaluation import CorpusAnswer, compare_corpora, comparison_facts, comparison_lines
    from ..indexer import join_indexes, open_index
    from ..scorer import load_reference

    if len(index) < 2:
        raise UsageError("one index was given", "two or more to compare", "Add --index DIR")
    indexes = [open_index(folder) for folder in index]
    every, saved = join_indexes(indexes), None
    settings = scoring.settings(classes.words())
    progress, embed = progress_lines(), decoding.embedding()
    if reference is not None and is_reference_folder(reference):
        saved = load_reference(reference)
        refuse_words(reference, settings.words)

    @cache
    def encoder() -> Encoder:
        return encoder_for(model.choice(), every, saved, say)

    found = read_or_embed(images, encoder, collection.options(), embed, progress)
    for failure in found.failures:
        say(f"{failure.path}: {failure.reason}")
    strays = None if truth is None else read_truth(truth, found)
    if saved is None:
        normal = found
        if reference is not None:
            normal = read_or_embed(reference, encoder, embed=embed, progress=progress)
        loaded = encoder() if model.model or encoder.cache_info().currsize else None
        saved = fit_reference(normal, every, loaded, settings.words)
    fitted = without_calibration(saved)
    if strays is None:
        strays = truth_of_labels(found, fitted.classes)
    audits = audit_each(found, indexes, fitted, settings, progress)
    answers = [
        CorpusAnswer(
            folder,
            audit.result.index.count,
            audit.result.scores.score,
            audit.result.retrieved.similarity,
            audit.named,
            audit.seconds,
        )
        for folder, audit in zip(index, audits, strict=True)
    ]
    compared = compare_corpora(answers, strays)
    shown = len(found.rows)
    output.show(
        comparison_facts(compared, shown),
        lambda: "\n".join(map(terminal_text, comparison_lines(compared, shown))),
    )
    check_failures(found.failures, decoding.limits.unreadable)


@cloup.group()
def corpora() -> None:
    """List, describe, look into and add named corpora."""


@corpora.command("list", cls=Command)
@OUTPUT
def list_presets(*, output: Output) -> None:
    """List the corpora that have a name, which can be given wherever CORPUS is needed."""
    from ..corpora import presets
    from .text import presets_text

    found = list(presets().values())
    output.show([asdict(each) for each in found], lambda: presets_text(found))


@corpora.command(cls=Command)
@click.argument("name")
@OUTPUT
def show(*, name: str, output: Output) -> None:
    """Show where the corpus NAME is, how it is read, and its licence."""
    from ..corpora import find_preset
    from .text import preset_text

    found = find_preset(name)
    output.show(asdict(found), lambda: preset_text(found))


@corpora.command(cls=Command)
@click.argument("corpus")
@CORPUS
@section("Output", option("--rows", default=1000, show_default=True, help="Rows to read."))
@OUTPUT
def peek(*, corpus: str, reading: CorpusReading, rows: int, output: Output) -> None:
    """Look at the first rows of CORPUS, a name or anything that can be indexed."""
    from ..corpora import LENGTH_EDGES
    from ..corpora import peek as first_look
    from .text import peek_text

    source = reading.open(corpus)
    found = first_look(source, rows)
    facts = {"corpus": source.spec, "preset": source.preset, "licence": source.licence}
    output.show(
        {**facts, "length_edges": LENGTH_EDGES, **asdict(found)},
        lambda: peek_text(source.preset or source.spec, found),
    )


@corpora.command(cls=Command)
@click.argument("file")
@OUTPUT
def add(*, file: str, output: Output) -> None:
    """Add the presets of a JSON FILE to your own, so that their names can be used."""
    from ..corpora import add_presets, user_file

    names = add_presets(file)
    output.show(
        {"added": names, "file": str(user_file())},
        terminal_text(f"added {', '.join(names)} to {user_file()}"),
    )


corpora.add_command(compare)
