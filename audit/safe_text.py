"""Untrusted text (file names, captions, labels) made harmless for terminals and spreadsheets."""

from __future__ import annotations

import unicodedata

UNSAFE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Controls, invisible formatting (bidirectional overrides too), surrogates, line separators."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def terminal_text(text: str, width: int | None = None) -> str:
    r"""`text` with every control or invisible character shown as \xNN, \uNNNN or \UNNNNNNNN.

    No escape sequence reaches the screen and nothing is reordered. Cut to `width` characters,
    the last of them an ellipsis, when it is longer.
    """
    shown = text
    if not text.isprintable():  # which is true of no text with a character of those categories
        shown = "".join(
            char if unicodedata.category(char) not in UNSAFE_CATEGORIES else _escaped(char)
            for char in text
        )
    if width is not None and len(shown) > width:
        shown = shown[: max(0, width - 1)] + "…"
    return shown


def spreadsheet_text(text: str) -> str:
    """`text` as above, and with an apostrophe before anything a spreadsheet would compute."""
    shown = terminal_text(text)
    if shown.lstrip().startswith(FORMULA_STARTS) or text.startswith(FORMULA_STARTS):
        return "'" + shown
    return shown


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
