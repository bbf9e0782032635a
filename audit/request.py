"""One audit from request to result: open inputs, embed, fit the reference, score, decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..artefacts import MANIFEST, read_json, temporary_folder
from ..corpora import (
    NO_IMAGE_OPTIONS,
    CaptionRules,
    CorpusOptions,
    ImageOptions,
    ImageSource,
    NoSuchColumn,
    TextSource,
    display_path,
    notices_of,
    open_corpus,
    open_images,
    read_everything,
    similar_labels,
)
from ..errors import TooManyFailures, UsageError
from ..indexer import (
    DEFAULT_SEARCH,
    CaptionIndex,
    EmbeddedImages,
    EmbedOptions,
    Encoder,
    Failure,
    IndexOptions,
    ModelChoice,
    SearchChoice,
    build_index,
    check_same_model,
    check_same_preprocessing,
    column_names,
    distinct_texts,
    embed_images,
    is_embedding_folder,
    metadata_parts,
    open_embedding_folder,
    open_index,
    open_indexes,
    read_image_embeddings,
    register_images,
    search_index,
)
from ..progress import Progress, no_progress
from ..safe_text import counted
from ..scorer import REFERENCE_KIND, Head, Need, Reference, Score, load_reference, open_head
from .classes import (
    ClassWords,
    choose_classes,
    named_classes,
    set_aside_text,
    unmet_labels,
    without_small,
)
from .decisions import (
    AuditQuestion,
    audit_by,
    decide,
    with_calibration,
    with_copies_and_quality,
)
from .fitting.reference import REFERENCE, ReferenceStore, fit_with_means
from .models import Say, encoder_for
from .result import AuditResult
from .retrieval import HITS, HitsCache
from .review.photographs import files_of
from .run import LEAST_IMAGES, AuditSettings, calibrated_on_itself
from .scores import AUTO, NoPrompts, ScoreInputs, check_clipn, choose_score

HELD_OUT = 0.2
"""Share of a separate reference's images that is held out for calibration."""
DEFAULT_CORPUS = "imagenet-1k"
IMAGES, CLEAN, CALIBRATION = "images", "reference-images", "calibration-images"
SPLIT_COLUMN = "column="
"""What --against begins with where it names a column."""
AGAINST = "against-images"
"""Folders of image embeddings in an output folder: of IMAGES and the options of the same names."""


@dataclass(frozen=True)
class AuditRequest:
    """What `bliss audit` is to do; exactly one of images and embeddings is set."""

    images: str | None = None
    """A collection of images as `open_images` names it, often a folder of class folders."""
    embeddings: str | None = None
    """A folder of precomputed image embeddings in clip-retrieval's layout."""
    image_root: str | None = None
    """The folder that the paths of embeddings are relative to; None: the embeddings' own."""
    reference: str | None = None
    """Clean images, their embeddings, or a folder `bliss reference fit` made."""
    indexes: tuple[str, ...] = ()
    """Caption indexes, searched as one."""
    corpus: str | None = None
    """A corpus to build an index from, in the output folder; default imagenet-1k."""
    image_options: ImageOptions = NO_IMAGE_OPTIONS
    """Where the images and labels of IMAGES are, if `open_images` cannot tell."""
    corpus_options: CorpusOptions = field(default_factory=CorpusOptions)
    search: SearchChoice = DEFAULT_SEARCH
    """How the captions are searched, where not as their index says."""
    output: str = "bliss-audit"
    model: ModelChoice = field(default_factory=ModelChoice)
    settings: AuditSettings = field(default_factory=AuditSettings)
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    score: str = AUTO
    """Which score ranks the images: one of `scorer/scores/registry.py`, or AUTO."""
    keep_duplicates: bool = False
    """Whether an index built for this audit keeps equal captions."""
    head: str | None = None
    """A folder that `bliss train oecl` made, for the scores that are trained."""
    question: AuditQuestion = field(default_factory=AuditQuestion)
    """What is to be found out and decided."""
    strict: bool = False
    """Whether a class with too few images is refused, where it is set aside otherwise."""
    against: str | None = None
    """Another collection, its embeddings, or a fitted reference: copies of its images are leaks. Or
    column=NAME, a column that says which split each audited image is in: copies in two are."""

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
        self.question.check_score(self.score)


