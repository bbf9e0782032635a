"""The arrays that a trained score reads from a head folder."""

from __future__ import annotations

import numpy as np

from ...errors import BlissError, UsageError
from .contract import Fitting


def trained_arrays(fitting: Fitting, score: str, *names: str) -> list[np.ndarray]:
    """The named arrays of `fitting.head`.

    Raises UsageError where no head is there, BlissError where it lacks one of them or is for
    another dimension than the label prompts; the last axis of the first array is d.
    """
    if fitting.head is None:
        raise UsageError(
            f"{score} was asked for without a trained head",
            "a folder `bliss train oecl` made",
            "Add --trained DIR",
        )
    missing = [name for name in names if name not in fitting.head]
    if missing:
        raise BlissError(
            f"the head has no {', '.join(missing)}, which {score} needs",
            "a whole head",
            "Train it again",
        )
    found = [fitting.head[name] for name in names]
    d, wanted = found[0].shape[-1], fitting.normals.prompts.shape[1]
    if d != wanted:
        raise BlissError(
            f"the head is for embeddings of {d} dimensions and these have {wanted}",
            "a head trained with the same model",
            "Train one on embeddings of this model",
        )
    return found
