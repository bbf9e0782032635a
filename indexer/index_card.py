"""The card (README.md) of a caption index in a dataset repository of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .encoding import describe_model

KNOWN_LICENCES = (
    "apache-2.0", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cdla-permissive-2.0", "mit", "odc-by",
    "pddl",
)  # fmt: skip
"""Names of licences that the hub's cards know, as far as corpora of captions have them."""
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6),
          ("1M<n<10M", 10**7), ("10M<n<100M", 10**8), ("100M<n<1B", 10**9))  # fmt: skip


def unknown_licences(manifest: Mapping[str, Any]) -> list[str]:
    """The sources with captions whose licence the index does not state."""
    return [s["name"] for s in manifest["sources"] if s["rows"] and not s["licence"]]


def index_card(manifest: Mapping[str, Any], repository: str) -> str:
    """The whole card: what the hub reads at its head, then what people read.

    Names and licences come from outside: they are quoted, so that none is markup.
    """
    removed = (manifest["removed"] or {}).get("count", 0)
    rows = manifest["count"]
    size = next((name for name, most in _SIZES if rows < most), "n>1B")
    head = {
        "license": _licence(manifest["sources"]),
        "tags": ["bliss-audit", "caption-index", "clip"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "metadata/*.parquet"}],
            }
        ],
    }
    yaml = "\n".join(f"{name}: {json.dumps(value)}" for name, value in head.items())
    lines = [
        f"---\n{yaml}\n---",
        f"# Caption index: {rows - removed:,} captions",
        "Captions with their CLIP embeddings, made by bliss-audit to find the images that do not "
        "belong in a collection, and to say why.",
        f"- model: {_quoted(describe_model(manifest['model']))}\n"
        f"- stored as {manifest['dtype']}, {rows:,} rows in {len(manifest['parts'])} parts"
        + (f"; {removed:,} of them were removed and are not searched" if removed else ""),
        "## Use it",
        f"```sh\nbliss index pull {repository} captions\n"
        "bliss audit photos --index captions --output audit\n```",
        "Every file is checked against the checksums in `manifest.json`. The captions alone: "
        f'`datasets.load_dataset("{repository}")`.',
        "## Sources",
        "Each source's captions stay under its own licence.",
        _table(manifest["sources"]),
    ]
    return "\n\n".join(lines) + "\n"


def _licence(sources: Sequence[Mapping[str, Any]]) -> str:
    """The one licence of all captions in the hub's spelling, or `other`, or `unknown`."""
    stated = {source["licence"] for source in sources if source["rows"]}
    if not all(stated):
        return "unknown"
    spelt = {licence.strip().lower().replace(" ", "-") for licence in stated}
    return spelt.pop() if len(spelt) == 1 and spelt <= set(KNOWN_LICENCES) else "other"


def _table(sources: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| source | licence | captions | prompts |", "| --- | --- | --- | --- |"]
    for source in sources:
        cells = (
            _quoted(source["name"]),
            _quoted(source["licence"] or "not stated"),
            f"{source['rows']:,}",
            ", ".join(_quoted(prompt) for prompt in source["prompts"]) or "embedded elsewhere",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """One line of text in which nothing is Markdown or HTML."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(c if c.isalnum() or c in " .,:;/-+=" else f"&#{ord(c)};" for c in line)
