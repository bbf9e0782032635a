"""Decode and embed the images of a collection, part by part."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...corpora.images.source import ImageItem, ImageSource
from ...distributed.cluster import RayEngine
from ...distributed.images import ray_image_parts
from ...errors import BlissError
from ...progress import Progress, no_progress
from ..build.shards import refuse_while_shards_run
from ..encode.encoder import IDENTITY, Encoder
from ..store.lock import only_run_in
from ..store.parts import (
    Part,
    begin_building,
    finish_building,
    finished_parts,
    is_finished,
    write_part,
)
from .cache import (
    EarlierImages,
    earlier_folder,
    forget_earlier,
    open_earlier,
    set_aside,
    take_over_images,
)
from .decoding import DecodingLimits
from .embedded import KIND, EmbeddedImages, open_embedded_images
from .parts import ImagePart, add_image, finish_part
from .pieces import Gathered, ImageReading
from .workers import Outcome, decode_images, nothing_known


@dataclass(frozen=True)
class EmbedOptions:
    """How images are read and stored."""

    limits: DecodingLimits = field(default_factory=DecodingLimits)
    workers: int | None = None
    apply_exif: bool = True
    part_rows: int = 2048
    overwrite: bool = False
    cache: Path | None = None
    """Where finished folders are noted, to be taken over from; None: nothing is."""
    engine: RayEngine | None = None
    """Where to decode and encode, with Ray; None: on this machine."""


NO_OPTIONS = EmbedOptions()


def embed_images(
    images: ImageSource,
    encoder: Encoder,
    folder: str | Path,
    options: EmbedOptions = NO_OPTIONS,
    progress: Progress = no_progress,
    say: Callable[[str], object] = lambda line: None,
) -> EmbeddedImages:
    """Decode and embed `images` into `folder`, or go on where an interrupted run stopped.

    Where only the images have changed since, those with known content are not encoded again; with
    `options.cache` that holds for folders that other commands finished too, and `say` is told. An
    unreadable image becomes a Failure. Raises UsageError where the folder belongs to another
    request, BlissError for a disk that cannot be written or a collection that went away (finished
    parts stay) and for a collection without images.
    """
    folder = Path(folder)
    request = embedding_request(images, encoder, options)
    with only_run_in(folder):
        refuse_while_shards_run(folder)
        if not options.overwrite:
            set_aside(folder, request)
        begin_building(folder, request, options.overwrite)
        if not is_finished(folder) and options.cache:
            _look_elsewhere(options.cache, folder, request, images.spec, say)
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
        forget_earlier(folder)
    return open_embedded_images(folder, images.spec)


def _look_elsewhere(
    cache: Path, folder: Path, request: Mapping[str, Any], spec: str, say: Callable[[str], object]
) -> None:
    """Take over what another command made of the same images, or say what is known of them."""
    found = take_over_images(cache, folder, request, spec)
    if found is not None:
        say(f"image embeddings of {spec} taken over from {found}")
        return
    earlier = earlier_folder(cache, folder, request, spec)
    if earlier is not None:
        say(f"images of {spec} that are in {earlier} are not embedded again")


def embedding_request(
    images: ImageSource, encoder: Encoder, options: EmbedOptions
) -> dict[str, Any]:
    """All that the embeddings of `images` depend on: equal requests give equal bytes."""
    return {
        "images": images.facts()["fingerprint"],
        "apply_exif": options.apply_exif,
        "part_rows": options.part_rows,
        "time_limit": options.limits.seconds,
        "max_pixels": options.limits.max_pixels,
        "max_bytes": options.limits.max_bytes,
        **{name: encoder.facts[name] for name in (*IDENTITY, "precision", "preprocessing")},
    }


def part_count(listed: int, options: EmbedOptions) -> int:
    """How many parts a collection of `listed` rows is cut into."""
    return len(range(0, listed, options.part_rows))


def embed_parts(
    images: ImageSource,
    encoder: Encoder,
    folder: Path,
    options: EmbedOptions,
    is_finished: Callable[[int], bool],
    progress: Progress,
) -> int:
    """Embed and write every part whose number is not finished; how many rows the collection has.

    Raises as `embed_images`; the folder has been begun.
    """
    embed = _embed_here if options.engine is None else _embed_on_ray
    rows = embed(images, encoder, folder, options, is_finished, progress)
    if not rows:
        raise BlissError(f"{images.spec} holds no images", "at least one", "Choose another one")
    progress("images embedded", rows, rows)
    return rows


def _embed_here(
    images: ImageSource,
    encoder: Encoder,
    folder: Path,
    options: EmbedOptions,
    is_finished: Callable[[int], bool],
    progress: Progress,
) -> int:
    reading = _Reading(images, is_finished, options.part_rows)
    earlier = known_images(images, encoder, folder, options)
    outcomes = _decoded(reading.items(), encoder, options, earlier)
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
    return reading.rows


def _embed_on_ray(
    images: ImageSource,
    encoder: Encoder,
    folder: Path,
    options: EmbedOptions,
    is_finished: Callable[[int], bool],
    progress: Progress,
) -> int:
    batch, gathered = encoder.batch_size, Gathered()
    reading = ImageReading(images, is_finished, options.part_rows, batch, options.limits)

    def told(rows: int) -> None:
        progress("images embedded", rows, images.count or rows)

    earlier = known_images(images, encoder, folder, options)
    made = ray_image_parts(reading, encoder, options, earlier, told, gathered)
    with closing(made) as parts:  # type: ignore[type-var]
        for number, part in parts:
            _write(part, folder, number, images)
    return gathered.rows or 0


def known_images(
    images: ImageSource, encoder: Encoder, folder: Path, options: EmbedOptions
) -> EarlierImages:
    """Embeddings by content, of earlier states of the collection, here and elsewhere."""
    elsewhere = None
    if options.cache:
        request = embedding_request(images, encoder, options)
        elsewhere = earlier_folder(options.cache, folder, request, images.spec)
    return open_earlier(folder, elsewhere)


def _decoded(
    items: Iterable[ImageItem], encoder: Encoder, options: EmbedOptions, earlier: EarlierImages
) -> Iterator[Outcome]:
    """An outcome for each item, in order, with two batches of the encoder decoded ahead."""
    return decode_images(
        items,
        replace(encoder.preprocessing, apply_exif=options.apply_exif),
        options.limits,
        options.workers,
        ahead=2 * encoder.batch_size,
        known=earlier.knows if len(earlier.hashes) else nothing_known,
    )


@dataclass
class _Reading:
    """The rows of a collection as the reading thread takes them."""

    images: ImageSource
    finished: Callable[[int], bool]
    """Whether the part of that number is not read."""
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
        return self.finished(row // self.part_rows)


def _write(part: Part, folder: Path, number: int, images: ImageSource) -> None:
    """Write a whole part; what failed because the collection went away is not counted."""
    if part.failures:
        images.check()
    write_part(folder, "img", number, part)
