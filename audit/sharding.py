"""One shard of an audit: a scheduler's job that embeds some of the parts and scores nothing."""

from __future__ import annotations

from pathlib import Path

from ..corpora.image_opening import open_images
from ..errors import UsageError
from ..indexer.build.shards import Shard, describe_missing
from ..indexer.images.shards import embed_shard
from ..indexer.joined_index import open_indexes
from ..indexer.vectors.layout import is_embedding_folder
from ..progress import Progress, no_progress
from ..scorer.reference_file import load_reference
from .models import Say, encoder_for
from .request import CALIBRATION, CLEAN, IMAGES, AuditRequest, is_reference_folder


def run_shard(
    request: AuditRequest,
    shard: Shard,
    progress: Progress = no_progress,
    say: Say = lambda line: None,
) -> list[str]:
    """Embed the shard's parts of all images that the audit needs; a line on each collection.

    An audit that embeds the same images is waited for. Raises UsageError where there are no images
    to embed, FolderInUse where the same shard is being made, and as embedding does.
    """
    if request.images is None:
        raise UsageError(
            f"--shard {shard} was given with --embeddings",
            "IMAGES: embeddings are not embedded again",
            "Leave --shard out",
        )
    given = {
        IMAGES: request.images,
        CLEAN: request.reference,
        CALIBRATION: request.asked.calibration,
    }
    saved = None
    if request.reference and is_reference_folder(request.reference):
        saved = load_reference(request.reference)
        given[CLEAN] = None
    index = open_indexes(request.indexes) if request.indexes else None
    sources = {
        name: open_images(spec, request.image_options) if name == IMAGES else open_images(spec)
        for name, spec in given.items()
        if spec and not (name != IMAGES and is_embedding_folder(Path(spec), "img"))
    }
    encoder = encoder_for(request.model, index, saved, say)
    output, lines = Path(request.output), []
    for name, source in sources.items():
        missing = embed_shard(source, encoder, output / name, request.embed, shard, progress)
        state = describe_missing(missing) if missing else "no part is missing"
        lines.append(f"{output / name}: shard {shard} is done, {state}")
    return lines
