"""Audits without files: embeddings that are arrays already, and pictures that are in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import checked
from ..corpora import valid_text
from ..errors import BlissError, UsageError
from ..indexer import (
    ArrayIndex,
    CaptionIndex,
    DecodingLimits,
    Encoder,
    ModelChoice,
    UnreadableImage,
    embedded_arrays,
    normalise_rows,
    open_index,
    picture_pixels,
    stored_unit_rows,
)
from ..scorer import SCORES, Reference, Score, load_reference
from .classes import ClassWords
from .decisions import AuditQuestion, audit_by, decide, with_copies_and_quality
from .fitting.reference import fit_reference
from .models import encoder_for
from .result import AuditResult
from .run import DEFAULTS, LEAST_IMAGES, AuditSettings, audit_against
from .scores import AUTO, FittedPlus, choose_score, rescored

EVERY_QUESTION = AuditQuestion()
STRAYS_ONLY = AuditQuestion(("stray",))


@checked
def audit_arrays(  # noqa: PLR0913 - all but the first two are keyword-only
    images: Any,
    labels: Sequence[Any] | None = None,
    *,
    texts: Sequence[str] | None = None,
    text_vectors: Any,
    prompts: Any = None,
    paths: Sequence[str] | None = None,
    reference: Reference | None = None,
    score: str = AUTO,
    settings: AuditSettings = DEFAULTS,
    question: AuditQuestion = EVERY_QUESTION,
) -> AuditResult:
    """Audit embeddings of images that you have already: no files, no model.

    `images` [n, d] and `text_vectors` [M, d] are NumPy arrays (memory-mapped ones are read in
    blocks) or torch tensors of one model; rows are divided by their length, and
    `result.images.normalised` counts those whose length was not 1. `texts` are the M captions
    (default "text 0" and so on). `labels` [n] are the classes that the images are filed under, None
    for an image without one. `prompts` are the classes' text vectors, [C, d] in the sorted order of
    the classes or a mapping from their names; without them the mean of a class's images is used.
    Without `labels`, images are filed under the class of the nearest prompt of a mapping. `paths`
    [n] name the images. With a `reference`, images are compared with that one. `score` ranks them:
    bliss, bliss+, another that needs no file, or auto, bliss+ where it can be fitted.

    Everything is as in `bliss audit --embeddings`, to the last bit. Raises UsageError for rows that
    are zero or not finite, for arrays that do not fit together, for k above M and for a class with
    fewer than three images.
    """
    vectors, captions = _rows(images, "images"), _rows(text_vectors, "text_vectors")
    n, dimension = vectors.shape
    _check_length(labels, "labels", n, "images")
    _check_length(paths, "paths", n, "images")
    _check_length(texts, "texts", len(captions), "text_vectors")
    _check_dimension(captions, "text_vectors", dimension)
    if settings.k > len(captions):
        raise UsageError(
            f"k = {settings.k} was given with {len(captions):,} text_vectors",
            "at most as many as there are texts",
            "Give AuditSettings a smaller k, or more texts",
        )
    named = [None] * n if labels is None else [_label(each) for each in labels]
    shown = None if paths is None else list(map(valid_text, paths))
    collection = embedded_arrays(vectors, named, shown)
    model = collection.model
    words = (
        [f"text {i}" for i in range(len(captions))]
        if texts is None
        else list(map(valid_text, texts))
    )
    index = ArrayIndex(words, _unit_texts(captions, "text_vectors"), model)
    own = reference is None
    if reference is None:
        classes = _class_words(prompts, named, dimension, settings.words)
        settings = replace(settings, words=classes)
        reference = _fitted(collection, index, settings)
    elif prompts is not None:
        raise UsageError(
            "prompts were given with a reference", "one of them", "A reference brings its prompts"
        )
    question.check_score(score)
    chosen = choose_score(question.score_for(score), separate=not own, saved=not own)
    question.check_classes(reference.classes)
    question.check_reference(None if own else "the reference given", None if own else reference)
    result = audit_by(chosen, collection, index, reference, settings, question, own=own)
    result = with_copies_and_quality(result, question)
    return decide(result, question, settings, own)


def _fitted(collection: Any, index: CaptionIndex, settings: AuditSettings) -> Reference:
    try:
        return fit_reference(collection, index, None, settings.words, least=LEAST_IMAGES)
    except BlissError as error:
        raise UsageError(error.given, error.needed, error.remedy) from error


def _class_words(
    prompts: Any, labels: Sequence[str | None], dimension: int, words: ClassWords
) -> ClassWords:
    """`words` with the vectors of the classes, or with their means in place of prompts."""
    classes = sorted(words.normal or {label for label in labels if label is not None})
    if prompts is None:
        if not classes:
            raise UsageError(
                "neither labels nor prompts were given",
                "to know what is normal",
                "Give the class of each image as labels, or prompts={name: vector}",
            )
        return replace(words, means=True)
    if isinstance(prompts, Mapping):
        rows = {str(name): _rows([row], "prompts") for name, row in prompts.items()}
        missing = [name for name in classes if name not in rows]
        if missing:
            raise UsageError(
                f"prompts have no vector for class '{missing[0]}'"
                + (f" and {len(missing) - 1:,} more" if missing[1:] else ""),
                "a vector for every class of the labels",
                "Add it",
            )
        classes = classes or sorted(rows)
        stacked = np.concatenate([rows[name] for name in classes])
    else:
        stacked = _rows(prompts, "prompts")
        if not classes or len(stacked) != len(classes):
            raise UsageError(
                f"prompts of shape {stacked.shape} were given for {len(classes)} classes",
                f"one row for each class of the labels, sorted by name, of {dimension} numbers",
                "Give a mapping from class names to vectors, or as many rows",
            )
    _check_dimension(stacked, "prompts", dimension)
    unit = _unit_texts(stacked, "prompts")
    vectors = {name: tuple(row) for name, row in zip(classes, unit.tolist(), strict=True)}
    filed = any(label is not None for label in labels)
    normal = words.normal if filed else tuple(classes)
    return replace(words, normal=normal, vectors=vectors)


def _rows(given: Any, what: str) -> np.ndarray:
    """An array [n, d] from an array or a torch tensor; UsageError for anything else."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        given = given.float() if str(getattr(given, "dtype", "")) == "torch.bfloat16" else given
    if np.ma.is_masked(given):
        raise _not_rows(what, "an array with masked entries")
    try:
        rows = np.asarray(given)
    except ValueError as error:
        raise _not_rows(what, str(error)) from error
    if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind not in "fiu" or not len(rows):
        raise _not_rows(what, f"shape {rows.shape} and type {rows.dtype}")
    return rows


