"""The captions of text embeddings made elsewhere, read as a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ..artefacts import digest, sha256_of
from ..corpora.columns import choose_arrow_column
from ..corpora.sources import JSON, TextBatch, make_batch
from ..corpora.text_files import readable
from ..corpora.text_records import read_parquet
from .layout import EmbeddingFolder, open_embedding_folder


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
        """Captions part by part, `size` at most at a time; what is no string becomes empty."""
        first = 0
        for path in self.folder.metadata:
            with readable(path), open(path, "rb") as file:
                with closing(read_parquet(file, str(path), self.column)) as values:
                    texts = (value if isinstance(value, str) else "" for _, value in values)
                    while some := list(islice(texts, size)):
                        yield make_batch(some, np.arange(first, first + len(some)))
                        first += len(some)


def open_text_embeddings(folder: Path, column: str | None) -> EmbeddedTexts:
    """An embedding folder as a source of captions; UsageError when no column can be chosen."""
    layout = open_embedding_folder(folder, "text")
    schema = pq.read_schema(layout.metadata[0])
    return EmbeddedTexts(layout, choose_arrow_column(str(folder), column, schema))
