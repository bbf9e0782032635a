"""Rank an audit by another score: nearest class and captions still come from BLISS."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import BlissError, UsageError
from ..indexer import (
    CaptionIndex,
    EmbeddedImages,
    Encoder,
    blocks_of,
    check_same_model,
    searches_all,
    slices,
)
from ..safe_text import counted
from ..scorer import (
    RSCIN,
    SCORES,
    Fitting,
    Head,
    LeftOut,
    Need,
    Normals,
    PlusScorer,
    Query,
    Reference,
    Resources,
    Score,
    TextPass,
    conformal_p_values,
    fit_bliss_plus,
    fit_score,
    missing,
    provide,
    with_rscin,
)
from .classes import ClassWords, class_prompts
from .result import AuditResult
from .retrieval import CaptionSums, retrieve
from .run import given_classes, left_out_of_calibration

AUTO = "auto"
"""The name that picks a score: bliss+ where it can be fitted, else BLISS."""
MOST_TEXT_BYTES = 2 << 30
"""Largest caption vectors, all read at once, that AUTO takes bliss+ for: a million of 512."""

IMAGES_AT_ONCE = 16_384
"""Images that a score is computed of at once, unless it depends on all of them."""


class NoPrompts(Protocol):
    """A trained CLIPN, which gives each class a "no" vector."""

    @property
    def model(self) -> Mapping[str, Any]:
        """The facts of the model it was trained over."""

    @property
    def folder(self) -> str:
        """Where it is, for messages."""

    def __call__(self, prompts: Sequence[Sequence[str]], model: Mapping[str, Any]) -> np.ndarray:
        """float32 [C, d], unit "no" vectors from each class's prompts.

        `model` are the facts of the model that embedded the images; BlissError where it is another.
        """


def choose_score(name: str, separate: bool, saved: bool) -> Score:
    """The score called `name`, if the reference at hand can serve it.

    `separate` says whether the reference is not the audited images, `saved` whether it is a
    fitted one, without its images. Raises UsageError for an unknown name, and for a score that
    compares with reference images where these are the audited ones or are not at hand.
    """
    if name == AUTO:
        return replace(SCORES["bliss+"], name=AUTO)
    plain = name.removesuffix(RSCIN)
    if plain not in SCORES:
        close = difflib.get_close_matches(name, SCORES, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(close)}" if close else "Correct --score"
        raise UsageError(
            f"score '{name}' is unknown",
            f"one of {AUTO}, {', '.join(SCORES)}, or one of them with {RSCIN} after it",
            hint,
        )
    score = SCORES[plain]
    if plain != name:
        score = with_rscin(score)
    if Need.NORMALS in score.needs and (saved or not separate):
        state = (
            "a fitted reference keeps none" if saved else "an image cannot be left out of its own"
        )
        raise UsageError(
            f"{name} compares with reference images, and {state}",
            "a folder of clean images or their embeddings",
            "Add --reference DIR, or use bliss or bliss+, which leave images out in closed form",
        )
    return score


@dataclass(frozen=True)
class ScoreInputs:
    """What a score may be fitted on besides the audit's reference and captions."""

    clean: EmbeddedImages | None = None
    """The images of the reference, where they are at hand and not the audited ones."""
    head: Head | None = None
    """A folder of `bliss train oecl`, read."""
    no_prompts: NoPrompts | None = None
    words: ClassWords | None = None
    """How the classes are worded; None for a fitted reference, which brings its prompts."""
    index: CaptionIndex | None = None
    """All captions, where some are hidden from the audit."""
    encoder: Encoder | None = None


NO_INPUTS = ScoreInputs()


