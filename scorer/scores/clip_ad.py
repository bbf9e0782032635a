"""CLIP-AD: the labels against one more text, "a photo of something"."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import UsageError
from ...indexer.caption_index import CaptionIndex, find_captions
from ...indexer.encode.encoder import Encoder
from .contract import Fitted, Fitting, Query, Score
from .parameters import positive
from .similarity import share_of, similarity

SOMETHING = "a photo of something"


def something_vector(index: CaptionIndex, encoder: Encoder | None) -> np.ndarray | None:
    """float32 [d], that text's vector, from the model or the index, where either has it."""
    if encoder is not None:
        return encoder.encode_texts([SOMETHING])[0]
    found = find_captions(index, {SOMETHING: SOMETHING})
    return index.vectors.fetch(np.array([found[SOMETHING]]))[0] if found else None


def fit_clip_ad(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Share of `fitting.something` [d] in the softmax; UsageError where it is absent."""
    if fitting.something is None:
        raise UsageError(
            "clip_ad was asked for without its additional text",
            f'the vector of "{SOMETHING}"',
            "Add --model, or that text to the captions of the index",
        )
    prompts, tau = fitting.normals.prompts, positive(parameters, "tau")
    something = fitting.something[None, :]

    def score(query: Query) -> np.ndarray:
        labels = similarity(query.images, prompts, tau).log_sum
        return share_of(similarity(query.images, something, tau).log_sum, labels)

    return score


CLIP_AD = Score(
    name="clip_ad",
    formula='last of softmax([s, x·t_∅]/τ), t_∅ = "a photo of something", τ = 0.01',
    source="Liznerski et al., Exposing Outlier Exposure, TMLR 2022, arXiv 2205.11474",
    fit=fit_clip_ad,
    defaults={"tau": 0.01},
)
