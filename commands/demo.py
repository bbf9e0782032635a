"""`bliss demo`: planted strays, found offline."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from .options import (
    say,
)


@click.command()
@click.option("-o", "--output", default="bliss-demo", show_default=True,
              help="The folder for all that is made.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the images and captions.")
def demo(output: str, seed: int) -> None:
    """Render a small collection with planted strays, audit it, and say what was found."""
    from ..audit.report.terminal import progress_lines
    from ..demo.run import run_demo

    click.echo(run_demo(Path(output), seed, progress_lines(), say, _program()))


def _program() -> str:
    """How a shell calls this program: by its name where that is on the path."""
    if shutil.which("bliss"):
        return "bliss"
    if os.path.basename(sys.argv[0]) == "bliss":
        return shlex.quote(sys.argv[0])
    return f"{shlex.quote(sys.executable)} -m blissaudit"
