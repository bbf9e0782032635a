"""Audit with another score of the field: BLISS still explains, the other one ranks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import UsageError
from ..indexer.encode.encoder import check_same_model
from ..indexer.images.embedded import EmbeddedImages
from ..indexer.search.index import CaptionIndex
from ..indexer.vectors.rows import whole_rows
from ..scorer.calibration import conformal_p_values
from ..scorer.leave_one_out import NOTHING_LEFT_OUT
from ..scorer.scores.contract import Fitting, Normals, Query, Score, fit_score
from ..scorer.scores.plus.score import fit_bliss_plus
from ..scorer.scores.registry import SCORES
from ..scorer.scores.trained_file import Head
from ..scorer.scores.wrappers import RSCIN, with_rscin
from .result import AuditResult
from .retrieval import retrieve
from .run import given_classes

FROM_MOMENTS = ("bliss", "bliss+")
"""Scores that a fitted reference serves, and that leave an image out of its own class."""

NoPrompts = Callable[[Sequence[Sequence[str]], Mapping[str, Any]], np.ndarray]
"""Each class's prompt texts, and the facts of the model that embedded the images, to the classes'
"no" vectors, float32 [C, d]: what a trained CLIPN gives."""


def choose_score(name: str, separate: bool, saved: bool) -> Score:
    """The score called `name`, if the reference at hand can serve it.

    `separate` says whether there is a reference beside the audited images, `saved` whether it is
    a fitted one, without its images. Raises UsageError for an unknown name, and for a score that
    compares with reference images where they are the audited ones themselves or are gone.
    """
    plain = name.removesuffix(RSCIN)
    if plain not in SCORES:
        close = difflib.get_close_matches(name, SCORES, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(close)}" if close else "Correct --score"
        raise UsageError(
            f"score '{name}' is unknown",
            f"one of {', '.join(SCORES)}, or one of them with {RSCIN} after it",
            hint,
        )
    score = SCORES[plain]
    if plain != name:
        score = with_rscin(score)
    if score.name not in FROM_MOMENTS and score.needs_normals and (saved or not separate):
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
class Beside:
    """What some scores need beside images, prompts and captions."""

    head: Head | None = None
    """What `bliss train oecl` left."""
    no_prompts: np.ndarray | None = None
    """float32 [C, d], the classes' "no" vectors of a CLIPN."""
    something: np.ndarray | None = None
    """float32 [d], the vector of "a photo of something"."""


NOTHING_BESIDE = Beside()


def check_clipn(score: Score, given: bool) -> None:
    """UsageError where a score needs a CLIPN and there is none, or the other way round."""
    if score.needs_no_prompts and not given:
        raise UsageError(
            f"{score.name} was asked for without a CLIPN",
            "a trained one",
            "Add --clipn DIR with what `bliss train clipn` made",
        )
    if given and not score.needs_no_prompts:
        raise UsageError(
            f"--clipn was given with the score {score.name}, which does not use it",
            "clipn_ctw or clipn_atd",
            "Leave --clipn out or change --score",
        )


def rescored(
    result: AuditResult,
    score: Score,
    clean: EmbeddedImages | None,
    weight: float,
    beside: Beside = NOTHING_BESIDE,
) -> AuditResult:
    """`result` with the score of each image replaced; nearest class and captions stay BLISS's.

    `clean` are the reference images, for scores that need them; `weight` is the λ of those that
    have BLISS in them. Only BLISS and bliss+ have p-values. BlissError where what is `beside`
    belongs to another model.
    """
    if score.name == "bliss":
        return result
    if score.name == "bliss+":
        return rescored_plus(result, weight)
    head = beside.head
    if head is not None:
        check_same_model(head.model, head.folder, result.images.model, result.images.source)
    reference, index = result.reference, result.index
    images = np.zeros((0, reference.prompt_vectors.shape[1]), np.float32)
    labels = np.zeros(0, np.int64)
    if clean is not None and score.needs_normals:
        labels = given_classes(clean, reference)
        images, labels = clean.vectors[np.flatnonzero(labels >= 0)], labels[labels >= 0]
    normals = Normals(reference.classes, reference.prompt_vectors, images, labels)
    texts = _all_texts(index) if score.needs_texts else np.zeros((0, images.shape[1]), np.float32)
    fitting = Fitting(
        normals,
        texts,
        something=beside.something,
        head=None if head is None else head.arrays,
        no_prompts=beside.no_prompts,
    )
    found = fit_score(score, fitting)(Query(whole_rows(result.images.vectors), result.retrieved))
    return replace(
        result, scores=replace(result.scores, score=found), p_values=None, score_name=score.name
    )


def rescored_plus(result: AuditResult, weight: float) -> AuditResult:
    """`result` ranked by bliss+ with the weight λ, whatever the reference was.

    Images of the reference are left out of it as `result` left them out. Calibration images held
    out of a fitted reference give p-values: neither its moments nor any scale of the score has seen
    them. Raises as `fit_bliss_plus` does.
    """
    reference, index = result.reference, result.index
    parameters = {**SCORES["bliss+"].defaults, "weight": weight}
    scorer = fit_bliss_plus(reference, _all_texts(index), parameters)
    found = scorer(whole_rows(result.images.vectors), result.retrieved, result.left_out)
    p_values = None
    if reference.calibration is not None:
        clean = reference.calibration.images
        nearest = retrieve(index, clean, result.retrieved.rows.shape[1], kept=result.hits)
        p_values = conformal_p_values(scorer(clean, nearest, NOTHING_LEFT_OUT), found)
    scores = replace(result.scores, score=found)
    return replace(result, scores=scores, p_values=p_values, score_name="bliss+")


def _all_texts(index: CaptionIndex) -> np.ndarray:
    """float32 [M, d], every vector of the index."""
    blocks = [rows for _, rows in index.vectors.blocks()]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
