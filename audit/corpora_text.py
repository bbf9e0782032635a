"""Presets and first looks at corpora, as a person reads them; their texts are not trusted."""

from __future__ import annotations

from collections.abc import Iterable

from ..corpora.peeking import LENGTH_EDGES, Peek
from ..corpora.registry import Preset
from .safe_text import terminal_text

UNCHECKED = "coordinates not checked"

_BAR = 30
_EXAMPLE_WIDTH = 90


def presets_text(presets: Iterable[Preset]) -> str:
    """A table: name, texts, languages, whether checked, what it is good for."""
    rows: list[tuple[str, ...]] = [("name", "texts", "languages", "licence", "", "good for")]
    for each in presets:
        texts = "" if each.texts is None else f"{each.texts:,}"
        mark = "" if each.checked else "*"
        line = (each.name, texts, ", ".join(each.languages), each.licence, mark, each.good_for)
        rows.append((*(terminal_text(cell, 28) for cell in line[:5]), terminal_text(line[5])))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  "
        f"{row[3]:<{widths[3]}}  {row[4]:<{widths[4]}}  {row[5]}".rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", f"* {UNCHECKED}: as the corpus's own pages give them"])


def preset_text(preset: Preset) -> str:
    """Every field that says something, one a line."""
    texts = None if preset.texts is None else f"about {preset.texts:,}"
    pairs = (
        ("name", preset.name),
        ("corpus", preset.spec + ("" if preset.checked else f" ({UNCHECKED})")),
        ("config", preset.config),
        ("split", preset.split),
        ("column", preset.column),
        ("revision", preset.revision),
        ("split at", preset.split_cells),
        ("prompt", preset.prompt),
        ("texts", texts),
        ("download", preset.download),
        ("languages", ", ".join(preset.languages)),
        ("licence", preset.licence),
        ("good for", preset.good_for),
        ("homepage", preset.homepage),
        ("note", preset.note),
    )
    return "\n".join(f"{name:<10} {terminal_text(value)}" for name, value in pairs if value)


def peek_text(spec: str, found: Peek) -> str:
    """Counts, a histogram of lengths, hints at the language, and some of the texts."""
    more = "" if found.whole else ", and there are more"
    lines = [
        f"{spec}: {found.texts:,} texts in the first {found.rows:,} rows{more}",
        f"empty {found.empty:,}; repeated {found.duplicates:.1%}; "
        f"{found.shortest:,} to {found.longest:,} characters",
        "",
        "characters        texts",
    ]
    most = max(1, *found.lengths)
    for number, count in enumerate(found.lengths):
        bar = "█" * round(_BAR * count / most)
        lines.append(f"{_bin(number):<14} {count:>8,}  {bar}".rstrip())
    scripts = ", ".join(f"{name} {share:.1%}" for name, share in list(found.scripts.items())[:4])
    lines += [
        "",
        f"letters: {scripts or 'none'}; ASCII {found.ascii:.1%}",
        f"language (a hint): {found.language or 'no guess'}",
        "",
        *(f"  {terminal_text(text, _EXAMPLE_WIDTH)}" for text in found.examples),
    ]
    return "\n".join(terminal_text(line) for line in lines).rstrip()


def _bin(number: int) -> str:
    first = LENGTH_EDGES[number]
    last = number + 1 == len(LENGTH_EDGES)
    return f"{first:,} or more" if last else f"{first:,} to {LENGTH_EDGES[number + 1] - 1:,}"
