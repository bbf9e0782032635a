"""Audit with another score of the field: BLISS still explains, the other one ranks."""

from __future__ import annotations

import difflib
from dataclasses import replace

import numpy as np

from ..errors import UsageError
from ..indexer.caption_index import CaptionIndex
from ..indexer.embedded_images import EmbeddedImages
from ..indexer.encoding import check_same_model
from ..scorer.head_file import Head
from ..scorer.scores.contract import Fitting, Normals, Query, Score, fit_score
from ..scorer.scores.registry import SCORES
from .result import AuditResult


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


def rescored(
    result: AuditResult, score: Score, clean: EmbeddedImages | None, head: Head | None = None
) -> AuditResult:
    """`result` with the score of each image replaced; nearest class and captions stay BLISS's.

    `clean` are the reference images, for scores that need them, and `head` is what trained ones
    were trained to; BlissError where that belongs to another model. There are no p-values then:
    the calibration sample was scored with BLISS.
    """
    if head is not None:
        check_same_model(head.model, head.folder, result.images.model, result.images.source)
    reference, index = result.reference, result.index
    numbers = {name: number for number, name in enumerate(reference.classes)}
    images = np.zeros((0, reference.prompt_vectors.shape[1]), np.float32)
    labels = np.zeros(0, np.int64)
    if clean is not None and score.needs_normals:
        labels = np.array([numbers.get(label or "", -1) for label in clean.labels], np.int64)
        images, labels = clean.vectors[labels >= 0], labels[labels >= 0]
    normals = Normals(reference.classes, reference.prompt_vectors, images, labels)
    texts = _all_texts(index) if score.needs_texts else np.zeros((0, images.shape[1]), np.float32)
    fitting = Fitting(normals, texts, head=None if head is None else head.arrays)
    found = fit_score(score, fitting)(Query(result.images.vectors, result.retrieved))
    return replace(
        result, scores=replace(result.scores, score=found), p_values=None, score_name=score.name
    )


def _all_texts(index: CaptionIndex) -> np.ndarray:
    """float32 [M, d], every vector of the index."""
    return np.concatenate([rows for _, rows in index.vectors.blocks()])