class FittedPlus:
    """bliss+ with the weight λ, fitted for each new reference or index, before the captions are
    searched: where all are compared anyway, the search makes its sums in passing."""

    def __init__(self, score: Score, weight: float) -> None:
        self._auto, self._used = score.name == AUTO, score.name in (AUTO, "bliss+")
        self.weight = weight
        self._made: tuple[Reference, CaptionIndex, PlusScorer | BlissError] | None = None
        self._sums: tuple[EmbeddedImages, CaptionSums] | None = None

    def of(self, reference: Reference, index: CaptionIndex) -> PlusScorer:
        """Fitted on the reference and all captions; errors as of `fit_bliss_plus`."""
        if self._made is None or self._made[0] is not reference or self._made[1] is not index:
            parameters = {**SCORES["bliss+"].defaults, "weight": self.weight}
            try:
                made = fit_bliss_plus(reference, _all_texts(index), parameters)
            except BlissError as error:
                self._made = reference, index, error
                raise
            self._made = reference, index, made
        found = self._made[2]
        if isinstance(found, BlissError):
            raise found
        return found

    def plan(
        self, images: EmbeddedImages, index: CaptionIndex, reference: Reference, left_out: LeftOut
    ) -> CaptionSums | None:
        """The sums for these images, where they are worth making for all of them at once."""
        self._sums = None
        if not self._used or (self._auto and _too_large(index)) or not searches_all(index):
            return None
        try:
            scorer = self.of(reference, index)
        except BlissError:
            return None  # said by whoever ranks by bliss+
        n, apart = len(images.rows), min(len(left_out.images), len(scorer.normal.sample.labels))
        if not scorer.terms or 2 * apart > n:
            return None  # images that are left out have sums of their own
        sums = CaptionSums(TextPass(scorer.terms, scorer.terms[0].texts), np.empty(n))
        self._sums = images, sums
        return sums

    def sums_of(self, result: AuditResult) -> np.ndarray | None:
        """float64 [n], the sums that were planned for this result, if any were."""
        if self._sums is None or self._made is None or self._sums[0] is not result.images:
            return None
        same = self._made[0] is result.reference and self._made[1] is result.index
        return self._sums[1].values if same else None


def check_clipn(score: Score, given: bool) -> None:
    """UsageError where a score needs a CLIPN and there is none, or the other way round."""
    if Need.NO_PROMPTS in score.needs and not given:
        raise missing(score.name, Need.NO_PROMPTS)
    if given and Need.NO_PROMPTS not in score.needs:
        raise UsageError(
            f"--trained was given with the score {score.name}, which does not use it",
            "clipn_ctw or clipn_atd",
            "Leave --trained out or change --score",
        )


def rescored(
    result: AuditResult,
    score: Score,
    weight: float,
    inputs: ScoreInputs = NO_INPUTS,
    plus: FittedPlus | None = None,
) -> AuditResult:
    """`result` with the score of each image replaced; nearest class and captions stay BLISS's.

    `weight` is the λ of the scores that contain BLISS; `plus` is what `audit_against` was given, if
    anything. Only BLISS and bliss+ have p-values. Raises BlissError where something of `inputs`
    was made with another model.
    """
    if score.name == "bliss":
        return result
    if score.name == "bliss+":
        return _rescored_plus(result, plus or FittedPlus(score, weight))
    if score.name == AUTO:
        return _rescored_auto(result, plus or FittedPlus(score, weight))
    fitting = fitting_for(score, result, inputs)
    fitted, images = fit_score(score, fitting), result.images.vectors
    found = np.empty(len(images))
    for some in slices(len(images), len(images) if score.stateful else IMAGES_AT_ONCE):
        found[some] = fitted(Query(images[some], result.retrieved.only(some)))
    return replace(
        result, scores=replace(result.scores, score=found), p_values=None, score_name=score.name
    )


