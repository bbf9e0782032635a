"""The options of building an index, and the protocol of engines that embed somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ...arguments import checked_fields
from ...corpora import CaptionRules, ImageSource
from ...errors import UsageError
from ...progress import Progress
from ..encode.encoder import Encoder
from ..images.cache import CachedVectors
from ..images.decoding import DecodingLimits
from ..search.captions import Engine
from ..store.parts import Described, Part
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


class EmbeddingEngine(Engine, Protocol):
    """An engine that also embeds; `IndexOptions` and `EmbedOptions` have one."""

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


DTYPES = ("float16", "float32")


@checked_fields
@dataclass(frozen=True)
class IndexOptions:
    """How captions become an index."""

    rules: CaptionRules = field(default_factory=CaptionRules)
    prompts: tuple[str, ...] | None = None
    """Templates whose embeddings are averaged; by default those of each corpus."""
    dtype: str | None = None
    """float16 or float32; by default float16, or float32 for existing embeddings in float32."""
    part_rows: int = 32_768
    near_duplicates: float | None = None
    """Remove captions whose embedding has at least this cosine with one that is kept before."""
    licences: tuple[str, ...] = ()
    """One licence for all sources, or `NAME=LICENCE` for each."""
    export: bool = False
    """Also write `text.index`, for other programs that use FAISS."""
    repair: bool = False
    """Check a finished index and make its damaged parts again."""
    overwrite: bool = False
    engine: EmbeddingEngine | None = None
    """Where to encode; None: in this process."""

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(
                f"dtype '{self.dtype}' was given", f"one of {', '.join(DTYPES)}", "Correct --dtype"
            )
        if self.part_rows < 1:
            raise UsageError(
                f"parts of {self.part_rows} rows were requested", "at least 1 row", "Request more"
            )
        if self.near_duplicates is not None and not 0 < self.near_duplicates < 1:
            raise UsageError(
                f"a cosine of {self.near_duplicates} was given for near duplicates",
                "a cosine above 0 and below 1",
                "Correct --near-duplicates; equal captions are removed without it",
            )


NO_OPTIONS = IndexOptions()
