"""Images as a command is given them: a collection to embed, or embeddings that are there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..corpora.image_opening import open_images
from ..corpora.image_source import NO_IMAGE_OPTIONS, ImageOptions, ImageSource
from ..errors import TooManyFailures
from ..indexer.embedded_images import EmbeddedImages, Failure, read_image_embeddings
from ..indexer.encode.encoder import Encoder
from ..indexer.images.embedding import EmbedOptions, embed_images
from ..indexer.remembered import remember_images
from ..indexer.vectors.layout import is_embedding_folder
from ..progress import Progress, no_progress
from .models import Say


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


class Read(Protocol):
    """Whatever was made of images some of which could not be used."""

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Those."""


def check_failures(images: Read, most: int | None) -> None:
    """Raise TooManyFailures when more than `most` images could not be used."""
    count = len(images.failures)
    if most is not None and count > most:
        raise TooManyFailures(
            f"{count:,} image{'s' * (count != 1)} could not be read (the first: "
            f"{images.failures[0].path}: {images.failures[0].reason})",
            f"at most {most:,}, as --max-failures says",
            "Repair or remove them; the results for the readable images are whole",
        )


def embed_and_remember(
    files: ImageSource,
    encoder: Encoder | None,
    folder: Path,
    options: EmbedOptions,
    progress: Progress,
    say: Say,
) -> EmbeddedImages:
    """`embed_images`, noted in the cache for later commands."""
    assert encoder is not None
    found = embed_images(files, encoder, folder, options, progress, say)
    if options.cache:
        remember_images(options.cache, folder, files.spec)
    return found
