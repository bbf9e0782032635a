"""The score of one class as a linear function of the image vector, with everything else frozen.

For class c and the k captions d that were retrieved for an image x,

    ICS_c(x) + λ·ETS_c(x) = w·x + b
    w = (λ/k)·Σ_d d/σ_{c,d} - t_c/σ_c
    b = μ_c/σ_c - (λ/k)·Σ_d μ_{c,d}/σ_{c,d}

with the means and deviations of scoring (1e-8 added to each σ, and without x where it is itself an
image of the class). The first term of w and its part of b belong to the captions, the rest to the
label; each has a direction of its own.

    >>> import numpy as np
    >>> from blissaudit.scorer import NOTHING_LEFT_OUT, Reference, Retrieved, fit_moments
    >>> rows = np.array([[1, 0], [0.6, 0.8]], np.float32)
    >>> reference = Reference(fit_moments(["cup"], rows, np.zeros(2, int)), rows[:1])
    >>> retrieved = Retrieved(rows[:, :1], np.zeros((2, 1)), np.zeros((2, 1), int), rows[1:])
    >>> terms = class_terms(rows, retrieved, reference, np.zeros(2, int), NOTHING_LEFT_OUT)
    >>> terms.directions(0.5)[0].round(2).tolist()  # (0.5·d - t)/0.2
    [-3.5, 2.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..bliss import EPSILON, Retrieved
from ..leave_one_out import LeftOut, class_texts, left_out_statistics
from ..reference import Reference
from ..statistics import class_std_float64


@dataclass(frozen=True)
class ClassTerms:
    """The statistics of one class per image: column 0 is its label prompt, then the k captions."""

    texts: np.ndarray
    """float64 [n, 1 + k, d], unit rows."""
    mean: np.ndarray
    """float64 [n, 1 + k], μ."""
    std: np.ndarray
    """float64 [n, 1 + k], σ + 1e-8."""

    def factors(self, weight: float) -> np.ndarray:
        """float64 [1 + k], what each standardised similarity counts: -1, and λ/k per caption."""
        k = self.mean.shape[1] - 1
        return np.concatenate([[-1.0], np.full(k, weight / max(1, k))])

    def directions(self, weight: float, counted: np.ndarray | bool = True) -> np.ndarray:
        """float64 [n, d], w for λ `weight` of the texts that are `counted`.

        `counted` is bool [n, 1 + k] or what broadcasts to it: all texts, the label or captions.
        """
        return np.einsum("nt,ntd->nd", counted * self.factors(weight) / self.std, self.texts)

    def constants(self, weight: float, counted: np.ndarray | bool = True) -> np.ndarray:
        """float64 [n], b for the same texts."""
        return -(counted * self.factors(weight) * self.mean / self.std).sum(axis=1)

    def standardised(self, images: np.ndarray) -> np.ndarray:
        """float64 [n, 1 + k], (x·d - μ)/σ of unit rows `images` [n, d]: -ICS, then the pulls."""
        similarity = np.einsum("ntd,nd->nt", self.texts, images.astype(np.float64))
        return (similarity - self.mean) / self.std


def class_terms(
    images: np.ndarray,
    retrieved: Retrieved,
    reference: Reference,
    classes: np.ndarray,
    left_out: LeftOut,
) -> ClassTerms:
    """The terms of class `classes`[i] for each of n unit rows `images` [n, d].

    An image that `left_out` names with that class is left out of it. It is meant for the few images
    that are shown: memory is n·(1 + k)·d.
    """
    n, k = retrieved.position.shape
    texts = np.empty((n, 1 + k, images.shape[1]))
    texts[:, 0] = reference.prompt_vectors[classes]
    texts[:, 1:] = retrieved.vectors[retrieved.position]
    mean, std = np.empty((n, 1 + k)), np.empty((n, 1 + k))
    own = set(zip(left_out.images.tolist(), left_out.classes.tolist(), strict=True))
    for i, number in enumerate(np.asarray(classes).tolist()):
        part = reference.moments.parts[number]
        if (i, number) in own:
            position = np.arange(1 + k)[None]
            statistics = class_texts(part, texts[i])
            mean[i], std[i] = left_out_statistics(statistics, images[i : i + 1], position)
        else:
            mean[i], std[i] = texts[i] @ part.mean, class_std_float64(part, texts[i])
    return ClassTerms(texts, mean, std + EPSILON)
