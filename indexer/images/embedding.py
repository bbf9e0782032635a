"""Decode and embed the images of a collection, part by part, in one process or several."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ...arguments import checked, checked_fields
from ...artefacts import digest, only_run_in
from ...corpora import MAX_FILE_BYTES, ImageItem, ImageSource, notices_of
from ...errors import BlissError
from ...progress import Progress, no_progress
from ..build.plan import RowPlan
from ..encode.encoder import IDENTITY, Encoder
from ..search.captions import Engine
from ..store.parts import (
    Described,
    Journal,
    Part,
    begin_building,
    delete_files,
    finish_building,
    finished_parts,
    is_finished,
    write_part,
)
from ..vectors.unit_rows import normalise_rows
from .cache import (
    CachedVectors,
    begun_request,
    collection_name,
    delete_stash,
    open_cached_vectors,
    previous_folder,
    reuse_images,
    stash_parts,
)
from .decoding import Decoded, DecodingLimits, Undecodable
from .embedded import KIND, EmbeddedImages, measures_columns, open_embedded_images
from .workers import Cached, Outcome, decode_images

FIRST_MAX_BYTES = 1 << 30
"""What requests say for the default limit on a file: its first value, so that embeddings made under
that are used again. Which of two defaults refused a file is in its failure."""
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class EmbeddingTask:
    """The parts of an image collection that are still to be embedded."""

    images: ImageSource
    encoder: Encoder
    """With EXIF orientations applied or not, as its preprocessing says."""
    limits: DecodingLimits
    part_rows: int
    cached: CachedVectors
    """Images that need not be embedded again."""
    is_finished: Callable[[int], bool]
    """Whether the part with this number is to be skipped."""
    write: Callable[[int, Part], None]
    """Stores a part under its number."""
    progress: Progress


class EmbeddingEngine(Engine, Protocol):
    """An engine that also embeds; `IndexOptions` and `EmbedOptions` have one."""

    def encode_captions(
        self,
        plan: RowPlan,
        numbers: Sequence[int],
        encoder: Encoder,
        described: Sequence[Described],
        progress: Progress,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(number, raw vectors float32 [m, d]) of each of the parts `numbers`, in any order."""

    def embed_images(self, task: EmbeddingTask) -> int:
        """Embed and write every part that is not finished; returns the rows of the collection."""


@checked_fields
@dataclass(frozen=True)
class EmbedOptions:
    """How images are read and stored."""

    limits: DecodingLimits = field(default_factory=DecodingLimits)
    workers: int | None = None
    """Decoding processes of this machine; by default one for each core, at most 8."""
    apply_exif: bool = True
    part_rows: int = 2048
    overwrite: bool = False
    cache: Path | None = None
    """The cache folder for finished embeddings; None: no cache."""
    engine: EmbeddingEngine | None = None
    """Where to decode and encode; None: on this machine."""


NO_OPTIONS = EmbedOptions()


@checked
def embed_images(
    images: ImageSource,
    encoder: Encoder,
    folder: str | Path,
    options: EmbedOptions = NO_OPTIONS,
    progress: Progress = no_progress,
    say: Callable[[str], object] = lambda line: None,
) -> EmbeddedImages:
    """Decode and embed `images` into `folder`, or continue where an interrupted run stopped.

    Where only the images have changed since, or where their labels are, those with known content
    are not encoded again; with `options.cache` this includes folders that other commands finished,
    and `say` is told so. An unreadable image becomes a Failure. Raises UsageError where the folder
    belongs to another request, BlissError for a disk that cannot be written or a collection that
    went away (finished parts are kept) and for a collection without images.
    """
    folder = Path(folder)
    for line in notices_of(images):
        say(line)
    with only_run_in(folder):
        request = begun_request(folder, embedding_request(images, encoder, options))
        stash_parts(folder, request)
        begin_building(folder, request, options.overwrite)
        if not is_finished(folder) and options.cache:
            _use_cache(options.cache, folder, request, images.spec, say)
        if not is_finished(folder):
            finished = finished_parts(folder).__contains__
            listed = embed_parts(images, encoder, folder, options, finished, progress)
            facts = {
                "kind": KIND,
                "model": dict(encoder.facts),
                "images_listed": listed,
                "collection": images.facts()["kind"],
            }
            finish_building(folder, "img", part_count(listed, options), facts)
        delete_stash(folder)
    return open_embedded_images(folder, images.spec)


