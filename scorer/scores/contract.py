"""The contract of all scores: facts about a score, a fit on embeddings, a function of embeddings.

Higher = more anomalous, for every score; a score that was published the other way round is negated.
All vectors are unit rows. No model is involved: the same arrays serve every score.

Needs beside label prompts and images: a score declares its needs (`Score.needs`). `fit_score`
refuses a score whose needs are not met, in the words of this table; an audit and an evaluation call
`provide` with what they have opened. A new need is a member of `Need` and its line in NEEDS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from ...errors import UsageError
from ...indexer import CaptionIndex, Encoder, text_vector
from ..bliss import Retrieved

SOMETHING = "a photo of something"
"""The additional text of CLIP-AD."""


class Need(Enum):
    """One thing that a score needs; the value names it in messages."""

    NORMALS = "reference images"
    """The images themselves: `Fitting.normals` has some."""
    MOMENTS = "reference images of every class"
    """Only their moments, so that a fitted reference serves, and an image can be left out of it."""
    TEXTS = "external texts"
    """All vectors of the caption index: `Fitting.texts`."""
    RETRIEVED = "the retrieved texts of each image"
    """`Query.retrieved`."""
    OTHER_IMAGES = "the other images of the query"
    """An image's score depends on them, so p-values do not hold."""
    HEAD = "a trained head"
    """Mapping of names to arrays: what `bliss train oecl` saved."""
    NO_PROMPTS = 'the labels\' "no" vectors'
    """float32 [C, d], one unit vector a class, of a trained CLIPN."""
    SOMETHING = "its additional text"
    """float32 [d], the unit vector of SOMETHING."""


@dataclass(frozen=True)
class Resources:
    """What an audit or an evaluation has opened."""

    index: CaptionIndex
    encoder: Encoder | None = None
    head: Mapping[str, np.ndarray] | None = None
    no_prompts: Callable[[], np.ndarray] | None = None
    """Makes the "no" vectors [C, d] of all classes."""


@dataclass(frozen=True)
class Provider:
    """How a need is met."""

    needed: str
    remedy: str
    """The two ends of the message where it is not met."""
    provide: Callable[[Resources], Any] = lambda resources: None
    """Its value for `Fitting.extras`; None where there is none, or the images and texts hold it."""
    per_class: bool = False
    """Whether the value has a row for each class."""


NEEDS: Mapping[Need, Provider] = {
    Need.NORMALS: Provider(
        "reference images of every normal class", "Add them, or choose a score that needs none"
    ),
    Need.MOMENTS: Provider(
        "reference images of every normal class", "Add them, or choose a score that needs none"
    ),
    Need.TEXTS: Provider("a caption index", "Add --index or --corpus"),
    Need.RETRIEVED: Provider(
        "the nearest external texts of every image", "Retrieve them from a caption index first"
    ),
    Need.OTHER_IMAGES: Provider("several images", "Score them together"),
    Need.HEAD: Provider(
        "a folder `bliss train oecl` made", "Add --trained DIR", lambda resources: resources.head
    ),
    Need.NO_PROMPTS: Provider(
        "a trained CLIPN",
        "Add --trained DIR with what `bliss train clipn` made",
        lambda resources: resources.no_prompts and resources.no_prompts(),
        per_class=True,
    ),
    Need.SOMETHING: Provider(
        f'the vector of "{SOMETHING}"',
        "Add --model, or that text to the captions of the index",
        lambda resources: text_vector(SOMETHING, resources.index, resources.encoder),
    ),
}


def provide(needs: Iterable[Need], resources: Resources) -> dict[Need, Any]:
    """The values of those `needs` that `resources` can meet, for `Fitting.extras`."""
    found = {need: NEEDS[need].provide(resources) for need in set(needs)}
    return {need: value for need, value in found.items() if value is not None}


def for_classes(extras: Mapping[Need, Any], classes: np.ndarray) -> dict[Need, Any]:
    """`extras` for some of the classes, int [c]."""
    return {
        need: value[classes] if NEEDS[need].per_class else value for need, value in extras.items()
    }


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
    extras: Mapping[Need, Any] = field(default_factory=dict)
    """The values of further needs, as `needs.provide` returns them."""

    def has(self, need: Need) -> bool:
        """Whether a need is met; what belongs to a query is not decided here."""
        if need in (Need.NORMALS, Need.MOMENTS):
            return len(self.normals.images) > 0
        if need is Need.TEXTS:
            return len(self.texts) > 0
        return need in (Need.RETRIEVED, Need.OTHER_IMAGES) or self.extras.get(need) is not None


@dataclass(frozen=True)
class Query:
    """n images to score."""

    images: np.ndarray
    """float32 [n, d]."""
    retrieved: Retrieved | None = None
    """Their k nearest external texts, for scores that need RETRIEVED."""
    terms: Mapping[object, np.ndarray] = field(default_factory=dict)
    """Term over all external texts -> float64 [n], computed beforehand for several scores
    together; see `text_terms.search_with_terms`."""
    views: np.ndarray | None = None
    """float32 [n, V, d], views of each image, for scores that average over them."""


Fitted = Callable[[Query], np.ndarray]
"""A fitted score: n images to float64 [n], higher = more anomalous."""


@dataclass(frozen=True)
class Score:
    """One score of the field, with what a reader wants to know about it."""

    name: str
    formula: str
    """One line, in the notation of docs/method.md."""
    source: str
    """Paper, venue and year, with its arXiv number where it has one."""
    fit: Callable[[Fitting, Mapping[str, float]], Fitted]
    """From what it is fitted on and all its parameters to the fitted score."""
    defaults: Mapping[str, float] = field(default_factory=dict)
    """Its parameters and their default values."""
    needs: frozenset[Need] = frozenset()
    """What it needs beside label prompts and images."""

    @property
    def uses_references(self) -> bool:
        """Whether it depends on reference images, itself or through their moments."""
        return bool(self.needs & {Need.NORMALS, Need.MOMENTS})

    @property
    def trained(self) -> bool:
        """Whether it needs something that was trained beforehand."""
        return bool(self.needs & {Need.HEAD, Need.NO_PROMPTS})

    @property
    def stateful(self) -> bool:
        """Whether an image's score depends on the others in the query: then p-values are void."""
        return Need.OTHER_IMAGES in self.needs


def fit_score(score: Score, fitting: Fitting, **changed: float) -> Fitted:
    """Fit one score with its default parameters, some `changed`.

    Raises UsageError for a parameter it does not have and for a need that `fitting` does not meet.
    """
    unknown = sorted(set(changed) - set(score.defaults))
    if unknown:
        raise UsageError(
            f"{score.name} was given {', '.join(unknown)}",
            f"only {', '.join(score.defaults) or 'no parameter'}",
            "Leave it out",
        )
    for need in Need:
        if need in score.needs and not fitting.has(need):
            raise missing(score.name, need)
    return score.fit(fitting, {**score.defaults, **changed})


def retrieved_texts(query: Query, score: str) -> Retrieved:
    """The retrieved texts of a query; UsageError naming the score where it has none."""
    if query.retrieved is None:
        raise missing(score, Need.RETRIEVED)
    return query.retrieved


def missing(score: str, need: Need) -> UsageError:
    """The error for a need that is not met."""
    provider = NEEDS[need]
    return UsageError(f"{score} was used without {need.value}", provider.needed, provider.remedy)


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
