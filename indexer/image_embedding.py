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
from .index_building import Progress, no_progress
from .parts import (
    begin_building,
    finish_building,
    finished_parts,
    is_finished,
    write_part,
)


@dataclass(frozen=True)
class EmbedOptions:
    """How images are read and stored."""

    limits: DecodingLimits = field(default_factory=DecodingLimits)
    workers: int | None = None
    apply_exif: bool = True
    part_rows: int = 2048
    overwrite: bool = False


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
        listed = _embed_missing_parts(images, encoder, folder, options, progress)
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
                _write(part, folder, number, images)
                part = ImagePart(encoder, earlier)
        if part.items or part.failures:
            _write(part, folder, number, images)
    if not reading.rows:
        raise BlissError(f"{images.spec} holds no images", "at least one", "Choose another one")
    progress("images embedded", reading.rows, reading.rows)
    return reading.rows


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


def _write(part: ImagePart, folder: Path, number: int, images: ImageSource) -> None:
    """Write a whole part; what failed because the collection went away is not counted."""
    made = finish_part(part)
    if made.failures:
        images.check()
    write_part(folder, "img", number, made)
