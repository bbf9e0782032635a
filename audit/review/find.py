"""Which audited images look like a text or like another image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...artefacts import read_array
from ...errors import BlissError, UsageError
from ...indexer import Encoder, SelectedRows, exact_search, normalise_rows
from ...safe_text import counted, terminal_text
from ..fitting.fit import embed_query
from ..folder import RunFolder
from .photographs import StoredImages, audited_embeddings


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


def find_by_text(run: RunFolder, text: str, encoder: Encoder, k: int = 20) -> list[Found]:
    """The k audited images nearest to `text`, which is encoded as it stands.

    Raises BlissError where the encoder is not the run's.
    """
    query = embed_query(encoder, run.facts["model"], str(run.folder), text, None)
    return _nearest(run, query, k, None)


def find_by_vector(run: RunFolder, file: str, k: int = 20) -> list[Found]:
    """The k audited images nearest to the vector in an .npy `file`, [d] or [1, d], of any length.

    It is of the model that embedded the images, such as a text's. Raises UsageError where it is not
    one finite vector of their dimension.
    """
    try:
        vector = read_array(Path(file), remedy="Correct the path, or save one with numpy.save")
    except BlissError as error:
        raise UsageError(f"--vector {error.given}", error.needed, error.remedy) from error
    rows = np.atleast_2d(vector)
    dimension = run.facts["model"]["dimension"]
    if rows.shape != (1, dimension) or rows.dtype.kind not in "fiu":
        raise UsageError(
            f"--vector {file} has shape {vector.shape} and type {vector.dtype}",
            f"one row of {dimension} numbers, of the model that embedded the images",
            "Save one vector with numpy.save",
        )
    made = normalise_rows(rows)
    if len(made.unusable):
        raise UsageError(
            f"--vector {file} is zero or not finite", "a finite vector", "Embed the text again"
        )
    return _nearest(run, made.unit, k, None)


def find_like(
    run: RunFolder, image: str, encoder: Callable[[], Encoder], k: int = 20
) -> list[Found]:
    """The k audited images nearest to `image`: a path in the run, else a file.

    An image of the run is not in its own answer. `encoder` is only called for a file. Raises
    UsageError where `image` is neither, BlissError where it cannot be read or the model differs.
    """
    paths = run.columns(["path"])["path"].to_pylist()
    if image in paths:
        place = paths.index(image)
        stored, places = _embeddings(run)
        return _nearest(run, stored.vectors[places[place : place + 1]], k, place)
    if not Path(image).is_file():
        raise UsageError(
            f"--image {image} is neither an image of {run.folder} nor a file",
            "a path as the run's table has it, or an image file",
            "Correct it",
        )
    query = embed_query(encoder(), run.facts["model"], str(run.folder), None, image)
    return _nearest(run, query, k, None)


def _embeddings(run: RunFolder) -> tuple[StoredImages, np.ndarray]:
    """The run's embeddings, and where each row of its table stands among them, int64 [n]."""
    stored = audited_embeddings(run)
    rows = run.rows
    if stored is None:
        raise BlissError(
            f"the embeddings that {run.folder} scored are gone",
            "its folder images/, or the embeddings it was given",
            "Run the same audit again",
        )
    places = stored.places(rows)
    if len(places) and places.max() >= stored.layout.count:
        raise BlissError(
            f"{stored.layout.folder} holds {counted(stored.layout.count, 'embedding')}, "
            f"{run.folder} scored {counted(len(rows), 'image')}",
            "the embeddings of that audit",
            "Run the same audit again",
        )
    return stored, places


def _nearest(run: RunFolder, query: np.ndarray, k: int, itself: int | None) -> list[Found]:
    stored, places = _embeddings(run)
    vectors = SelectedRows(stored.vectors, places)
    hits = exact_search(query, vectors, min(max(1, k + (itself is not None)), len(places)))
    rows = hits.rows[0]
    columns = run.columns(["path", "label", "score", "rank"]).take(rows).to_pylist()
    found = [
        Found(each["path"], each["label"], similarity, each["score"], each["rank"])
        for each, similarity, row in zip(
            columns, hits.similarity[0].tolist(), rows.tolist(), strict=True
        )
        if row != itself
    ]
    return found[:k]


def found_text(found: Sequence[Found]) -> str:
    """One audited image a line: similarity, anomaly rank and score, path."""
    lines = [f"{'similarity':>10}  {'rank':>7}  {'score':>8}  path"]
    for each in found:
        lines.append(
            f"{each.similarity:10.4f}  {each.rank:7,}  {each.score:8.2f}  "
            f"{terminal_text(each.path)}"
        )
    return "\n".join(lines)
