"""One audit as it is asked for: which images, which captions, which reference, where to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..artefacts import MANIFEST, read_json
from ..corpora.captions import CaptionRules
from ..corpora.image_opening import open_images
from ..corpora.image_source import NO_IMAGE_OPTIONS, ImageOptions, ImageSource
from ..corpora.sources import CorpusOptions, notices_of
from ..corpora.texts import open_corpus
from ..errors import UsageError
from ..indexer.caption_index import CaptionIndex, open_index, search
from ..indexer.embedded_images import read_image_embeddings
from ..indexer.encoding import Encoder, ModelChoice
from ..indexer.image_embedding import EmbedOptions
from ..indexer.index_building import build_index
from ..indexer.index_options import IndexOptions
from ..indexer.joined_index import open_indexes
from ..indexer.progress import Progress, no_progress
from ..indexer.search_choice import OWN, SearchChoice
from ..scorer.head_file import open_head
from ..scorer.reference_file import KIND as REFERENCE_KIND
from ..scorer.reference_file import load_reference
from ..scorer.scores.clip_ad import something_vector
from ..scorer.scores.rscin import RSCIN
from .asking import (
    Asked,
    Sources,
    answered,
    check_bliss_only,
    check_reference,
    share_held_out,
    with_calibration,
)
from .classes import ClassWords, choose_classes, class_prompts, named_classes
from .given_images import are_embedded, embed_and_remember
from .models import Say, encoder_for
from .other_scores import FROM_MOMENTS, Beside, NoPrompts, check_clipn, choose_score, rescored
from .reference_fit import REFERENCE, KeptReference, fit_reference
from .result import AuditResult
from .retrieval import HITS, KeptHits
from .run import AuditSettings, Kept, audit_against, audit_own

DEFAULT_CORPUS = "imagenet-1k"
IMAGES, CLEAN, CALIBRATION = "images", "reference-images", "calibration-images"
"""Folders of image embeddings in an output folder: of IMAGES, --reference and --calibration."""


@dataclass(frozen=True)
class AuditRequest:
    """What `bliss audit` was asked to do; exactly one of images and embeddings is set."""

    images: str | None = None
    """A collection of images as `open_images` names it, often a folder of class folders."""
    embeddings: str | None = None
    """A folder of precomputed image embeddings in clip-retrieval's layout."""
    reference: str | None = None
    """Clean images, embeddings of such, or a folder `bliss reference fit` made."""
    indexes: tuple[str, ...] = ()
    """Caption indexes, searched as one."""
    corpus: str | None = None
    """A corpus to build an index from, in the output folder; default imagenet-1k."""
    image_options: ImageOptions = NO_IMAGE_OPTIONS
    """Where the images and labels of IMAGES are, if `open_images` has to be told."""
    corpus_options: CorpusOptions = field(default_factory=CorpusOptions)
    search: SearchChoice = OWN
    """How the captions are searched, where not as their index says."""
    output: str = "bliss-audit"
    model: ModelChoice = field(default_factory=ModelChoice)
    settings: AuditSettings = field(default_factory=AuditSettings)
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    score: str = "bliss"
    """Which score ranks the images; see `scorer/scores/registry.py`."""
    keep_duplicates: bool = False
    """Whether an index built for this audit keeps equal captions."""
    head: str | None = None
    """A folder that `bliss train oecl` made, for the scores that are trained."""
    asked: Asked = field(default_factory=Asked)
    """What is to be found out and decided."""

    def __post_init__(self) -> None:
        if (self.images is None) == (self.embeddings is None):
            given = "neither" if self.images is None else "both"
            raise UsageError(
                f"{given} of IMAGES and --embeddings were given",
                "one of them: the collection to audit",
                "Give a folder of images, or --embeddings DIR",
            )
        if self.indexes and self.corpus is not None:
            raise UsageError("both --index and --corpus were given", "one of them", "Leave one out")
        check_bliss_only(self.asked, self.score)


