"""Repeating an evaluation from its eval.json, and telling whether its numbers came out again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..artefacts import FORMAT_VERSION, read_json
from ..errors import BlissError

KIND = "evaluation"
MEASURED_ANEW = ("seconds", "peak_mib")
"""Columns that are another number every time."""
NEEDED = {"asked": dict, "protocol": dict, "sets": dict, "table": list}


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """The content of an eval.json; BlissError where it is something else, or of another format."""
    facts = read_json(Path(path))
    if facts.get("kind") != KIND or facts.get("format_version") != FORMAT_VERSION:
        raise BlissError(
            f"{path} is of kind {facts.get('kind')} and format {facts.get('format_version')}",
            f"an eval.json of bliss eval, format {FORMAT_VERSION}",
            "Give the file that an evaluation wrote, with the bliss-audit version that wrote it",
        )
    for name, type_ in NEEDED.items():
        if not isinstance(facts.get(name), type_):
            raise BlissError(
                f"{path} has no usable '{name}'", "the file as bliss wrote it", "Evaluate again"
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
