"""A command that is killed midway."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def kill_when_made(
    script: str, arguments: Sequence[str], folder: Path, pattern: str, count: int
) -> None:
    """Run a Python `script` and kill it once `folder` has `count` files of the `pattern`."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", script, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 180
    while len(list(folder.glob(pattern))) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
