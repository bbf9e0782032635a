"""The stages of texts and of images over a cluster: read, tokenise or decode, then encode.

Workers, perhaps on other machines, load the encoder of the command again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..corpora import ImageItem, ImageSource, fill_prompt
from ..errors import BlissError
from ..indexer import (
    CAPTIONS_AT_ONCE,
    IDENTITY,
    Cached,
    Decoded,
    Decoder,
    DecodeSettings,
    DecodingLimits,
    Described,
    EmbeddingTask,
    Encoder,
    Measures,
    ModelChoice,
    Outcome,
    RowPlan,
    Tokenise,
    TokenizerRecipe,
    Undecodable,
    UnreadableImage,
    average_prompts,
    describe_model,
    encode_prompts,
    encoding_prompts,
    part_texts,
    read_failure,
    read_file,
)
from .batches import END, Batch, Stages, Step, array_to_arrow, arrow_to_array

CHECKED_FACTS = (*IDENTITY, "precision", "preprocessing")
"""Facts that must be the same in the worker."""


@dataclass(frozen=True)
class WorkerEncoder:
    """What a worker needs to load an encoder that gives the same vectors."""

    choice: ModelChoice
    facts: Mapping[str, Any]
    threads: int
    """Threads of torch, so that sums are taken in the same order."""


def for_workers(encoder: Encoder, choice: ModelChoice) -> WorkerEncoder:
    """How workers load `encoder`, which was loaded for `choice`; a worker sees only one GPU."""
    from ..indexer import threads_used

    facts, preprocessing = encoder.facts, encoder.preprocessing
    resolved = replace(
        choice,
        model=facts["model"],
        pretrained=facts.get("pretrained"),
        device="cuda" if (choice.device or "").startswith("cuda") else choice.device,
        precision=facts["precision"],
        batch_size=encoder.batch_size,
        statistics=(tuple(preprocessing.mean), tuple(preprocessing.std)),
    )
    return WorkerEncoder(resolved, {name: facts[name] for name in CHECKED_FACTS}, threads_used())


def load_for_worker(wanted: WorkerEncoder) -> Encoder:
    """The encoder in this process; errors as `load_encoder`, and BlissError for another model."""
    from ..indexer import load_encoder, use_threads

    use_threads(min(wanted.threads, os.cpu_count() or 1))
    encoder = load_encoder(wanted.choice)
    differing = [name for name in CHECKED_FACTS if encoder.facts[name] != wanted.facts[name]]
    if differing:
        raise BlissError(
            f"a worker loaded {describe_model(encoder.facts)}, whose {' and '.join(differing)} "
            f"differ{'s' * (len(differing) == 1)} from the driver's",
            "the same model on every machine",
            "Give all machines the same files, or the same download cache",
        )
    return encoder


def text_stages(
    plan: RowPlan, encoder: Encoder, described: Sequence[Described], choice: ModelChoice
) -> Stages:
    """The stages for the parts of `plan`; tickets are numbers of parts.

    Batches are those that `encode_captions` gets on one machine, so the vectors are the same where
    the processors are.
    """
    prompts, templates = encoding_prompts(described)
    return Stages(
        functools.partial(read_texts, plan, templates),
        functools.partial(tokenise_texts, encoder.recipe, prompts),
        functools.partial(text_encoder, for_workers(encoder, choice), prompts),
    )


def read_texts(plan: RowPlan, templates: Sequence[str] | None, number: int) -> Iterator[Batch]:
    """The texts of one part, CAPTIONS_AT_ONCE at a time."""
    last = max(0, (plan.parts[number] - 1) // CAPTIONS_AT_ONCE)
    for at, texts in enumerate(part_texts(plan, number, templates)):
        yield Batch(number, at, at == last, pa.table({"text": pa.array(texts, pa.string())}))


def tokenise_texts(
    recipe: TokenizerRecipe | None, prompts: Sequence[str], table: pa.Table
) -> pa.Table:
    """A column of token ids for each prompt; the texts unchanged where there is no recipe."""
    if recipe is None:
        return table
    tokenise = _tokeniser(recipe)
    texts = table["text"].to_pylist()
    columns = [
        array_to_arrow(tokenise([fill_prompt(prompt, text) for text in texts]))
        for prompt in prompts
    ]
    return pa.table(columns, names=[f"ids_{number}" for number in range(len(prompts))])


@functools.lru_cache(maxsize=2)
def _tokeniser(recipe: TokenizerRecipe) -> Tokenise:
    """Made once in each process."""
    from ..indexer import recipe_tokeniser

    return recipe_tokeniser(recipe)


def text_encoder(wanted: WorkerEncoder, prompts: Sequence[str]) -> Step:
    """A step from texts or token ids to a column `vector`; loads the model."""
    encoder = load_for_worker(wanted)

    def encode(table: pa.Table) -> pa.Table:
        if "text" in table.column_names:
            vectors = encode_prompts(encoder, table["text"].to_pylist(), prompts)
        else:
            ids = (arrow_to_array(column) for column in table.columns)
            vectors = average_prompts(encoder.encode_tokens(each) for each in ids)
        return pa.table({"vector": array_to_arrow(vectors)})

    return encode


BATCH_BYTES = 128 << 20
"""Encoded images from which on a batch takes no more."""
READ_AT_ONCE = 8
"""Images whose content is read at the same time."""

ITEMS = pa.schema(
    [
        ("row", pa.int64()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("problem", pa.string()),
        ("data", pa.large_binary()),
    ]
)
"""The fields of an ImageItem; `data` is null where there is a problem."""
DECODED = pa.schema(
    [
        *list(ITEMS)[:-1],
        ("sha256", pa.string()),
        ("exif_rotated", pa.bool_()),
        ("quality", pa.list_(pa.float64())),
        ("digest", pa.string()),
        ("sketch", pa.binary()),
    ]
)
"""Columns from decoding to the end; `sha256` is null where there is a problem."""


def image_stages(task: EmbeddingTask, choice: ModelChoice) -> Stages:
    """The stages for the missing parts of `task`, which is read with a single ticket."""
    batch_rows = task.encoder.batch_size
    reader = BatchReader(task.images, task.is_finished, task.part_rows, batch_rows, task.limits)
    # Workers decide by the hashes alone which images to decode.
    hashes = replace(task.cached, places=np.zeros((0, 2), np.int64), vectors=(), exif_rotated=())
    settings = DecodeSettings(
        task.encoder.preprocessing, task.limits, hashes.__contains__ if len(hashes) else None
    )
    return Stages(
        functools.partial(_read, reader),
        functools.partial(decode_items, settings),
        functools.partial(image_encoder, for_workers(task.encoder, choice)),
    )


def _read(reader: BatchReader, ticket: int) -> Iterator[Batch]:
    return reader.batches()


@dataclass(frozen=True)
class BatchReader:
    """Reads a collection in batches."""

    images: ImageSource
    is_finished: Callable[[int], bool]
    """Whether the part with this number is skipped."""
    part_rows: int
    batch_rows: int
    limits: DecodingLimits

    def batches(self) -> Iterator[Batch]:
        """Every row of the parts that are not finished, with its content, then a batch END.

        A batch ends with its part, after `batch_rows` rows or BATCH_BYTES: by the order of the
        collection alone. The number of the batch END is the number of rows of the collection.
        Raises what `images.items` and fetching an image raise, other than for images that are
        missing or unreadable.
        """
        rows = number = size = 0
        waiting: list[dict[str, object]] = []

        def batch(last: bool) -> Batch:
            part = (rows - 1) // self.part_rows
            return Batch(part, number, last, pa.Table.from_pylist(waiting, ITEMS))

        with closing(self._items()) as items:  # type: ignore[type-var]
            for item in items:
                if len(waiting) == self.batch_rows or size >= BATCH_BYTES:
                    yield batch(last=False)
                    waiting, size, number = [], 0, number + 1
                rows = item.row + 1
                if not self._skip(item.row):
                    size += len(item.data) if isinstance(item.data, bytes) else 0
                    waiting.append({name: getattr(item, name) for name in ITEMS.names})
                if waiting and rows % self.part_rows == 0:
                    yield batch(last=True)
                    waiting, size, number = [], 0, 0
        if waiting:
            yield batch(last=True)
        yield Batch(-1, rows, True, pa.table({"rows": [rows]}), END)

    def _skip(self, row: int) -> bool:
        return self.is_finished(row // self.part_rows)

    def _items(self) -> Iterator[ImageItem]:
        """Every item in order with its content, READ_AT_ONCE at a time."""

        def read(item: ImageItem) -> ImageItem:
            return item if self._skip(item.row) else read_content(item, self.limits)

        with (
            ThreadPoolExecutor(READ_AT_ONCE) as pool,
            closing(self.images.items(self._skip)) as items,  # type: ignore[type-var]
        ):
            for group in _groups(items, READ_AT_ONCE):
                yield from pool.map(read, group)


def _groups(items: Iterator[ImageItem], size: int) -> Iterator[list[ImageItem]]:
    """`size` items at a time; before an error of reading, the items that were read before it."""
    group: list[ImageItem] = []
    try:
        for item in items:
            group.append(item)
            if len(group) == size:
                full, group = group, []
                yield full
    except BlissError:
        if group:
            yield group
        raise
    if group:
        yield group


def read_content(item: ImageItem, limits: DecodingLimits) -> ImageItem:
    """The item with its bytes, or with the problem that a Decoder would have reported."""
    if item.problem:
        return item._replace(file=None, data=None)
    try:
        data = item.data() if callable(item.data) else item.data
        if data is None:
            assert item.file is not None, "a skipped item cannot be read"
            data = read_file(item.file, limits)
        return item._replace(file=None, data=data)
    except UnreadableImage as error:
        problem = str(error)
    except (UnicodeEncodeError, FileNotFoundError, PermissionError) as error:
        problem = read_failure(error)
    return item._replace(file=None, data=None, problem=problem)


@functools.lru_cache(maxsize=1)
def own_decoder() -> Decoder:
    """The decoder of this process, which its worker does not outlive."""
    return Decoder()


def decode_items(settings: DecodeSettings, items: pa.Table) -> pa.Table:
    """A table of ITEMS with a column `pixels` (uint8 bytes) in place of `data`.

    `pixels` is null where there is a problem and where the content is in the cache.
    """
    rows, pixels = [], []
    for row in items.to_pylist():
        item = ImageItem(row["row"], row["path"], row["label"], data=row["data"])
        outcome = None if row["problem"] else own_decoder().decode(item, settings)
        if isinstance(outcome, Undecodable):
            row["problem"] = outcome.reason
        elif outcome is not None:
            row["sha256"] = outcome.sha256
        if isinstance(outcome, Decoded):
            row["exif_rotated"] = outcome.exif_rotated
            row |= vars(outcome.measures) if outcome.measures else {}
        pixels.append(outcome.pixels.tobytes() if isinstance(outcome, Decoded) else None)
        rows.append({name: row.get(name) for name in DECODED.names})
    table = pa.Table.from_pylist(rows, DECODED)
    return table.append_column("pixels", pa.array(pixels, pa.large_binary()))


def image_encoder(wanted: WorkerEncoder) -> Step:
    """A step that replaces `pixels` by `vector` (float32 bytes); loads the model."""
    encoder = load_for_worker(wanted)
    height, width = encoder.preprocessing.size

    def encode(table: pa.Table) -> pa.Table:
        column = table["pixels"]
        places = [i for i in range(len(table)) if column[i].is_valid]
        vectors: list[bytes | None] = [None] * len(table)
        for start in range(0, len(places), encoder.batch_size):
            batch = places[start : start + encoder.batch_size]
            pixels = np.stack([np.frombuffer(column[i].as_buffer(), np.uint8) for i in batch])
            made = encoder.encode_images(pixels.reshape(len(batch), height, width, 3))
            for place, vector in zip(batch, made, strict=True):
                vectors[place] = np.asarray(vector, np.float32).tobytes()
        return table.drop_columns("pixels").append_column("vector", pa.array(vectors, pa.binary()))

    return encode


def decoded_rows(table: pa.Table) -> Iterator[tuple[ImageItem, Outcome]]:
    """Each item with the outcome of `decode_images`, with its vector in place of the pixels."""
    for row in table.to_pylist():
        item = ImageItem(row["row"], row["path"], row["label"], problem=row["problem"] or "")
        outcome: Outcome
        if item.problem:
            outcome = Undecodable(item.row, item.problem)
        elif row["vector"] is None:
            outcome = Cached(item.row, row["sha256"])
        else:
            vector = np.frombuffer(row["vector"], np.float32)
            measures = None
            if row["sketch"]:
                measures = Measures(tuple(row["quality"]), row["digest"], row["sketch"])
            outcome = Decoded(item.row, vector, row["sha256"], row["exif_rotated"], measures)
        yield item, outcome
