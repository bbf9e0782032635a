"""The images and embeddings behind the rows of a finished audit, read only as far as needed."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from ...artefacts import BUILDING, MANIFEST, check_checksum, digest, read_json, read_manifest
from ...corpora import (
    ImageOptions,
    ImageSource,
    check_named,
    open_images,
    read_image_bytes,
    why_outside,
)
from ...errors import BlissError
from ...indexer import (
    SIGNATURES,
    Decoder,
    DecodingLimits,
    EmbeddedImages,
    EmbeddingFolder,
    OutsideRows,
    PartedRows,
    Rows,
    Texts,
    UnreadableImage,
    column_names,
    is_embedding_folder,
    list_photographs,
    metadata_parts,
    open_embedding_folder,
    read_file,
    read_parquet,
    resident_if_few,
    slices,
)
from ...scorer import ARRAYS, NO_FILE
from ..folder import RunFolder, located

LIMITS = DecodingLimits()
PICTURE_SIDE = 256
"""Pixels of the longer side of an opened picture."""
CHANGED = "its content has changed since the audit"
NOT_THERE = "the collection has no readable image at this row any more"
FILES = "image-files"
AUDITED, REFERENCE, AGAINST = "audited", "reference", "against"
AGAIN = "Run the same audit again, or restore the files"
_OPTIONS = {
    "image_column": "image_column",
    "label_column": "label_column",
    "labels": "labels",
    "images_config": "config",
    "images_split": "split",
    "images_revision": "revision",
    "follow_links": "follow_links",
}


class Wanted(NamedTuple):
    """One image of a collection whose bytes are wanted."""

    row: int
    """Its source row."""
    path: str
    """As the audit listed it."""
    content: str | None = None
    """SHA-256 of its file, where that is known."""


class Photograph(NamedTuple):
    """One wanted image: its encoded bytes, or why there are none."""

    place: int
    """Its position among the wanted images."""
    data: bytes | None
    problem: str = ""


@dataclass(frozen=True)
class Photographs:
    """Where the images of an audited or reference collection are: below a folder, or by row."""

    folder: str | None
    """The folder that holds them as files, by their paths; None for any other collection."""
    request: Mapping[str, Any]
    """For the others: what `open_photographs` opens."""
    follow_links: bool = False
    """Whether the audit followed links that leave the folder."""


def open_photographs(request: Mapping[str, Any]) -> ImageSource | None:
    """The collection that a run read, its rows numbered as the column `row` of its scores.

    `request` is what `run.json` holds under that name. `read_image_bytes(source, rows)` then gives
    the encoded images of any rows in one pass. None where the request names no collection, as when
    the audit was called from Python with another one. Errors as `open_images`; AddressNotNamed for
    an address that the user has not named.
    """
    check_named([request.get("images")], "the run")
    if request.get("images"):
        options = {field: request.get(name) for name, field in _OPTIONS.items()}
        return open_images(request["images"], ImageOptions(**options))
    if request.get("embeddings"):
        return list_photographs(request["embeddings"], request.get("image_root"))
    return None


def check_addresses(run: RunFolder) -> None:
    """AddressNotNamed where the run names collections at addresses that the user has not named."""
    request = run.facts.get("request", {})
    check_named([request.get("images"), request.get("reference")], str(run.folder))


def run_photographs(run: RunFolder) -> Photographs:
    """Where the audited images are; nothing is opened yet.

    AddressNotNamed for an address that the user has not named.
    """
    request = run.facts.get("request", {})
    check_named([request.get("images")], str(run.folder))
    if request.get("embeddings"):
        root = str(request.get("image_root") or request["embeddings"])
        return Photographs(located(root, run.folder), {})
    images = request.get("images")
    if isinstance(images, str):
        request = {**request, "images": located(images, run.folder)}
    return _by_kind(run.folder / "images", located(run.source, run.folder), request)


def other_photographs(run: RunFolder, name: str = REFERENCE) -> Photographs:
    """Where the images of the run's separate reference, or of `--against`, are; nothing is opened.

    AddressNotNamed for an address that the user has not named.
    """
    given = located(str(run.facts["request"][name]), run.folder)
    check_named([given], str(run.folder))
    if is_embedding_folder(Path(given), "img"):
        root = run.facts["request"].get("image_root")
        return Photographs(located(str(root), run.folder) if root else given, {})
    folder = given if os.path.isdir(given) else os.path.dirname(os.path.abspath(given))
    return _by_kind(run.folder / f"{name}-images", folder, {"images": given})


def _by_kind(embedded: Path, folder: str, request: Mapping[str, Any]) -> Photographs:
    """By the kind that the embeddings' manifest tells, else by whether there is a folder."""
    kind = None
    if (embedded / MANIFEST).is_file():
        kind = read_json(embedded / MANIFEST).get("collection")
    if kind is None and os.path.isdir(folder):
        kind = FILES
    follow = request.get("follow_links") is True
    return Photographs(folder if kind == FILES else None, request, follow)


