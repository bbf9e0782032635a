"""Text for people: untrusted text made harmless for terminals, and counts in words."""

from __future__ import annotations

from .csv_cells import visible_text


def terminal_text(text: str, width: int | None = None) -> str:
    r"""`text` with every control or invisible character shown as \xNN, \uNNNN or \UNNNNNNNN.

    No escape sequence reaches the screen and nothing is reordered. Cut to `width` characters,
    the last of them an ellipsis, when it is longer.
    """
    shown = visible_text(text)
    if width is not None and len(shown) > width:
        shown = shown[: max(0, width - 1)] + "…"
    return shown


def counted(count: int, noun: str, plural: str = "") -> str:
    """The count with its noun: "1 image", "2,000 images"; `plural` where it does not end in -s.

    >>> counted(0, "class", "classes")
    '0 classes'
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
