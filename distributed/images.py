"""The missing parts of an image collection, decoded and encoded over a Ray cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..corpora.captions import closed_after
from ..indexer.encode.encoder import Encoder
from ..indexer.encode.worker_encoders import for_workers
from ..indexer.images.cache import EarlierImages
from ..indexer.images.parts import ImagePart, add_image, finish_part
from ..indexer.images.pieces import (
    Gathered,
    ImageReading,
    Piece,
    counted,
    decode_items,
    gather,
    image_encoder,
    outcomes,
    read_images,
)
from ..indexer.images.workers import Asked, nothing_known
from ..indexer.store.parts import Part
from .engine import Stages, run_pieces

if TYPE_CHECKING:
    from ..indexer.images.embedding import EmbedOptions

Told = Callable[[int], None]


def ray_image_parts(
    reading: ImageReading,
    encoder: Encoder,
    options: EmbedOptions,
    earlier: EarlierImages,
    told: Told,
    gathered: Gathered,
) -> Iterator[tuple[int, Part]]:
    """(number, part) of every part that is not finished, as `embed_parts` would write it.

    Batches of the encoder are those of one process as long as every image of a part can be read;
    otherwise vectors may differ from its by the rounding of float32. `told` is how many rows have
    come; `gathered.rows`, at the end, how many the collection has. Errors of workers come as they
    are; besides them those of `run_pieces`.
    """
    assert options.engine is not None
    hashes = replace(earlier, places=np.zeros((0, 2), np.int64), vectors=(), exif_rotated=())
    asked = Asked(
        replace(encoder.preprocessing, apply_exif=options.apply_exif),
        options.limits,
        hashes.knows if len(hashes.hashes) else nothing_known,
    )
    stages = Stages(
        functools.partial(_read, reading),
        functools.partial(decode_items, asked),
        functools.partial(image_encoder, for_workers(encoder, options.engine.choice)),
    )
    arrived = replace(encoder, encode_images=_as_they_are)
    with closed_after(run_pieces([0], stages, options.engine)) as pieces:
        for number, table in gather(counted(pieces, told), gathered):
            part = ImagePart(arrived, earlier)
            for item, outcome in outcomes(table):
                add_image(part, item, outcome)
            yield number, finish_part(part)


def _read(reading: ImageReading, ticket: int) -> Iterator[Piece]:
    return read_images(reading)


def _as_they_are(vectors: np.ndarray) -> np.ndarray:
    return vectors
