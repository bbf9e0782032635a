"""`bliss apply`: carry out the decisions made on a report."""

from __future__ import annotations

import click

from .options import ADDRESSES


@click.command()
@click.argument("decisions")
@click.option("--run", "run_folder", required=True, help="The run whose report they were made on.")
@ADDRESSES
@click.option("--list", "list_file", metavar="OUT.csv", help="Write path,label of what stays.")
@click.option(
    "--copy",
    "target",
    metavar="TARGET",
    help="Copy what stays into a new folder, relabelled images under their new label.",
)
def apply(decisions: str, run_folder: str, list_file: str | None, target: str | None) -> None:
    """Carry out a decisions file that the report's page saved.

    Without --list or --copy it only says what would be done. Originals are never changed, moved or
    deleted; undecided images stay.
    """  # fmt: skip
    from ..audit.folder import open_run
    from ..audit.report.terminal import progress_lines
    from ..audit.review.apply import clean, copy_cleaned, read_decisions, summary, write_list
    from ..audit.review.photographs import run_photographs
    from ..safe_text import terminal_text

    run = open_run(run_folder)
    pictures = run_photographs(run) if target is not None else None
    cleaned = clean(run, read_decisions(decisions, run))
    click.echo(summary(cleaned))
    if list_file is not None:
        write_list(cleaned, list_file)
        click.echo(f"List: {terminal_text(list_file)}")
    if target is not None and pictures is not None:
        renamed = copy_cleaned(cleaned, pictures, target, progress_lines())
        click.echo(f"Copy: {terminal_text(target)}")
        if renamed:
            click.echo(f"{renamed:,} of them under another name, because theirs was taken")
    if list_file is None and target is None:
        click.echo("Nothing was written: add --list OUT.csv or --copy TARGET")
