"""`bliss report`: the page of a finished run."""

from __future__ import annotations

import click

from . import options as opt
from .base import OUTPUT, Output, command, option, say, section


@command()
@click.argument("run")
@section(
    "Output",
    option("-o", "--output", "file", metavar="FILE", help="[default: report.html in RUN]"),
    option("--top", type=click.IntRange(0), default=1000, show_default=True,
           help="Images to show one by one, the most anomalous."),
    option("--heatmaps", is_flag=True, help="Map each shown image's score over its picture; they "
           "pass through the model again."),
    option("--plots", metavar="DIR", help="Write vector plots for papers to DIR instead."),
)  # fmt: skip
@section("Output", opt.ADDRESSES)
@opt.MODEL
@OUTPUT
def report(
    *,
    run: str,
    file: str | None,
    top: int,
    heatmaps: bool,
    plots: str | None,
    model: opt.ModelOptions,
    output: Output,
) -> None:
    """Write one self-contained page to look at, review and decide: report.html.

    RUN is the output folder of a finished `bliss audit`. Pictures are looked for where the audit
    found them; a relative path also in the folders around RUN.
    """
    from ..audit import save_report
    from ..safe_text import terminal_text

    if plots is None:
        choice = model.choice() if heatmaps else None
        path = save_report(run, file, top, keep_pictures=True, heatmaps=choice, say=say)
        size = path.stat().st_size
        output.show(
            {"report": str(path), "bytes": size},
            f"Report: {terminal_text(str(path))} ({size / 1e6:.1f} MB; open it in a browser)",
        )
        return
    from ..audit import save_plots

    made = [str(path) for path in save_plots(run, plots)]
    output.show({"plots": made}, "\n".join(f"Plot: {terminal_text(path)}" for path in made))
