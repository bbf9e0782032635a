"""Audit with another score of the field: BLISS still explains, the other one ranks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import UsageError
from ..indexer.caption_index import CaptionIndex
from ..indexer.embedded_images import EmbeddedImages
from ..scorer.scores.contract import Fitting, Normals, Query, Score, fit_score
from ..scorer.scores.registry import SCORES
from .result import AuditResult

NoPrompts = Callable[[Sequence[Sequence[str]], Mapping[str, Any]], np.ndarray]
"""Each class's prompt texts, and the facts of the model that embedded the images, to the classes'
"no" vectors, float32 [C, d]: what a trained CLIPN gives."""


def choose_score(name: str, separate: bool, saved: bool) -> Score:
    """The score called `name`, if the reference at hand can serve it.

    `separate` says whether there is a reference beside the audited images, `saved` whether it is
    a fitted one, without its images. Raises UsageError for an unknown name, and for a score that
    compares with reference images where they are the audited ones themselves or are gone.
    """
    if name not in SCORES:
        close = difflib.get_close_matches(name, SCORES, n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(close)}" if close else "Correct --score"
        raise UsageError(f"score '{name}' is unknown", f"one of {', '.join(SCORES)}", hint)
    score = SCORES[name]
    if score.name != "bliss" and score.needs_normals and (saved or not separate):
        state = (
            "a fitted reference keeps none" if saved else "an image cannot be left out of its own"
        )
        raise UsageError(
            f"{name} compares with reference images, and {state}",
            "a folder of clean images or their embeddings",
            "Add --reference DIR, or use bliss, which leaves images out in closed form",
        )
    return score


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
    no_prompts: np.ndarray | None = None,
) -> AuditResult:
    """`result` with the score of each image replaced; nearest class and captions stay BLISS's.

    `clean` are the reference images and `no_prompts` [C, d] the classes' "no" vectors, for scores
    that need them. There are no p-values then: the calibration sample was scored with BLISS.
    """
    reference, index = result.reference, result.index
    numbers = {name: number for number, name in enumerate(reference.classes)}
    images = np.zeros((0, reference.prompt_vectors.shape[1]), np.float32)
    labels = np.zeros(0, np.int64)
    if clean is not None and score.needs_normals:
        labels = np.array([numbers.get(label or "", -1) for label in clean.labels], np.int64)
        images, labels = clean.vectors[labels >= 0], labels[labels >= 0]
    normals = Normals(reference.classes, reference.prompt_vectors, images, labels)
    texts = _all_texts(index) if score.needs_texts else np.zeros((0, images.shape[1]), np.float32)
    fitting = Fitting(normals, texts, no_prompts=no_prompts)
    found = fit_score(score, fitting)(Query(result.images.vectors, result.retrieved))
    return replace(
        result, scores=replace(result.scores, score=found), p_values=None, score_name=score.name
    )


def _all_texts(index: CaptionIndex) -> np.ndarray:
    """float32 [M, d], every vector of the index."""
    return np.concatenate([rows for _, rows in index.vectors.blocks()])
