"""The text that commands print on presets, corpora and indexes.

Names and captions are not trusted: control characters are shown, not sent to the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..audit import altered_text, index_text
from ..corpora import LENGTH_EDGES, Peek, Preset, is_remote
from ..errors import BlissError
from ..indexer import (
    Added,
    CaptionIndex,
    Check,
    FolderIndex,
    describe_search,
    unknown_licences,
)
from ..safe_text import counted, terminal_text

UNCHECKED = "coordinates not checked"

_BAR = 30
_EXAMPLE_WIDTH = 90


def presets_text(presets: Iterable[Preset]) -> str:
    """A table with a line for each preset."""
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
    """Every field that is set, one per line."""
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
        f"{spec}: {counted(found.texts, 'text')} in the first {counted(found.rows, 'row')}{more}",
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


EXAMPLES, CAPTION_WIDTH = 10, 90


def choice_text(index: FolderIndex, rows: np.ndarray, done: bool) -> str:
    """How many captions (`rows`, int64 [u]) are removed or would be, and examples of them."""
    if done and not len(rows):
        return "nothing changed: these captions were removed before"
    verb = "removed" if done else "would be removed"
    lines = [f"{len(rows):,} of {counted(index.count, 'caption')} {verb}; "
             f"{counted(index.count - len(rows), 'stays', 'stay')}"]  # fmt: skip
    if len(rows):
        picked = rows[np.unique(np.linspace(0, len(rows) - 1, EXAMPLES).astype(int))]
        lines.append("all of them:" if len(rows) <= EXAMPLES else "some of them:")
        lines += ["  " + terminal_text(c, CAPTION_WIDTH) for c in index.captions[picked]]
    return "\n".join(lines)


def built_text(index: CaptionIndex, output: str) -> str:
    """Description of an index that was built in `output`, a folder or an address."""
    if not is_remote(output):
        return index_text(index)
    head = terminal_text(f"{output}: copied from {index.folder}, which the cache may lose")
    return f"{index_text(index)}\n{head}"


def info_text(index: CaptionIndex) -> str:
    """Description of an index, with its removals."""
    lines = [index_text(index), describe_search(index.manifest)]
    if index.manifest["removed"]:
        lines.append(removals_text(index.manifest))
    lines.append("not compared with its checksums: `bliss index verify` does that")
    return "\n".join(lines)


def removals_text(manifest: Mapping[str, Any]) -> str:
    """One line for each removal in effect."""
    removed = manifest["removed"] or {"log": []}
    lines = [f"{entry['rows']:,} removed{_reason(entry)}" for entry in removed["log"]]
    return "\n".join(terminal_text(line) for line in lines) or "nothing is removed"


def _reason(entry: Mapping[str, Any]) -> str:
    where = entry.get("where")
    if isinstance(where, Mapping):
        return ": " + " and ".join(f"{name} {value!r}" for name, value in sorted(where.items()))
    return f": {entry['reason']}" if entry.get("reason") else ""


def check_text(check: Check) -> str:
    """One line if there is no problem, otherwise one for each problem with its remedy."""
    if not check.problems:
        return terminal_text(f"ok       {check.name}: {check.looked_at}")
    lines = [f"PROBLEM  {check.name}: {p.what}. {p.remedy}." for p in check.problems]
    return "\n".join(terminal_text(line) for line in lines)


def verdict(folder: str, checks: Sequence[Check]) -> str:
    """The last line after checks without a problem; BlissError if there was one."""
    problems = sum(len(check.problems) for check in checks)
    if problems:
        raise BlissError(
            f"{folder} has {counted(problems, 'problem')}",
            "an index as bliss wrote it",
            "Follow the remedies above",
        )
    return f"{folder} is whole"


def added_text(added: Added) -> str:
    """How many texts were added, and how many dropped and why."""
    counts, index = added.counts, added.index
    dropped = ", ".join(
        f"{value:,} {name.replace('_', ' ')}"
        for name, value in sorted(counts.items())
        if name not in ("read", "kept") and value
    )
    done = "had been added before" if added.before else "added"
    lines = [
        f"{counted(counts['kept'], 'caption')} {done}: {index.folder} has {index.count:,}",
        f"{counted(counts['read'], 'text')} read, "
        + (f"dropped: {dropped}" if dropped else "none dropped"),
    ]
    if not added.before:
        begun = index.manifest["additions"][-1]["first_source"]
        lines += altered_text(index.manifest["sources"][begun:], index.model.get("context_length"))
    if counts.get("duplicate"):
        lines.append("duplicates are of one another, or of captions the index has or had")
    if index.manifest["request"].get("near_duplicates") is not None:
        lines.append("near-duplicates were not looked for among the captions added")
    return "\n".join(terminal_text(line) for line in lines)


def pushed_text(index: CaptionIndex, repository: str, address: str, public: bool) -> str:
    """Where a pushed index is, who can see it, and which licences are unknown."""
    lines = [
        f"{counted(index.count, 'caption is', 'captions are')} at {address}, "
        f"{'public' if public else 'private'}",
        f"get them with: bliss index pull {repository} DIR",
    ]
    unknown = unknown_licences(index.manifest)
    if unknown:
        lines.append(f"the licence of {', '.join(unknown[:5])} is not known: --licence states it")
    return "\n".join(terminal_text(line) for line in lines)
