"""`bliss diff`: what became more or less anomalous between two audits."""

from __future__ import annotations

from pathlib import Path

import click

from .base import OUTPUT, Output, command, section
from .options import TOP, option


@command()
@click.argument("run_a")
@click.argument("run_b")
@section(
    "Output",
    option("-o", "--output", "file", metavar="FILE", help="Also write every image's change to "
           "this CSV file."),
    TOP,
)  # fmt: skip
@OUTPUT
def diff(*, run_a: str, run_b: str, file: str | None, top: int, output: Output) -> None:
    """Compare two audits of the same images: another model, corpus, reference or cleaning.

    RUN_A and RUN_B are output folders of `bliss audit`. Images are matched by content and compared
    by their rank among the images of both, from 0 (least anomalous) to 1.
    """
    from ..artefacts import write_atomically
    from ..audit import (
        ROWS_AT_ONCE,
        compare_runs,
        differences_summary,
        differences_table,
        differences_text,
        open_run,
        write_scores_csv,
    )

    first, second = open_run(run_a), open_run(run_b)
    found = compare_runs(first, second)
    table = differences_table(first, second, found)
    if file is not None:
        batches = table.to_batches(ROWS_AT_ONCE)
        names = table.column_names
        write_atomically(Path(file), lambda out: write_scores_csv(names, batches, out.write))
    summary = differences_summary(found, table, top)
    output.show(summary, lambda: differences_text(summary))
