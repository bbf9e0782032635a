"""One audited image with all its captions, as a reader is shown it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """One retrieved caption and how it bears on one image."""

    text: str
    similarity: float
    """Raw cosine to the image."""
    pull: float
    """That cosine in standard deviations of the nearest class's own: what gives a stray away."""
    origin: str | None = None
    """The source it is from, and of several indexes which, where there are more than one."""
    licence: str | None = None
    """That source's licence, where it is known."""


@dataclass(frozen=True)
class AuditedImage:
    """One image with everything a reader needs to judge it."""

    path: str
    label: str | None
    score: float
    nearest: str
    ics: float
    ets: float
    p: float | None
    captions: tuple[Caption, ...]
    """The retrieved captions, strongest pull first."""
    q: float | None = None
    flagged: bool = False
    predicted: str | None = None
    """The class it suits best, where labels were questioned."""
    margin: float | None = None
    """By how much, in cosines; positive where that is not its own class."""
    label_quality: float | None = None
