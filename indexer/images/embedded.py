"""Embedded images, read from a folder that bliss or another program wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...arguments import checked
from ...artefacts import BUILDING, MANIFEST, check_checksum, digest, read_manifest
from ...corpora import LONGEST_PATH, ImageList, display_path, list_paths
from ...errors import BlissError, UsageError
from ..vectors.layout import (
    EmbeddingFolder,
    column_names,
    metadata_file,
    open_embedding_folder,
    read_parquet,
    vector_file,
)
from ..vectors.rows import (
    ArrayRows,
    OutsideRows,
    PartedRows,
    SelectedRows,
    by_part,
    load_vectors,
    resident_if_few,
)
from ..vectors.string_columns import (
    ROWS_AT_ONCE,
    TextColumn,
    Texts,
    arrow_texts,
    as_bytes,
    categories,
    joined,
    joined_contents,
    packed_texts,
    text_column,
)
from ..vectors.unit_rows import Rows, normalise_rows, slices
from .measures import MEASURES, SKETCH, Measures

KIND = "image-embeddings"
EMBEDDED_ROWS_AT_ONCE = 16_384
DIGEST, DRAWN = "pixels_sha256", "sketch"
"""Columns of what was measured beside MEASURES."""


@dataclass(frozen=True)
class Failure:
    """One image that could not be used, by source row, with its path and the reason."""

    row: int
    path: str
    reason: str


@dataclass(frozen=True)
class Sketches:
    """The sketches of n images, in the metadata files of their parts."""

    files: tuple[Path, ...]
    starts: np.ndarray
    """int64 [p + 1], the first image of each part."""
    digests: np.ndarray
    """S32 [n], of all pixels; b"" where an image was not measured."""

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [m, SKETCH, SKETCH] of the images `rows` int64 [m], which were all measured."""
        found = np.zeros((len(rows), SKETCH, SKETCH), np.uint8)
        for number, places, here in by_part(self.starts, np.asarray(rows)):
            column = read_parquet(self.files[number], [DRAWN])[DRAWN].take(pa.array(here))
            found[places] = _drawn(self.files[number], column)
        return found


@dataclass(frozen=True)
class EmbeddedImages:
    """n usable images of one collection and the failures among it."""

    vectors: Rows
    """Unit rows of d dimensions: float32 [n, d], or on disk where that is more than 256 MiB."""
    rows: np.ndarray
    """int64 [n], source rows: positions in the collection, failures counted."""
    paths: Texts[str]
    labels: Texts[str | None]
    hashes: Texts[str]
    """Content of each image: SHA-256 of its file, or of its vector where no file was read."""
    failures: tuple[Failure, ...]
    model: Mapping[str, Any]
    source: str
    """Their folder or collection, for messages."""
    normalised: int = 0
    """How many vectors of another program were not of unit length."""
    exif_rotated: int = 0
    fingerprint: str = ""
    """Changes if any vector, content or path does; "" where unknown."""
    quality: np.ndarray | None = None
    """float32 [n, q], the columns of MEASURES, NaN for images that were not measured; None where
    none was, as by earlier versions and other programs."""
    sketches: Sketches | None = None
    """None where no image was measured."""


def measures_columns(measured: Sequence[Measures | None]) -> dict[str, pa.Array]:
    """The columns of a metadata table for these images; none where nothing was measured."""
    if not any(measured):
        return {}
    columns = {
        name: pa.array([each and each.quality[place] for each in measured], pa.float32())
        for place, name in enumerate(MEASURES)
    }
    columns[DIGEST] = pa.array([each and each.digest for each in measured], pa.string())
    columns[DRAWN] = pa.array([each and each.sketch for each in measured], pa.large_binary())
    return columns


def stored_measures(path: Path) -> Sequence[Measures | None]:
    """The measures in a metadata file, None for images that were not measured."""
    table = _measured(path, [*MEASURES, DIGEST, DRAWN])
    if table is None:
        return [None] * len(read_parquet(path, ["sha256"]))
    _drawn(path, table[DRAWN].drop_null())
    return [
        Measures(tuple(row[name] for name in MEASURES), row[DIGEST], row[DRAWN])
        if row[DRAWN]
        else None
        for row in table.to_pylist()
    ]


