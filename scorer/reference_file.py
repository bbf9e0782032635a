"""A reference as a folder: saved, and loaded without the images it was fitted on.

`sample_of` finds reference images again, to calibrate a score on. The moments of a class of at most
d images hold its centred rows, which are its images minus their mean; of larger classes some images
are kept beside the moments when the reference is fitted (`images_to_keep`).
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save

from ..arguments import checked
from ..artefacts import MANIFEST, check_checksum, read_manifest, write_atomically, write_manifest
from ..errors import BlissError
from ..indexer.vectors import Rows, arrow_texts, joined_contents, packed_texts
from ..tables import read_table
from .members import SUMS, Members, as_members, make_members
from .moments import ClassMoments, Moments
from .reference import Calibration, Reference, Sample

REFERENCE_KIND = "reference"
ARRAYS, MEMBERS = "reference.safetensors", "members.parquet"
ROWS_AT_ONCE = 65_536
"""Contents that are written at once."""


@checked
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
        REFERENCE_KIND,
        [ARRAYS, MEMBERS],
        classes=list(reference.classes),
        prompts=list(reference.prompts),
        model=dict(reference.model),
        images=int(reference.moments.counts.sum()),
        calibration_images=reference.calibration_count,
        **({"set_aside": dict(reference.set_aside)} if reference.set_aside else {}),
        **facts,
    )


@checked
def load_reference(folder: str | Path) -> Reference:
    """Read a finished reference; BlissError where it is missing, changed or inconsistent."""
    folder = Path(folder)
    manifest = read_manifest(
        folder, REFERENCE_KIND, "Make one with `bliss reference fit IMAGES -o REF`"
    )
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
    aside = manifest.get("set_aside", {})
    if not (isinstance(aside, dict) and all(type(count) is int for count in aside.values())):
        raise BlissError(
            f"{folder / MANIFEST} has no usable 'set_aside'",
            "the manifest as bliss wrote it",
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
        _read_members(read_table(folder / MEMBERS)),
        calibration,
        sample,
        aside,
    )


def _write_members(members: object, file: IO[bytes]) -> None:
    """A row for every class that a content is filed under."""
    compact = as_members(members)
    fields: dict[str, pa.DataType] = {"sha256": pa.string(), "class": pa.int64()}
    if compact.sketches is not None:
        fields["sketch"] = pa.list_(pa.int16(), SUMS)
    schema = pa.schema(fields)
    with pq.ParquetWriter(file, schema) as writer:
        for first in range(0, max(1, len(compact)), ROWS_AT_ONCE):
            numbers = np.arange(first, min(len(compact), first + ROWS_AT_ONCE))
            counts, filed = compact.filing(numbers)
            contents = compact.contents.take(np.repeat(numbers, counts))
            columns = [pa.array(contents, pa.string()), pa.array(filed)]
            if compact.sketches is not None:
                sums = compact.sketches[np.repeat(numbers, counts)].ravel()
                flat = pa.array(sums, pa.int16())
                columns.append(pa.FixedSizeListArray.from_arrays(flat, SUMS))
            writer.write_table(pa.table(columns, schema=schema))


def _read_members(table: pa.Table) -> Members:
    contents = joined_contents(map(packed_texts, arrow_texts(table["sha256"])))
    sketches = None
    if "sketch" in table.column_names:
        sketches = table["sketch"].combine_chunks().flatten().to_numpy().reshape(-1, SUMS)
    return make_members(contents, table["class"].to_numpy().astype(np.int64), sketches)


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


SAMPLE_IMAGES = 2000
"""About how many images a score is calibrated on; two a class are kept in any case."""


def spaced_rows(labels: np.ndarray, most: int = SAMPLE_IMAGES) -> np.ndarray:
    """int64 [s], ascending rows of `labels` [m]: as many of every class, about `most` in all.

    A class with fewer images gives all of them; every class gives at least two of those it has,
    evenly spaced.
    """
    numbers, counts = np.unique(labels, return_counts=True)
    quota = max(2, _quota(counts, most))
    kept = [np.zeros(0, np.int64)]
    for number, count in zip(numbers, counts, strict=True):
        members = np.flatnonzero(labels == number)
        spaced = np.linspace(0, count - 1, min(count, quota)).round().astype(np.int64)
        kept.append(members[spaced])
    return np.sort(np.concatenate(kept))


def images_to_keep(moments: Moments, images: Rows, labels: np.ndarray) -> Sample | None:
    """The images, of reference images [m, d], to keep so that `sample_of` finds some of each class.

    None where the moments hold every row, that is while no class has more than d images.
    """
    gone = np.array([part.centred is None for part in moments.parts], bool)
    rows = spaced_rows(labels)
    rows = rows[gone[labels[rows]]]
    if not len(rows):
        return None
    rows = rows[np.argsort(labels[rows], kind="stable")]
    return Sample(images[rows], labels[rows])


def sample_of(reference: Reference) -> Sample:
    """About SAMPLE_IMAGES of the reference's images, by class.

    Raises BlissError naming a class of which only moments were kept.
    """
    images, labels = [], []
    for number, part in enumerate(reference.moments.parts):
        rows = reference.kept_images(number)
        if part.count and not len(rows):
            raise BlissError(
                f"of the {part.count:,} images of class '{reference.classes[number]}' only "
                "moments were kept",
                "some of its images, to calibrate this score on",
                "Fit the reference again with this version",
            )
        images.append(rows)
        labels.append(np.full(len(rows), number))
    together = np.concatenate(labels)
    rows = spaced_rows(together)
    return Sample(np.concatenate(images)[rows], together[rows])


def _quota(counts: np.ndarray, most: int) -> int:
    """The largest number q for which Σ min(count, q) is at most `most`."""
    left, classes = most, len(counts)
    for count in np.sort(counts):
        if count * classes >= left:
            return left // classes
        left -= int(count)
        classes -= 1
    return int(counts.max(initial=0))
