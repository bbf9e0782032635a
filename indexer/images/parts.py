"""One part of an image collection while it is encoded: vectors, metadata, failures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ...corpora.images.source import ImageItem
from ..encode.encoder import Encoder
from ..store.parts import Part
from ..vectors.unit_rows import normalise_rows
from .cache import EarlierImages
from .decoding import Decoded, Undecodable
from .workers import Outcome, Recognised

_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass
class ImagePart:
    """What has come so far, in source order; batches for the encoder never span two parts."""

    encoder: Encoder
    known: EarlierImages
    items: list[ImageItem] = field(default_factory=list)
    decoded: list[Decoded] = field(default_factory=list)
    """One for each item, without pixels."""
    vectors: dict[int, np.ndarray] = field(default_factory=dict)
    """By position in `items`."""
    waiting: list[tuple[int, np.ndarray]] = field(default_factory=list)
    """(position, pixels) of the next batch."""
    failures: list[dict[str, Any]] = field(default_factory=list)


def add_image(part: ImagePart, item: ImageItem, outcome: Outcome) -> bool:
    """Take in the next row; whether that filled a batch, which was then encoded."""
    if isinstance(outcome, Undecodable):
        part.failures.append(_failed(item, outcome.reason))
        return False
    position = len(part.items)
    part.items.append(item)
    if isinstance(outcome, Recognised):
        part.vectors[position], rotated = part.known.find(outcome.sha256)
        part.decoded.append(Decoded(outcome.row, _NO_PIXELS, outcome.sha256, rotated))
        return False
    part.decoded.append(replace(outcome, pixels=_NO_PIXELS))
    part.waiting.append((position, outcome.pixels))
    if len(part.waiting) < part.encoder.batch_size:
        return False
    _encode(part)
    return True


def finish_part(part: ImagePart) -> Part:
    """The part as it is stored; an image without a finite embedding has become a failure."""
    if part.waiting:
        _encode(part)
    kept = sorted(part.vectors)
    dimension = part.encoder.facts["dimension"]
    unit = np.stack([part.vectors[i] for i in kept]) if kept else np.zeros((0, dimension), "f4")
    metadata = pa.table(
        {
            "image_path": pa.array([part.items[i].path for i in kept], pa.string()),
            "label": pa.array([part.items[i].label for i in kept], pa.string()),
            "row": pa.array([part.items[i].row for i in kept], pa.int64()),
            "sha256": pa.array([part.decoded[i].sha256 for i in kept], pa.string()),
            "exif_rotated": pa.array([part.decoded[i].exif_rotated for i in kept], pa.bool_()),
        }
    )
    rotated = sum(part.decoded[i].exif_rotated for i in kept)
    failures = sorted(part.failures, key=lambda failure: failure["row"])
    return Part(unit, metadata, tuple(failures), {"exif_rotated": rotated})


def _encode(part: ImagePart) -> None:
    pixels = np.stack([pixels for _, pixels in part.waiting])
    made = normalise_rows(part.encoder.encode_images(pixels))
    bad = set(made.unusable.tolist())
    for i, (position, _) in enumerate(part.waiting):
        if i in bad:
            reason = "the model gave no finite embedding"
            part.failures.append(_failed(part.items[position], reason))
        else:
            part.vectors[position] = made.unit[i]
    part.waiting.clear()


def _failed(item: ImageItem, reason: str) -> dict[str, Any]:
    return {"row": item.row, "path": item.path, "reason": reason}
