"""Save a Reference as a folder, and load it without the images it came from."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save

from ..artefacts import check_checksum, read_manifest, write_atomically, write_manifest
from ..errors import BlissError
from ..indexer.text_column import arrow_texts, joined_contents, packed_texts
from .members import Members, Membership, as_members, make_members
from .moments import ClassMoments, Moments
from .reference import Calibration, Reference, Sample

KIND = "reference"
ARRAYS, MEMBERS = "reference.safetensors", "members.parquet"
ROWS_AT_ONCE = 65_536
"""Contents written at once."""


def save_reference(reference: Reference, folder: str | Path, **facts: Any) -> None:
    """Write `reference.safetensors`, `members.parquet` and the manifest; further `facts` go there.

    Centred rows of all classes lie one after the other in `centred`, `centred_rows` [C] of them
    each; a class with a scatter instead has -1 there and its matrix in `scatter`, in order.
    """
    folder = Path(folder)
    parts, d = reference.moments.parts, reference.moments.dimension
    centred = [part.centred for part in parts if part.centred is not None]
    scatter = [part.scatter for part in parts if part.scatter is not None]
    arrays = {
        "count": reference.moments.counts,
        "mean": np.array([part.mean for part in parts]),
        "centred_rows": np.array(
            [-1 if part.centred is None else len(part.centred) for part in parts], np.int64
        ),
        "centred": np.concatenate([np.zeros((0, d)), *centred]),
        "scatter": np.stack(scatter) if scatter else np.zeros((0, d, d)),
        "prompt_vectors": reference.prompt_vectors,
    }
    if reference.calibration is not None:
        arrays["calibration_images"] = reference.calibration.images
        arrays["calibration_labels"] = reference.calibration.labels
    if reference.sample is not None:
        arrays["sample_images"] = reference.sample.images
        arrays["sample_labels"] = reference.sample.labels
    write_atomically(folder / ARRAYS, lambda file: file.write(save(arrays)))
    write_atomically(folder / MEMBERS, lambda file: _write_members(reference.members, file))
    write_manifest(
        folder,
        KIND,
        [ARRAYS, MEMBERS],
        classes=list(reference.classes),
        prompts=list(reference.prompts),
        model=dict(reference.model),
        images=int(reference.moments.counts.sum()),
        calibration_images=reference.calibration_count,
        **facts,
    )


def load_reference(folder: str | Path) -> Reference:
    """Read a finished reference; BlissError where it is missing, changed or inconsistent."""
    folder = Path(folder)
    manifest = read_manifest(folder, KIND, "Make one with `bliss reference fit IMAGES -o REF`")
    for name in (ARRAYS, MEMBERS):
        check_checksum(folder, name, manifest)
    arrays = load_file(folder / ARRAYS)
    classes = tuple(manifest["classes"])
    if not len(classes) == len(arrays["count"]) == len(arrays["prompt_vectors"]):
        raise BlissError(
            f"{folder} names {len(classes)} classes and holds {len(arrays['count'])}",
            "moments and a prompt for every class",
            "Fit the reference again",
        )
    calibration = None
    if "calibration_images" in arrays:
        calibration = Calibration(arrays["calibration_images"], arrays["calibration_labels"])
    sample = None
    if "sample_images" in arrays:
        sample = Sample(arrays["sample_images"], arrays["sample_labels"])
    return Reference(
        Moments(classes, _class_moments(arrays)),
        arrays["prompt_vectors"],
        tuple(manifest["prompts"]),
        manifest["model"],
        _read_members(pq.read_table(folder / MEMBERS)),
        calibration,
        sample,
    )


def _write_members(members: Membership, file: IO[bytes]) -> None:
    """A row for every class that a content is filed under."""
    compact = as_members(members)
    schema = pa.schema({"sha256": pa.string(), "class": pa.int64()})
    with pq.ParquetWriter(file, schema) as writer:
        for first in range(0, max(1, len(compact)), ROWS_AT_ONCE):
            numbers = np.arange(first, min(len(compact), first + ROWS_AT_ONCE))
            counts, filed = compact.filing(numbers)
            contents = compact.contents.take(np.repeat(numbers, counts))
            columns = [pa.array(contents, pa.string()), pa.array(filed)]
            writer.write_table(pa.table(columns, schema=schema))


def _read_members(table: pa.Table) -> Members:
    contents = joined_contents(map(packed_texts, arrow_texts(table["sha256"])))
    return make_members(contents, table["class"].to_numpy().astype(np.int64))


def _class_moments(arrays: dict[str, np.ndarray]) -> tuple[ClassMoments, ...]:
    parts = []
    row = matrix = 0
    for number, rows in enumerate(arrays["centred_rows"].tolist()):
        count, mean = int(arrays["count"][number]), arrays["mean"][number]
        if rows < 0:
            parts.append(ClassMoments(count, mean, None, arrays["scatter"][matrix]))
            matrix += 1
        else:
            parts.append(ClassMoments(count, mean, arrays["centred"][row : row + rows], None))
            row += rows
    return tuple(parts)