def fitting_for(score: Score, result: AuditResult, inputs: ScoreInputs) -> Fitting:
    """What `score` is fitted on: the one place that provides what a score needs."""
    reference, index = result.reference, result.index
    images = np.zeros((0, reference.prompt_vectors.shape[1]), np.float32)
    labels, texts = np.zeros(0, np.int64), images
    if Need.NORMALS in score.needs and inputs.clean is not None:
        labels = given_classes(inputs.clean, reference)
        images = inputs.clean.vectors[np.flatnonzero(labels >= 0)]
        labels = labels[labels >= 0]
    if Need.TEXTS in score.needs:
        texts = _all_texts(index)
    head, clipn = inputs.head, inputs.no_prompts
    if head is not None:
        check_same_model(head.model, head.folder, result.images.model, result.images.source)
    resources = Resources(
        inputs.index or index,
        inputs.encoder,
        None if head is None else head.arrays,
        None
        if clipn is None
        else lambda: clipn(_prompt_texts(reference, inputs.words), index.model),
    )
    normals = Normals(reference.classes, reference.prompt_vectors, images, labels)
    return Fitting(normals, texts, provide(score.needs, resources))


def _prompt_texts(reference: Reference, words: ClassWords | None) -> list[list[str]]:
    """Each class's prompts; a fitted reference stores them joined."""
    if words is None:
        return [prompts.split(" | ") for prompts in reference.prompts]
    return class_prompts(reference.classes, words)


def _rescored_plus(result: AuditResult, plus: FittedPlus) -> AuditResult:
    """`result` ranked by bliss+, for any kind of reference.

    Images of the reference are left out of it as `result` left them out. Calibration images give
    p-values: if held out, neither the moments of the reference nor any scale of the score has seen
    them; if not, each is left out of its class. Raises as `fit` does.
    """
    reference, index = result.reference, result.index
    scorer = plus.of(reference, index)
    images, sums = result.images.vectors, plus.sums_of(result)
    parts = scorer.parts(images, result.retrieved, result.left_out, sums)
    found = parts.sum(axis=1)
    p_values = None
    if reference.calibration is not None:
        clean = reference.calibration.images
        k = result.retrieved.rows.shape[1]
        nearest = retrieve(index, clean, k, cache=result.hits, engine=result.engine)
        itself = left_out_of_calibration(reference.calibration)
        p_values = conformal_p_values(scorer(clean, nearest, itself), found)
    scores = replace(result.scores, score=found)
    return replace(
        result,
        scores=scores,
        p_values=p_values,
        score_name="bliss+",
        parts=parts,
        learnt=scorer.facts(result.retrieved.rows.shape[1]),
    )


def _rescored_auto(result: AuditResult, plus: FittedPlus) -> AuditResult:
    """`result` ranked by bliss+ where that is possible, else as it is, with the reason."""
    index, counts = result.index, result.reference.moments.counts
    if _too_large(index):
        size = f"{_text_bytes(index) >> 20:,} MiB"
        held = f"the vectors of {index.count:,} captions, {size}, would be held at once"
        return replace(result, chosen=f"score auto: bliss; bliss+ was not used because {held}")
    try:
        found = _rescored_plus(result, plus)
    except UsageError:
        raise
    except BlissError as error:
        return replace(
            result, chosen=f"score auto: bliss; bliss+ was not used because {error.given}"
        )
    images = f"{counted(int(counts.sum()), 'reference image')}"
    classes = f"{counted(len(counts), 'class', 'classes')}"
    alone = "; with one class its weights are equal" if len(counts) == 1 else ""
    return replace(found, chosen=f"score auto: bliss+, from {images} of {classes}{alone}")


def _too_large(index: CaptionIndex) -> bool:
    return _text_bytes(index) > MOST_TEXT_BYTES


def _text_bytes(index: CaptionIndex) -> int:
    """Bytes of all caption vectors as bliss+ reads them."""
    return int(index.count * index.model["dimension"] * 4)


def _all_texts(index: CaptionIndex) -> np.ndarray:
    """float32 [M, d], every vector of the index."""
    blocks = [rows for _, rows in blocks_of(index.vectors)]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
