"""Captions that an index holds already, as a source: whatever equals one of them is a duplicate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BlissError
from .sources import JSON, TextBatch


@dataclass(frozen=True)
class KnownCaptions:
    """The `caption` columns of parquet files, one after the other; clean and never empty."""

    files: Sequence[Path]
    spec: str = "the index"
    default_prompt: str = "{}"
    keeps_spaces: bool = True
    licence: str | None = None
    preset: str | None = None

    def facts(self) -> dict[str, JSON]:
        """Nothing: no manifest names it."""
        return {}

    def batches(self, size: int) -> Iterator[TextBatch]:
        """Every caption in order, at most `size` at a time; BlissError for an unreadable file."""
        first = 0
        for path in self.files:
            try:
                with open(path, "rb") as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
                    for batch in file.iter_batches(size, columns=["caption"], use_threads=False):
                        texts = batch.column(0).to_pylist()
                        yield TextBatch(texts, np.arange(first, first + len(texts)))
                        first += len(texts)
            except (OSError, pa.ArrowException) as error:
                raise BlissError(
                    f"{path} could not be read ({error})",
                    "the captions as bliss wrote them",
                    "Run `bliss index verify` on the folder",
                ) from error
