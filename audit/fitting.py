"""Fit and save a reference from a folder; embed a single query."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..artefacts import MANIFEST, write_atomically
from ..corpora import NO_IMAGE_OPTIONS, ImageItem, ImageOptions, display_path, open_images
from ..errors import BlissError, UsageError
from ..indexer import (
    LOCK,
    Decoded,
    DecodingLimits,
    EmbeddedImages,
    EmbedOptions,
    Encoder,
    ModelChoice,
    Undecodable,
    check_same_model,
    decode_images,
    embed_images,
    open_indexes,
    read_image_embeddings,
)
from ..progress import Progress, no_progress
from ..scorer import ARRAYS, MEMBERS, Reference, save_reference
from .classes import ClassWords
from .folder import FAILURES, failures_csv
from .models import Say, encoder_for
from .reference import MISSING, fit_with_means

EMBEDDING = "embedding"
"""Folder inside an unfinished reference that holds its images' embeddings so far."""


@dataclass(frozen=True)
class FitRequest:
    """What `bliss reference fit` is to do; exactly one of images and embeddings is set."""

    output: str
    images: str | None = None
    image_options: ImageOptions = NO_IMAGE_OPTIONS
    embeddings: str | None = None
    indexes: tuple[str, ...] = ()
    """Indexes whose captions hold the label prompts, where no model is at hand."""
    model: ModelChoice = field(default_factory=ModelChoice)
    words: ClassWords = field(default_factory=ClassWords)
    calibration_share: float = 0.2
    embed: EmbedOptions = field(default_factory=EmbedOptions)

    def __post_init__(self) -> None:
        if (self.images is None) == (self.embeddings is None):
            raise UsageError(
                f"{'neither' if self.images is None else 'both'} of IMAGES and --embeddings "
                "were given",
                "one of them: the clean images",
                "Give a folder of images, or --embeddings DIR",
            )


def run_fit(
    request: FitRequest, progress: Progress = no_progress, say: Say = lambda line: None
) -> tuple[Reference, EmbeddedImages]:
    """Fit and save the reference a request asks for; returns it with the images it came from.

    Raises UsageError where the output folder holds something else, BlissError naming a class
    with fewer than two images.
    """
    output = Path(request.output)
    _check_output(output, request.embed.overwrite)
    index = open_indexes(request.indexes) if request.indexes else None
    encoder: Encoder | None = None
    if request.images or request.model.model or index is None:
        encoder = encoder_for(request.model, index, None, say)
    if request.images:
        assert encoder is not None
        listed = open_images(request.images, request.image_options)
        folder = output / EMBEDDING
        images = embed_images(listed, encoder, folder, request.embed, progress, say)
    else:
        assert request.embeddings is not None
        images = read_image_embeddings(request.embeddings)
    reference = fit_with_means(
        output, say, images, index=index, encoder=encoder, words=request.words,
        calibration_share=request.calibration_share,
    )  # fmt: skip
    write_atomically(output / FAILURES, lambda file: file.write(failures_csv(images.failures)))
    save_reference(
        reference,
        output,
        source=images.source,
        calibration_share=request.calibration_share,
        failures=len(images.failures),
    )
    shutil.rmtree(output / EMBEDDING, ignore_errors=True)
    return reference, images


def embed_query(
    encoder: Encoder, facts: Mapping[str, Any], where: str, text: str | None, image: str | None
) -> np.ndarray:
    """float32 [1, d]: one text or one image file, by the model whose `facts` the index or run
    `where` states.

    Raises BlissError when the models differ or the image cannot be read.
    """
    check_same_model(facts, where, encoder.facts, "the query")
    if text is not None:
        return encoder.encode_texts([text])
    assert image is not None
    item = ImageItem(0, image, file=image)
    (found,) = decode_images([item], encoder.preprocessing, DecodingLimits(), 1)
    if isinstance(found, Undecodable):
        raise BlissError(
            f"{display_path(image)} could not be read: {found.reason}",
            "a readable image",
            "Try another",
        )
    assert isinstance(found, Decoded)
    return encoder.encode_images(found.pixels[None])


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_dir() and not overwrite:
        there = {path.name for path in output.iterdir()}
        others = there - {EMBEDDING, ARRAYS, MEMBERS, FAILURES, LOCK, MISSING}
        if others or MANIFEST in there:
            raise UsageError(
                f"{output} already holds {', '.join(sorted(others)[:3])}",
                "a new or empty folder for the reference",
                "Choose another one, or pass --overwrite",
            )
