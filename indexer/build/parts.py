"""The parts of a caption index: encoded here, by an engine or by another program, then stored.

Which parts there are, what each holds and how the folder ends follows from the row plan alone, so
parts may be made in any order and by several processes. A part is stored, and captions are read
and tokenised, while others are encoded.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
import pyarrow as pa

from ...artefacts import BUILDING, digest, read_json, sha256_of
from ...corpora import (
    JSON,
    CaptionRules,
    TextBatch,
    TextSource,
    check_prompts,
    choose_arrow_column,
    closed_after,
    fill_prompt,
    make_batch,
    read_parquet,
    readable,
)
from ...progress import Progress
from ...safe_text import counted
from ..encode.encoder import IDENTITY, Encoder, Through, average_prompts
from ..images.embedding import EmbeddingEngine
from ..store.parts import (
    Described,
    Journal,
    Part,
    delete_files,
    describe_sources,
    encoding_prompts,
    files_of,
    finished_part,
    without_names,
    write_part,
)
from ..vectors.layout import EmbeddingFolder, open_embedding_folder, parquet_schema
from ..vectors.rows import load_vectors
from ..vectors.unit_rows import normalise_rows
from .plan import RowPlan, make_plan, open_plan, plan_batches, read_plan_part

BATCHES_AHEAD = 4
"""Tokenised batches that may wait for the encoder."""
END_SECONDS = 10.0
"""How long a source that hangs may delay the end of an iterator that is closed."""


def encode_captions(
    batches: Iterable[Sequence[str]],
    encoder: Encoder,
    prompts: Sequence[str],
    ahead: int = BATCHES_AHEAD,
    through: Through | None = None,
) -> Iterator[np.ndarray]:
    """float32 [m, d] unit rows for each batch of m texts in turn, bit for bit `encode_prompts`.

    `batches` is read, tokenised and closed in a thread, at most `ahead` batches and the one in
    progress in advance; the encoder runs in the caller's thread. Closing the iterator ends both.

    Raises UsageError for malformed prompts; the iterator raises what reading or tokenising raises,
    unchanged and after the rows before it.
    """
    prompts = check_prompts(prompts)
    encode = encoder.encode_tokens
    if through is not None:
        encode = partial(encode, through=through)

    def rows() -> Iterator[np.ndarray]:
        with closing(_tokenised(batches, encoder, prompts, ahead)) as tokenised:
            for ids in tokenised:
                yield average_prompts(encode(each) for each in ids)

    return rows()


def _tokenised(
    batches: Iterable[Sequence[str]], encoder: Encoder, prompts: Sequence[str], ahead: int
) -> Generator[list[np.ndarray], None, None]:
    """For each batch of n texts in order, one array of ids [n, L] for each prompt."""
    queue: Queue[Any] = Queue(ahead)
    """Lists of ids; at the end None, or an exception."""
    stopping = threading.Event()

    def produce() -> None:
        source: Any = None
        try:
            source = iter(batches)
            for texts in source:
                queue.put(
                    [encoder.tokenise([fill_prompt(p, text) for text in texts]) for p in prompts]
                )
                if stopping.is_set():
                    return
            queue.put(None)
        except BaseException as error:
            queue.put(error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=produce, name="tokenising", daemon=True)

    def stop() -> None:
        if stopping.is_set():
            return
        stopping.set()
        with suppress(Empty):  # makes room for the last item of the thread
            while True:
                queue.get_nowait()
        if thread.is_alive():
            thread.join(END_SECONDS)

    atexit.register(stop)  # for an iterator that is neither exhausted nor closed
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop()
        atexit.unregister(stop)


FAILURES_LISTED = 1000
"""Failures of a part that are listed; all are counted."""
CAPTIONS_AT_ONCE = 4096
"""Captions of a batch for the encoder; batches are cut from the first row of each part on."""
ROWS_AT_ONCE = 2048
PROGRESS, COPYING = "captions embedded", "captions copied"

Encode = Callable[[RowPlan, Sequence[int]], Iterator[tuple[int, np.ndarray]]]
"""(number, raw vectors [m, d]) of the parts with some numbers, in any order."""


@dataclass(frozen=True)
class CaptionJob:
    """Captions to store, and where their vectors come from."""

    sources: tuple[TextSource, ...]
    described: list[dict[str, Any]]
    """A Described for each source."""
    identity: Mapping[str, Any]
    """What must be the same of their model for the job to be continued."""
    encode: Encode
    truncated: Callable[[RowPlan], list[int | None] | None] = lambda plan: None
    """How many captions of each source the model's token limit cuts, where known."""
    doing: str = PROGRESS
    """What is done with the captions, for messages."""

    def plan(
        self,
        folder: Path,
        rules: CaptionRules,
        part_rows: int,
        progress: Progress,
        known: Callable[[], Sequence[TextSource]] = lambda: (),
    ) -> RowPlan:
        """The row plan in `folder`, made if there is none, without the captions of `known()`."""
        plan = open_plan(folder)
        if plan is None:
            facts = [each["corpus"] for each in self.described]
            every = [*known(), *self.sources]
            plan = make_plan(every, rules, folder, part_rows, facts,
                             lambda read: progress("texts read", read, 0))  # fmt: skip
        return plan

    def make_parts(
        self, folder: Path, plan: RowPlan, numbers: Sequence[int], dtype: str, progress: Progress
    ) -> None:
        """Encode and store the parts `numbers`, and report the rate.

        Raises what encoding or storing a part raises; parts stored by then are kept.
        """
        start = time.perf_counter()
        writing: Future[None] | None = None
        with (
            ThreadPoolExecutor(1, "parts") as writer,
            closed_after(self.encode(plan, numbers)) as parts,
        ):
            for number, raw in parts:
                if writing is not None:
                    writing.result()
                writing = writer.submit(_store_part, folder, plan, number, raw, dtype)
            if writing is not None:
                writing.result()
        rows = sum(plan.parts[number] for number in numbers)
        if rows:
            rate = rows / max(time.perf_counter() - start, 1e-9)
            digits = 1 if rate < 100 else 0
            what = counted(rows, self.doing.replace("captions", "caption", 1), self.doing)
            progress(f"{what}, {rate:,.{digits}f} captions per second", 0, 0)