def _not_rows(what: str, given: str) -> UsageError:
    return UsageError(
        f"{what}: {given}",
        "numbers in an array of shape [rows, dimensions], one row a vector",
        "Stack the vectors into one float array",
    )


def _unit_texts(vectors: np.ndarray, what: str) -> np.ndarray:
    """float32 [M, d], unit rows as an index of these vectors stores and reads them."""
    made = normalise_rows(vectors)
    if len(made.unusable):
        raise UsageError(
            f"row {made.unusable[0]} of {what} is zero or not finite"
            + (f", and {len(made.unusable) - 1:,} more" if made.unusable[1:].size else ""),
            "finite vectors of some length",
            "Leave those texts out, or embed them again",
        )
    stored = np.float16 if vectors.dtype == np.float16 else np.float32
    return stored_unit_rows(made.unit.astype(stored), what)


def _label(given: Any) -> str | None:
    """A label as text: None for what NumPy and pandas have in place of one, and for blanks."""
    given = given.item() if hasattr(given, "item") else given
    if given is None or (not isinstance(given, str) and str(given) in ("nan", "NaT", "<NA>")):
        return None
    text = given.decode("utf-8", "replace") if isinstance(given, bytes) else str(given)
    return valid_text(text) if text.strip() else None


def _check_length(given: Sequence[Any] | None, what: str, count: int, of: str) -> None:
    if given is not None and len(given) != count:
        raise UsageError(
            f"{len(given):,} {what} were given for {count:,} rows of {of}",
            "one for each row, in the same order",
            f"Correct {what}",
        )


