"""`bliss report`: the page of a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from .options import ADDRESSES


@click.command()
@click.argument("run")
@click.option("-o", "--output", help="The page's file [default: report.html in RUN]")
@click.option(
    "--images",
    default=1000,
    show_default=True,
    help="How many of the most anomalous images are shown one by one.",
)
@ADDRESSES
@click.option("--plots", metavar="DIR", help="Write vector plots for papers to DIR instead.")
def report(run: str, output: str | None, images: int, plots: str | None) -> None:
    """Write one self-contained page to look at, review and decide: report.html.

    RUN is the output folder of a finished `bliss audit`. Run this in the folder in which the audit
    ran, so that its pictures are found.
    """  # fmt: skip
    from ..audit.report.page import save_report
    from ..safe_text import terminal_text

    if plots is None:
        path = save_report(run, output, images)
        click.echo(f"Report: {terminal_text(str(path))} ({_size(path)}; open it in a browser)")
        return
    from ..audit.report.plots import save_plots

    for path in save_plots(run, plots):
        click.echo(f"Plot: {terminal_text(str(path))}")


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
