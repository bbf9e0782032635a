"""A finished audit, read back from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..artefacts import FORMAT_VERSION, check_checksum, read_json
from ..errors import BlissError, UsageError
from ..indexer.embedded_images import EmbeddedImages, read_image_embeddings
from .outputs import RUN, SCORES

EMBEDDED = "images"
"""Folder of a run that holds the image embeddings it made."""


@dataclass(frozen=True)
class SavedRun:
    """What `save_audit` wrote."""

    folder: Path
    facts: Mapping[str, Any]
    """`run.json`."""
    table: pa.Table
    """`scores.parquet`, one row an image."""


def open_run(folder: str | Path) -> SavedRun:
    """Read a finished audit.

    Raises UsageError where `folder` holds none, BlissError where its scores were changed since or
    another version wrote it.
    """
    folder = Path(folder)
    if not (folder / RUN).is_file():
        raise UsageError(
            f"{folder} holds no {RUN}",
            "the output folder of a finished `bliss audit`",
            "Give that folder, or run the audit again to finish it",
        )
    facts = read_json(folder / RUN)
    if facts.get("kind") != "audit" or facts.get("format_version") != FORMAT_VERSION:
        raise BlissError(
            f"{folder / RUN} is of kind {facts.get('kind')!r}, "
            f"format version {facts.get('format_version')!r}",
            f"an audit of format version {FORMAT_VERSION}",
            "Audit again with this version of bliss",
        )
    check_checksum(folder, SCORES, facts)
    return SavedRun(folder, facts, pq.read_table(folder / SCORES))


def images_of(run: SavedRun) -> EmbeddedImages:
    """The embeddings that a run scored, in the order of its table."""
    made = run.folder / EMBEDDED
    given = run.facts["request"].get("embeddings")
    if not made.is_dir() and given is None:
        raise BlissError(
            f"{made} is gone", "the embeddings this audit made", "Run the same audit again"
        )
    images = read_image_embeddings(made if given is None else given)
    if images.rows.tolist() != run.table["row"].to_pylist():
        raise BlissError(
            f"the embeddings in {images.source} are not those that {run.folder} scored",
            "the same images in the same order",
            "Audit them again",
        )
    return images
