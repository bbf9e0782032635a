"""Build a caption index: from a corpus and a model, or from embeddings made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..artefacts import read_json
from ..corpora.captions import CaptionRules, PreparedCaptions, prepare_captions
from ..corpora.prompts import check_prompts
from ..corpora.texts import TextSource
from ..errors import BlissError, UsageError
from .caption_index import KIND, CaptionIndex, open_index
from .embedded_texts import open_text_embeddings
from .encoding import IDENTITY, Encoder, encode_prompts
from .layout import load_vectors
from .nearest import write_flat_index
from .parts import (
    Part,
    begin_building,
    finish_building,
    finished_part,
    is_finished,
    write_part,
)
from .unit_rows import normalise_rows

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

DTYPES = ("float16", "float32")
CAPTIONS_AT_ONCE = 4096
"""Captions embedded between two words of progress."""


def no_progress(what: str, done: int, total: int) -> None:
    """The Progress that says nothing."""


@dataclass(frozen=True)
class IndexOptions:
    """How captions become an index; None leaves the choice to the corpus."""

    rules: CaptionRules = field(default_factory=CaptionRules)
    prompts: tuple[str, ...] | None = None
    """Templates whose embeddings are averaged; default the corpus's own."""
    dtype: str | None = None
    """float16 or float32; default float16, and for float32 embeddings made elsewhere float32."""
    part_rows: int = 32_768
    export: bool = False
    """Also write `text.index`, for other programs that use FAISS."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(
                f"dtype '{self.dtype}' was given", f"one of {', '.join(DTYPES)}", "Correct --dtype"
            )
        if self.part_rows < 1:
            raise UsageError(
                f"parts of {self.part_rows} rows were asked for", "at least 1 row", "Ask for more"
            )


NO_OPTIONS = IndexOptions()


def build_index(
    source: TextSource,
    encoder: Encoder,
    folder: str | Path,
    options: IndexOptions = NO_OPTIONS,
    progress: Progress = no_progress,
) -> CaptionIndex:
    """Embed the captions of `source` into `folder`, or go on where an interrupted build stopped.

    Raises UsageError where the folder belongs to another request, BlissError for a corpus
    without usable text or a disk that cannot be written (finished parts stay).
    """
    prompts = check_prompts(options.prompts or (source.default_prompt,))
    dtype = options.dtype or "float16"
    facts = dict(encoder.facts)
    request = {"corpus": source.facts(), "prompts": list(prompts), **_settings(options, dtype)}
    request |= {name: facts[name] for name in (*IDENTITY, "precision")}

    def vectors(captions: PreparedCaptions, rows: slice) -> np.ndarray:
        return encode_prompts(encoder, captions.captions[rows], prompts)

    return _build(source, Path(folder), options, (request, facts, dtype), vectors, progress)


def index_embeddings(
    folder: str | Path,
    output: str | Path,
    column: str | None = None,
    options: IndexOptions = NO_OPTIONS,
    progress: Progress = no_progress,
) -> CaptionIndex:
    """Index precomputed text embeddings in clip-retrieval's layout; no model is needed.

    `column` of the metadata holds the captions. Vectors are normalised and the number that
    needed it is reported; zero and non-finite ones are left out and listed as failures.
    """
    if options.prompts is not None:
        raise UsageError(
            "prompts were given with --embeddings",
            "no prompts: the texts are embedded already",
            "Leave --prompt out",
        )
    source = open_text_embeddings(Path(folder), column)
    arrays = [load_vectors(path) for path in source.folder.vectors]
    starts = np.cumsum([0, *source.folder.rows])
    dtype = options.dtype or ("float16" if arrays[0].dtype == np.float16 else "float32")
    facts = {"model": None, "weights_sha256": None, "dimension": source.folder.dimension}
    request = {"corpus": source.facts(), **_settings(options, dtype)}

    def vectors(captions: PreparedCaptions, rows: slice) -> np.ndarray:
        wanted = captions.rows[rows]
        part = np.searchsorted(starts, wanted, side="right") - 1
        out = np.empty((len(wanted), source.folder.dimension), np.float32)
        for number in np.unique(part):
            here = part == number
            out[here] = arrays[number][wanted[here] - starts[number]]
        return out

    return _build(source, Path(output), options, (request, facts, dtype), vectors, progress)


def _settings(options: IndexOptions, dtype: str) -> dict[str, Any]:
    return {"rules": asdict(options.rules), "dtype": dtype, "part_rows": options.part_rows}


def _build(
    source: TextSource,
    folder: Path,
    options: IndexOptions,
    settings: tuple[dict[str, Any], Mapping[str, Any], str],
    vectors: Callable[[PreparedCaptions, slice], np.ndarray],
    progress: Progress,
) -> CaptionIndex:
    request, facts, dtype = settings
    begin_building(folder, request, options.overwrite)
    if not is_finished(folder):
        captions = prepare_captions(source, options.rules)
        total = len(captions.captions)
        starts = range(0, total, options.part_rows)
        for number, start in enumerate(starts):
            rows = slice(start, min(total, start + options.part_rows))
            if finished_part(folder, number) is None:
                found = []
                for first in range(rows.start, rows.stop, CAPTIONS_AT_ONCE):
                    progress("captions embedded", first, total)
                    last = min(rows.stop, first + CAPTIONS_AT_ONCE)
                    found.append(vectors(captions, slice(first, last)))
                part = _make_part(captions, rows, np.concatenate(found), dtype, source.spec)
                write_part(folder, "text", number, part)
        progress("captions embedded", total, total)
        described = {name: value for name, value in request.items() if name != "corpus"}
        _finish(folder, len(starts), captions, source, {"model": dict(facts), **described})
    index = open_index(folder)
    if options.export and not (folder / "text.index").is_file():
        write_flat_index(folder / "text.index", index.vectors, index.model["dimension"])
    return index


def _make_part(
    captions: PreparedCaptions, rows: slice, raw: np.ndarray, dtype: str, source: str
) -> Part:
    made = normalise_rows(raw)
    good = np.ones(len(raw), bool)
    good[made.unusable] = False
    kept = np.flatnonzero(good) + rows.start
    metadata = pa.table(
        {
            "caption": pa.array([captions.captions[i] for i in kept], pa.string()),
            "source_row": pa.array(captions.rows[kept]),
            "source": pa.array([source] * len(kept), pa.string()),
            "licence": pa.nulls(len(kept), pa.string()),
        }
    )
    failures = tuple(
        {
            "source_row": int(captions.rows[rows.start + i]),
            "caption": captions.captions[rows.start + i],
            "reason": "the embedding is zero or not finite",
        }
        for i in made.unusable
    )
    counts = {"normalised": made.adjusted}
    return Part(made.unit[good].astype(dtype), metadata, failures, counts)


def _finish(
    folder: Path,
    part_count: int,
    captions: PreparedCaptions,
    source: TextSource,
    facts: Mapping[str, Any],
) -> None:
    records = [read_json(folder / f"parts/part_{p}.json") for p in range(part_count)]
    stored = sum(record["rows"] for record in records)
    if not stored:
        raise BlissError(
            f"none of the {len(captions.captions):,} embeddings can be used",
            "at least one vector that is neither zero nor infinite nor NaN",
            "Embed the texts again",
        )
    unusable = len(captions.captions) - stored
    counts = {**captions.counts, "unusable": unusable, "kept": stored}
    described = {
        "name": source.spec,
        "licence": None,
        "corpus": source.facts(),
        "prompts": facts.get("prompts", []),
        "counts": counts,
        "rows": stored,
    }
    finish_building(
        folder,
        "text",
        part_count,
        {
            "kind": KIND,
            "count": stored,
            "counts": counts,
            "sources": [described],
            "removed": None,
            "search": {"kind": "exact"},
            **facts,
        },
    )