def _use_cache(
    cache: Path, folder: Path, request: Mapping[str, Any], spec: str, say: Callable[[str], object]
) -> None:
    """Reuse the embeddings of another command, whole or for single images, and say so."""
    found = reuse_images(cache, folder, request, spec)
    if found is not None:
        say(f"image embeddings of {spec} reused from {found}")
        return
    previous = previous_folder(cache, folder, request, spec)
    if previous is not None:
        say(f"images of {spec} that are in {previous} are not embedded again")


def embedding_request(
    images: ImageSource, encoder: Encoder, options: EmbedOptions
) -> dict[str, Any]:
    """All that the embeddings of `images` depend on: equal requests give equal bytes."""
    limit = options.limits.max_bytes
    return {
        "images": images.facts()["fingerprint"],
        "collection": digest({"name": collection_name(images.spec)}),
        "apply_exif": options.apply_exif,
        "part_rows": options.part_rows,
        "time_limit": options.limits.seconds,
        "max_pixels": options.limits.max_pixels,
        "max_bytes": FIRST_MAX_BYTES if limit == MAX_FILE_BYTES else limit,
        **{name: encoder.facts[name] for name in (*IDENTITY, "precision", "preprocessing")},
    }


def part_count(listed: int, options: EmbedOptions) -> int:
    """The number of parts of a collection of `listed` rows."""
    return len(range(0, listed, options.part_rows))


def embed_parts(
    images: ImageSource,
    encoder: Encoder,
    folder: Path,
    options: EmbedOptions,
    is_finished: Callable[[int], bool],
    progress: Progress,
) -> int:
    """Embed and write every part that is not finished; the number of rows of the collection.

    The folder has been begun. Raises as `embed_images`.
    """
    previous = None
    if options.cache:
        request = embedding_request(images, encoder, options)
        previous = previous_folder(options.cache, folder, request, images.spec)

    def write(number: int, part: Part) -> None:
        if part.failures:  # those of a collection that went away are not counted
            images.check()
        write_part(folder, "img", number, part)

    task = EmbeddingTask(
        images,
        replace(
            encoder, preprocessing=replace(encoder.preprocessing, apply_exif=options.apply_exif)
        ),
        options.limits,
        options.part_rows,
        open_cached_vectors(folder, previous),
        is_finished,
        write,
        progress,
    )
    if options.engine is None:
        rows, embedded = _embed_locally(task, options.workers, Journal(folder))
    else:
        rows, embedded = options.engine.embed_images(task), True
    if not rows:
        raise BlissError(f"{images.spec} holds no images", "at least one", "Choose another one")
    progress("images embedded" if embedded else "images read, none of them new", rows, rows)
    return rows


def _embed_locally(task: EmbeddingTask, workers: int | None, journal: Journal) -> tuple[int, bool]:
    """The number of rows of the collection, and whether any of them was embedded."""
    embedded = False
    reader = _Reader(task)
    outcomes = decode_images(
        reader.items(),
        task.encoder.preprocessing,
        task.limits,
        workers,
        ahead=2 * task.encoder.batch_size,
        is_cached=task.cached.__contains__ if len(task.cached) else None,
    )
    with closing(outcomes):  # type: ignore[type-var]
        part = PartBuilder(task.encoder, task.cached, journal)
        number = 0
        for outcome in outcomes:
            number, done = outcome.row // task.part_rows, outcome.row + 1
            embedded |= isinstance(outcome, Decoded)
            if part.add(reader.waiting.popleft(), outcome):
                task.progress("images embedded", done, task.images.count or reader.rows)
            if done % task.part_rows == 0:
                task.write(number, part.finish())
                delete_files(journal.end_part())
                part = PartBuilder(task.encoder, task.cached, journal)
        if part.items or part.failures:
            task.write(number, part.finish())
    return reader.rows, embedded


