"""Fit and save a reference from a folder; embed a single query."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...artefacts import LOCK, MANIFEST, digest, read_json
from ...corpora import NO_IMAGE_OPTIONS, ImageItem, ImageOptions, display_path, open_images
from ...errors import BlissError, UsageError
from ...indexer import (
    IDENTITY,
    CaptionIndex,
    Decoded,
    DecodingLimits,
    EmbedOptions,
    Encoder,
    Failure,
    ModelChoice,
    Undecodable,
    check_same_model,
    decode_images,
    embed_images,
    embedding_request,
    open_indexes,
    read_image_embeddings,
)
from ...progress import Progress, no_progress
from ...scorer import ARRAYS, MEMBERS, REFERENCE_KIND, Reference, load_reference, save_reference
from ..classes import ClassWords, choose_classes, set_aside_text, without_small
from ..folder import FAILURES, read_failures, write_failures
from ..models import Say, encoder_for
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
    strict: bool = False
    """Whether a class with fewer than two images is refused, where it is set aside otherwise."""

    def __post_init__(self) -> None:
        if (self.images is None) == (self.embeddings is None):
            raise UsageError(
                f"{'neither' if self.images is None else 'both'} of IMAGES and --embeddings "
                "were given",
                "one of them: the clean images",
                "Give a folder of images, or --embeddings DIR",
            )


@dataclass(frozen=True)
class Fitted:
    """A saved reference, and what could not be used of the images it was to be fitted on."""

    reference: Reference
    failures: tuple[Failure, ...]
    before: bool = False
    """Whether the same request had been carried out before, so that nothing changed now."""


def run_fit(
    request: FitRequest, progress: Progress = no_progress, say: Say = lambda line: None
) -> Fitted:
    """Fit and save the reference a request asks for, unless its folder holds that already.

    Raises UsageError where the output folder holds something else, BlissError where no class, or
    if strict not every class, has two images.
    """
    output = Path(request.output)
    before = _check_output(output, request.embed.overwrite)
    index = open_indexes(request.indexes) if request.indexes else None
    encoder: Encoder | None = None
    if request.images or request.model.model or index is None:
        encoder = encoder_for(request.model, index, None, say)
    if request.images:
        assert encoder is not None
        listed = open_images(request.images, request.image_options)
        if listed.labels is not None:
            normal = choose_classes(listed.labels, request.words, request.images)
            if normal is not None:
                without_small(normal, 2, request.strict)
        content = embedding_request(listed, encoder, request.embed)
    else:
        assert request.embeddings is not None
        images = read_image_embeddings(request.embeddings)
        content = {"embeddings": images.fingerprint}
    asked = _digest(request, content, index, encoder)
    if before == asked:
        shutil.rmtree(output / EMBEDDING, ignore_errors=True)
        return Fitted(load_reference(output), tuple(read_failures(output)), before=True)
    if before is not None:
        raise _in_the_way(output, [MANIFEST])
    if request.images:
        assert encoder is not None
        folder = output / EMBEDDING
        images = embed_images(listed, encoder, folder, request.embed, progress, say)
    reference = fit_with_means(
        output, say, images, index=index, encoder=encoder, words=request.words,
        calibration_share=request.calibration_share, strict=request.strict,
    )  # fmt: skip
    if reference.set_aside:
        say(set_aside_text(reference.set_aside, 2))
    write_failures(output, images.failures)
    save_reference(
        reference,
        output,
        source=images.source,
        calibration_share=request.calibration_share,
        failures=len(images.failures),
        request=asked,
    )
    shutil.rmtree(output / EMBEDDING, ignore_errors=True)
    return Fitted(reference, images.failures)


def _digest(
    request: FitRequest,
    content: Mapping[str, Any],
    index: CaptionIndex | None,
    encoder: Encoder | None,
) -> str:
    """A digest of all that the reference depends on: its images, classes, prompts and share."""
    return digest(
        {
            "images": dict(content),
            "index": None if index is None else digest(index.manifest["checksums"]),
            "model": None if encoder is None else [encoder.facts[name] for name in IDENTITY],
            "words": asdict(request.words),
            "share": request.calibration_share,
            "strict": request.strict,
        }
    )


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


def _check_output(output: Path, overwrite: bool) -> str | None:
    """The digest of the request that a reference in `output` was fitted for; None without one.

    UsageError where it holds something else, and nothing is to be overwritten.
    """
    if not output.is_dir() or overwrite:
        return None
    there = {path.name for path in output.iterdir()}
    others = there - {EMBEDDING, ARRAYS, MEMBERS, FAILURES, LOCK, MISSING}
    if others == {MANIFEST}:
        manifest = read_json(output / MANIFEST)
        if manifest.get("kind") == REFERENCE_KIND and isinstance(manifest.get("request"), str):
            return str(manifest["request"])
    if others:
        raise _in_the_way(output, others)
    return None


def _in_the_way(output: Path, names: Iterable[str]) -> UsageError:
    return UsageError(
        f"{output} already holds {', '.join(sorted(names)[:3])}",
        "a new or empty folder for the reference",
        "Choose another one, or pass --overwrite",
    )
