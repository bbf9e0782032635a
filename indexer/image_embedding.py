"""Decode and embed the images of a collection, part by part."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..corpora.image_source import ImageItem, ImageSource
from ..errors import BlissError
from .decode_pool import decode_images
from .decode_process import nothing_known
from .decoding import DecodingLimits
from .earlier_images import forget_earlier, open_earlier, set_aside
from .embedded_images import KIND, EmbeddedImages, open_embedded_images
from .encoding import IDENTITY, Encoder
from .image_parts import ImagePart, add_image, finish_part
from .image_pieces import ImageReading
from .index_building import Progress, no_progress
from .parts import (
    Part,
    begin_building,
    finish_building,
    finished_parts,
    is_finished,
    write_part,
)
from .pieces import Gathered
from .ray_cluster import RayEngine
from .ray_images import ray_image_parts


@dataclass(frozen=True)
class EmbedOptions:
    """How images are read and stored."""

    limits: DecodingLimits = field(default_factory=DecodingLimits)
    workers: int | None = None
    apply_exif: bool = True
    part_rows: int = 2048
    overwrite: bool = False
    engine: RayEngine | None = None
    """Where to decode and encode, with Ray; None: on this machine."""


NO_OPTIONS = EmbedOptions()


def embed_images(
    images: ImageSource,
    encoder: Encoder,
    folder: str | Path,
    options: EmbedOptions = NO_OPTIONS,
    progress: Progress = no_progress,
) -> EmbeddedImages:
    """Decode and embed `images` into `folder`, or go on where an interrupted run stopped.

    Where only the images have changed since, those with known content are not encoded again. An
    unreadable image becomes a Failure. Raises UsageError where the folder belongs to another
    request, BlissError for a disk that cannot be written or a collection that went away (finished
    parts stay) and for a collection without images.
    """
    folder = Path(folder)
    collection = images.facts()
    request = {
        "images": collection["fingerprint"],
        "apply_exif": options.apply_exif,
        "part_rows": options.part_rows,
        "time_limit": options.limits.seconds,
        "max_pixels": options.limits.max_pixels,
        "max_bytes": options.limits.max_bytes,
        **{name: encoder.facts[name] for name in (*IDENTITY, "precision", "preprocessing")},
    }
    if not options.overwrite:
        set_aside(folder, request)
    begin_building(folder, request, options.overwrite)
    if not is_finished(folder):
        embed = _embed_missing_parts if options.engine is None else _embed_on_ray
        listed = embed(images, encoder, folder, options, progress)
        part_count = len(range(0, listed, options.part_rows))
        finish_building(
            folder,
            "img",
            part_count,
            {
                "kind": KIND,
                "model": dict(encoder.facts),
                "images_listed": listed,
                "collection": collection["kind"],
            },
        )
    forget_earlier(folder)
    return open_embedded_images(folder, images.spec)


def _embed_missing_parts(
    images: ImageSource, encoder: Encoder, folder: Path, options: EmbedOptions, progress: Progress
) -> int:
    """Embed every part that is not there yet; how many rows the collection has."""
    reading = _Reading(images, finished_parts(folder), options.part_rows)
    preprocessing = replace(encoder.preprocessing, apply_exif=options.apply_exif)
    earlier = open_earlier(folder)
    outcomes = decode_images(
        reading.items(),
        preprocessing,
        options.limits,
        options.workers,
        ahead=2 * encoder.batch_size,
        known=earlier.knows if len(earlier.hashes) else nothing_known,
    )
    with closing(outcomes):  # type: ignore[type-var]
        part = ImagePart(encoder, earlier)
        number = 0
        for outcome in outcomes:
            number, done = outcome.row // options.part_rows, outcome.row + 1
            if add_image(part, reading.waiting.popleft(), outcome):
                progress("images embedded", done, images.count or reading.rows)
            if done % options.part_rows == 0:
                _write(finish_part(part), folder, number, images)
                part = ImagePart(encoder, earlier)
        if part.items or part.failures:
            _write(finish_part(part), folder, number, images)
    return _all_read(images, reading.rows, progress)


def _embed_on_ray(
    images: ImageSource, encoder: Encoder, folder: Path, options: EmbedOptions, progress: Progress
) -> int:
    """The same on a Ray cluster."""
    finished = finished_parts(folder)
    reading = ImageReading(
        images, finished.__contains__, options.part_rows, encoder.batch_size, options.limits
    )
    gathered = Gathered()

    def told(rows: int) -> None:
        progress("images embedded", rows, images.count or rows)

    made = ray_image_parts(reading, encoder, options, open_earlier(folder), told, gathered)
    with closing(made) as parts:  # type: ignore[type-var]
        for number, part in parts:
            _write(part, folder, number, images)
    return _all_read(images, gathered.rows or 0, progress)


def _all_read(images: ImageSource, rows: int, progress: Progress) -> int:
    if not rows:
        raise BlissError(f"{images.spec} holds no images", "at least one", "Choose another one")
    progress("images embedded", rows, rows)
    return rows


@dataclass
class _Reading:
    """The rows of a collection as the reading thread takes them."""

    images: ImageSource
    finished: frozenset[int]
    """Numbers of parts that are not read again."""
    part_rows: int
    rows: int = 0
    waiting: deque[ImageItem] = field(default_factory=deque)
    """What was read and has not come back decoded, in order, without its content."""

    def items(self) -> Generator[ImageItem, None, None]:
        """Every item of a part that is not finished."""
        with closing(self.images.items(self._is_finished)) as items:  # type: ignore[type-var]
            for item in items:
                self.rows = item.row + 1
                if not self._is_finished(item.row):
                    self.waiting.append(item._replace(data=None))
                    yield item

    def _is_finished(self, row: int) -> bool:
        return row // self.part_rows in self.finished


def _write(part: Part, folder: Path, number: int, images: ImageSource) -> None:
    """Write a whole part; what failed because the collection went away is not counted."""
    if part.failures:
        images.check()
    write_part(folder, "img", number, part)