def run_audit(
    request: AuditRequest,
    progress: Progress = no_progress,
    say: Say = lambda line: None,
    no_prompts: NoPrompts | None = None,
) -> AuditResult:
    """Run the audit, reusing what its output folder already holds; no result is written yet.

    `say` is told what was chosen where the request left a choice; `no_prompts` is a trained CLIPN,
    for the scores that need it. What can be refused is refused before anything is embedded.
    """
    inputs = open_inputs(request, say, no_prompts)
    embedded = embed_inputs(inputs, request, progress, say)
    reference = fit_or_load_reference(inputs, embedded, request, say)
    classes, aside = reference.classes, reference.set_aside
    for given in (None if inputs.own else embedded.images, embedded.calibration):
        if given is not None:
            for line in unmet_labels(given.labels, classes, aside, given.source):
                say(line)
    result = score_images(inputs, embedded, reference, request, progress)
    against = inputs.against if isinstance(inputs.against, Reference) else embedded.against
    root, other = request.image_root, embedded.against
    splits = None
    if inputs.split_column is not None:
        spec = request.images or request.embeddings or ""
        splits = column_of(spec, result.images, inputs.split_column, request.image_options)
    with files_of(result.images, root) as mine, files_of(other, root) as theirs:
        result = with_copies_and_quality(
            result, request.question, against, progress, pictures=(mine, theirs), splits=splits
        )
    return decide(result, request.question, request.settings, inputs.own, embedded.clean, progress)


ImageInput = ImageSource | EmbeddedImages
"""Images as a command is given them: a collection to embed, or embeddings that were read."""


@dataclass(frozen=True)
class AuditInputs:
    """What an audit reads, opened and checked; nothing is embedded yet."""

    images: ImageInput
    reference: ImageInput | Reference | None
    """None: the audited images are their own reference."""
    calibration: ImageInput | None
    index: CaptionIndex | None
    """None: one is built from the corpus."""
    corpus: TextSource | None
    encoder: Encoder | None
    score: Score
    head: Head | None
    no_prompts: NoPrompts | None
    set_aside: Mapping[str, int]
    """The classes with too few images, as far as labels are known, and how many each has."""
    against: ImageInput | Reference | None = None
    split_column: str | None = None
    """The column of the audited images' splits."""

    @property
    def own(self) -> bool:
        """Whether the audited images are their own reference."""
        return self.reference is None

    @property
    def collections(self) -> dict[str, ImageInput]:
        """The folder in the output folder for the embeddings of each set of images."""
        named = {
            IMAGES: self.images,
            CLEAN: self.reference,
            CALIBRATION: self.calibration,
            AGAINST: self.against,
        }
        return {
            name: given
            for name, given in named.items()
            if given is not None and not isinstance(given, Reference)
        }