def stored_quality(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """float32 [m, q], the quality measures in a metadata file, NaN where there are none; the
    digests, S32 [m]."""
    table = _measured(path, [*MEASURES, DIGEST])
    if table is None:
        count = len(read_parquet(path, ["sha256"]))
        return np.full((count, len(MEASURES)), np.nan, np.float32), np.zeros(count, "S32")
    values = [table[name].to_numpy().astype(np.float32) for name in MEASURES]
    return np.stack(values, axis=1), np.array(table[DIGEST].fill_null("").to_pylist(), "S32")


def _measured(path: Path, columns: list[str]) -> pa.Table | None:
    """What was measured, None in files without it; BlissError where bliss did not write it so."""
    if DRAWN not in (there := column_names(path)):
        return None
    table = read_parquet(path, columns if set(columns) <= set(there) else None)
    types = {field.name: field.type for field in table.schema}
    fits = all(types.get(name) == pa.float32() for name in MEASURES) and types.get(DIGEST) in (
        pa.string(),
        pa.large_string(),
    )
    if fits:
        digests = table[DIGEST].drop_null()
        whole = pc.all(pc.match_substring_regex(digests, "^[0-9a-f]{32}$"), min_count=0)
        fits = whole.as_py() and len({table[name].null_count for name in columns}) == 1
    if not fits:
        _refuse(path)
    return table


def _drawn(path: Path, sketches: pa.ChunkedArray) -> np.ndarray:
    """uint8 [m, SKETCH, SKETCH]; BlissError where they are no sketches."""
    kinds = pa.binary(), pa.large_binary()
    if sketches.type not in kinds or sketches.null_count:
        _refuse(path)
    if not pc.all(pc.equal(pc.binary_length(sketches), SKETCH**2), min_count=0).as_py():
        _refuse(path)
    joined = b"".join(sketches.to_pylist())
    return np.frombuffer(joined, np.uint8).reshape(-1, SKETCH, SKETCH)


def _refuse(path: Path) -> NoReturn:
    raise BlissError(
        f"what was measured of the images in {path} is not as bliss writes it",
        "numbers, digests and sketches of every measured image",
        "Embed the folder again",
    )


def open_embedded_images(folder: Path, source: str) -> EmbeddedImages:
    """The finished embeddings that `embed_images` wrote; BlissError where they are damaged."""
    manifest = read_manifest(folder, KIND, "Run the command that began it again to finish it")
    for name in manifest["checksums"]:
        check_checksum(folder, name, manifest)
    numbers = [number for number, rows in enumerate(manifest["parts"]) if rows]
    failures = tuple(Failure(**failure) for failure in manifest["failures"])
    if not numbers:
        none = f"none of the {len(failures):,} images in {source} could be read (the first"
        if len(failures) == 1:
            none = f"the only image in {source} could not be read ("
        raise BlissError(
            f"{none}: {failures[0].path}: {failures[0].reason})".replace("(: ", "("),
            "at least one readable image",
            "Check the files",
        )
    stored = PartedRows([folder / vector_file("img", number) for number in numbers])
    rows: list[np.ndarray] = []
    paths: list[pa.Array] = []
    labels: list[pa.Array] = []
    hashes: list[TextColumn] = []
    for number in numbers:
        table = read_metadata(folder, number, manifest["parts"][number])
        rows.append(table["row"].to_numpy())
        paths += arrow_texts(table["image_path"])
        labels += [names.dictionary_encode() for names in arrow_texts(table["label"])]
        hashes += map(packed_texts, arrow_texts(table["sha256"]))
    files = tuple(folder / metadata_file(number) for number in numbers)
    quality, digests = map(np.concatenate, zip(*map(stored_quality, files), strict=True))
    starts = np.cumsum([0, *map(len, rows)])
    measured = bool(digests.any())
    return EmbeddedImages(
        vectors=resident_if_few(stored, manifest["model"]["dimension"]),
        rows=np.concatenate(rows),
        paths=joined(paths),
        labels=categories(joined(labels)),
        hashes=joined_contents(hashes),
        failures=failures,
        model=manifest["model"],
        source=source,
        exif_rotated=manifest.get("exif_rotated", 0),
        fingerprint=digest(manifest["checksums"]),
        quality=quality if measured else None,
        sketches=Sketches(files, starts, digests) if measured else None,
    )


_COLUMNS = {"image_path": "string", "label": "string", "row": "int64", "sha256": "string"}


def read_metadata(folder: Path, number: int, rows: int) -> pa.Table:
    """The metadata of a part that bliss wrote; BlissError where it is not as bliss writes it."""
    path = folder / metadata_file(number)
    names = column_names(path)
    fits = set(_COLUMNS) <= set(names) and len(names) == len(set(names))
    table = read_parquet(path, list(_COLUMNS) if fits else None)
    there = {field.name: str(field.type).removeprefix("large_") for field in table.schema}
    if fits and (fits := _COLUMNS.items() <= there.items()):
        known = [table[name].null_count == 0 for name in ("image_path", "row", "sha256")]
        hexadecimal = pc.match_substring_regex(table["sha256"], "^[0-9a-f]{64}$")
        fits = len(table) == rows and all(known) and pc.all(hexadecimal, min_count=0).as_py()
    if not fits:
        raise BlissError(
            f"{path} has {len(table):,} rows of the columns {there}, or values that are none",
            f"{rows:,} rows with {', '.join(_COLUMNS)} as bliss wrote them",
            "Embed the folder again",
        )
    return table


@checked
def read_image_embeddings(folder: str | Path) -> EmbeddedImages:
    """Existing image embeddings in clip-retrieval's layout, normalised here.

    Labels come from a metadata column `label`, paths from `image_path`, `path` or `url`. Zero and
    non-finite vectors become failures. A folder that bliss wrote keeps the facts of
    its model.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file() or (folder / BUILDING).is_file():
        return open_embedded_images(folder, str(folder))
    layout = open_embedding_folder(folder, "img")
    paths, labels = paths_and_labels(layout)
    stored = OutsideRows(layout.vectors)
    bad, hashes, adjusted = _scan(stored)
    if len(bad) == len(stored):
        raise BlissError(
            f"all {len(stored):,} embeddings in {folder} are zero or not finite",
            "finite vectors",
            "Embed the images again",
        )
    kept = np.setdiff1d(np.arange(len(stored)), bad)
    reason = "the embedding is zero or not finite"
    return EmbeddedImages(
        vectors=resident_if_few(SelectedRows(stored, kept), layout.dimension),
        rows=kept,
        paths=paths.take(kept) if len(bad) else paths,
        labels=labels.take(kept) if len(bad) else labels,
        hashes=hashes,
        failures=tuple(Failure(i, paths[i], reason) for i in bad.tolist()),
        model={"model": None, "weights_sha256": None, "dimension": layout.dimension},
        source=str(folder),
        normalised=adjusted,
        fingerprint=_fingerprint(hashes),
    )


def embedded_arrays(
    vectors: np.ndarray,
    labels: Sequence[str | None],
    paths: Sequence[str] | None = None,
    model: Mapping[str, Any] | None = None,
    source: str = "the arrays given",
) -> EmbeddedImages:
    """Embeddings [n, d] that are in memory, or mapped, as `read_image_embeddings` reads files.

    They are normalised, those over 256 MiB whenever they are read. `labels` and `paths` have one
    entry for each. Raises UsageError naming the first row that is zero or not finite.
    """
    bad, hashes, adjusted = _scan_array(vectors)
    if len(bad):
        raise UsageError(
            f"row {bad[0]} of the images is zero or not finite"
            + (f", and {len(bad) - 1:,} more" if bad[1:].size else ""),
            "finite vectors of some length",
            "Leave those images out, or embed them again",
        )
    n, dimension = vectors.shape
    named = [f"row {i}" for i in range(n)] if paths is None else paths
    return EmbeddedImages(
        vectors=resident_if_few(ArrayRows(vectors), dimension),
        rows=np.arange(n),
        paths=text_column(named),
        labels=categories(labels),
        hashes=hashes,
        failures=(),
        model=model or {"model": None, "weights_sha256": None, "dimension": dimension},
        source=source,
        normalised=adjusted,
        fingerprint=_fingerprint(hashes),
    )


def _fingerprint(hashes: TextColumn) -> str:
    """SHA-256 of all contents in order."""
    found = hashlib.sha256()
    for content in hashes:
        found.update(content.encode())
    return found.hexdigest()


def _scan(stored: PartedRows) -> tuple[np.ndarray, TextColumn, int]:
    """One pass: int64 [u] unusable rows; contents of the others; how many of those were not of
    unit length."""
    found = [_scan_array(load_vectors(path)) for path in stored.paths]
    bad = [rows + first for (rows, _, _), first in zip(found, stored.starts, strict=False)]
    contents = joined_contents(hashes for _, hashes, _ in found)
    return np.concatenate(bad), contents, sum(adjusted for _, _, adjusted in found)


def _scan_array(vectors: np.ndarray) -> tuple[np.ndarray, TextColumn, int]:
    """The same of one array."""
    bad, hashes, adjusted = [np.zeros(0, np.int64)], [], 0
    for some in slices(len(vectors), EMBEDDED_ROWS_AT_ONCE):
        made = normalise_rows(vectors[some])
        bad.append(made.unusable + some.start)
        adjusted += made.adjusted
        usable = np.delete(made.unit, made.unusable, axis=0)
        named = as_bytes("vector:" + hashlib.sha256(row).hexdigest() for row in usable)
        hashes.append(packed_texts(named))
    return np.concatenate(bad), joined_contents(hashes), adjusted


def list_photographs(folder: str | Path, image_root: str | None = None) -> ImageList:
    """The image files of embeddings, with the rows of `read_image_embeddings`.

    Paths are relative to `image_root`, or to the folder of the embeddings, and may not leave it; a
    row whose metadata names no file has none. Errors as `read_image_embeddings`.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder, KIND, "Run the command that began it again to finish it")
        named = {failure["row"]: str(failure["path"]) for failure in manifest["failures"]}
        labelled: dict[int, str | None] = {}
        for number, rows in enumerate(manifest["parts"]):
            if rows:
                columns = read_metadata(folder, number, rows).to_pydict()
                named |= zip(columns["row"], columns["image_path"], strict=True)
                labelled |= zip(columns["row"], columns["label"], strict=True)
        count = max(named, default=-1) + 1
        paths = [named.get(row, f"row {row}") for row in range(count)]
        labels = [labelled.get(row) for row in range(count)]
    else:
        named_rows, label_rows = paths_and_labels(open_embedding_folder(folder, "img"))
        paths, labels = list(named_rows), list(label_rows)
    return list_paths(image_root or folder, paths, labels)