def read_photographs(where: Photographs, wanted: Sequence[Wanted]) -> Iterator[Photograph]:
    """Each of the `wanted` images (no row twice) once, with bounded memory.

    Files come in the order of `wanted`; the images of any other collection by ascending row, in one
    pass over it. One whose content has changed since the audit has a problem.
    """
    if where.folder is None:
        yield from _read_rows(where.request, wanted)
        return
    for place, each in enumerate(wanted):
        try:
            data = read_file(photograph_file(where.folder, each.path, where.follow_links), LIMITS)
        except UnreadableImage as error:
            yield Photograph(place, None, str(error))
        else:
            yield _unless_changed(place, data, each)


def photograph_file(folder: str, path: str, follow_links: bool = False) -> str:
    r"""The file that a run lists as `path` below `folder`; it need not exist.

    Bytes shown as \xNN are bytes again where no file has that very name. Raises
    UnreadableImage(reason) for a path, or a link that is not to be followed, out of the folder.
    """
    try:
        there = os.path.lexists(os.path.join(folder, path))
    except ValueError:  # a null byte, refused below
        there = True
    name = path if there else "/".join(_as_on_disk(part) for part in path.split("/"))
    problem = why_outside(folder, name, follow_links)
    if problem:
        raise UnreadableImage(problem)
    return os.path.join(folder, name)


@contextmanager
def opened_pictures(
    where: Photographs, paths: Texts[str]
) -> Iterator[Callable[[int], Image.Image | None]]:
    """A function that gives the picture of the image at a position of `paths`, small and upright,
    as `find_copies` takes it; None for files that cannot be read, and outside folders for all.

    Files are decoded in a process of their own, which ends with the context.
    """
    with Decoder() as decoder:

        def opened(at: int) -> Image.Image | None:
            if where.folder is None:
                return None
            try:
                file = photograph_file(where.folder, paths[at], where.follow_links)
                small = decoder.thumbnail(read_file(file, LIMITS), PICTURE_SIDE, LIMITS)
            except UnreadableImage:
                return None
            return Image.open(io.BytesIO(small))

        yield opened


@contextmanager
def files_of(
    images: EmbeddedImages | None, root: str | None = None
) -> Iterator[Callable[[int], Image.Image | None] | None]:
    """`opened_pictures` of embeddings that were read, below `root` or the folder they are in.

    None where their pictures were measured already or, without a `root`, the first is not there.
    """
    if images is None or images.sketches is not None or not len(images.rows):
        yield None
        return
    if root is None:
        first = os.path.join(images.source, images.paths[0])
        if why_outside(images.source, images.paths[0], False) or not os.path.isfile(first):
            yield None
            return
    with opened_pictures(Photographs(root or images.source, {}), images.paths) as opened:
        yield opened


def image_suffix(data: bytes) -> str:
    """What the name of a file with these bytes ends in, such as `.png`; "" for other formats."""
    names = [name for start, name in SIGNATURES.items() if data.startswith(start)]
    return f".{names[0].lower()}" if names else ""


