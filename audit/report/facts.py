"""What a run was made with, in lines that a reader of the page understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...indexer.encode.encoder import describe_model
from ..run_folder import RunFolder


def facts_of(run: RunFolder) -> list[list[str]]:
    """[name, value] pairs: collection, model, captions, reference, score, decision."""
    facts = run.facts
    settings, index = facts["settings"], facts["index"]
    sources = index["sources"]
    lines = [["Collection", run.source], ["Model", describe_model(facts["model"])]]
    names = ", ".join(str(source["name"]) for source in sources)
    lines.append(["Captions", f"{index['count']:,} from {names}"])
    for member in index.get("indexes") or ():
        held = ", ".join(str(source["name"]) for source in member["sources"])
        lines.append([f"Captions in {member['folder']}", f"{member['count']:,} from {held}"])
    hidden = index.get("hidden")
    if hidden:
        lines.append(
            [
                "Hidden captions",
                f"{hidden['count']:,}: {hidden['near_labels']:,} near a label's prompt, "
                f"{hidden['label_words']:,} with a label's words",
            ]
        )
    licences = {str(source["name"]): source.get("licence") for source in sources}
    if any(licences.values()):
        known = "; ".join(f"{name}: {licence or 'not known'}" for name, licence in licences.items())
        lines.append(["Licence of the captions", known])
    given = facts.get("request", {}).get("reference")
    counts = facts["reference"]["images"]
    size = f"{sum(counts):,} images in {len(counts):,} class{'es' * (len(counts) != 1)}"
    own = "the collection itself, each image left out of its own class"
    lines.append(["Reference", f"{given or own}; {size}"])
    if facts["reference"]["calibration_images"]:
        lines.append(["Calibration", f"{facts['reference']['calibration_images']:,} clean images"])
    name = settings.get("score", "bliss")
    lines.append(["Score", f"{name}, k = {settings['k']}, λ = {settings['weight']:g}"])
    for block in ("decision", "robust"):
        lines += _lines(block, facts.get(block))
    lines.append(["Made with", f"bliss-audit {facts['libraries']['bliss-audit']}"])
    return lines


def _lines(block: str, values: Any) -> list[list[str]]:
    """The plain values of one optional block of `run.json`."""
    if not isinstance(values, Mapping):
        return []
    return [
        [f"{block.capitalize()}: {name.replace('_', ' ')}", _text(value)]
        for name, value in values.items()
        if isinstance(value, str | int | float)
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
