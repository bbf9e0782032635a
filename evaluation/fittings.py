"""What scores are fitted on in each draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BlissError
from ..indexer.nearest import Vectors
from ..scorer.scores.contract import Fitting, Normals
from .draws import Draw
from .world import World


@dataclass(frozen=True)
class Words:
    """What is the same for every draw: the text side, and a trained head where there is one."""

    prompts: Mapping[str, np.ndarray]
    """Class name -> float32 [d], its label prompt's unit vector."""
    texts: Vectors
    """M external texts."""
    k: int = 10
    """Texts retrieved for each image."""
    names: np.ndarray | None = None
    """str [M]."""
    something: np.ndarray | None = None
    """float32 [d], "a photo of something"."""
    head: Mapping[str, np.ndarray] | None = None
    """What was trained beforehand on outlier images."""


def fittings_of(
    world: World, draws: Sequence[Draw], words: Words, with_texts: bool
) -> list[Fitting]:
    """What each draw's scores are fitted on; BlissError for a class without a prompt."""
    texts = np.zeros((0, world.images.shape[1]), np.float32)
    if with_texts and words.texts.count:
        texts = np.concatenate([block for _, block in words.texts.blocks()])
    made = []
    for draw in draws:
        missing = [name for name in draw.normal if name not in words.prompts]
        if missing:
            raise BlissError(
                f"there is no prompt for {', '.join(missing)}", "one for every class", "Add them"
            )
        prompts = np.stack([words.prompts[name] for name in draw.normal])
        normals = Normals(draw.normal, prompts, world.images[draw.reference], draw.labels)
        names = words.names if with_texts else None
        made.append(Fitting(normals, texts, names, words.something, words.head))
    return made
