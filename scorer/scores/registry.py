"""Every score by name. A new one is a module here: import it and name it in MODULES."""

from __future__ import annotations

from . import (
    bliss,
    bliss_plus,
    clip_ad,
    clipn,
    costarr,
    csp,
    debiased_negatives,
    energy,
    eoe,
    gaussian_ad,
    knn,
    mahalanobis,
    maximum_cosine,
    mcm,
    msp,
    neglabel,
    neglabel_retrieved,
    relative_mahalanobis,
    smmp,
    sparse_lookup,
    vim,
)
from .contract import Score

MODULES = (
    bliss,
    bliss_plus,
    clip_ad,
    clipn,
    costarr,
    csp,
    debiased_negatives,
    energy,
    eoe,
    gaussian_ad,
    knn,
    mahalanobis,
    maximum_cosine,
    mcm,
    msp,
    neglabel,
    neglabel_retrieved,
    relative_mahalanobis,
    smmp,
    sparse_lookup,
    vim,
)

SCORES: dict[str, Score] = {
    value.name: value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, Score)
}
"""Every module constant of type Score, by its name."""
