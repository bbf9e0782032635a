"""The most memory that one piece of work takes, as the kernel counts it; only Linux tells."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")


def with_peak(work: Callable[[], Made]) -> tuple[Made, int | None]:
    """What `work` makes, and the bytes of resident memory it needed on top of what was there.

    The kernel's high-water mark of this process is set back for it, and freed memory is given back
    first, so that nothing hides in it. None where that is not to be had.
    """
    before: int | None = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    made = work()
    if before is None:
        return made, None
    try:
        return made, max(0, _status("VmHWM") - before)
    except (OSError, ValueError):
        return made, None


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name}")
