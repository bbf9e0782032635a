"""Which audited images look like a text or like another image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BlissError, UsageError
from ..indexer.decoding import DecodingLimits, UnreadableImage, decode_image
from ..indexer.encoding import Encoder, check_same_model
from ..indexer.nearest import array_vectors, nearest_texts
from .saved_run import SavedRun, images_of


@dataclass(frozen=True)
class Found:
    """One audited image that resembles what was asked for."""

    path: str
    label: str | None
    similarity: float
    """Cosine to the text or image."""
    score: float
    rank: int
    """Of its anomaly score in the run, 1 = most anomalous."""


def find_by_text(run: SavedRun, text: str, encoder: Encoder, k: int = 20) -> list[Found]:
    """The k audited images nearest to `text`, which is encoded as it stands.

    Raises BlissError where the encoder is not the run's.
    """
    _check_encoder(run, encoder)
    return _nearest(run, encoder.encode_texts([text]), k, None)


def find_like(
    run: SavedRun, image: str, encoder: Callable[[], Encoder], k: int = 20
) -> list[Found]:
    """The k audited images nearest to `image`: a path in the run, else a file.

    An image of the run is not in its own answer. `encoder` is only called for a file. Raises
    UsageError where `image` is neither, BlissError where it cannot be read or the model differs.
    """
    paths = run.table["path"].to_pylist()
    if image in paths:
        row = paths.index(image)
        return _nearest(run, images_of(run).vectors[row : row + 1], k, row)
    if not Path(image).is_file():
        raise UsageError(
            f"--like {image} is neither an image of {run.folder} nor a file",
            "a path as the run's table has it, or an image file",
            "Correct it",
        )
    made = encoder()
    _check_encoder(run, made)
    try:
        pixels, _, _ = decode_image(image, made.preprocessing, DecodingLimits())
    except UnreadableImage as error:
        raise BlissError(
            f"{image} could not be read: {error}", "a readable image", "Try another"
        ) from error
    return _nearest(run, made.encode_images(pixels[None]), k, None)


def _check_encoder(run: SavedRun, encoder: Encoder) -> None:
    check_same_model(run.facts["model"], str(run.folder), encoder.facts, "the query")


def _nearest(run: SavedRun, query: np.ndarray, k: int, itself: int | None) -> list[Found]:
    vectors = images_of(run).vectors
    wanted = min(k + (itself is not None), len(vectors))
    hits = nearest_texts(query, array_vectors(vectors), wanted)
    columns = {name: run.table[name].to_pylist() for name in ("path", "label", "score", "rank")}
    found = [
        Found(
            columns["path"][row],
            columns["label"][row],
            similarity,
            columns["score"][row],
            columns["rank"][row],
        )
        for similarity, row in zip(hits.similarity[0].tolist(), hits.rows[0].tolist(), strict=True)
        if row != itself
    ]
    return found[:k]