def _check_dimension(rows: np.ndarray, what: str, dimension: int) -> None:
    if rows.shape[1] != dimension:
        raise UsageError(
            f"{what} have {rows.shape[1]} dimensions and images have {dimension}",
            "vectors of one model",
            "Embed both with the same model",
        )


@dataclass(frozen=True)
class Scorer:
    """A reference, captions and the model of both, opened once to score pictures in memory."""

    reference: Reference
    index: CaptionIndex
    encoder: Encoder
    settings: AuditSettings = field(default=DEFAULTS)
    ranked_by: Score = SCORES["bliss"]
    """The score that ranks the pictures; see `choose_score`."""

    @cached_property
    def _plus(self) -> FittedPlus:
        """bliss+, fitted by the first pictures that it ranks."""
        return FittedPlus(self.ranked_by, self.settings.weight)

    def score(
        self, images: Sequence[Any], labels: Sequence[str | None] | None = None
    ) -> AuditResult:
        """Score n pictures: PIL images, or uint8 arrays [height, width, 3] or [height, width].

        They are resized as the model's files are, and compared with the reference; the result is in
        their order, with paths "image 0" and so on. Raises UsageError for anything else.
        """
        _check_length(labels, "labels", len(images), "images")
        if not len(images):
            raise UsageError("no image was given", "one or more", "Give a list of images")
        preprocessing, size = self.encoder.preprocessing, self.encoder.batch_size
        pixels = [_pixels(each, i, preprocessing) for i, each in enumerate(images)]
        batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        vectors = np.concatenate([self.encoder.encode_images(np.stack(few)) for few in batches])
        found = embedded_arrays(
            vectors,
            [None] * len(images) if labels is None else labels,
            [f"image {i}" for i in range(len(images))],
            self.encoder.facts,
            "the images given",
        )
        plus, settings = self._plus, self.settings
        result = audit_against(found, self.index, self.reference, settings, plus=plus)
        result = rescored(result, self.ranked_by, settings.weight, plus=plus)
        question = EVERY_QUESTION if labels is not None else STRAYS_ONLY
        return decide(result, question, self.settings, own=False)


@checked
def open_scorer(
    reference: str | Path | Reference,
    index: str | Path | CaptionIndex,
    model: ModelChoice | Encoder | None = None,
    settings: AuditSettings = DEFAULTS,
    score: str = AUTO,
) -> Scorer:
    """A `Scorer` of a fitted reference and an index: folders, or opened ones.

    `model` is needed where neither names the one that they were made with. `score` ranks the
    pictures: bliss, bliss+, or auto, bliss+ where it can be fitted. Raises BlissError where
    their models differ.
    """
    fitted = reference if isinstance(reference, Reference) else load_reference(reference)
    captions = open_index(index) if isinstance(index, str | Path) else index
    if not isinstance(model, Encoder):
        model = encoder_for(model or ModelChoice(), captions, fitted, lambda line: None)
    ranked_by = choose_score(score, separate=True, saved=True)
    return Scorer(fitted, captions, model, settings, ranked_by)


def _pixels(given: Any, number: int, preprocessing: Any) -> np.ndarray:
    """uint8 [height, width, 3], one picture as the model takes it."""
    from PIL import Image

    if isinstance(given, np.ndarray):
        shape = given.shape
        if given.dtype != np.uint8 or not (
            given.ndim == 2 or (given.ndim == 3 and shape[2] in (3, 4))
        ):
            raise UsageError(
                f"image {number} is an array of shape {shape} and type {given.dtype}",
                "uint8 [height, width, 3], or [height, width]",
                "Convert it, for example from floats of 0 to 1 with (255 * x).astype('uint8')",
            )
        given = Image.fromarray(given)
    if not isinstance(given, Image.Image):
        raise UsageError(
            f"image {number} is of type {type(given).__name__}",
            "a PIL image or a uint8 array",
            "Open files with PIL.Image.open, or score them with `bliss score`",
        )
    try:
        return picture_pixels(given, preprocessing, DecodingLimits())
    except UnreadableImage as error:
        raise UsageError(
            f"image {number} cannot be used: {error}", "a picture", "Leave it out"
        ) from error
