"""`bliss apply`: carry out the decisions made on a report."""

from __future__ import annotations

import click

from .base import OUTPUT, Output, command, option, progress_lines, section
from .options import ADDRESSES


@command()
@click.argument("decisions")
@section(
    "Decisions",
    option("--run", "run_folder", required=True, metavar="DIR", help="The run whose report they "
           "were made on."),
    option("--list", "list_file", metavar="OUT.csv", help="Write path,label of what stays."),
    option("--copy", "target", metavar="DIR", help="Copy what stays into a new folder, "
           "relabelled images under their new label."),
)  # fmt: skip
@section("Output", ADDRESSES)
@OUTPUT
def apply(
    *,
    decisions: str,
    run_folder: str,
    list_file: str | None,
    target: str | None,
    output: Output,
) -> None:
    """Carry out a decisions file that the report page saved.

    Without --list or --copy it only says what would be done. Originals are never changed, moved or
    deleted; undecided images stay.
    """
    from ..audit import (
        clean,
        copy_cleaned,
        open_run,
        read_decisions,
        run_photographs,
        summary,
        write_list,
    )
    from ..safe_text import terminal_text

    run = open_run(run_folder)
    pictures = run_photographs(run) if target is not None else None
    cleaned = clean(run, read_decisions(decisions, run))
    if not output.as_json:
        output.show(None, summary(cleaned))
    renamed, lines = 0, []
    if list_file is not None:
        write_list(cleaned, list_file)
        lines.append(f"List: {terminal_text(list_file)}")
    if target is not None and pictures is not None:
        renamed = copy_cleaned(cleaned, pictures, target, progress_lines())
        lines.append(f"Copy: {terminal_text(target)}")
        if renamed:
            lines.append(f"{renamed:,} of them under another name, because theirs was taken")
    facts = {
        "decided": cleaned.counts,
        "stay": len(cleaned.images),
        "unreadable": cleaned.failed,
        "list": list_file,
        "copy": target,
        "renamed": renamed,
    }
    output.show(facts, "\n".join(lines) or "Nothing was written: add --list OUT.csv or --copy DIR")