def _as_on_disk(name: str) -> str:
    r"""A name with every \xNN above 7f as the byte it shows (see `display_path`)."""
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), name)


def _read_rows(request: Mapping[str, Any], wanted: Sequence[Wanted]) -> Iterator[Photograph]:
    if not wanted:
        return
    waiting = sorted(range(len(wanted)), key=lambda place: wanted[place].row)
    done, problem = 0, NOT_THERE
    try:
        source = open_photographs(request)
        if source is None:
            problem = "the run does not say which collection it read"
        else:
            for row, data in read_image_bytes(source, [each.row for each in wanted]):
                while wanted[waiting[done]].row < row:
                    yield Photograph(waiting[done], None, NOT_THERE)
                    done += 1
                yield _unless_changed(waiting[done], data, wanted[waiting[done]])
                done += 1
    except BlissError as error:
        problem = error.given
    for place in waiting[done:]:
        yield Photograph(place, None, problem)


def _unless_changed(place: int, data: bytes, wanted: Wanted) -> Photograph:
    if wanted.content is not None and hashlib.sha256(data).hexdigest() != wanted.content:
        return Photograph(place, None, CHANGED)
    return Photograph(place, data)


ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class StoredImages:
    """A folder of image embeddings, read where it lies."""

    layout: EmbeddingFolder
    ours: bool
    """Whether bliss wrote it: its rows are then the usable images, with content hashes."""

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where the images stand whose source rows are `rows`, all of a run, in table order."""
        return np.arange(len(rows)) if self.ours else np.asarray(rows, np.int64)

    def rows(self) -> np.ndarray:
        """int64 [n], the source row of every stored image."""
        if not self.ours:
            return np.arange(self.layout.count)
        return np.concatenate(
            [table["row"].to_numpy() for table in metadata_parts(self.layout, ["row"])]
        )

    @cached_property
    def vectors(self) -> Rows:
        """The unit rows of all stored images, as they were scored; in memory where they are few."""
        rows = (PartedRows if self.ours else OutsideRows)(self.layout.vectors)
        return resident_if_few(rows, self.layout.dimension)

    def hashes(self, places: Sequence[int]) -> list[str]:
        """What the images at `places` are known by: SHA-256 of the file, else of the vector."""
        if self.ours:
            return [str(content) for content in self.column("sha256", np.array(places, np.int64))]
        return [NO_FILE + hashlib.sha256(row).hexdigest() for row in self.vectors[np.array(places)]]

    def fingerprint(self) -> str:
        """What `EmbeddedImages.fingerprint` was when these embeddings were read."""
        if self.ours:
            return digest(read_json(self.layout.folder / MANIFEST)["checksums"])
        found = hashlib.sha256()
        for some in slices(self.layout.count, ROWS_AT_ONCE):
            usable = np.flatnonzero(self.vectors[some].any(axis=1)) + some.start
            found.update("".join(self.hashes(usable.tolist())).encode())
        return found.hexdigest()

    def mean(self) -> np.ndarray:
        """float64 [d], the mean of all unit rows."""
        total = np.zeros(self.layout.dimension)
        for some in slices(self.layout.count, ROWS_AT_ONCE):
            total += self.vectors[some].sum(axis=0, dtype=np.float64)
        return total / self.layout.count

    def column(self, name: str, places: np.ndarray) -> list[str | None]:
        """One metadata column of the images at `places` int64 [m], None in parts that lack it."""
        starts = np.cumsum([0, *self.layout.rows])
        found: list[str | None] = [None] * len(places)
        for number, path in enumerate(self.layout.metadata):
            here = np.flatnonzero((places >= starts[number]) & (places < starts[number + 1]))
            if len(here) and name in column_names(path):
                rows = pa.array(places[here] - starts[number])
                values = read_parquet(path, [name])[name].take(rows).to_pylist()
                for place, value in zip(here.tolist(), values, strict=True):
                    found[place] = value
        return found

    def names(self, places: np.ndarray) -> list[str]:
        """What the images at `places` are called, by the first metadata column that names them."""
        columns = [self.column(name, places) for name in ("image_path", "path", "url")]
        return [
            next((value for value in values if value is not None), f"row {place}")
            for place, *values in zip(places.tolist(), *columns, strict=True)
        ]


def _stored_images(folder: Path) -> StoredImages | None:
    """The embeddings in `folder`, or None where there are none.

    BlissError where they are bliss's and unfinished, or a file has changed since they were made.
    """
    if not is_embedding_folder(folder, "img"):
        return None
    ours = (folder / MANIFEST).is_file() or (folder / BUILDING).is_file()
    if ours:
        manifest = read_manifest(folder, "image-embeddings", AGAIN)
        for name in manifest["checksums"]:
            check_checksum(folder, name, manifest)
    return StoredImages(open_embedding_folder(folder, "img"), ours)


def audited_embeddings(run: RunFolder) -> StoredImages | None:
    """The embeddings that a run scored: those it was given, else its own; None where they are gone.

    Read, and compared with the run, once. BlissError where they are others than it scored.
    """
    if AUDITED not in run.opened:
        given = run.facts.get("request", {}).get("embeddings")
        stored = _stored_images(
            Path(located(given, run.folder)) if given else run.folder / "images"
        )
        if stored is not None:
            _check_scored(run, stored)
        run.opened[AUDITED] = stored
    return run.opened[AUDITED]


def reference_embeddings(run: RunFolder) -> StoredImages | None:
    """The embeddings of the images of a run's separate reference; None where there are none.

    Read, and compared with the run, once. BlissError where they are others than it used.
    """
    if REFERENCE not in run.opened:
        given = run.facts.get("request", {}).get("reference")
        given = given and located(given, run.folder)
        stored = None
        if given and not (Path(given) / ARRAYS).is_file():  # a fitted one keeps no images
            stored = _stored_images(Path(given)) or _stored_images(run.folder / "reference-images")
        known = run.facts["reference"].get("fingerprint")
        if stored is not None and known and stored.fingerprint() != known:
            raise _others(stored, run)
        run.opened[REFERENCE] = stored
    return run.opened[REFERENCE]


def _check_scored(run: RunFolder, stored: StoredImages) -> None:
    """Raise BlissError where the embeddings are not those in the run's table."""
    images = run.facts["images"]
    known = images.get("fingerprint")
    if stored.ours and known:  # over all vectors and metadata, which were just checked
        if stored.fingerprint() != known:
            raise _others(stored, run)
        return
    count = images["scored"] if stored.ours else images["listed"]
    if stored.layout.count != count:
        raise _others(stored, run)
    table = run.columns(["row", "content"])
    places = stored.places(table["row"].to_numpy())
    if stored.ours and not np.array_equal(stored.rows(), table["row"].to_numpy()):
        raise _others(stored, run)
    if "content" in table.column_names:
        for some in slices(len(places), ROWS_AT_ONCE):
            contents = table["content"].slice(some.start, some.stop - some.start)
            if stored.hashes(places[some].tolist()) != contents.to_pylist():
                raise _others(stored, run)


def _others(stored: StoredImages, run: RunFolder) -> BlissError:
    return BlissError(
        f"the embeddings in {stored.layout.folder} are not those that {run.folder} was made from",
        "the embeddings of that audit, unchanged",
        AGAIN,
    )


def wanted_images(run: RunFolder) -> list[Wanted]:
    """Every image of a run, in the order of its table, with its content where a file was read."""
    table = run.columns(["row", "path"])
    rows, paths = table["row"].to_pylist(), table["path"].to_pylist()
    stored = audited_embeddings(run)
    known: Sequence[str | None] = [None] * len(rows)
    if stored is not None and stored.ours:
        known = stored.hashes(range(len(rows)))
    return [Wanted(*each) for each in zip(rows, paths, known, strict=True)]
