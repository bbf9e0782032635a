"""What every score is: facts about it, a fit on embeddings, and a function of embeddings.

Higher = more anomalous, everywhere; a score published the other way round is turned. All vectors
are unit rows. No model is inside: the same arrays serve every score.

Parameters of a score, checked when it is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import UsageError
from ..bliss import Retrieved


@dataclass(frozen=True)
class Normals:
    """The normal classes: C prompts, and m reference images where there are any."""

    classes: tuple[str, ...]
    prompts: np.ndarray
    """float32 [C, d], one unit row a class."""
    images: np.ndarray
    """float32 [m, d]; m may be 0."""
    labels: np.ndarray
    """int64 [m], class numbers."""


@dataclass(frozen=True)
class Fitting:
    """What a score may be fitted on."""

    normals: Normals
    texts: np.ndarray
    """float32 [M, d], external texts; M may be 0."""
    names: np.ndarray | None = None
    """str [M], the texts themselves, for scores that look at words."""
    something: np.ndarray | None = None
    """float32 [d], the unit vector of "a photo of something", for CLIP-AD."""
    head: Mapping[str, np.ndarray] | None = None
    """What `bliss train oecl` left, by name, for scores that are trained on outlier images."""
    no_prompts: np.ndarray | None = None
    """float32 [C, d], a unit "no" vector for each class, for CLIPN."""


@dataclass(frozen=True)
class Query:
    """n images to score."""

    images: np.ndarray
    """float32 [n, d]."""
    retrieved: Retrieved | None = None
    """Their k nearest external texts, for scores that need an index."""
    terms: Mapping[object, np.ndarray] = field(default_factory=dict)
    """Term over all external texts -> float64 [n], worked out beforehand for several scores
    together; see `text_terms.with_terms`."""
    views: np.ndarray | None = None
    """float32 [n, V, d], views of each image, for scores that average over them."""


Fitted = Callable[[Query], np.ndarray]
"""A fitted score: n images to float64 [n], higher = more anomalous."""


@dataclass(frozen=True)
class Score:
    """One score of the field, with what a reader wants to know of it."""

    name: str
    formula: str
    """One line, in the letters of docs/method.md."""
    source: str
    """Paper, venue and year, with its arXiv number where it has one."""
    fit: Callable[[Fitting, Mapping[str, float]], Fitted]
    """From what it is fitted on and every default (overridden or not) to the fitted score."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    needs_normals: bool = False
    """Whether it needs reference images (all need prompts)."""
    needs_texts: bool = False
    needs_index: bool = False
    """Whether a query must bring its retrieved texts."""
    needs_no_prompts: bool = False
    """Whether it needs the labels' "no" vectors, of a trained CLIPN."""
    needs_head: bool = False
    """Whether it needs what `bliss train oecl` left."""
    trained: bool = False
    """Whether it needs something that was trained beforehand."""
    stateful: bool = False
    """Whether an image's score depends on the others in the query: p-values are void then."""


def fit_score(score: Score, fitting: Fitting, **changed: float) -> Fitted:
    """Fit one score with its defaults, some `changed`.

    Raises UsageError for a parameter it does not have, and where it needs reference images, texts
    or "no" vectors that are not there.
    """
    unknown = sorted(set(changed) - set(score.defaults))
    if unknown:
        raise UsageError(
            f"{score.name} was given {', '.join(unknown)}",
            f"only {', '.join(score.defaults) or 'no parameter'}",
            "Leave it out",
        )
    if score.needs_normals and not len(fitting.normals.images):
        raise UsageError(
            f"{score.name} was asked for without reference images",
            "reference images of every normal class",
            "Add them, or choose a score that needs none",
        )
    if score.needs_texts and not len(fitting.texts):
        raise UsageError(
            f"{score.name} was asked for without external texts",
            "a caption index",
            "Add --index or --corpus",
        )
    if score.needs_no_prompts and fitting.no_prompts is None:
        raise UsageError(
            f'{score.name} was asked for without the labels\' "no" vectors',
            "a trained CLIPN",
            "Add --clipn DIR with what `bliss train clipn` made",
        )
    return score.fit(fitting, {**score.defaults, **changed})


def positive(parameters: Mapping[str, float], name: str) -> float:
    """A parameter above 0, such as a temperature."""
    value = float(parameters[name])
    if not 0 < value < float("inf"):
        raise _refused(name, value, "a number above 0")
    return value


def between(parameters: Mapping[str, float], name: str, lowest: float, highest: float) -> float:
    """A parameter from `lowest` to `highest`, both allowed."""
    value = float(parameters[name])
    if not lowest <= value <= highest:
        raise _refused(name, value, f"a number from {lowest:g} to {highest:g}")
    return value


def whole(parameters: Mapping[str, float], name: str, lowest: int) -> int:
    """A whole parameter, `lowest` or more."""
    value = float(parameters[name])
    if not (value >= lowest and value.is_integer()):
        raise _refused(name, value, f"a whole number, {lowest} or more")
    return int(value)


def _refused(name: str, value: float, needed: str) -> UsageError:
    return UsageError(f"{name} = {value:g} was given", needed, "Change it or leave it out")
