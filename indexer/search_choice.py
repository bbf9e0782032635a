"""How an index is to be searched, as a caller may say it; what is left out is the index's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError

EXACT = "exact"


@dataclass(frozen=True)
class SearchChoice:
    """Kind, parameters and device of a search."""

    kind: str | None = None
    """"exact", or the kind the index has; None: the index's own."""
    parameters: Mapping[str, int] | None = None
    """These instead of the stored ones of the same name."""
    device: str = "cpu"
    """cpu, cuda (every visible GPU), cuda:1 or cuda:0,1."""
    shards: bool = False
    """Spread the vectors over the GPUs instead of giving each of them all."""

    def __post_init__(self) -> None:
        gpus = gpu_numbers(self.device)
        if self.shards and (gpus is None or len(gpus) == 1):
            raise UsageError(
                f"--search shards was given with device={self.device}",
                "two GPUs or more to spread the vectors over",
                "Leave it out, or name more GPUs: --search device=cuda:0,1,shards",
            )


def gpu_numbers(device: str) -> tuple[int, ...] | None:
    """The GPUs a device names, () for all that are visible; None for the CPU."""
    if device == "cpu":
        return None
    name, colon, numbers = device.partition(":")
    parts = numbers.split(",")
    if name == "cuda" and not colon:
        return ()
    if name == "cuda" and all(part.isascii() and part.isdigit() for part in parts):
        found = tuple(int(part) for part in parts)
        if len(set(found)) == len(found):
            return found
    raise UsageError(
        f"search device '{device}' was given",
        "cpu, cuda, cuda:0 or cuda:0,1",
        "Write --search device=cuda",
    )


OWN = SearchChoice()
"""As the index says, on the CPU."""
