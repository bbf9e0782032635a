"""What an evaluation leaves behind: its table, a plot, and the file that repeats it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import FORMAT_VERSION, write_atomically, write_json
from .draws import Draw
from .flagging import CALIBRATION_SHARE, LEVEL
from .metrics import METRICS, Interval
from .plot import interval_plot
from .protocols import Protocol, protocol_facts
from .run import EvalResult, ScoreResult
from .tables import FLAGS, csv_table, markdown_table, table_rows

TABLE, SUMMARY = "table", "eval.json"
LIBRARIES = ("bliss-audit", "numpy", "faiss-cpu", "faiss-gpu")


def heading(result: EvalResult, protocol: Protocol) -> str:
    """What was measured, in one line."""
    tested = float(np.mean([len(draw.test) for draw in result.draws]))
    references = float(np.mean([len(draw.reference) for draw in result.draws]))
    classes = float(np.mean([len(draw.normal) for draw in result.draws]))
    draws = len(result.draws)
    return (
        f"{protocol.name}: {draws} draw{'s' * (draws != 1)}, seed {protocol.seed}, "
        f"{classes:g} normal class{'es' * (classes != 1)}, {references:g} reference and "
        f"{tested:g} test images a draw, {100 * result.anomaly_ratio:.1f} % anomalies"
    )


def notes(result: EvalResult) -> list[str]:
    """What a reader of the table should know beside it."""
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
    _write(folder / f"{TABLE}.md", text)
    _write(folder / f"{TABLE}.csv", csv_table(rows))
    _write(folder / f"{TABLE}.json", json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    means = [(r["score"], Interval(r["auroc"], _low(r), _high(r))) for r in rows]
    _write(folder / "scores.svg", interval_plot(means, f"AUROC, {head}"))
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
    score = asdict(found.chosen.score)
    kept = ("formula", "source", "needs_normals", "needs_texts", "needs_index", "stateful")
    return {
        "score": found.chosen.score.name,
        "parameters": found.chosen.parameters,
        **{name: score[name] for name in kept},
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


def _low(row: Mapping[str, Any]) -> float:
    return float("nan") if row["auroc_low"] is None else row["auroc_low"]


def _high(row: Mapping[str, Any]) -> float:
    return float("nan") if row["auroc_high"] is None else row["auroc_high"]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