def run_audit(
    request: AuditRequest,
    progress: Progress = no_progress,
    say: Say = lambda line: None,
    no_prompts: NoPrompts | None = None,
) -> AuditResult:
    """Do what a request asks, using what its output folder already holds; writes no results yet.

    `say` is told what was chosen where the request left a choice; `no_prompts` is what a CLIPN
    gives, for the scores that need it. Errors as of the parts.
    """
    output = Path(request.output)
    saved = None
    if request.reference and is_reference_folder(request.reference):
        saved = load_reference(request.reference)
        refuse_words(request.reference, request.settings.words)
    check_reference(request.asked, request.reference, saved)
    score = choose_score(request.score, request.reference is not None, saved is not None)
    head = open_head(request.head, [score])
    check_clipn(score, no_prompts is not None)
    encoder: Encoder | None = None
    index = open_indexes(request.indexes, request.search) if request.indexes else None
    listed = open_images(request.images, request.image_options) if request.images else None
    clean_files = None
    if request.reference and saved is None and not are_embedded(request.reference):
        clean_files = open_images(request.reference)
    asked = request.asked
    calibration_files = None
    if asked.calibration and not are_embedded(asked.calibration):
        calibration_files = open_images(asked.calibration)
    if request.reference is None and listed:
        _check_labels(listed, request.settings.words)
    if listed or clean_files or calibration_files or index is None or request.model.model:
        encoder = encoder_for(request.model, index, saved, say)
    if index is None:
        assert encoder is not None
        index = _build_default(request, encoder, progress, say)
    search(index, np.zeros((0, index.model["dimension"]), np.float32), request.settings.k)
    if listed:
        assert encoder is not None
        images = embed_and_remember(listed, encoder, output / IMAGES, request.embed, progress, say)
    else:
        assert request.embeddings is not None
        images = read_image_embeddings(request.embeddings)
    clean = calibration = None
    if asked.calibration:
        calibration = (
            read_image_embeddings(asked.calibration)
            if calibration_files is None
            else embed_and_remember(
                calibration_files, encoder, output / CALIBRATION, request.embed, progress, say
            )
        )
    kept = Kept(
        KeptHits(output / HITS), KeptReference(output / REFERENCE, request.embed.cache, say)
    )
    if request.reference is None:
        result = audit_own(images, index, encoder, request.settings, progress, kept)
    else:
        if saved is None:
            clean = (
                read_image_embeddings(request.reference)
                if clean_files is None
                else embed_and_remember(
                    clean_files, encoder, output / CLEAN, request.embed, progress, say
                )
            )
            share = share_held_out(asked, len(clean.rows)) if score.name in FROM_MOMENTS else 0.0
            words = request.settings.words
            saved = fit_reference(clean, index, encoder, words, share, kept.reference)
        result = audit_against(images, index, saved, request.settings, progress, kept)
    if calibration is not None:
        reference = with_calibration(result.reference, calibration, asked)
        result = replace(result, reference=reference)
    no_vectors = None
    if no_prompts is not None:
        fitted = request.reference is not None and clean is None
        texts = _prompt_texts(result, request.settings.words, fitted)
        no_vectors = no_prompts(texts, result.index.model)
    beside = Beside(head, no_vectors)
    if score.name.removesuffix(RSCIN) == "clip_ad":
        beside = replace(beside, something=something_vector(index, encoder))
    result = rescored(result, score, clean, request.settings.weight, beside)
    sources = Sources(clean, calibration, own=request.reference is None)
    return answered(result, asked, sources, request.settings, progress)


def _prompt_texts(result: AuditResult, words: ClassWords, fitted: bool) -> list[list[str]]:
    """Each class's prompts; a fitted reference keeps them joined."""
    if fitted:
        return [prompts.split(" | ") for prompts in result.reference.prompts]
    return class_prompts(result.reference.classes, words)


def is_reference_folder(folder: str) -> bool:
    """Whether `bliss reference fit` made this folder."""
    path = Path(folder) / MANIFEST
    return path.is_file() and read_json(path).get("kind") == REFERENCE_KIND


def _build_default(
    request: AuditRequest, encoder: Encoder, progress: Progress, say: Say
) -> CaptionIndex:
    spec = request.corpus or DEFAULT_CORPUS
    if request.corpus is None:
        say(f"no --index or --corpus was given: using the built-in corpus {spec}")
    source = open_corpus(spec, request.corpus_options)
    for line in notices_of(source):
        say(line)
    rules = CaptionRules(deduplicate=not request.keep_duplicates)
    how = request.embed
    options = IndexOptions(rules, overwrite=how.overwrite, engine=how.engine)
    built = build_index(source, encoder, Path(request.output) / "index", options, progress)
    return built if request.search == OWN else open_index(built.folder, request.search)


def _check_labels(listed: ImageSource, words: ClassWords) -> None:
    """Raise what the audit would, for classes that cannot be named, before images are embedded."""
    if listed.labels is None:
        return  # they come with the images
    if choose_classes(listed.labels, words, listed.spec) is None:
        named_classes(words, listed.spec)


def refuse_words(reference: str, words: ClassWords) -> None:
    """Raise UsageError where classes are worded beside a fitted reference, which brings them."""
    if words != ClassWords():
        raise UsageError(
            f"--normal, --prompt or --label was given with {reference}",
            "none of them: a fitted reference brings its classes and prompts",
            "Leave them out, or fit the reference again with them",
        )