def open_inputs(
    request: AuditRequest, say: Say = lambda line: None, no_prompts: NoPrompts | None = None
) -> AuditInputs:
    """Open all inputs and the model. Whatever can be refused without embedding is refused here.

    Raises UsageError for a request that the inputs cannot serve, BlissError for inputs that
    cannot be read or were made with different models.
    """
    question, words = request.question, request.settings.words
    fitted = None
    if request.reference and is_reference_folder(request.reference):
        fitted = load_reference(request.reference)
        refuse_words(request.reference, words)
    question.check_reference(request.reference, fitted)
    score = choose_score(
        question.score_for(request.score), request.reference is not None, fitted is not None
    )
    head = open_head(request.head, [score])
    check_clipn(score, no_prompts is not None)
    index = open_indexes(request.indexes, request.search) if request.indexes else None
    if request.images is not None:
        images: ImageInput = open_images(request.images, request.image_options)
    else:
        images = read_image_embeddings(request.embeddings or "")
        for line in similar_labels(distinct_texts(images.labels)):
            say(line)
    reference: ImageInput | Reference | None = fitted
    if request.reference and fitted is None:
        reference = _open_image_input(request.reference)
    calibration = _open_image_input(question.calibration) if question.calibration else None
    aside = _check_classes(images, reference, calibration, request)
    if aside:
        say(set_aside_text(aside, LEAST_IMAGES if reference is None else 2))
    against: ImageInput | Reference | None = None
    split_column = None
    if request.against is not None and request.against.startswith(SPLIT_COLUMN):
        split_column = request.against.removeprefix(SPLIT_COLUMN)
        column_of(request.images or request.embeddings or "", None, split_column,
                  request.image_options)  # fmt: skip
    elif request.against is not None and is_reference_folder(request.against):
        against = load_reference(request.against)
    elif request.against is not None:
        against = _open_image_input(request.against)
    embedded = (EmbeddedImages, Reference, type(None))
    everything = (images, reference, calibration, against)
    encoder: Encoder | None = None
    if index is None or request.model.model or not all(isinstance(g, embedded) for g in everything):
        encoder = encoder_for(request.model, index, fitted, say)
    corpus = _open_corpus(request, say) if index is None else None
    inputs = AuditInputs(
        images, reference, calibration, index, corpus, encoder, score, head, no_prompts, aside,
        against, split_column,
    )  # fmt: skip
    _check_models(inputs)
    if index is not None:
        _check_search(index, request.settings.k)
    return inputs


def _open_image_input(spec: str) -> ImageInput:
    return read_image_embeddings(spec) if are_embedded(spec) else open_images(spec)


def _open_corpus(request: AuditRequest, say: Say) -> TextSource:
    spec = request.corpus or DEFAULT_CORPUS
    if request.corpus is None:
        say(f"no --index or --corpus was given: using the built-in corpus {spec}")
    source = open_corpus(spec, request.corpus_options)
    for line in notices_of(source):
        say(line)
    return source


def _check_classes(
    images: ImageInput,
    reference: ImageInput | Reference | None,
    calibration: ImageInput | None,
    request: AuditRequest,
) -> Mapping[str, int]:
    """The classes to set aside, where labels are known before images are embedded.

    Raises what fitting would.
    """
    question, aside = request.question, dict[str, int]()
    if isinstance(reference, Reference):
        classes: tuple[str, ...] = reference.classes
    else:
        source = images if reference is None else reference
        if source.labels is None:
            return aside  # they come with the images
        least = LEAST_IMAGES if reference is None else 2
        name, words = _name(source), request.settings.words
        normal = choose_classes(source.labels, words, name)
        if normal is None:
            classes = named_classes(words, name)
        else:
            normal, aside = without_small(normal, least, request.strict)
            classes = normal.classes
    question.check_classes(classes)
    if calibration is not None and calibration.labels is not None:
        question.check_calibration(calibration.labels, classes, _name(calibration))
    return aside


def _name(given: ImageInput) -> str:
    return given.source if isinstance(given, EmbeddedImages) else given.spec


def _check_models(inputs: AuditInputs) -> None:
    """Raise BlissError where two inputs were made with different models."""
    encoder, head, no_prompts = inputs.encoder, inputs.head, inputs.no_prompts
    models = []
    if encoder is not None:
        models.append(("the model given", encoder.facts))
    if inputs.index is not None:
        models.append((str(inputs.index.folder), inputs.index.model))
    for given in inputs.collections.values():
        if isinstance(given, EmbeddedImages):
            for name, facts in models:
                check_same_model(given.model, given.source, facts, name)
    images = inputs.images
    if isinstance(images, EmbeddedImages):
        name, facts = images.source, images.model
    else:
        assert encoder is not None
        name, facts = images.spec, encoder.facts
    if isinstance(inputs.reference, EmbeddedImages | Reference):
        check_same_model(facts, name, inputs.reference.model, "the reference")
        check_same_preprocessing(inputs.reference.model, "the reference", facts, name)
    if head is not None:
        check_same_model(head.model, head.folder, facts, name)
    if no_prompts is not None:
        check_same_model(facts, name, no_prompts.model, no_prompts.folder)


def _check_search(index: CaptionIndex, k: int) -> None:
    """Raise what a search for k captions would."""
    search_index(index, np.zeros((0, index.model["dimension"]), np.float32), k)


