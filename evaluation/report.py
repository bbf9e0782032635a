"""The files of an evaluation: its table as markdown, CSV and JSON, a plot, and eval.json.

eval.json repeats the evaluation; `differences` says whether its numbers came out again.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import FORMAT_VERSION, misfit, read_json, write_json, write_text
from ..errors import BlissError, UsageError
from ..safe_text import counted, csv_text
from ..scorer import Need
from .draws import Draw, Protocol, protocol_facts
from .metrics import METRICS, Interval, mean_interval, paired_interval
from .run import CALIBRATION_SHARE, LEVEL, EvalResult, ScoreResult

TABLE, SUMMARY = "table", "eval.json"
LIBRARIES = ("bliss-audit", "numpy", "faiss-cpu", "faiss-gpu")


def heading(result: EvalResult, protocol: Protocol) -> str:
    """What was measured, in one line."""
    tested = float(np.mean([len(draw.test) for draw in result.draws]))
    references = float(np.mean([len(draw.reference) for draw in result.draws]))
    classes = float(np.mean([len(draw.normal) for draw in result.draws]))
    return (
        f"{protocol.name}: {counted(len(result.draws), 'draw')}, seed {protocol.seed}, "
        f"{classes:g} normal class{'es' * (classes != 1)}, {references:g} reference and "
        f"{tested:g} test images a draw, {100 * result.anomaly_ratio:.1f} % anomalies"
    )


def notes(result: EvalResult) -> list[str]:
    """Lines that explain the table."""
    lines = [f"skipped {name}: {reason}" for name, reason in result.skipped.items()]
    lines += [
        f"{found.chosen.name} looks at the other test images too"
        for found in result.scores
        if found.chosen.score.stateful
    ]
    lines += _flag_notes(result)
    if result.leaked:
        lines.append(f"{result.leaked} test images have the content of a reference image")
    return lines


def _flag_notes(result: EvalResult) -> list[str]:
    """What the flags were calibrated on, and why some scores have none."""
    lines = []
    if any(found.flags is not None for found in result.scores):
        low, high = min(result.calibration), max(result.calibration)
        lines.append(
            f"{FLAGS[0]}, {FLAGS[1]}: flagged by Benjamini–Hochberg at {LEVEL:g}, p-values from "
            f"{low if low == high else f'{low} to {high}'} held-out reference images a draw "
            f"({100 * CALIBRATION_SHARE:g} % of each class)"
        )
    reasons: dict[str, list[str]] = {}
    for found in result.scores:
        if found.flags is None:
            reasons.setdefault(found.not_flagged, []).append(found.chosen.name)
    for reason, names in reasons.items():
        which = "any score" if len(names) == len(result.scores) else ", ".join(names)
        lines.append(f"no {FLAGS[0]} of {which}: {reason}")
    return lines


def save_report(
    result: EvalResult,
    protocol: Protocol,
    folder: str | Path,
    facts: Mapping[str, Any],
    baseline: str | None = None,
) -> list[dict[str, Any]]:
    """Write table.md, table.csv, table.json, scores.svg and, last, eval.json; returns the rows.

    `facts` say what the draws were made from: fingerprints, index, model, k.
    """
    folder = Path(folder)
    rows = table_rows(result, baseline)
    head = heading(result, protocol)
    text = "\n".join([head, "", markdown_table(rows), *notes(result)]).rstrip() + "\n"
    write_text(folder / f"{TABLE}.md", text)
    write_text(folder / f"{TABLE}.csv", csv_table(rows))
    write_text(folder / f"{TABLE}.json", json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    ends = ("auroc", "auroc_low", "auroc_high")
    means = [
        (row["score"], Interval(*(math.nan if row[end] is None else row[end] for end in ends)))
        for row in rows
    ]
    write_text(folder / "scores.svg", interval_plot(means, f"AUROC, {head}"))
    write_json(folder / SUMMARY, eval_facts(result, protocol, facts, (rows, baseline)))
    return rows


def eval_facts(
    result: EvalResult,
    protocol: Protocol,
    facts: Mapping[str, Any],
    table: tuple[list[dict[str, Any]], str | None],
) -> dict[str, Any]:
    """Everything needed to repeat the table, with every draw's metrics."""
    return {
        "format_version": FORMAT_VERSION,
        "kind": "evaluation",
        "protocol": protocol_facts(protocol),
        **facts,
        "baseline": table[1],
        "scores": {found.chosen.name: _score_facts(found) for found in result.scores},
        "skipped": dict(result.skipped),
        "groups": list(result.groups),
        "metrics": list(METRICS),
        "flagging": {"level": LEVEL, "share": CALIBRATION_SHARE, "metrics": list(FLAGS)},
        "calibration": list(result.calibration),
        "draws": [_draw_facts(draw) for draw in result.draws],
        "anomaly_ratio": result.anomaly_ratio,
        "leaked": result.leaked,
        "table": table[0],
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "python": platform.python_version(),
    }


