"""One audit as it is asked for: which images, which captions, which reference, where to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..artefacts import MANIFEST, read_json
from ..corpora.image_opening import open_images
from ..corpora.image_source import NO_IMAGE_OPTIONS, ImageOptions, ImageSource
from ..corpora.texts import CorpusOptions, open_corpus
from ..errors import TooManyFailures, UsageError
from ..indexer.caption_index import CaptionIndex, open_index, search
from ..indexer.embedded_images import EmbeddedImages, read_image_embeddings
from ..indexer.encoding import Encoder, ModelChoice
from ..indexer.image_embedding import EmbedOptions, embed_images
from ..indexer.index_building import IndexOptions, Progress, build_index, no_progress
from ..indexer.layout import is_embedding_folder
from ..scorer.reference_file import KIND as REFERENCE_KIND
from ..scorer.reference_file import load_reference
from .classes import ClassWords, choose_classes, named_classes
from .models import Say, encoder_for
from .other_scores import choose_score, rescored
from .result import AuditResult
from .run import AuditSettings, audit_against, audit_own, fit_reference

DEFAULT_CORPUS = "imagenet-1k"


@dataclass(frozen=True)
class AuditRequest:
    """What `bliss audit` was asked to do; exactly one of images and embeddings is set."""

    images: str | None = None
    """A collection of images as `open_images` names it, often a folder of class folders."""
    embeddings: str | None = None
    """A folder of precomputed image embeddings in clip-retrieval's layout."""
    reference: str | None = None
    """Clean images, embeddings of such, or a folder `bliss reference fit` made."""
    index: str | None = None
    corpus: str | None = None
    """A corpus to build an index from, in the output folder; default imagenet-1k."""
    image_options: ImageOptions = NO_IMAGE_OPTIONS
    """Where the images and labels of IMAGES are, if `open_images` has to be told."""
    corpus_options: CorpusOptions = field(default_factory=CorpusOptions)
    output: str = "bliss-audit"
    model: ModelChoice = field(default_factory=ModelChoice)
    settings: AuditSettings = field(default_factory=AuditSettings)
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    score: str = "bliss"
    """Which score ranks the images; see `scorer/scores/registry.py`."""

    def __post_init__(self) -> None:
        if (self.images is None) == (self.embeddings is None):
            given = "neither" if self.images is None else "both"
            raise UsageError(
                f"{given} of IMAGES and --embeddings were given",
                "one of them: the collection to audit",
                "Give a folder of images, or --embeddings DIR",
            )
        if self.index is not None and self.corpus is not None:
            raise UsageError("both --index and --corpus were given", "one of them", "Leave one out")


def run_audit(
    request: AuditRequest, progress: Progress = no_progress, say: Say = lambda line: None
) -> AuditResult:
    """Do what a request asks, using what its output folder already holds; writes no results yet.

    `say` is told what was chosen where the request left a choice. Errors as of the parts.
    """
    output = Path(request.output)
    saved = None
    if request.reference and is_reference_folder(request.reference):
        saved = load_reference(request.reference)
        _refuse_words(request)
    score = choose_score(request.score, request.reference is not None, saved is not None)
    encoder: Encoder | None = None
    index = open_index(request.index) if request.index else None
    listed = open_images(request.images, request.image_options) if request.images else None
    clean_files = None
    if request.reference and saved is None and not _embedded(request):
        clean_files = open_images(request.reference)
    if request.reference is None and listed:
        _check_labels(listed, request.settings.words)
    if listed or clean_files or index is None or request.model.model:
        encoder = encoder_for(request.model, index, saved, say)
    if index is None:
        assert encoder is not None
        index = _build_default(request, encoder, progress, say)
    search(index, np.zeros((0, index.model["dimension"]), np.float32), request.settings.k)
    if listed:
        assert encoder is not None
        images = embed_images(listed, encoder, output / "images", request.embed, progress)
    else:
        assert request.embeddings is not None
        images = read_image_embeddings(request.embeddings)
    clean = None
    if request.reference is None:
        result = audit_own(images, index, encoder, request.settings, progress)
    else:
        if saved is None:
            clean = _reference_images(request, clean_files, encoder, progress)
            saved = fit_reference(clean, index, encoder, request.settings.words)
        result = audit_against(images, index, saved, request.settings, progress)
    return result if score.name == "bliss" else rescored(result, score, clean)


def is_reference_folder(folder: str) -> bool:
    """Whether `bliss reference fit` made this folder."""
    path = Path(folder) / MANIFEST
    return path.is_file() and read_json(path).get("kind") == REFERENCE_KIND


def check_failures(images: EmbeddedImages, most: int | None) -> None:
    """Raise TooManyFailures when more than `most` images could not be used."""
    count = len(images.failures)
    if most is not None and count > most:
        raise TooManyFailures(
            f"{count:,} image{'s' * (count != 1)} could not be read (the first: "
            f"{images.failures[0].path}: {images.failures[0].reason})",
            f"at most {most:,}, as --max-failures says",
            "Repair or remove them; the results for the readable images are whole",
        )


def _build_default(
    request: AuditRequest, encoder: Encoder, progress: Progress, say: Say
) -> CaptionIndex:
    spec = request.corpus or DEFAULT_CORPUS
    if request.corpus is None:
        say(f"no --index or --corpus was given: using the built-in corpus {spec}")
    source = open_corpus(spec, request.corpus_options)
    options = IndexOptions(overwrite=request.embed.overwrite)
    return build_index(source, encoder, Path(request.output) / "index", options, progress)


def _embedded(request: AuditRequest) -> bool:
    assert request.reference is not None
    return is_embedding_folder(Path(request.reference), "img")


def _reference_images(
    request: AuditRequest, files: ImageSource | None, encoder: Encoder | None, progress: Progress
) -> EmbeddedImages:
    if files is None:
        assert request.reference is not None
        return read_image_embeddings(request.reference)
    assert encoder is not None
    folder = Path(request.output) / "reference-images"
    return embed_images(files, encoder, folder, request.embed, progress)


def _check_labels(listed: ImageSource, words: ClassWords) -> None:
    """Raise what the audit would, for classes that cannot be named, before images are embedded."""
    if listed.labels is None:
        return  # they come with the images
    if choose_classes(listed.labels, words, listed.spec) is None:
        named_classes(words, listed.spec)


def _refuse_words(request: AuditRequest) -> None:
    if request.settings.words != ClassWords():
        raise UsageError(
            f"--normal, --prompt or --label was given with {request.reference}",
            "none of them: a fitted reference brings its classes and prompts",
            "Leave them out, or fit the reference again with them",
        )
