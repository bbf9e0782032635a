"""What a set of normal images leaves behind: moments, label prompts, and who was in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .members import Membership, no_members
from .moments import Moments


@dataclass(frozen=True)
class Calibration:
    """Clean images held out of the moments, kept to turn scores into p-values."""

    images: np.ndarray
    """float32 [m, d], unit rows."""
    labels: np.ndarray
    """int64 [m], class numbers."""


@dataclass(frozen=True)
class Sample:
    """Reference images themselves, for scores that moments do not serve."""

    images: np.ndarray
    """float32 [s, d], unit rows."""
    labels: np.ndarray
    """int64 [s], class numbers, ascending."""


@dataclass(frozen=True)
class Reference:
    """The normal classes: everything scoring needs of them, whatever the corpus."""

    moments: Moments
    prompt_vectors: np.ndarray
    """float32 [C, d], unit rows, one label prompt a class."""
    prompts: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    """The encoder's facts, compared with an index's before the two are used together."""
    members: Membership = field(default_factory=no_members)
    """Content hash of each reference image -> the classes it is filed under."""
    calibration: Calibration | None = None
    sample: Sample | None = None
    """Some images of the classes whose moments do not hold their rows; see reference_file.py."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The C class names, in the order of every class number."""
        return self.moments.classes

    @property
    def calibration_count(self) -> int:
        """m, how many images are held out for calibration."""
        return 0 if self.calibration is None else len(self.calibration.labels)
