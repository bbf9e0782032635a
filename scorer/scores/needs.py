"""What scores need beside label prompts and images: the one table of needs and who provides them.

A score declares its needs (`Score.needs`). `fit_score` refuses a score whose needs are not met, in
the words of this table; an audit and an evaluation call `provide` with what they have opened. A new
need is a member of `Need` and its line in NEEDS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from ...indexer.encode.encoder import Encoder
from ...indexer.search.captions import CaptionIndex, text_vector

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
        "a folder `bliss train oecl` made", "Add --head DIR", lambda resources: resources.head
    ),
    Need.NO_PROMPTS: Provider(
        "a trained CLIPN",
        "Add --clipn DIR with what `bliss train clipn` made",
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
