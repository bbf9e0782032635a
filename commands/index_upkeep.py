"""`bliss index remove`, `add` and `verify`: the upkeep of a finished caption index."""

from __future__ import annotations

from typing import Any

import click

from .option_values import model_choice, open_said
from .options import CORPUS, MODEL, options, say

WHERE = options(
    click.option("--caption", metavar="REGEX", help="Captions with this pattern in them (RE2)."),
    click.option("--contains", metavar="TEXT", help="Captions with this text, in any case."),
    click.option("--source", metavar="NAME", help="Captions from this source."),
    click.option("--like", metavar="TEXT", help="Captions near to this text …"),
    click.option("--above", type=float, metavar="COSINE", help="… their cosine being above this."),
)


@click.command()
@click.argument("folder")
@click.argument("corpus", nargs=-1)
@click.option("--embeddings", help="Add precomputed text embeddings of the index's model.")
@click.option("--prompt", multiple=True, help="Template; several are averaged "
              "[default: the index's, where it was asked for some, else by corpus]")  # fmt: skip
@click.option("--licence", multiple=True, metavar="TEXT",
              help="The licence of the captions, or NAME=TEXT for each corpus.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Drop what another interrupted add left.")
@options(CORPUS, MODEL)
def add(folder: str, corpus: tuple[str, ...], embeddings: str | None, **given: Any) -> None:
    """Append the captions of every CORPUS that an index does not have.

    What is there stays as it is and can be searched meanwhile; captions that were removed stay
    removed. The same command again goes on where it stopped.
    """
    from ..audit.models import encoder_for
    from ..audit.report.terminal import progress_lines
    from ..indexer.build.add import AddOptions, add_captions, add_embeddings
    from ..indexer.search.index import open_index
    from ..indexer.store.folder import local_folder
    from .text import added_text, check_one_given

    check_one_given(corpus, embeddings, given["prompt"])
    path = local_folder(folder)
    choices = AddOptions(given["prompt"] or None, given["licence"], given["overwrite"])
    if embeddings is not None:
        made = add_embeddings(path, embeddings, given["column"], choices, progress_lines())
    else:
        sources = [open_said(each, given) for each in corpus]
        encoder = encoder_for(model_choice(given), open_index(path), None, say)
        made = add_captions(path, sources, encoder, choices, progress_lines())
    click.echo(added_text(made))


@click.command()
@click.argument("folder")
@WHERE
@click.option("--dry-run", is_flag=True, help="Only say how many, with examples.")
@click.option("--undo", type=click.Choice(["last", "all"]), help="Bring removed captions back.")
@MODEL
def remove(folder: str, dry_run: bool, undo: str | None, **given: Any) -> None:
    """Hide captions of an index from every search; its parts stay as they are.

    A caption is removed when everything that is asked holds.
    """
    from ..audit.models import encoder_for
    from ..indexer.search.index import open_index
    from ..indexer.store.folder import local_folder
    from ..indexer.store.removed import remove_rows, restore_rows
    from ..indexer.upkeep.row_choice import CaptionFilter, matching_rows
    from ..safe_text import counted
    from .text import choice_text, embedder, refuse_where, removals_text

    path, names = local_folder(folder), ("caption", "contains", "source", "like", "above")
    asked = {name: given[name] for name in names}
    if undo:
        refuse_where(dry_run or any(value is not None for value in asked.values()))
        manifest, back = restore_rows(path, undo == "last")
        click.echo(f"{counted(back, 'caption is', 'captions are')} back; {removals_text(manifest)}")
        return
    where, index = CaptionFilter(**asked), open_index(path)
    load = embedder(lambda: encoder_for(model_choice(given), index, None, say))
    rows = matching_rows(index, where, load)
    if not dry_run:
        remove_rows(path, rows, where.facts())
    click.echo(choice_text(index, rows, not dry_run))


@click.command()
@click.argument("folder")
@click.option("--embed", type=click.IntRange(0), default=0, metavar="N",
              help="Also embed N of its captions again and compare.")  # fmt: skip
@MODEL
def verify(folder: str, embed: int, **given: Any) -> None:
    """Check an index from end to end: one line a check, every problem with what to do.

    Checksums, counts, vectors, captions and what was removed; exit code 1 where anything is wrong.
    """
    from ..audit.models import encoder_for
    from ..audit.report.terminal import progress_lines
    from ..indexer.search.index import open_index
    from ..indexer.store.folder import local_folder
    from ..indexer.upkeep.verify import verify_index
    from .text import check_text, verdict

    path, checks = local_folder(folder), []
    for check in verify_index(
        path,
        embed,
        lambda: encoder_for(model_choice(given), open_index(path), None, say),
        progress_lines(),
    ):
        checks.append(check)
        click.echo(check_text(check))
    click.echo(verdict(folder, checks))