PATH_COLUMNS = ("image_path", "path", "url")
LABEL_COLUMN = "label"


def paths_and_labels(layout: EmbeddingFolder) -> tuple[TextColumn, TextColumn]:
    """The path and the label of each row, reading no other column.

    Without such a column, or for a null, there is no label and "row 7" is the path; a label of
    blanks is none. Raises BlissError where a path or label is not UTF-8.
    """
    paths: list[pa.Array] = []
    labels: list[pa.Array] = []
    first = 0
    for file, count in zip(layout.metadata, layout.rows, strict=True):
        there = column_names(file)
        named = next((name for name in PATH_COLUMNS if name in there), None)
        for values in _column(file, named, count):
            paths.append(_numbered(values, first))
            first += len(values)
        labelled = LABEL_COLUMN if LABEL_COLUMN in there else None
        labels += [values.dictionary_encode() for values in _column(file, labelled, count)]
    return joined(paths), _without_blanks(joined(labels))


def _without_blanks(labels: TextColumn) -> TextColumn:
    """A column with its texts held once, those of blanks alone as null."""
    column = categories(labels)
    numbers, names = column.values.indices, column.values.dictionary
    blank = [place for place, name in enumerate(names.to_pylist()) if not name.strip()]
    kept = pc.if_else(pc.is_in(numbers, pa.array(blank, numbers.type)), None, numbers)
    return TextColumn(pa.DictionaryArray.from_arrays(kept, names)) if blank else column


