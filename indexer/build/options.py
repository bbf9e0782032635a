"""What can be said of how an index is built, checked when it is said."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...corpora.captions import CaptionRules
from ...distributed.cluster import RayEngine
from ...errors import UsageError

DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class IndexOptions:
    """How captions become an index; None leaves the choice to each corpus."""

    rules: CaptionRules = field(default_factory=CaptionRules)
    prompts: tuple[str, ...] | None = None
    """Templates whose embeddings are averaged; default the corpus's own."""
    dtype: str | None = None
    """float16 or float32; default float16, and for float32 embeddings made elsewhere float32."""
    part_rows: int = 32_768
    near_duplicates: float | None = None
    """Remove a caption whose embedding has this cosine or more with an earlier one that stays."""
    licences: tuple[str, ...] = ()
    """One text for all sources, or `NAME=TEXT` for each."""
    export: bool = False
    """Also write `text.index`, for other programs that use FAISS."""
    repair: bool = False
    """Look through a finished index and make its damaged parts again."""
    overwrite: bool = False
    engine: RayEngine | None = None
    """Where to encode, with Ray; None: in this process."""

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(
                f"dtype '{self.dtype}' was given", f"one of {', '.join(DTYPES)}", "Correct --dtype"
            )
        if self.part_rows < 1:
            raise UsageError(
                f"parts of {self.part_rows} rows were asked for", "at least 1 row", "Ask for more"
            )
        if self.near_duplicates is not None and not 0 < self.near_duplicates < 1:
            raise UsageError(
                f"near-duplicates from a cosine of {self.near_duplicates} on were to go",
                "a cosine above 0 and below 1",
                "Correct --near-duplicates; equal captions go without it",
            )


NO_OPTIONS = IndexOptions()
