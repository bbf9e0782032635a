"""One audit as it is asked for: which images, which captions, which reference, where to.

What is asked of an audit beside its scores, checked before any work and answered after it.

Images as a command is given them: a collection to embed, or embeddings that are there.

One shard of an audit: a scheduler's job that embeds some of the parts and scores nothing.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..artefacts import MANIFEST, read_json
from ..corpora.captions import CaptionRules
from ..corpora.images.opening import open_images
from ..corpora.images.source import NO_IMAGE_OPTIONS, ImageOptions, ImageSource
from ..corpora.registry import open_corpus
from ..corpora.sources import CorpusOptions, notices_of
from ..errors import TooManyFailures, UsageError
from ..indexer.build.build import build_index
from ..indexer.build.options import IndexOptions
from ..indexer.build.shards import Shard, describe_missing
from ..indexer.encode.encoder import Encoder, ModelChoice, check_same_model
from ..indexer.images.cache import remember_images
from ..indexer.images.embedded import EmbeddedImages, Failure, read_image_embeddings
from ..indexer.images.embedding import EmbedOptions, embed_images
from ..indexer.images.shards import embed_shard
from ..indexer.search.index import CaptionIndex, open_index, open_indexes, search
from ..indexer.search.kinds import OWN, SearchChoice
from ..indexer.vectors.layout import is_embedding_folder
from ..progress import Progress, no_progress
from ..scorer.members import as_members
from ..scorer.reference import Calibration, Reference
from ..scorer.reference_file import KIND as REFERENCE_KIND
from ..scorer.reference_file import load_reference
from ..scorer.scores.softmax import something_vector
from ..scorer.scores.trained_file import open_head
from ..scorer.scores.wrappers import RSCIN
from .classes import ClassWords, choose_classes, class_prompts, named_classes
from .decisions import DecisionRule, check_can_flag, decided
from .mislabel import with_labels_questioned
from .models import Say, encoder_for
from .reference import REFERENCE, KeptReference, fit_reference
from .result import AuditResult
from .retrieval import HITS, KeptHits
from .robust import refitted
from .run import AuditSettings, Kept, audit_against, audit_own, calibrated, given_classes
from .scores import FROM_MOMENTS, Beside, NoPrompts, check_clipn, choose_score, rescored

QUESTIONS = ("stray", "mislabel")
HELD_OUT = 0.2
"""Share of a separate reference's images that is kept back for calibration."""


@dataclass(frozen=True)
class Asked:
    """Which question, of which reference, and how to decide."""

    question: str = "stray"
    """stray: does it belong to any class? mislabel: does it belong to its own?"""
    robust: bool = False
    """Refit the reference once without the images that another class explains."""
    calibration: str | None = None
    """Clean images, or embeddings of such, that turn scores into p-values."""
    rule: DecisionRule = field(default_factory=DecisionRule)

    def __post_init__(self) -> None:
        if self.question not in QUESTIONS:
            raise UsageError(
                f"question '{self.question}' is unknown",
                f"one of {', '.join(QUESTIONS)}",
                "Correct --question",
            )
        if self.question == "mislabel":
            for given, name in (
                (self.calibration, "--calibration"),
                (self.rule.per_class, "--per-class"),
                (self.rule.empirical_null, "--empirical-null"),
            ):
                if given:
                    raise UsageError(
                        f"{name} was given with --question mislabel",
                        "a question about strays: there is no null for label margins",
                        f"Leave {name} out; images of positive margin are flagged",
                    )


@dataclass(frozen=True)
class Sources:
    """The images beside the audited ones."""

    reference: EmbeddedImages | None
    """Those the reference was fitted on, where they are at hand and not the audited ones."""
    calibration: EmbeddedImages | None
    own: bool
    """Whether the audited images are their own reference."""


def check_bliss_only(asked: Asked, score: str) -> None:
    """Raise UsageError for what BLISS alone can answer, where another `score` is to rank."""
    if score == "bliss":
        return
    for given, name in (
        (asked.question != "stray", f"--question {asked.question}"),
        (asked.robust, "--robust"),
        (asked.calibration and score != "bliss+", "--calibration"),
        (asked.rule.per_class, "--per-class"),
    ):
        if given:
            raise UsageError(
                f"{name} was given with --score {score}",
                "bliss, the score it works with",
                "Leave one of them out",
            )


def check_reference(asked: Asked, given: str | None, saved: Reference | None) -> None:
    """Raise UsageError for what the reference at hand cannot serve; `given` is None for the
    audited images themselves, `saved` a fitted one."""
    if asked.robust and saved is not None:
        raise UsageError(
            f"--robust was given with {given}, a fitted reference without its images",
            "the images, to see which of them do not belong",
            "Give their folder as --reference, or leave --robust out",
        )
    no_clean = given is None or (saved is not None and saved.calibration is None)
    if no_clean and asked.calibration is None and asked.question == "stray":
        check_can_flag(asked.rule)


def share_held_out(asked: Asked, images: int) -> float:
    """The share of a separate reference of n `images` to keep back for calibration.

    None where p-values are not asked for, come from elsewhere, or where a fifth of the images is
    too few for any to be at most --fdr.
    """
    enough = math.ceil(1 / asked.rule.fdr - 1e-9) - 1
    if asked.question != "stray" or asked.calibration or int(HELD_OUT * images) < enough:
        return 0.0
    return HELD_OUT


def answered(
    result: AuditResult,
    asked: Asked,
    sources: Sources,
    settings: AuditSettings,
    progress: Progress = no_progress,
) -> AuditResult:
    """`result` refitted, calibrated, ranked and flagged as asked.

    Its reference has the calibration images already; a refit compares with them by itself.
    """
    if asked.robust:
        result = refitted(result, sources.reference, settings, progress)
    per_class = asked.rule.per_class and result.reference.calibration is not None
    again = sources.calibration is not None and not asked.robust and result.score_name == "bliss"
    if again or per_class:
        result = calibrated(result, settings, asked.rule.per_class)
    if asked.question == "mislabel":
        result = with_labels_questioned(result)
    return decided(result, asked.rule, sources.own)


def with_calibration(reference: Reference, clean: EmbeddedImages, asked: Asked) -> Reference:
    """The reference with `clean` images to calibrate with, in place of any it held out.

    Those that are in the reference are passed over. Raises BlissError for another model's
    embeddings, UsageError where none is left, or with --per-class where a class has none.
    """
    check_same_model(clean.model, clean.source, reference.model, "the reference")
    labels = given_classes(clean, reference)
    usable = as_members(reference.members).find(clean.hashes) < 0
    if asked.rule.per_class:
        usable &= labels >= 0
        counts = np.bincount(labels[usable], minlength=len(reference.classes))
        if counts.min() == 0:
            raise UsageError(
                f"--per-class was given and {clean.source} has no image of class "
                f"'{reference.classes[int(counts.argmin())]}'",
                "clean images of every class, in folders of their names",
                "Add some, or leave --per-class out",
            )
    if not usable.any():
        raise UsageError(
            f"every image of {clean.source} is in the reference",
            "other clean images to compare with",
            "Give --calibration another folder",
        )
    return replace(
        reference, calibration=Calibration(clean.vectors[np.flatnonzero(usable)], labels[usable])
    )


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
