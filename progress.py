"""How far long work has come, as it is told."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and of how much (0 where that is not known)."""


def no_progress(what: str, done: int, total: int) -> None:
    """The Progress that says nothing."""
