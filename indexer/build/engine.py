"""The interface of engines, which embed, search and score elsewhere, for example on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from ...corpora import ImageSource
from ...progress import Progress
from ..encode.encoder import Encoder
from ..images.cache import CachedVectors
from ..images.decoding import DecodingLimits
from ..search.captions import CaptionIndex
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


Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Embeds, searches and computes somewhere; `IndexOptions` and `EmbedOptions` have one."""

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

    def spread(self, index: CaptionIndex) -> AbstractContextManager[CaptionIndex]:
        """The same index with the same hits, searched by the engine for as long as the block."""

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What the built-in `map` gives, in the order of `items`; other processes call `task`.

        Both are copied there: files are to be at the same path.
        """