def encoding_job(
    sources: Sequence[TextSource],
    described: list[dict[str, Any]],
    encoder: Encoder,
    progress: Progress,
    engine: EmbeddingEngine | None = None,
) -> CaptionJob:
    """Captions that `encoder` embeds, here or by an engine."""
    encode = encoded_parts if engine is None else engine.encode_captions
    return CaptionJob(
        tuple(sources),
        described,
        {name: encoder.facts[name] for name in (*IDENTITY, "precision")},
        lambda plan, numbers: encode(plan, numbers, encoder, described, progress),
        lambda plan: truncated_captions(plan, encoder, described),
    )


def copying_job(
    texts: EmbeddedTexts,
    licences: Sequence[str],
    identity: Mapping[str, Any],
    progress: Progress,
    taken: Sequence[str] = (),
) -> CaptionJob:
    """Captions whose vectors are there; their source gets a name that is not `taken`."""
    described = [{**each, "prompts": []} for each in describe_sources([texts], None, licences)]
    return CaptionJob(
        (texts,),
        without_names(described, taken),
        identity,
        lambda plan, numbers: embedded_parts(plan, numbers, texts, progress),
        doing=COPYING,
    )


def missing_parts(folder: Path, plan: RowPlan) -> tuple[int, ...]:
    """The numbers of all parts that are missing or damaged: their files are checked."""
    return tuple(p for p in range(len(plan.parts)) if whole_part(folder, plan, p) is None)


def whole_part(folder: Path, plan: RowPlan, number: int) -> dict[str, Any] | None:
    """The record of a part that is undamaged and belongs to this plan, or None."""
    record = finished_part(folder, number)
    if record is None or record.get("plan") != plan.digest:
        return None
    expected = files_of("text", number) if record.get("rows") else ()
    return record if sorted(record["checksums"]) == sorted(expected) else None


def _store_part(folder: Path, plan: RowPlan, number: int, raw: np.ndarray, dtype: str) -> None:
    """Store one part: unit rows as `dtype`, metadata, captions, and its record last.

    `raw` [m, d] has a vector for each planned row; rows whose vector is zero or not finite are left
    out, counted and listed.
    """
    described = read_json(folder / BUILDING)["facts"]["sources"]
    vectors, unusable, adjusted = _unit_rows(raw, dtype)
    usable = np.ones(len(raw), bool)
    usable[unusable] = False
    table = read_plan_part(plan, number).combine_chunks()
    kept = table.filter(pa.array(usable))
    source = kept["source"].to_numpy()

    def of_source(name: str) -> pa.Array:
        return pa.array([each[name] for each in described], pa.string()).take(pa.array(source))

    metadata = {
        "caption": kept["caption"],
        "source_row": kept["source_row"],
        "source": of_source("name"),
        "licence": of_source("licence"),
    }
    failures = [
        {
            "source": described[row["source"]]["name"],
            "source_row": row["source_row"],
            "caption": row["caption"],
            "reason": "the embedding is zero or not finite",
        }
        for row in table.take(pa.array(unusable[:FAILURES_LISTED])).to_pylist()
    ]
    by_source = np.bincount(source, minlength=len(described)).tolist()
    record = {"plan": plan.digest, "by_source": by_source}
    part = Part(vectors, pa.table(metadata), tuple(failures), {"normalised": adjusted}, record)
    write_part(folder, "text", number, part)


