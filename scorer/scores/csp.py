"""CSP: NegLabel's score on better texts, so only its inputs differ here.

Prompts must be means over 8 templates (`average_templates`), and adjectives must have been
completed with a superclass noun before they were embedded ("white item"): that is work on words,
which cannot be done on vectors. Given vectors made otherwise, this is NegLabel.
"""

from __future__ import annotations

import numpy as np

from ...indexer.vectors.unit_rows import normalise_rows
from .contract import Score
from .negative_texts import MINING
from .neglabel import fit_neglabel


def average_templates(vectors: np.ndarray) -> np.ndarray:
    """float32 [C, d], the direction of each label's mean over templates, from [templates, C, d]."""
    return normalise_rows(vectors.astype(np.float64).sum(axis=0)).unit


CSP = Score(
    name="csp",
    formula="NegLabel's, with t_i the mean over 8 templates and adjectives completed by nouns",
    source="Chen et al., Conjugated Semantic Pool Improves OOD Detection, NeurIPS 2024, "
    "arXiv 2410.08611",
    fit=fit_neglabel,
    defaults={"tau": 0.01, "groups": 100, "seed": 0, **MINING},
    needs_texts=True,
)
