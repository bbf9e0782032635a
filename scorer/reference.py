"""Reference: everything that scoring needs of the normal images.

A class c is its moments (n_c, m_c, Σ_c; see moments.py) and the unit vector t_c of its label
prompt. Both are independent of the caption corpus. Two things are kept for other purposes: images
for calibration, and a sample of images for scores that moments do not serve.

    >>> import numpy as np
    >>> from blissaudit.scorer.moments import fit_moments
    >>> rows = np.eye(2, dtype=np.float32)
    >>> reference = Reference(fit_moments(["cup", "mug"], rows, np.arange(2)), rows)
    >>> reference.classes, reference.calibration_count
    (('cup', 'mug'), 0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .moments import Moments


@dataclass(frozen=True)
class Calibration:
    """Clean images that turn scores into p-values."""

    images: np.ndarray
    """float32 [m, d], unit rows."""
    labels: np.ndarray
    """int64 [m], class numbers."""
    in_moments: bool = False
    """False: held out of the moments, which guarantees the rate. True: images of the reference,
    each left out of its own class when it is scored, which does not (calibration.py)."""


@dataclass(frozen=True)
class Sample:
    """Reference images themselves, for scores that moments do not serve."""

    images: np.ndarray
    """float32 [s, d], unit rows."""
    labels: np.ndarray
    """int64 [s], class numbers, ascending."""


@dataclass(frozen=True)
class Reference:
    """The C normal classes, in d dimensions. What follows the vectors, scoring does not read."""

    moments: Moments
    prompt_vectors: np.ndarray
    """float32 [C, d], unit rows, one label prompt a class."""
    prompts: tuple[str, ...] = ()
    """The texts of the label prompts."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the encoder, to be compared with that of an index."""
    members: object = None
    """The images it was fitted on, by content: a mapping that `members.as_members` reads."""
    calibration: Calibration | None = None
    sample: Sample | None = None
    """Some images of the classes whose moments hold a scatter and not their rows."""
    set_aside: Mapping[str, int] = field(default_factory=dict)
    """Classes with too few images to be normal, and how many images each had."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The C class names, in the order of every class number."""
        return self.moments.classes

    def only(self, classes: slice) -> Reference:
        """Moments and prompts of some classes, which is all that scoring against them reads."""
        names, parts = self.moments.classes[classes], self.moments.parts[classes]
        return Reference(Moments(names, parts), self.prompt_vectors[classes])

    def kept_images(self, number: int) -> np.ndarray:
        """float32 [m, d], unit rows: the images of class `number` that are kept, which may be none.

        All of them where the moments hold rows, else those in `sample`.
        """
        part = self.moments.parts[number]
        if part.centred is not None:
            return (part.centred + part.mean).astype(np.float32)
        if self.sample is None:
            return np.zeros((0, part.mean.size), np.float32)
        return self.sample.images[self.sample.labels == number]

    @property
    def calibration_count(self) -> int:
        """m, how many images p-values are computed from."""
        return 0 if self.calibration is None else len(self.calibration.labels)
