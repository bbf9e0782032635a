"""The captions of text embeddings made elsewhere, read as a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ..artefacts import digest, sha256_of
from ..corpora.texts import JSON, TextBatch, choose_arrow_column
from .layout import EmbeddingFolder, metadata_parts, open_embedding_folder


@dataclass(frozen=True)
class EmbeddedTexts:
    """The captions of an embedding folder as a TextSource; rows count through its parts."""

    folder: EmbeddingFolder
    column: str
    default_prompt: str = "{}"
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None

    @property
    def spec(self) -> str:
        """The folder's own name."""
        return self.folder.folder.name

    def facts(self) -> dict[str, JSON]:
        """Kind, name, column and a fingerprint of all files."""
        files = (*self.folder.vectors, *self.folder.metadata)
        return {
            "kind": "embeddings",
            "spec": self.spec,
            "column": self.column,
            "fingerprint": digest({str(n): sha256_of(path) for n, path in enumerate(files)}),
        }

    def batches(self, size: int) -> Iterator[TextBatch]:
        """Captions part by part, `size` at most at a time; nulls become empty texts."""
        first = 0
        for table in metadata_parts(self.folder, [self.column]):
            for batch in table.to_batches(max_chunksize=size):
                texts = [
                    text if isinstance(text, str) else "" for text in batch.column(0).to_pylist()
                ]
                yield TextBatch(texts, np.arange(first, first + len(texts)))
                first += len(texts)


def open_text_embeddings(folder: Path, column: str | None) -> EmbeddedTexts:
    """An embedding folder as a source of captions; UsageError when no column can be chosen."""
    layout = open_embedding_folder(folder, "text")
    schema = pq.read_schema(layout.metadata[0])
    return EmbeddedTexts(layout, choose_arrow_column(str(folder), column, schema))