def _unit_rows(raw: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Unit rows [g, d] of the usable vectors, int64 [u] unusable rows, how many were normalised.

    Works block by block, so that only the result is held beside `raw`.
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


def part_texts(plan: RowPlan, number: int, templates: Sequence[str] | None) -> Iterator[list[str]]:
    """The texts to encode of one part, CAPTIONS_AT_ONCE at a time.

    `templates` are those of `encoding_prompts`: each caption is put into its source's.
    """
    for batch in plan_batches(plan, number, CAPTIONS_AT_ONCE):
        captions = batch.column(0).to_pylist()
        if templates is not None:
            sources = batch.column(1).to_pylist()
            captions = [
                fill_prompt(templates[source], caption)
                for source, caption in zip(sources, captions, strict=True)
            ]
        yield captions


def encoded_parts(
    plan: RowPlan,
    numbers: Sequence[int],
    encoder: Encoder,
    described: Sequence[Described],
    progress: Progress,
) -> Iterator[tuple[int, np.ndarray]]:
    """(number, float32 [m, d]) of each of the parts `numbers`, in that order.

    All captions go through the encoder as one stream, which does not drain between parts. What is
    encoded of a part is in a journal beside the plan until the part is stored.
    """
    journal, done_with = Journal(plan.folder.parent), list[Path]()

    def through(ids: np.ndarray, encode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        values = repr(ids.tolist()).encode() if ids.dtype == object else ids.tobytes()
        content = f"{ids.dtype} {ids.shape} ".encode() + values
        return journal.vectors(content, lambda: encode(ids))

    prompts, templates = encoding_prompts(described)
    batches = (texts for number in numbers for texts in part_texts(plan, number, templates))
    done = plan.count - sum(plan.parts[number] for number in numbers)
    progress(PROGRESS, done, plan.count)
    with closed_after(encode_captions(batches, encoder, prompts, through=through)) as encoded:
        for number in numbers:
            rows = plan.parts[number]
            raw = np.empty((rows, encoder.facts["dimension"]), np.float32)
            at = 0
            while at < rows:
                vectors = next(encoded)
                raw[at : at + len(vectors)] = vectors
                at += len(vectors)
                progress(PROGRESS, done + at, plan.count)
            done += rows
            ended = journal.end_part()
            yield number, raw
            delete_files(done_with)  # of the part before, which was stored when this one was taken
            done_with = ended


def truncated_captions(
    plan: RowPlan, encoder: Encoder, described: Sequence[Described]
) -> list[int | None] | None:
    """How many captions of each source the token limit cuts in any prompt; None if not known."""
    if encoder.is_cut is None:
        return None
    prompts, templates = encoding_prompts(described)
    total = np.zeros(len(described), np.int64)
    for number in range(len(plan.parts)):
        with closed_after(plan_batches(plan, number, CAPTIONS_AT_ONCE)) as batches:
            for texts, batch in zip(part_texts(plan, number, templates), batches, strict=True):
                cut = np.zeros(len(texts), bool)
                for prompt in prompts:
                    cut |= encoder.is_cut([fill_prompt(prompt, text) for text in texts])
                total += np.bincount(batch.column(1).to_numpy()[cut], minlength=len(described))
    return [int(count) for count in total]


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
        """Captions part by part, at most `size` at a time; values that are no text become empty."""
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
    schema = parquet_schema(layout.metadata[0])
    return EmbeddedTexts(layout, choose_arrow_column(str(folder), column, schema))


def embedded_parts(
    plan: RowPlan, numbers: Sequence[int], texts: EmbeddedTexts, progress: Progress
) -> Iterator[tuple[int, np.ndarray]]:
    """(number, float32 [m, d]) of each of the parts `numbers`, from existing embeddings.

    A file is mapped only while its rows are copied, so that its pages do not stay in memory.
    """
    starts = np.cumsum([0, *texts.folder.rows])
    done = plan.count - sum(plan.parts[number] for number in numbers)
    progress(COPYING, done, plan.count)
    for number in numbers:
        raw = np.empty((plan.parts[number], texts.folder.dimension), np.float32)
        at = 0
        with closed_after(plan_batches(plan, number, CAPTIONS_AT_ONCE)) as batches:
            for batch in batches:
                rows = batch.column(2).to_numpy()
                _copy_rows(texts.folder.vectors, starts, rows, raw[at : at + len(rows)])
                at += len(rows)
        done += len(raw)
        progress(COPYING, done, plan.count)
        yield number, raw


def _copy_rows(
    paths: Sequence[Path], starts: np.ndarray, rows: np.ndarray, out: np.ndarray
) -> None:
    part = np.searchsorted(starts, rows, side="right") - 1
    for number in np.unique(part):
        here = part == number
        out[here] = load_vectors(paths[number])[rows[here] - starts[number]]
