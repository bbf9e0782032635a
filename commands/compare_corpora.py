"""`bliss corpora compare`: what several corpora say about the same images."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import click

from ..errors import UsageError
from .option_values import audit_settings, embed_options, image_options, model_choice
from .options import (
    COLLECTION,
    DECODING,
    EXCLUDE,
    JSON,
    MODEL,
    SCORE,
    WORDS,
    options,
    say,
)


@click.command()
@click.argument("images")
@click.option("--index", multiple=True, required=True, help="A caption index. Two or more.")
@click.option("--reference", help="Clean images, their embeddings, or a fitted reference.")
@click.option("--truth", metavar="FILE", help="A csv, tsv or parquet file of path and is_stray.")
@JSON
@options(MODEL, SCORE, EXCLUDE, WORDS, DECODING, COLLECTION)
def compare(images: str, as_json: bool, max_failures: int | None, **given: Any) -> None:
    """Compare caption indexes on one set of images, against one reference.

    IMAGES is a collection of images, or a folder of embeddings. Images are embedded once and the
    reference is fitted once. AUROC is of --truth, or where labels say it: with --normal or
    --reference, images labelled with another class are strays.
    """
    from ..audit.compare import audit_each, read_truth, truth_of_labels, without_calibration
    from ..audit.models import encoder_for
    from ..audit.reference import fit_reference
    from ..audit.report.terminal import progress_lines
    from ..audit.request import check_failures, is_reference_folder, read_or_embed, refuse_words
    from ..evaluation.corpus_comparison import (
        CorpusAnswer,
        compare_corpora,
        comparison_facts,
        comparison_lines,
    )
    from ..indexer.search.index import join_indexes, open_index
    from ..safe_text import terminal_text
    from ..scorer.reference_file import load_reference

    folders, clean = given["index"], given["reference"]
    if len(folders) < 2:
        raise UsageError("one index was given", "two or more to compare", "Add --index DIR")
    indexes = [open_index(folder) for folder in folders]
    every, saved = join_indexes(indexes), None
    settings, progress, embed = audit_settings(given), progress_lines(), embed_options(given)
    if clean is not None and is_reference_folder(clean):
        saved = load_reference(clean)
        refuse_words(clean, settings.words)

    @cache
    def encoder() -> Any:
        return encoder_for(model_choice(given), every, saved, say)

    found = read_or_embed(images, encoder, image_options(given), embed, progress)
    for failure in found.failures:
        say(f"{failure.path}: {failure.reason}")
    strays = None if given["truth"] is None else read_truth(given["truth"], found)
    if saved is None:
        normal = found
        if clean is not None:
            normal = read_or_embed(clean, encoder, embed=embed, progress=progress)
        asked = encoder() if given["model"] or encoder.cache_info().currsize else None
        saved = fit_reference(normal, every, asked, settings.words)
    reference = without_calibration(saved)
    if strays is None:
        strays = truth_of_labels(found, reference.classes)
    audits = audit_each(found, indexes, reference, settings, progress)
    answers = [
        CorpusAnswer(
            folder,
            audit.result.index.count,
            audit.result.scores.score,
            audit.result.retrieved.similarity,
            audit.named,
            audit.seconds,
        )
        for folder, audit in zip(folders, audits, strict=True)
    ]
    compared = compare_corpora(answers, strays)
    if as_json:
        click.echo(json.dumps(comparison_facts(compared, len(found.rows)), indent=2))
    else:
        for line in comparison_lines(compared, len(found.rows)):
            click.echo(terminal_text(line))
    check_failures(found, max_failures)
