"""`bliss demo`: planted strays, found offline."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from .base import OUTPUT, Output, command, option, progress_lines, say, section
from .option_types import SEED


@command()
@section(
    "Demo",
    option("-o", "--output", "folder", default="bliss-demo", show_default=True, metavar="DIR",
           help="The folder for all that is made."),
    option("--seed", type=SEED, default=0, show_default=True, help="Seed of the images and "
           "captions."),
)  # fmt: skip
@OUTPUT
def demo(*, folder: str, seed: int, output: Output) -> None:
    """Render a small collection with planted strays, audit it, and show what was found."""
    from ..demo import run_demo

    text = run_demo(Path(folder), seed, progress_lines(), say, _program())
    audit = Path(folder) / "audit"
    facts = {"images": str(Path(folder) / "images"), "audit": str(audit)}
    output.show({**facts, "report": str(audit / "report.html")}, text)


def _program() -> str:
    """How a shell calls this program: by its name where that is on the path."""
    if shutil.which("bliss"):
        return "bliss"
    if os.path.basename(sys.argv[0]) == "bliss":
        return shlex.quote(sys.argv[0])
    return f"{shlex.quote(sys.executable)} -m blissaudit"
