"""The options of building an index."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...corpora import CaptionRules
from ...errors import UsageError
from .engine import Engine

DTYPES = ("float16", "float32")


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
    engine: Engine | None = None
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
