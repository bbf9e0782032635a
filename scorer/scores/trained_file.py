"""A trained head on disk: `head.safetensors`, its losses, and a manifest that says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from ...artefacts import check_checksum, read_manifest, write_atomically, write_manifest
from ...errors import UsageError
from .contract import Score, missing
from .needs import Need

HEAD_KIND = "oecl-head"
ARRAYS, LOSSES = "head.safetensors", "losses.csv"


@dataclass(frozen=True)
class Head:
    """A trained head: its arrays, the model whose embeddings it reads, and where it lies."""

    arrays: Mapping[str, np.ndarray]
    model: Mapping[str, Any]
    folder: str
    checksums: Mapping[str, str]


def save_head(
    folder: Path, arrays: Mapping[str, np.ndarray], losses: np.ndarray, **facts: Any
) -> None:
    """Write the arrays, `losses` [epochs, 3] as CSV, and the manifest with `facts`, last."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(folder / ARRAYS, lambda file: file.write(save(whole)))
    lines = ["epoch,contrastive,outlier_length,floor"]
    lines += [
        f"{epoch},{','.join(f'{value:.6g}' for value in row)}"
        for epoch, row in enumerate(losses, start=1)
    ]
    write_atomically(folder / LOSSES, lambda file: file.write(("\n".join(lines) + "\n").encode()))
    write_manifest(folder, HEAD_KIND, [ARRAYS, LOSSES], **facts)


def load_head(folder: str | Path) -> Head:
    """Read a finished head; BlissError where it is missing, unfinished or changed."""
    folder = Path(folder)
    manifest = read_manifest(folder, HEAD_KIND, "Make one with `bliss train oecl NORMALS -o DIR`")
    check_checksum(folder, ARRAYS, manifest)
    return Head(load_file(folder / ARRAYS), manifest["model"], str(folder), manifest["checksums"])


def open_head(folder: str | None, scores: Sequence[Score]) -> Head | None:
    """The head in `folder`; None where none is given and there are scores without need of one.

    Raises UsageError where all of the `scores` need one and it is missing, or none does.
    """
    reading = [score.name for score in scores if Need.HEAD in score.needs]
    if folder is None:
        if len(reading) == len(scores):
            raise missing(reading[0], Need.HEAD)
        return None
    if not reading:
        raise UsageError(
            f"--trained was given with {', '.join(score.name for score in scores)}",
            "a score that reads one: oecl, outlier_logistic or outlier_knn_ratio",
            "Leave --trained out, or change --score",
        )
    return load_head(folder)
