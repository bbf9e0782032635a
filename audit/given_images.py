"""Images as a command is given them: a collection to embed, or embeddings that are there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from ..corpora.image_opening import open_images
from ..corpora.image_source import NO_IMAGE_OPTIONS, ImageOptions
from ..indexer.embedded_images import EmbeddedImages, read_image_embeddings
from ..indexer.encoding import Encoder
from ..indexer.image_embedding import EmbedOptions, embed_images
from ..indexer.index_building import Progress, no_progress
from ..indexer.layout import is_embedding_folder


def are_embedded(spec: str) -> bool:
    """Whether `spec` is a folder of image embeddings."""
    return is_embedding_folder(Path(spec), "img")


def read_or_embed(
    spec: str,
    encoder: Callable[[], Encoder],
    options: ImageOptions = NO_IMAGE_OPTIONS,
    embed: EmbedOptions | None = None,
    progress: Progress = no_progress,
) -> EmbeddedImages:
    """The images of `spec`, embedded without leaving anything behind where they are not yet.

    `encoder` is only called where one is needed. Errors as of `open_images`, `embed_images` and
    `read_image_embeddings`.
    """
    if are_embedded(spec):
        return read_image_embeddings(spec)
    listed = open_images(spec, options)
    with tempfile.TemporaryDirectory() as folder:
        return embed_images(listed, encoder(), folder, embed or EmbedOptions(), progress)
