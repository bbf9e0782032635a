"""What the upkeep of an index tells a person: what was removed, added and found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import UsageError
from ..indexer.caption_index import CaptionIndex
from ..indexer.encoding import Encoder
from .safe_text import terminal_text

EXAMPLES, CAPTION_WIDTH = 10, 90


def embedder(load: Callable[[], Encoder]) -> Callable[[str], np.ndarray]:
    """A function from a text to its unit row [d]; the model is loaded when it is first asked."""
    return lambda text: load().encode_texts([text])[0]


def choice_text(index: CaptionIndex, rows: np.ndarray, done: bool) -> str:
    """How many captions, stored rows int64 [u], are removed or would be, and some of them."""
    verb = "removed" if done else "would be removed"
    lines = [f"{len(rows):,} of {index.count:,} captions {verb}; "
             f"{index.count - len(rows):,} stay"]  # fmt: skip
    if len(rows):
        picked = rows[np.unique(np.linspace(0, len(rows) - 1, EXAMPLES).astype(int))]
        lines.append("all of them:" if len(rows) <= EXAMPLES else "some of them:")
        lines += ["  " + terminal_text(c, CAPTION_WIDTH) for c in index.captions(picked)]
    return "\n".join(lines)


def removals_text(manifest: dict[str, Any]) -> str:
    """One line for each removal that holds."""
    removed = manifest["removed"] or {"log": []}
    lines = [f"{entry['rows']:,} removed{_reason(entry)}" for entry in removed["log"]]
    return "\n".join(terminal_text(line) for line in lines) or "nothing is removed"


def _reason(entry: Mapping[str, Any]) -> str:
    where = entry.get("where")
    if isinstance(where, Mapping):
        return ": " + " and ".join(f"{name} {value!r}" for name, value in sorted(where.items()))
    return f": {entry['reason']}" if entry.get("reason") else ""


def refuse_where(given: bool) -> None:
    """UsageError where an undoing also says which captions are meant."""
    if given:
        raise UsageError(
            "--undo was given with captions to remove", "one of the two", "Leave one out"
        )