@dataclass(frozen=True)
class EmbeddedInputs:
    """What an audit works on once everything is embedded."""

    images: EmbeddedImages
    clean: EmbeddedImages | None
    """The images of the reference, where they are at hand and not the audited ones."""
    calibration: EmbeddedImages | None
    index: CaptionIndex
    against: EmbeddedImages | None = None


def embed_inputs(
    inputs: AuditInputs, request: AuditRequest, progress: Progress, say: Say
) -> EmbeddedInputs:
    """Build the caption index where there is none, then embed every collection.

    Errors as of `build_index` and `embed_images`.
    """
    index = inputs.index
    if index is None:
        index = _build_index(inputs, request, progress)
        _check_search(index, request.settings.k)
    embedded = {}
    for name, given in inputs.collections.items():
        if not isinstance(given, EmbeddedImages):
            assert inputs.encoder is not None
            folder, cache = Path(request.output) / name, request.embed.cache
            spec = given.spec
            given = embed_images(given, inputs.encoder, folder, request.embed, progress, say)
            if cache:
                register_images(cache, folder, spec)
        embedded[name] = given
    return EmbeddedInputs(
        embedded[IMAGES], embedded.get(CLEAN), embedded.get(CALIBRATION), index,
        embedded.get(AGAINST),
    )  # fmt: skip


def _build_index(inputs: AuditInputs, request: AuditRequest, progress: Progress) -> CaptionIndex:
    assert inputs.corpus is not None and inputs.encoder is not None
    rules = CaptionRules(deduplicate=not request.keep_duplicates)
    options = IndexOptions(rules, overwrite=request.embed.overwrite, engine=request.embed.engine)
    folder = Path(request.output) / "index"
    built = build_index(inputs.corpus, inputs.encoder, folder, options, progress)
    return built if request.search == DEFAULT_SEARCH else open_index(built.folder, request.search)


def fit_or_load_reference(
    inputs: AuditInputs, embedded: EmbeddedInputs, request: AuditRequest, say: Say
) -> Reference:
    """The reference that was given, or the one that its images or the audited ones make.

    With --calibration, those images are its calibration sample. Errors as of `fit_reference` and
    `with_calibration`.
    """
    question = request.question
    if isinstance(inputs.reference, Reference):
        reference = inputs.reference
    else:
        own = inputs.own
        images = embedded.images if embedded.clean is None else embedded.clean
        share = 0.0
        if not own and Need.MOMENTS in inputs.score.needs:
            share = _share_held_out(question, len(images.rows))
        store = ReferenceStore(Path(request.output) / REFERENCE, request.embed.cache, say)
        words, least = request.settings.words, LEAST_IMAGES if own else 2
        reference = fit_with_means(
            Path(request.output), say, images, index=embedded.index, encoder=inputs.encoder,
            words=words, calibration_share=share, store=store, least=least, strict=request.strict,
            engine=request.embed.engine,
        )  # fmt: skip
        if reference.set_aside and reference.set_aside != inputs.set_aside:
            say(set_aside_text(reference.set_aside, least))
    if question.rule.leave_one_out:
        return calibrated_on_itself(reference)
    if embedded.calibration is None:
        return reference
    return with_calibration(reference, embedded.calibration, question)


def _share_held_out(question: AuditQuestion, images: int) -> float:
    """The share of a separate reference of n `images` to hold out for calibration.

    None of them where p-values are not needed, come from elsewhere, or where a fifth of the images
    is too few for any to be at most the false discovery rate.
    """
    enough = math.ceil(1 / question.rule.fdr - 1e-9) - 1
    elsewhere = question.calibration or question.rule.leave_one_out
    if question.ranks_labels or elsewhere or int(HELD_OUT * images) < enough:
        return 0.0
    return HELD_OUT


