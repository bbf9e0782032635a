"""Embed some captions of an index again and compare them with what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from .encode.encoder import Encoder, encode_prompts
from .parts import metadata_file, vector_file
from .vectors.layout import load_vectors
from .vectors.unit_rows import row_lengths

SAME = 0.999
"""Least cosine between a caption's stored and new embedding."""


def embedding_problems(
    folder: Path, manifest: Mapping[str, Any], parts: Sequence[int], count: int, encoder: Encoder
) -> list[str]:
    """What is wrong with `count` captions spread evenly over the rows of `parts`.

    Each is embedded in the prompts of its source.
    """
    wanted = _spread(manifest["parts"], parts, count)
    found: list[str] = []
    ends = np.cumsum([source["rows"] for source in manifest["sources"]])
    first_rows = np.cumsum([0, *manifest["parts"]])
    for number, rows in wanted.items():
        column = pq.read_table(folder / metadata_file(number), columns=["caption"])["caption"]
        captions = column.take(rows).to_pylist()
        stored = load_vectors(folder / vector_file("text", number))[rows].astype(np.float64)
        source = np.searchsorted(ends, first_rows[number] + rows, side="right")
        for each in np.unique(source):
            here = np.flatnonzero(source == each)
            prompts = manifest["sources"][each]["prompts"] or ["{}"]
            new = encode_prompts(encoder, [captions[i] for i in here], prompts)
            cosine = (stored[here] * new).sum(axis=1) / row_lengths(stored[here])
            found += [
                f"row {first_rows[number] + rows[here[i]]} has a cosine of {cosine[i]:.4f} with "
                f"its caption embedded again, below {SAME}"
                for i in np.flatnonzero(~(cosine >= SAME))
            ]
    return found


def _spread(sizes: Sequence[int], parts: Sequence[int], count: int) -> dict[int, np.ndarray]:
    """For each part, which of its rows are looked at."""
    total = sum(sizes[number] for number in parts)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
    found, first = {}, 0
    for number in parts:
        here = chosen[(chosen >= first) & (chosen < first + sizes[number])] - first
        if here.size:
            found[number] = here
        first += sizes[number]
    return found
