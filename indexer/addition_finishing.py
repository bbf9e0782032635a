"""The end of an addition to an index: its parts are linked into place, then the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import MANIFEST, link_file, write_json
from ..corpora.plan import RowPlan
from ..errors import BlissError
from .index_finishing import FAILURES_NAMED, altered_counts, joint_prompts, planned_counts
from .part_building import whole_part
from .store.folder import files_of_part
from .store.removed import EXPORT

ADDING = "adding"


def finish_addition(
    folder: Path,
    manifest: Mapping[str, Any],
    plan: RowPlan,
    added: Sequence[Mapping[str, Any]],
    request: str,
    truncated: Sequence[int | None] | None = None,
) -> dict[str, int]:
    """Put the new parts in place and the manifest after them; the counts of what was added.

    `added` are the sources of the addition as they are described, `request` its digest. Raises
    BlissError where none of the new embeddings can be used or the disk cannot be written.
    """
    adding, first = folder / ADDING, len(manifest["parts"])
    records = [whole_part(adding, plan, number) for number in range(len(plan.parts))]
    checksums = dict(manifest["checksums"])
    normalised, failures = manifest.get("normalised", 0), list(manifest["failures"])
    by_source = np.zeros(len(added), np.int64)
    for number, record in enumerate(records):
        assert record is not None
        if record["rows"]:
            ours = zip(files_of_part(number), files_of_part(first + number), strict=True)
            for name, target in ours:
                link_file(adding / name, folder / target)
                checksums[target] = record["checksums"][name]
        by_source += record["by_source"]
        normalised += record["counts"].get("normalised", 0)
        failures += record["failures"]
    rows = [record["rows"] for record in records if record is not None]
    if not sum(rows):
        shutil.rmtree(adding, ignore_errors=True)
        raise BlissError(
            f"none of the {plan.count:,} new embeddings can be used",
            "at least one vector that is neither zero nor infinite nor NaN",
            "Embed the texts again",
        )
    sources = [
        {**described, "rows": int(kept), "counts": planned_counts(counts, int(kept)), **altered}
        for described, counts, kept, altered in zip(
            added, plan.counts, by_source, altered_counts(plan, truncated), strict=True
        )
    ]
    every = [*manifest["sources"], *sources]
    counts = _sum(sources)
    addition = {
        "first_part": first,
        "first_source": len(manifest["sources"]),
        "request": request,
        "counts": counts,
    }
    changed = {
        **manifest,
        "parts": [*manifest["parts"], *rows],
        "count": manifest["count"] + sum(rows),
        "counts": _sum(every),
        "sources": every,
        "prompts": joint_prompts(every),
        "failures": failures[:FAILURES_NAMED],
        "normalised": normalised,
        "additions": [*manifest.get("additions", ()), addition],
        "checksums": checksums,
    }
    write_json(folder / MANIFEST, changed)
    (folder / EXPORT).unlink(missing_ok=True)
    shutil.rmtree(adding, ignore_errors=True)
    return counts


def _sum(sources: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts by name over some sources; not all have every name."""
    names = dict.fromkeys(name for source in sources for name in source["counts"])
    return {name: sum(source["counts"].get(name, 0) for source in sources) for name in names}
