"""The interface of engines, which embed parts elsewhere, for example on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...corpora import ImageSource
from ...progress import Progress
from ..encode.encoder import Encoder
from ..images.cache import CachedVectors
from ..images.decoding import DecodingLimits
from ..store.parts import Part
from ..store.sources import Described
from .plan import RowPlan


@dataclass(frozen=True)
class EmbeddingTask:
    """The parts of an image collection that are still to be embedded."""

    images: ImageSource
    encoder: Encoder
    """With EXIF orientations applied or not, as its preprocessing says."""
    limits: DecodingLimits
    part_rows: int
    cached: CachedVectors
    """Images that need not be embedded again."""
    is_finished: Callable[[int], bool]
    """Whether the part with this number is to be skipped."""
    write: Callable[[int, Part], None]
    """Stores a part under its number."""
    progress: Progress


class Engine(Protocol):
    """Embeds parts somewhere; one object serves `IndexOptions` and `EmbedOptions`."""

    def encode_captions(
        self,
        plan: RowPlan,
        numbers: Sequence[int],
        encoder: Encoder,
        described: Sequence[Described],
        progress: Progress,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(number, raw vectors float32 [m, d]) of each of the parts `numbers`, in any order."""

    def embed_images(self, task: EmbeddingTask) -> int:
        """Embed and write every part that is not finished; returns the rows of the collection."""