def score_images(
    inputs: AuditInputs,
    embedded: EmbeddedInputs,
    reference: Reference,
    request: AuditRequest,
    progress: Progress,
) -> AuditResult:
    """`audit_by` with what was opened and embedded; hits are kept in the output folder."""
    clean, index, settings = embedded.clean, embedded.index, request.settings
    words = None if isinstance(inputs.reference, Reference) else settings.words
    result = audit_by(
        inputs.score, embedded.images, index, reference, settings, request.question,
        own=inputs.own,
        inputs=ScoreInputs(clean, inputs.head, inputs.no_prompts, words, index, inputs.encoder),
        progress=progress,
        hits=HitsCache(Path(request.output) / HITS),
        engine=request.embed.engine,
    )  # fmt: skip
    return result if clean is None else replace(result, clean=clean.fingerprint)


def is_reference_folder(folder: str) -> bool:
    """Whether `bliss reference fit` made this folder."""
    path = Path(folder) / MANIFEST
    return path.is_file() and read_json(path).get("kind") == REFERENCE_KIND


def refuse_words(reference: str, words: ClassWords) -> None:
    """Raise UsageError where classes or prompts are given with a fitted reference."""
    if words != ClassWords():
        raise UsageError(
            f"--normal, --prompt or --class-prompt was given with {reference}",
            "none of them: a fitted reference brings its classes and prompts",
            "Leave them out, or fit the reference again with them",
        )


def are_embedded(spec: str) -> bool:
    """Whether `spec` is a folder of image embeddings."""
    return is_embedding_folder(Path(spec), "img")


def column_of(
    spec: str,
    images: EmbeddedImages | None,
    column: str,
    options: ImageOptions = NO_IMAGE_OPTIONS,
) -> list[str | None]:
    """What a column says of each image: of the collection `spec`, or of its embeddings' metadata.

    Without `images` it is only looked for. Raises UsageError where there is no such column.
    """
    if are_embedded(spec):
        layout = open_embedding_folder(Path(spec), "img")
        there = column_names(layout.metadata[0])
        if column not in there:
            raise _no_column(f"{spec} has no column {column!r}", f"one of {', '.join(there)}")
        tables = [] if images is None else metadata_parts(layout, [column])
        every = [value for table in tables for value in table[column].to_pylist()]
        if "sha256" in there:  # our own have no rows of what could not be read
            return [None if value is None else str(value) for value in every]
    else:
        try:
            source = open_images(spec, replace(options, label_column=column))
        except UsageError as error:
            known = isinstance(error, NoSuchColumn)
            listed = error.needed if known else "a table or embeddings with it"
            raise _no_column(f"{display_path(spec)} has no column {column!r}", listed) from error
        every = list(source.labels or ())
        if images is not None and source.labels is None:
            every = [item.label for item in source.items(read_everything)]
    rows = () if images is None else images.rows.tolist()
    return [None if every[row] is None else str(every[row]) for row in rows]


def _no_column(given: str, needed: str) -> UsageError:
    return UsageError(given, needed, "Name a column that the collection has")


def read_or_embed(
    spec: str,
    encoder: Callable[[], Encoder],
    options: ImageOptions = NO_IMAGE_OPTIONS,
    embed: EmbedOptions | None = None,
    progress: Progress = no_progress,
) -> EmbeddedImages:
    """The images of `spec`, embedded in a temporary folder unless they are embeddings already.

    `encoder` is only called where one is needed. Errors as of `open_images`, `embed_images` and
    `read_image_embeddings`.
    """
    if are_embedded(spec):
        return read_image_embeddings(spec)
    listed = open_images(spec, options)
    with temporary_folder() as scratch:
        folder = scratch / "images"
        return embed_images(listed, encoder(), folder, embed or EmbedOptions(), progress)


def check_failures(
    failures: Sequence[Failure] | int,
    most: int | None,
    complete: str = "the results for the readable images are complete",
) -> None:
    """Raise TooManyFailures when more than `most` images, listed or counted, could not be used."""
    count = failures if isinstance(failures, int) else len(failures)
    if most is not None and count > most:
        first = ""
        if not isinstance(failures, int):
            first = f" (the first: {failures[0].path}: {failures[0].reason})"
        raise TooManyFailures(
            f"{counted(count, 'image')} could not be read{first}",
            f"at most {most:,}, as --fail-on says",
            f"Repair or remove them; {complete}",
        )