class _Reader:
    """The rows of a collection, as the reading thread takes them."""

    def __init__(self, task: EmbeddingTask) -> None:
        self._task = task
        self.rows = 0
        self.waiting: deque[ImageItem] = deque()
        """Items that were read and not decoded yet, in order, without their content."""

    def items(self) -> Generator[ImageItem, None, None]:
        """Every item of a part that is not finished."""

        def skip(row: int) -> bool:
            return self._task.is_finished(row // self._task.part_rows)

        with closing(self._task.images.items(skip)) as items:  # type: ignore[type-var]
            for item in items:
                self.rows = item.row + 1
                if not skip(item.row):
                    self.waiting.append(item._replace(data=None))
                    yield item


class PartBuilder:
    """One part of a collection while it is encoded; batches never span two parts."""

    def __init__(
        self, encoder: Encoder, cached: CachedVectors, journal: Journal | None = None
    ) -> None:
        self.encoder, self.cached, self.journal = encoder, cached, journal
        self.items: list[ImageItem] = []
        """In the order of the collection, without failures of decoding."""
        self.decoded: list[Decoded] = []
        """One for each item, without pixels."""
        self.vectors: dict[int, np.ndarray] = {}
        """By position in `items`."""
        self.waiting: list[tuple[int, np.ndarray]] = []
        """(position, pixels) of the next batch."""
        self.failures: list[dict[str, Any]] = []

    def add(self, item: ImageItem, outcome: Outcome) -> bool:
        """Add the next row; True where it completed a batch, which was then encoded."""
        if isinstance(outcome, Undecodable):
            self._fail(item, outcome.reason)
            return False
        position = len(self.items)
        self.items.append(item)
        if isinstance(outcome, Cached):
            self.vectors[position], rotated, measures = self.cached.get(outcome.sha256)
            self.decoded.append(Decoded(outcome.row, _NO_PIXELS, outcome.sha256, rotated, measures))
            return False
        self.decoded.append(replace(outcome, pixels=_NO_PIXELS))
        self.waiting.append((position, outcome.pixels))
        if len(self.waiting) < self.encoder.batch_size:
            return False
        self._encode()
        return True

    def finish(self) -> Part:
        """The part as it is stored; an image without a finite embedding has become a failure."""
        if self.waiting:
            self._encode()
        kept = sorted(self.vectors)
        items, decoded = [self.items[i] for i in kept], [self.decoded[i] for i in kept]
        metadata = pa.table(
            {
                "image_path": pa.array([item.path for item in items], pa.string()),
                "label": pa.array([item.label for item in items], pa.string()),
                "row": pa.array([item.row for item in items], pa.int64()),
                "sha256": pa.array([each.sha256 for each in decoded], pa.string()),
                "exif_rotated": pa.array([each.exif_rotated for each in decoded], pa.bool_()),
                **measures_columns([each.measures for each in decoded]),
            }
        )
        unit = np.zeros((0, self.encoder.facts["dimension"]), np.float32)
        if kept:
            unit = np.stack([self.vectors[i] for i in kept])
        failures = sorted(self.failures, key=lambda failure: failure["row"])
        rotated = sum(each.exif_rotated for each in decoded)
        return Part(unit, metadata, tuple(failures), {"exif_rotated": rotated})

    def _encode(self) -> None:
        def encode() -> np.ndarray:
            return self.encoder.encode_images(np.stack([pixels for _, pixels in self.waiting]))

        content = "".join(self.decoded[position].sha256 for position, _ in self.waiting).encode()
        raw = encode() if self.journal is None else self.journal.vectors(content, encode)
        made = normalise_rows(raw)
        unusable = set(made.unusable.tolist())
        for row, (position, _) in enumerate(self.waiting):
            if row in unusable:
                self._fail(self.items[position], "the model gave no finite embedding")
            else:
                self.vectors[position] = made.unit[row]
        self.waiting.clear()

    def _fail(self, item: ImageItem, reason: str) -> None:
        self.failures.append({"row": item.row, "path": item.path, "reason": reason})
