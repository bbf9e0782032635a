"""Several processes, on one machine or many, that embed parts of one image collection."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from ...artefacts import read_json
from ...corpora.images.source import ImageSource
from ...progress import Progress
from ..build.shards import Shard, no_part_text, refuse_while_shards_run, running_shard
from ..encode.encoder import Encoder
from ..store.lock import wait_to_run_in
from ..store.parts import BUILDING, begin_building, finished_parts, is_finished
from .cache import set_aside
from .embedding import EmbedOptions, embed_parts, embedding_request, part_count


def embed_shard(
    images: ImageSource,
    encoder: Encoder,
    folder: Path,
    options: EmbedOptions,
    shard: Shard,
    progress: Progress,
) -> tuple[int, ...]:
    """Embed the parts p of `images` with p mod N = i into `folder`; the parts now missing there.

    The folder is shared by all shards, each of which is one process at a time; `embed_images` ends
    it. The caller holds no lock. Raises as `embed_images`, and FolderInUse where the same shard is
    being made, or shards of another state of the collection are.
    """
    request = embedding_request(images, encoder, options)
    with ExitStack() as held:
        with wait_to_run_in(folder, lambda line: None):
            if (folder / BUILDING).is_file():
                if read_json(folder / BUILDING).get("request") != request:
                    refuse_while_shards_run(folder)
            if not options.overwrite:
                set_aside(folder, request)
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
    """Which of the parts 0 to `parts` - 1 of an unfinished folder are missing or not whole."""
    if is_finished(folder):
        return ()
    there = finished_parts(folder)
    return tuple(number for number in range(parts) if number not in there)
