"""How far the stages of a caption build run ahead, and in how many processes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class PipelineOptions:
    """How far reading and tokenising run ahead of the encoder, and in how many processes."""

    tokenisers: int | None = None
    """Most processes that tokenise, 0 for none; default half the cores, at most 8."""
    ahead: int = 4
    """Chunks that may be read or wait tokenised beyond one for each process."""
    start_after: int = 16_384
    """Texts to read before the first process is started."""

    def __post_init__(self) -> None:
        if self.tokenisers is not None and self.tokenisers < 0:
            raise UsageError(
                f"{self.tokenisers} tokenising processes were asked for",
                "0, for none, or more",
                "Leave the number out to have it chosen",
            )
        if self.ahead < 1:
            raise UsageError(f"ahead is {self.ahead}", "at least 1 chunk", "Allow more")


def default_tokenisers() -> int:
    """Half the cores this process may use, at most 8; none where there is only one."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(8, (len(affinity(0)) if affinity else os.cpu_count() or 1) // 2)