def _score_facts(found: ScoreResult) -> dict[str, Any]:
    score = found.chosen.score
    return {
        "score": score.name,
        "parameters": found.chosen.parameters,
        "formula": score.formula,
        "source": score.source,
        "needs_normals": score.uses_references,
        "needs_texts": Need.TEXTS in score.needs,
        "needs_index": Need.RETRIEVED in score.needs,
        "stateful": score.stateful,
        "values": found.values.tolist(),
        "flags": None if found.flags is None else found.flags.tolist(),
        "not_flagged": found.not_flagged,
    }


def _draw_facts(draw: Draw) -> dict[str, Any]:
    sizes = np.bincount(draw.group, minlength=len(draw.groups) + 1)
    return {
        "normal": list(draw.normal),
        "reference": len(draw.reference),
        "normals": int(sizes[0]),
        "anomalies": dict(zip(draw.groups, sizes[1:].tolist(), strict=True)),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


FLAGS = ("fdp_bh", "power_bh")
"""Columns of what Benjamini–Hochberg would have flagged; see run.py."""


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


ROW, LEFT, WIDTH, RIGHT, TOP = 22, 230, 420, 80, 44
TICKS = 5


def interval_plot(rows: Sequence[tuple[str, Interval]], title: str) -> str:
    """SVG text: a dot at each mean, in %, and a bar over its interval where it has one."""
    ends = [end for _, found in rows for end in (found.mean, found.low, found.high)]
    finite = [100 * end for end in ends if not math.isnan(end)]
    low, high = math.floor(min(finite, default=0)), math.ceil(max(finite, default=100))
    high = max(high, low + 1)

    def at(share: float) -> float:
        return LEFT + WIDTH * (100 * share - low) / (high - low)

    bottom = TOP + ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" '
        f'height="{bottom + 30}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="13">{escape(_shown(title))}</text>',
    ]
    for tick in range(TICKS + 1):
        share = (low + (high - low) * tick / TICKS) / 100
        parts.append(
            f'<line x1="{at(share):.1f}" y1="{TOP - 8}" x2="{at(share):.1f}" y2="{bottom}" '
            f'stroke="#ddd"/><text x="{at(share):.1f}" y="{bottom + 18}" '
            f'text-anchor="middle" fill="#555">{100 * share:.1f}</text>'
        )
    for number, (name, found) in enumerate(rows):
        y = TOP + ROW * number + ROW / 2
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(_shown(name))}</text>'
        )
        if not math.isnan(found.low):
            parts.append(
                f'<line x1="{at(found.low):.1f}" y1="{y:.1f}" x2="{at(found.high):.1f}" '
                f'y2="{y:.1f}" stroke="#4477aa" stroke-width="4" stroke-opacity="0.5"/>'
            )
        parts.append(
            f'<circle cx="{at(found.mean):.1f}" cy="{y:.1f}" r="4" fill="#4477aa"/>'
            f'<text x="{LEFT + WIDTH + 12}" y="{y + 4:.1f}">{100 * found.mean:.2f}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _shown(text: str) -> str:
    """Text without the control characters XML forbids."""
    return "".join(char if char.isprintable() else "�" for char in text)


KIND = "evaluation"
MEASURED_ANEW = ("seconds", "peak_mib")
"""Columns that differ in every run."""
NEEDED = {"asked": dict, "protocol": dict, "sets": {"*": dict}, "table": [{"score": str}]}


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """The content of an eval.json; BlissError where it is something else, or of another format."""
    facts = read_json(Path(path))
    if facts.get("kind") != KIND or facts.get("format_version") != FORMAT_VERSION:
        raise BlissError(
            f"{path} is of kind {facts.get('kind')} and format {facts.get('format_version')}",
            f"an eval.json of bliss eval, format {FORMAT_VERSION}",
            "Give the file that an evaluation wrote, with the bliss-audit version that wrote it",
        )
    wrong = misfit(facts, NEEDED)
    if wrong is not None:
        raise BlissError(
            f"{path} has no usable '{wrong}'", "the file as bliss wrote it", "Evaluate again"
        )
    return facts


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines for the reader: what was not the same, then how far the table's numbers lie apart."""
    lines = []
    for name in ("sets", "index", "libraries", "protocol", "baseline"):
        one, other = before.get(name), now.get(name)
        if name == "sets":
            one, other = _prints(before), _prints(now)
        if one != other:
            lines.append(f"not as before: {name}")
    rows = {row["score"]: row for row in now["table"]}
    gone = [row["score"] for row in before["table"] if row["score"] not in rows]
    if gone:
        lines.append(f"not as before: {', '.join(gone)} missing")
    gaps = [
        _gap(value, rows[row["score"]].get(name))
        for row in before["table"]
        if row["score"] in rows
        for name, value in row.items()
        if name not in MEASURED_ANEW
    ]
    most = max(gaps, default=0.0)
    if most:
        return [*lines, f"the numbers of the table differ by up to {most:.3g}"]
    return [*lines, "every number of the table is the one recorded"]


def _prints(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found.get("sha256") for name, found in facts["sets"].items()}


def _gap(one: Any, other: Any) -> float:
    """How far two cells lie apart; infinitely, where only one of them is a number."""
    numbers = isinstance(one, int | float), isinstance(other, int | float)
    if all(numbers):
        return abs(one - other)
    return float("inf") if any(numbers) or one != other else 0.0
