"""What a person sees of a tuned index: the table of settings, and what was chosen."""

from __future__ import annotations

import math

from ..safe_text import counted
from .index_tuning import CONFIDENCE, EXACT, TOP, WORTH, Measured, setting_text
from .tuning import Tuning

MIB = 2**20
HEAD = (
    ("", ""),
    ("", "setting"),
    ("recall of", "images"),
    ("", "at least"),
    ("", "captions"),
    ("|Δ score|", "max"),
    ("", "mean"),
    ("rank", "corr."),
    (f"top {TOP}", "kept"),
    ("MiB on", "disk"),
    ("MiB to", "search"),
    ("queries", "a second"),
    ("seconds", "to build"),
)


def tuning_lines(found: Tuning) -> list[str]:
    """The table, its key, and the choice."""
    options, queries = found.options, found.queries
    held_out = int((~queries.first_half).sum())
    lines = [
        f"the {options.k} nearest captions of {counted(len(queries.images), 'image')} against "
        "exact search: "
        f"chosen on {int(queries.first_half.sum()):,} of them, recall of the {held_out:,} held out",
        "",
        *table_lines(found),
        "",
        f"* chosen   - dominated: another is as good and faster   at least: with {CONFIDENCE:.0%} "
        "confidence",
        f"captions: {len(queries.texts):,} of the index's own, each left out of its own answer"
        if len(queries.texts)
        else "captions: none were searched with",
        f"scores: BLISS against {found.reference}, each image left out",
        chosen_line(found),
    ]
    return lines


def table_lines(found: Tuning) -> list[str]:
    """One line a setting, under a head of two."""
    rows = [_cells(one, one is _same(found)) for one in found.measured]
    columns = list(zip(*[head for head in zip(*HEAD, strict=True)], *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in [*zip(*HEAD, strict=True), *rows]:
        shown = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(shown).rstrip())
    return lines


def chosen_line(found: Tuning) -> str:
    """What was chosen and why, in a sentence or two."""
    target, chosen = found.options.least_recall, found.chosen
    held_out = int((~found.queries.first_half).sum())
    if chosen.kind != EXACT:
        return (
            f"chosen: {setting_text(chosen.kind, chosen.parameters)}, the fastest whose recall is "
            f"{target:g} or more: {chosen.recall:.4f} held out, at least {chosen.recall_bound:.4f}"
        )
    if held_out < found.least_queries:
        return (
            f"chosen: exact. {held_out:,} held-out images cannot show a recall of {target:g}: "
            f"that needs {found.least_queries:,}, even where each finds all its captions"
        )
    least = WORTH * chosen.queries_per_second
    if not any(one.queries_per_second >= least for one in found.measured):
        return f"chosen: exact. No other setting is {WORTH:g} times as fast"
    return f"chosen: exact. No faster setting has shown a recall of {target:g}"


def _same(found: Tuning) -> Measured:
    chosen = found.chosen.kind, dict(found.chosen.parameters)
    return next(one for one in found.measured if (one.kind, dict(one.parameters)) == chosen)


def _cells(one: Measured, chosen: bool) -> list[str]:
    return [
        "*" if chosen else "-" if one.dominated else "",
        setting_text(one.kind, one.parameters),
        f"{one.recall:.4f}",
        f"{one.recall_bound:.4f}",
        "" if math.isnan(one.text_recall) else f"{one.text_recall:.4f}",
        f"{one.score_max:.3g}",
        f"{one.score_mean:.2g}",
        f"{one.rank_correlation:.4f}",
        f"{one.top_in_common}",
        f"{one.stored_bytes / MIB:,.1f}",
        "" if one.peak_bytes is None else f"{one.peak_bytes / MIB:,.1f}",
        f"{one.queries_per_second:,.0f}",
        f"{one.build_seconds:.1f}",
    ]
