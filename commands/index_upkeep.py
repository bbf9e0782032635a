"""`bliss index remove`, `add` and `verify`: the upkeep of a finished caption index."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import click

from . import options as opt
from .base import OUTPUT, Command, Output, grouped, option, progress_lines, say, section


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
    from .text import added_text, check_one_given

    check_one_given(corpus, embeddings, prompt)
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


@dataclass(frozen=True)
class Selection:
    """Which captions are meant."""

    caption: str | None
    contains: str | None
    source: str | None
    like: str | None
    above: float | None


@click.command(cls=Command)
@click.argument("folder")
@grouped(
    "selection",
    Selection,
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
    selection: Selection,
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
    from ..safe_text import counted
    from .text import choice_text, embedder, refuse_where, removals_text

    path, conditions = local_folder(folder), asdict(selection)
    if undo:
        refuse_where(dry_run or any(value is not None for value in conditions.values()))
        manifest, back = restore_rows(path, undo == "last")
        back_text = counted(back, "caption is", "captions are")
        text = f"{back_text} back; {removals_text(manifest)}"
        output.show({"restored": back, "removed": manifest["removed"]}, text)
        return
    where, index = CaptionFilter(**conditions), open_index(path)
    load = embedder(lambda: encoder_for(model.choice(), index, None, say))
    rows = matching_rows(index, where, load)
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