def _column(file: Path, name: str | None, count: int) -> Iterator[pa.Array]:
    """Its texts as large_binary arrays of ROWS_AT_ONCE; nulls without such a column."""
    try:
        arrays: Iterable[pa.Array] = [pa.nulls(count, pa.large_binary())]
        if name is not None:
            arrays = arrow_texts(read_parquet(file, [name])[name])
        for values in arrays:
            for start in range(0, len(values), ROWS_AT_ONCE):
                yield _cut(values.slice(start, ROWS_AT_ONCE))
    except pa.ArrowInvalid as error:
        raise BlissError(
            f"column '{name}' of {file} could not be read ({error})",
            "one text in UTF-8, or one number, in each row",
            "Write the metadata again",
        ) from error


def _cut(values: pa.Array) -> pa.Array:
    """The texts, those cut that are too long for a path or label, such as images in base64."""
    long = pc.greater(pc.binary_length(values), LONGEST_PATH)
    if not pc.any(long).as_py():
        return values
    texts = values.to_pylist()
    for row in np.flatnonzero(long.fill_null(False).to_numpy(zero_copy_only=False)):
        texts[row] = display_path(texts[row].decode("utf-8", "replace")).encode()
    return pa.array(texts, values.type)


def _numbered(values: pa.Array, first: int) -> pa.Array:
    """The texts, with "row n" for nulls; `first` is the number of the first row."""
    if not values.null_count:
        return values
    return pc.coalesce(values, as_bytes(f"row {first + i}" for i in range(len(values))))
