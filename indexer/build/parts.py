"""The parts of a caption index, made from the row plan one by one, in any order, by anybody.

Encoding is left to the caller, who hands in (part number, raw vectors): one process, a cluster or
an array made elsewhere. Which parts there are, what each holds and how the folder ends follows from
the plan alone.

Raw vectors for the missing parts of a row plan: encoded by a model, or read from arrays.

Parts made from whatever encodes them, with the rate of every stage logged and said.

The captions of text embeddings made elsewhere, read as a corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...artefacts import digest, read_json, sha256_of
from ...corpora.captions import closed_after
from ...corpora.files import read_parquet, readable
from ...corpora.prompts import fill_prompt
from ...corpora.sources import JSON, TextBatch, choose_arrow_column, make_batch
from ...progress import Progress
from ..encode.encoder import Encoder
from ..encode.pipeline import encode_captions
from ..store.parts import BUILDING, Part, files_of, finished_part, write_part
from ..store.sources import Described, encoding_prompts
from ..vectors.layout import EmbeddingFolder, load_vectors, open_embedding_folder
from ..vectors.unit_rows import normalise_rows
from .first_rows import ROWS
from .plan import RowPlan, plan_batches, read_plan_part
from .rates import StageRates, log, timed

FAILURES_NAMED = 1000
"""Failures of a part that are listed; all are counted."""
ROWS_AT_ONCE = 2048
REASON = "the embedding is zero or not finite"


def missing_parts(folder: Path, plan: RowPlan) -> tuple[int, ...]:
    """The numbers of all parts that are not there, or not whole: their files are checked."""
    return tuple(p for p in range(len(plan.parts)) if whole_part(folder, plan, p) is None)


def whole_part(folder: Path, plan: RowPlan, number: int) -> dict[str, Any] | None:
    """The record of a part that is whole and of this plan, or None."""
    record = finished_part(folder, number)
    if record is None or record.get("plan") != plan.digest:
        return None
    there = files_of("text", number) if record.get("rows") else ()
    return record if sorted(record["checksums"]) == sorted(there) else None


def captions_of_part(folder: Path, plan: RowPlan, number: int) -> list[str]:
    """The planned captions of one part, in order."""
    captions: list[str] = []
    for batch in plan_batches(plan, number, ROWS):
        captions.extend(batch.column(0).to_pylist())
    return captions


def texts_of_part(
    plan: RowPlan, number: int, size: int, templates: Sequence[str] | None
) -> Iterator[list[str]]:
    """What is to be encoded of one part, at most `size` texts at a time.

    `templates` are those of `encoding_prompts`: each caption is put into its source's.
    """
    for batch in plan_batches(plan, number, size):
        captions = batch.column(0).to_pylist()
        if templates is not None:
            sources = batch.column(1).to_pylist()
            captions = [
                fill_prompt(templates[source], caption)
                for source, caption in zip(sources, captions, strict=True)
            ]
        yield captions


def build_parts(
    folder: Path,
    plan: RowPlan,
    encoded: Iterable[tuple[int, np.ndarray]],
    dtype: str,
    rates: StageRates | None = None,
) -> None:
    """Store every (part number, raw vectors float [m, d]), each while the next one is made.

    `rates` is filled in with how fast that was. Raises what making or storing one raised; parts
    stored by then stay.
    """
    measured = StageRates() if rates is None else rates

    def store(number: int, raw: np.ndarray) -> None:
        with measured.timing("writing", len(raw)):
            store_part(folder, plan, number, raw, dtype)

    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "parts") as writer, closed_after(iter(encoded)) as parts:
        for number, raw in parts:
            if writing is not None:
                writing.result()
            writing = writer.submit(store, number, raw)
        if writing is not None:
            writing.result()


def store_part(folder: Path, plan: RowPlan, number: int, raw: np.ndarray, dtype: str) -> None:
    """Store one part: unit rows as `dtype`, metadata, captions, and its record last.

    `raw` [m, d] has a vector for each planned row of the part; a row whose vector is zero or not
    finite is left out, counted and listed.
    """
    with timed(folder, "write", part=number, rows=len(raw)):
        described = read_json(folder / BUILDING)["facts"]["sources"]
        vectors, unusable, adjusted = _stored(raw, dtype)
        good = np.ones(len(raw), bool)
        good[unusable] = False
        table = read_plan_part(plan, number).combine_chunks()
        kept = table.filter(pa.array(good))
        source = kept["source"].to_numpy()
        part = Part(
            vectors,
            _metadata(kept, source, described),
            _failures(table.take(pa.array(unusable[:FAILURES_NAMED])), described),
            {"normalised": adjusted},
            {
                "plan": plan.digest,
                "by_source": np.bincount(source, minlength=len(described)).tolist(),
            },
        )
        write_part(folder, "text", number, part)


def _stored(raw: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Unit rows [g, d] of what is usable, int64 [u] rows that are not, and how many were adjusted.

    Block by block, so that only the result is held beside `raw`.
    """
    vectors = np.empty(raw.shape, dtype)
    unusable: list[np.ndarray] = []
    filled = adjusted = 0
    for start in range(0, len(raw), ROWS_AT_ONCE):
        made = normalise_rows(raw[start : start + ROWS_AT_ONCE])
        usable = np.delete(made.unit, made.unusable, axis=0) if len(made.unusable) else made.unit
        vectors[filled : filled + len(usable)] = usable
        unusable.append(made.unusable + start)
        filled += len(usable)
        adjusted += made.adjusted
    return vectors[:filled], np.concatenate(unusable), adjusted


