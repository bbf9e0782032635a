"""The missing parts of a caption index, encoded over a Ray cluster."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ..corpora.captions import closed_after
from ..corpora.plan import RowPlan
from .encoded_parts import CAPTIONS_AT_ONCE, WHAT, Progress
from .encoding import Encoder, encode_prompts
from .index_sources import Described, encoding_prompts
from .part_building import texts_of_part
from .pieces import Gathered, Piece, Step, counted, gather, rows_of_vectors, vectors_of_rows
from .ray_cluster import RayEngine
from .ray_engine import Stages, run_pieces
from .worker_encoders import WorkerEncoder, for_workers, load_for_worker


def ray_parts(
    plan: RowPlan,
    numbers: Sequence[int],
    encoder: Encoder,
    described: Sequence[Described],
    engine: RayEngine,
    progress: Progress,
) -> Iterator[tuple[int, np.ndarray]]:
    """(number, float32 [m, d]) of each of the parts `numbers`, in the order they become whole.

    Pieces are the texts that `encoded_parts` hands to its encoder at once, so the vectors are
    the same where the workers' processors are. Errors of workers come as they are; besides them
    those of `run_pieces`.
    """
    prompts, templates = encoding_prompts(described)
    stages = Stages(
        functools.partial(read_texts, plan, templates),
        _as_it_is,
        functools.partial(text_encoder, for_workers(encoder, engine.choice), prompts),
    )
    before = plan.count - sum(plan.parts[number] for number in numbers)
    progress(WHAT, before, plan.count)

    def told(rows: int) -> None:
        progress(WHAT, before + rows, plan.count)

    with closed_after(run_pieces(numbers, stages, engine)) as pieces:
        for number, table in gather(counted(pieces, told), Gathered(frozenset(numbers))):
            yield number, vectors_of_rows(table["vector"])


def read_texts(plan: RowPlan, templates: Sequence[str] | None, number: int) -> Iterator[Piece]:
    """The texts of one part, CAPTIONS_AT_ONCE a piece."""
    last = max(0, (plan.parts[number] - 1) // CAPTIONS_AT_ONCE)
    for at, texts in enumerate(texts_of_part(plan, number, CAPTIONS_AT_ONCE, templates)):
        yield Piece(number, at, at == last, pa.table({"text": pa.array(texts, pa.string())}))


def text_encoder(wanted: WorkerEncoder, prompts: Sequence[str]) -> Step:
    """What an encoding actor does to a piece of texts."""
    encoder = load_for_worker(wanted)

    def encode(table: pa.Table) -> pa.Table:
        vectors = encode_prompts(encoder, table["text"].to_pylist(), prompts)
        return pa.table({"vector": rows_of_vectors(vectors)})

    return encode


def _as_it_is(table: pa.Table) -> pa.Table:
    return table
