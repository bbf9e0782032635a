"""Folders of embeddings in clip-retrieval's layout, written by any program."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...artefacts import lacking
from ...errors import BlissError, UsageError
from ...safe_text import counted
from ...tables import count_rows, read_schema, read_table
from .rows import load_vectors


@dataclass(frozen=True)
class EmbeddingFolder:
    """Pairs of vector and metadata files, in the order of their numbers."""

    folder: Path
    kind: str
    """"text" or "img"."""
    vectors: tuple[Path, ...]
    metadata: tuple[Path, ...]
    rows: tuple[int, ...]
    dimension: int

    @property
    def count(self) -> int:
        """All rows together."""
        return sum(self.rows)


def vector_file(kind: str, number: int) -> str:
    """Name of a part's vectors; `kind` is "text" or "img"."""
    return f"{kind}_emb/{kind}_emb_{number}.npy"


def metadata_file(number: int) -> str:
    """Name of a part's metadata."""
    return f"metadata/metadata_{number}.parquet"


def caption_files(number: int) -> tuple[str, str]:
    """Names of the captions of a part and of their offsets."""
    return f"captions/captions_{number}.bin", f"captions/offsets_{number}.npy"


def is_embedding_folder(folder: Path, kind: str) -> bool:
    """Whether `folder` has a folder `kind`_emb, as the layout has."""
    return (folder / f"{kind}_emb").is_dir()


def open_embedding_folder(folder: Path, kind: str) -> EmbeddingFolder:
    """Find the files of an embedding folder and check their shapes; nothing is loaded.

    Raises UsageError where the folder is not in the layout, BlissError where its files do not
    fit together.
    """
    if not is_embedding_folder(folder, kind):
        raise UsageError(
            lacking(folder, f"{kind}_emb folder"),
            f"embeddings as {kind}_emb/{kind}_emb_0.npy beside metadata/metadata_0.parquet",
            "Give the folder that holds both",
        )
    vectors = _numbered(folder / f"{kind}_emb", "npy")
    metadata = _numbered(folder / "metadata", "parquet")
    if not vectors or list(vectors) != list(metadata):
        raise BlissError(
            f"{folder} has vector files {list(vectors)[:5]} and metadata files "
            f"{list(metadata)[:5]}",
            "one metadata file for every vector file, with the same number",
            "Copy the missing files",
        )
    rows, dimensions = [], set()
    for number, path in vectors.items():
        array = load_vectors(path)
        described = _read(count_rows, metadata[number])
        if len(array) != described:
            raise BlissError(
                f"{path} has {counted(len(array), 'row')} and {metadata[number].name} "
                f"{described:,}",
                "one metadata row for every vector",
                "Embed the folder again",
            )
        rows.append(len(array))
        dimensions.add(array.shape[1])
    if len(dimensions) > 1:
        raise BlissError(
            f"{folder} mixes vectors of {sorted(dimensions)} dimensions",
            "vectors of one model",
            "Embed the folder again",
        )
    return EmbeddingFolder(
        folder,
        kind,
        tuple(vectors.values()),
        tuple(metadata.values()),
        tuple(rows),
        dimensions.pop(),
    )


def metadata_parts(source: EmbeddingFolder, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The metadata of each part in turn, all columns or only `columns` (UsageError if missing)."""
    for path in source.metadata:
        there = column_names(path)
        for column in columns or ():
            if column not in there:
                raise UsageError(
                    f"column '{column}' is not in {path}",
                    f"one of {', '.join(there)}",
                    "Name the right column with --column",
                )
        yield read_parquet(path, columns)


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in folder.glob(f"*.{suffix}"):
        match = re.search(r"(\d+)$", path.stem)
        if match and (other := found.setdefault(int(match[1]), path)) != path:
            raise BlissError(
                f"{folder} holds {min(other.name, path.name)} and {max(other.name, path.name)}",
                "one file for each number",
                "Move one of them away, or give it a number of its own",
            )
    return dict(sorted(found.items()))


def column_names(path: Path) -> list[str]:
    """The columns of a parquet file; BlissError when it is none."""
    return list(parquet_schema(path).names)


def parquet_schema(path: Path) -> pa.Schema:
    """The columns of a parquet file and their types; BlissError when it is none."""
    return _read(read_schema, path)


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """All or some columns of a parquet file; BlissError when it is none."""
    return _read(read_table, path, columns=columns)


def _read(read: Callable[..., Any], path: Path, **options: Any) -> Any:
    """The result of `read` for an opened file, as Arrow cannot open paths that are not UTF-8."""
    try:
        with open(path, "rb") as file:
            return read(file, **options)
    except (OSError, pa.ArrowException) as error:
        raise BlissError(
            f"{path} could not be read ({error})", "a whole parquet file", "Embed the folder again"
        ) from error
