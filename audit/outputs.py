"""Write what an audit found: `scores.parquet`, `failures.csv`, `run.json`."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..artefacts import FORMAT_VERSION, read_json, sha256_of, write_atomically, write_json
from ..errors import UsageError
from ..indexer.embedded_images import Failure
from .result import AuditResult
from .run import AuditSettings
from .safe_text import spreadsheet_text

SCORES, FAILURES, RUN = "scores.parquet", "failures.csv", "run.json"
HOW = ("batch_size", "device", "output", "overwrite", "workers")
"""Options that say how an audit is done, not what it finds."""
LIBRARIES = ("bliss-audit", "numpy", "pyarrow", "pillow", "torch", "open_clip_torch")


def check_output(folder: str | Path, request: Mapping[str, Any]) -> None:
    """Raise UsageError, naming what differs, where `folder` holds another request's audit."""
    path = Path(folder) / RUN
    if not path.is_file():
        return
    before = read_json(path).get("request")
    before = before if isinstance(before, dict) else {}
    names = {*before, *request} - {*HOW}
    differing = sorted(name for name in names if before.get(name) != request.get(name))
    if differing:
        raise UsageError(
            f"{folder} holds an audit made with other settings ({', '.join(differing)} differ)",
            "the same settings, or another folder",
            "Choose another --output, or pass --overwrite to replace it",
        )


def save_audit(
    result: AuditResult, settings: AuditSettings, folder: str | Path, request: Mapping[str, Any]
) -> None:
    """Write the three files of a run; `run.json` comes last and holds the others' checksums.

    `request` says how the run was asked for (its command or call). Raises BlissError when the
    folder cannot be written.
    """
    folder = Path(folder)
    table = result.table()
    write_atomically(folder / SCORES, lambda file: pq.write_table(table, file))
    write_atomically(
        folder / FAILURES, lambda file: file.write(failures_csv(result.images.failures))
    )
    write_json(folder / RUN, run_facts(result, settings, folder, request))


def failures_csv(failures: Sequence[Failure]) -> bytes:
    """UTF-8 CSV of row, path and reason; no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "path", "reason"])
    for failure in failures:
        writer.writerow(
            [failure.row, spreadsheet_text(failure.path), spreadsheet_text(failure.reason)]
        )
    return text.getvalue().encode("utf-8")


def write_csv(table: pa.Table, path: str | Path) -> None:
    """A table as UTF-8 CSV, lists joined by " | "; no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    for batch in table.to_batches(max_chunksize=10_000):
        writer.writerows(
            zip(*([_cell(value) for value in column.to_pylist()] for column in batch), strict=True)
        )
    write_atomically(Path(path), lambda file: file.write(text.getvalue().encode("utf-8")))


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return " | ".join(str(_cell(each)) for each in value)
    return spreadsheet_text(value) if isinstance(value, str) else value


def run_facts(
    result: AuditResult, settings: AuditSettings, folder: Path, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything needed to repeat the run; nothing from the environment."""
    index, reference = result.index.manifest, result.reference
    return {
        "format_version": FORMAT_VERSION,
        "kind": "audit",
        "request": dict(request),
        "settings": {
            "k": settings.k,
            "weight": settings.weight,
            "score": result.score_name,
            "prompts": list(settings.words.prompts),
            "normal": list(settings.words.normal),
            "labels": dict(settings.words.labels),
        },
        "images": {**count_facts(result), "source": result.images.source},
        "model": dict(result.images.model),
        "index": {
            "folder": str(result.index.folder),
            "count": index["count"],
            "corpus": index["corpus"],
            "prompts": index.get("prompts"),
            "model": index["model"],
            "checksums": index["checksums"],
        },
        "reference": {
            "classes": list(reference.classes),
            "prompts": list(reference.prompts),
            "images": reference.moments.counts.tolist(),
            "calibration_images": reference.calibration_count,
        },
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "checksums": {name: sha256_of(folder / name) for name in (SCORES, FAILURES)},
    }


def count_facts(result: AuditResult) -> dict[str, int]:
    """The counts a reader wants to see add up."""
    images = result.images
    return {
        "listed": len(images.rows) + len(images.failures),
        "scored": len(images.rows),
        "failed": len(images.failures),
        "left_out": len(np.unique(result.left_out.images)),
        "copies": len(images.hashes) - len(set(images.hashes)),
        "exif_rotated": images.exif_rotated,
        "normalised": images.normalised,
    }


def json_summary(result: AuditResult, top: int) -> dict[str, Any]:
    """The worst images and the counts as JSON-like values, for `--json`."""
    return {
        "counts": count_facts(result),
        "classes": list(result.reference.classes),
        "failures": [asdict(failure) for failure in result.images.failures],
        "worst": [
            {
                "path": image.path,
                "label": image.label,
                "score": image.score,
                "nearest_class": image.nearest,
                "ics": image.ics,
                "ets": image.ets,
                "p": image.p,
                "captions": [
                    {"caption": c.text, "similarity": c.similarity, "z": c.pull}
                    for c in image.captions
                ],
            }
            for image in result.worst(top)
        ],
    }
