"""The table of an evaluation: its rows, and how they look as markdown and as CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..csv_cells import csv_text
from ..errors import UsageError
from .metrics import METRICS, mean_interval, paired_interval
from .run import EvalResult, ScoreResult

FLAGS = ("fdp_bh", "power_bh")
"""Columns of what Benjamini–Hochberg would have flagged; see flagging.py."""


def table_rows(result: EvalResult, baseline: str | None = None) -> list[dict[str, Any]]:
    """One dictionary a score, best mean AUROC first: means over draws, groups averaged first.

    With a `baseline`, `gain` is the mean difference in AUROC to it, with its paired bootstrap
    interval. UsageError where the baseline was not evaluated.
    """
    base = _named(result, baseline).metric("auroc") if baseline else None
    rows = []
    for found in result.scores:
        values = found.metric("auroc")
        interval = mean_interval(values)
        row: dict[str, Any] = {"score": found.chosen.name, "auroc": interval.mean}
        row |= {"auroc_low": interval.low, "auroc_high": interval.high}
        row["auroc_worst"] = float(values.min())
        if base is not None:
            gain = paired_interval(values, base)
            row |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        row |= {name: float(found.metric(name).mean()) for name in METRICS[1:]}
        for number, name in enumerate(FLAGS):
            row[name] = None if found.flags is None else float(found.flags[:, :, number].mean())
        if len(result.groups) > 1:
            for number, group in enumerate(result.groups):
                row[f"auroc: {group}"] = float(found.metric("auroc", number).mean())
        row["seconds"] = found.seconds
        row["peak_mib"] = found.peak_bytes / 2**20
        rows.append({name: _plain(value) for name, value in row.items()})
    return sorted(rows, key=lambda row: (-row["auroc"], row["score"]))


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a markdown table: shares in %, each interval in its mean's column."""
    shown = []
    for row in rows:
        cells = {}
        for name, value in row.items():
            if name.endswith(("_low", "_high")):
                continue
            ends = (row.get(f"{name}_low"), row.get(f"{name}_high"))
            cells[name] = _cell(name, value) + (_ends(name, ends) if f"{name}_low" in row else "")
        shown.append(cells)
    heads = list(shown[0]) if shown else []
    lines = [" | ".join(_markdown(head) for head in heads), " | ".join(["---"] * len(heads))]
    lines += [" | ".join(_markdown(cells[head]) for head in heads) for cells in shown]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV, numbers in full; no cell is a formula."""
    heads = list(rows[0]) if rows else []
    return csv_text([heads, *([row[head] for head in heads] for row in rows)])


def _named(result: EvalResult, name: str) -> ScoreResult:
    for found in result.scores:
        if found.chosen.name == name:
            return found
    raise UsageError(
        f"the baseline '{name}' is not among the evaluated scores",
        f"one of {', '.join(found.chosen.name for found in result.scores)}",
        "Correct --baseline, or add it with --score",
    )


def _plain(value: Any) -> Any:
    """NaN has no place in JSON."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "–"
    if name == "seconds":
        return f"{value:.3f}"
    if name == "peak_mib":
        return f"{value:.1f}"
    return f"{100 * value:+.2f}" if name == "gain" else f"{100 * value:.2f}"


def _ends(name: str, ends: tuple[float | None, float | None]) -> str:
    sign = "+" if name == "gain" else ""
    if ends[0] is None or ends[1] is None:
        return " [–]"
    return f" [{100 * ends[0]:{sign}.2f}, {100 * ends[1]:{sign}.2f}]"


def _markdown(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
