r"""Untrusted text made harmless for terminals and spreadsheets, and counts in words.

In CSV files no cell, and no part of one, begins a formula, and nothing is lost. Texts (file names,
captions, labels) come from anywhere. How a cell holds one:

- A backslash is written twice; a control or invisible character as \xNN, \uNNNN or \UNNNNNNNN.
- Where the cell, or what follows a separator in it, would begin a formula, an apostrophe stands
  before it. Separators are those of any locale: a spreadsheet that splits on semicolons does not
  see the quotes of a comma-separated file.
- Entries of a list are joined by " | "; a "|" inside an entry is written \|.

`cell_text` and `cell_list` read a cell back.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence

UNSAFE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Controls, invisible formatting (bidirectional overrides too), surrogates, line separators."""

SEPARATORS = ",;|،؛、\u037e︐︑︔﹐﹑﹔，；｜､"
"""What some spreadsheet splits a line on, and look-alikes. Tabs and line ends are escaped."""

FORMULA_CHARACTERS = "=+@−⁺⁻⁼₊₋₌⩵⩶﬩﹢﹣﹦﹫＝＋－＠-"
"""What begins a formula, full-width and other variants too. `-` is last, for a character class."""

GUARD_PATTERN = rf"""(^|[{SEPARATORS}])(\s*)(?!\s)(?=["'\s]*[{FORMULA_CHARACTERS}])"""
"""Where an apostrophe is put. The page of a report uses it too: JavaScript reads it alike."""
GUARDED_PATTERN = rf"""(^|[{SEPARATORS}])(\s*)(?!\s)'(?=["'\s]*[{FORMULA_CHARACTERS}])"""
"""An apostrophe that was put there."""

LIST_SEPARATOR = " | "
"""Between the entries of a list."""

_GUARD, _GUARDED = re.compile(GUARD_PATTERN), re.compile(GUARDED_PATTERN)
_HARMLESS = re.compile(r"[0-9A-Za-z][ -+\--:<-\[\]-{}~]*")
"""Most texts: ASCII that begins with a letter or digit, without separators and backslashes."""
_ESCAPE = re.compile(
    r"\\(?:([\\|])|x([0-9a-f]{2})|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4}))"
)


def visible_text(text: str) -> str:
    r"""`text` with every control or invisible character shown as \xNN, \uNNNN or \UNNNNNNNN."""
    if text.isprintable():  # which is true of no text with a character of those categories
        return text
    return "".join(
        char if unicodedata.category(char) not in UNSAFE_CATEGORIES else _escaped(char)
        for char in text
    )


def text_cell(text: str) -> str:
    """The cell that holds `text`."""
    if _HARMLESS.fullmatch(text):
        return text
    return _GUARD.sub(r"\1\2'", visible_text(text.replace("\\", "\\\\")))


def is_plain(text: str) -> bool:
    """Whether a cell that is `text` itself, backslashes and all, is harmless too."""
    return visible_text(text) == text and _GUARD.search(text) is None


def list_cell(entries: Sequence[object]) -> str:
    """The cell that holds the entries."""
    cells = [entry_cell(entry) if isinstance(entry, str) else str(entry) for entry in entries]
    return joined_cells(cells, not isinstance(next(iter(entries), ""), str))


def joined_cells(cells: Sequence[str], numbers: bool) -> str:
    """The cell that holds what `entry_cell` made of texts, or `numbers` as they are written.

    Numbers below 0 get no apostrophe, but for the first of several, with which the cell begins.
    """
    cell = LIST_SEPARATOR.join(cells)
    return f"'{cell}" if numbers and len(cells) > 1 and cell.startswith("-") else cell


def entry_cell(text: str) -> str:
    """What stands in the cell of a list for one of its texts."""
    return text_cell(text).replace("|", "\\|")


def cell_text(cell: str) -> str:
    """The text that a cell of `text_cell` holds."""
    return _ESCAPE.sub(_unescaped, _GUARDED.sub(r"\1\2", cell))


def cell_list(cell: str) -> list[str]:
    """The entries that a cell of `list_cell` holds, as texts; none in an empty cell."""
    return [cell_text(entry) for entry in cell.split(LIST_SEPARATOR)] if cell else []


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Comma-separated lines of `rows`.

    Texts and lists as above, None empty, numbers and truth values as Python writes them.
    """
    return csv_lines([any_cell(value) for value in row] for row in rows)


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    """Comma-separated lines of cells."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def any_cell(value: object) -> object:
    """The cell that holds a text, a list, None, a number or a truth value."""
    if isinstance(value, str):
        return text_cell(value)
    if isinstance(value, list | tuple):
        return list_cell(value)
    return "" if value is None else value


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unescaped(found: re.Match[str]) -> str:
    plain, *codes = found.groups()
    return plain or chr(int(next(code for code in codes if code), 16))


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


def some_of(names: Sequence[str], most: int) -> str:
    """The first `most` names, and how many more there are.

    >>> some_of(["ant", "bee", "cat"], 2)
    'ant, bee and 1 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
