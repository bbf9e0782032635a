"""Processes that each embed a shard of an image collection, on one or more machines."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ...artefacts import read_json
from ...corpora import ImageSource
from ...progress import Progress
from ..build.shards import Shard, no_part_text, refuse_while_shards_run, running_shard
from ..encode.encoder import Encoder
from ..store.lock import wait_to_run_in
from ..store.parts import BUILDING, begin_building, finished_parts, is_finished
from .cache import begun_request, stash_parts
from .embedding import EmbedOptions, embed_parts, embedding_request, part_count


def embed_shard(
    images: ImageSource,
    encoder: Encoder,
    folder: Path,
    options: EmbedOptions,
    shard: Shard,
    progress: Progress,
) -> tuple[int, ...]:
    """Embed the parts of one shard of `images` into `folder`; returns the parts still missing.

    All shards share the folder, which `embed_images` finishes; each runs in one process at a time.
    The caller holds no lock. Raises as `embed_images`, and FolderInUse where the same shard is
    running, or shards of another state of the collection are.
    """
    with ExitStack() as held:
        with wait_to_run_in(folder, lambda line: None):
            request = begun_request(folder, embedding_request(images, encoder, options))
            if (folder / BUILDING).is_file():
                if read_json(folder / BUILDING).get("request") != request:
                    refuse_while_shards_run(folder)
            stash_parts(folder, request)
            begin_building(folder, request, options.overwrite)
            if is_finished(folder):
                return ()
            held.enter_context(running_shard(folder, shard))
        finished = finished_parts(folder)
        listed = embed_parts(
            images,
            encoder,
            folder,
            options,
            lambda part: part in finished or part % shard.count != shard.number,
            progress,
        )
    parts = part_count(listed, options)
    idle = no_part_text(shard, parts)
    if idle:
        progress(idle, 0, 0)
    return missing_image_parts(folder, parts)


def missing_image_parts(folder: Path, parts: int) -> tuple[int, ...]:
    """Which of the parts 0 to `parts` - 1 of an unfinished folder are missing or damaged."""
    if is_finished(folder):
        return ()
    there = finished_parts(folder)
    return tuple(number for number in range(parts) if number not in there)