def _metadata(kept: pa.Table, source: np.ndarray, described: Sequence[Described]) -> pa.Table:
    def of_source(name: str) -> pa.Array:
        values = pa.array([each[name] for each in described], pa.string())
        return values.take(pa.array(source))

    return pa.table(
        {
            "caption": kept["caption"],
            "source_row": kept["source_row"],
            "source": of_source("name"),
            "licence": of_source("licence"),
        }
    )


def _failures(lost: pa.Table, described: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "source": described[row["source"]]["name"],
            "source_row": row["source_row"],
            "caption": row["caption"],
            "reason": REASON,
        }
        for row in lost.to_pylist()
    )


CAPTIONS_AT_ONCE = 4096
"""Captions handed to the encoder at once; always cut within a part, from its first row on."""

WHAT = "captions embedded"


def encoded_parts(
    plan: RowPlan,
    numbers: Sequence[int],
    encoder: Encoder,
    described: Sequence[Described],
    progress: Progress,
    rates: StageRates | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(number, float32 [m, d]) of each of the parts `numbers`, in that order.

    All their captions go through the encoder as one stream, which does not drain between parts.
    `rates` is filled in with how fast each stage was.
    """
    prompts, templates = encoding_prompts(described)

    def chunks() -> Iterator[list[str]]:
        for number in numbers:
            yield from texts_of_part(plan, number, CAPTIONS_AT_ONCE, templates)

    done = plan.count - sum(plan.parts[number] for number in numbers)
    progress(WHAT, done, plan.count)
    with closed_after(encode_captions(chunks(), encoder, prompts, rates=rates)) as encoded:
        for number in numbers:
            rows = plan.parts[number]
            raw = np.empty((rows, encoder.facts["dimension"]), np.float32)
            with timed(plan.folder.parent, "encode", part=number, rows=rows):
                at = 0
                while at < rows:
                    vectors = next(encoded)
                    raw[at : at + len(vectors)] = vectors
                    at += len(vectors)
                    progress(WHAT, done + at, plan.count)
                done += rows
            yield number, raw


def truncated_captions(
    plan: RowPlan, encoder: Encoder, described: Sequence[Described]
) -> list[int | None] | None:
    """How many captions of each source the token limit cuts in any prompt; None if not known."""
    if encoder.is_cut is None:
        return None
    prompts, templates = encoding_prompts(described)
    total = np.zeros(len(described), np.int64)
    for number in range(len(plan.parts)):
        texts = texts_of_part(plan, number, CAPTIONS_AT_ONCE, templates)
        with closed_after(plan_batches(plan, number, CAPTIONS_AT_ONCE)) as batches:
            for some, batch in zip(texts, batches, strict=True):
                cut = np.zeros(len(some), bool)
                for prompt in prompts:
                    cut |= encoder.is_cut([fill_prompt(prompt, text) for text in some])
                total += np.bincount(batch.column(1).to_numpy()[cut], minlength=len(described))
    return [int(count) for count in total]


def given_parts(
    plan: RowPlan, numbers: Sequence[int], texts: EmbeddedTexts, progress: Progress
) -> Iterator[tuple[int, np.ndarray]]:
    """(number, float32 [m, d]) of each of the parts `numbers`, from vectors made elsewhere.

    A file is mapped only while its rows are copied, so that its pages do not stay in memory.
    """
    starts = np.cumsum([0, *texts.folder.rows])
    done = plan.count - sum(plan.parts[number] for number in numbers)
    progress(WHAT, done, plan.count)
    for number in numbers:
        rows = plan.parts[number]
        raw = np.empty((rows, texts.folder.dimension), np.float32)
        with timed(plan.folder.parent, "read", part=number, rows=rows):
            at = 0
            with closed_after(plan_batches(plan, number, CAPTIONS_AT_ONCE)) as batches:
                for batch in batches:
                    wanted = batch.column(2).to_numpy()
                    _copy_rows(texts.folder.vectors, starts, wanted, raw[at : at + len(wanted)])
                    at += len(wanted)
        done += rows
        progress(WHAT, done, plan.count)
        yield number, raw


def _copy_rows(
    paths: Sequence[Path], starts: np.ndarray, wanted: np.ndarray, out: np.ndarray
) -> None:
    part = np.searchsorted(starts, wanted, side="right") - 1
    for number in np.unique(part):
        here = part == number
        out[here] = load_vectors(paths[number])[wanted[here] - starts[number]]


Encode = Callable[[RowPlan, Sequence[int], StageRates], Iterator[tuple[int, np.ndarray]]]
"""The raw vectors of some parts; what is known of the stages' rates is filled in."""


def make_parts(
    folder: Path,
    plan: RowPlan,
    numbers: Sequence[int],
    encode: Encode,
    dtype: str,
    progress: Progress,
) -> None:
    """Encode and store the parts `numbers`; errors as of `build_parts`.

    Where the encoder's rate is known, it is said which stage set the pace.
    """
    rates = StageRates()
    build_parts(folder, plan, encode(plan, numbers, rates), dtype, rates)
    if rates.limit() is not None:
        log(folder, {"stage": "rates", **rates.facts()})
    for line in rates.report():
        progress(line, 0, 0)


@dataclass(frozen=True)
class EmbeddedTexts:
    """The captions of an embedding folder as a TextSource; rows count through its parts."""

    folder: EmbeddingFolder
    column: str
    default_prompt: str = "{}"
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None

    @property
    def spec(self) -> str:
        """The folder's own name."""
        return self.folder.folder.name

    def facts(self) -> dict[str, JSON]:
        """Kind, name, column and a fingerprint of all files."""
        files = (*self.folder.vectors, *self.folder.metadata)
        return {
            "kind": "embeddings",
            "spec": self.spec,
            "column": self.column,
            "fingerprint": digest({str(n): sha256_of(path) for n, path in enumerate(files)}),
        }

    def batches(self, size: int) -> Iterator[TextBatch]:
        """Captions part by part, `size` at most at a time; what is no string becomes empty."""
        first = 0
        for path in self.folder.metadata:
            with readable(path), open(path, "rb") as file:
                with closing(read_parquet(file, str(path), self.column)) as values:
                    texts = (value if isinstance(value, str) else "" for _, value in values)
                    while some := list(islice(texts, size)):
                        yield make_batch(some, np.arange(first, first + len(some)))
                        first += len(some)


def open_text_embeddings(folder: Path, column: str | None) -> EmbeddedTexts:
    """An embedding folder as a source of captions; UsageError when no column can be chosen."""
    layout = open_embedding_folder(folder, "text")
    schema = pq.read_schema(layout.metadata[0])
    return EmbeddedTexts(layout, choose_arrow_column(str(folder), column, schema))
