"""`bliss diff`: what became more or less anomalous between two audits."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import JSON


@click.command()
@click.argument("run_a")
@click.argument("run_b")
@click.option("--top", type=click.IntRange(0), default=20, show_default=True,
              help="Images to show.")  # fmt: skip
@click.option("-o", "--output", help="Also write every image's change to this csv file.")
@JSON
def diff(run_a: str, run_b: str, top: int, output: str | None, as_json: bool) -> None:
    """Compare two audits of the same images: another model, corpus, reference or cleaning.

    RUN_A and RUN_B are output folders of `bliss audit`. Images are matched by content and compared
    by where they stand among the images of both, from 0 (least anomalous) to 1.
    """
    from ..artefacts import write_atomically
    from ..audit.folder import ROWS_AT_ONCE, open_run, write_scores_csv
    from ..audit.report.terminal import differences_text
    from ..audit.review.differences import compare_runs, differences_summary, differences_table

    first, second = open_run(run_a), open_run(run_b)
    found = compare_runs(first, second)
    table = differences_table(first, second, found)
    if output is not None:
        batches = table.to_batches(ROWS_AT_ONCE)
        names = table.column_names
        write_atomically(Path(output), lambda file: write_scores_csv(names, batches, file.write))
    summary = differences_summary(found, table, top)
    click.echo(json.dumps(summary, indent=2) if as_json else differences_text(summary))
