"""The missing parts of a caption index, encoded over a Ray cluster."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ..corpora.captions import closed_after
from ..corpora.prompts import fill_prompt
from ..indexer.build.parts import CAPTIONS_AT_ONCE, WHAT, texts_of_part
from ..indexer.build.plan import RowPlan
from ..indexer.encode.encoder import Encoder, average_prompts, encode_prompts
from ..indexer.encode.tokens import Tokenise, TokenizerRecipe, tokeniser_for
from ..indexer.encode.worker_encoders import WorkerEncoder, for_workers, load_for_worker
from ..indexer.images.pieces import (
    Gathered,
    Piece,
    Step,
    array_of_rows,
    counted,
    gather,
    rows_of_array,
)
from ..indexer.store.sources import Described, encoding_prompts
from ..progress import Progress
from .cluster import RayEngine
from .engine import Stages, run_pieces


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
        functools.partial(tokenise_texts, encoder.recipe, prompts),
        functools.partial(text_encoder, for_workers(encoder, engine.choice), prompts),
    )
    before = plan.count - sum(plan.parts[number] for number in numbers)
    progress(WHAT, before, plan.count)

    def told(rows: int) -> None:
        progress(WHAT, before + rows, plan.count)

    with closed_after(run_pieces(numbers, stages, engine)) as pieces:
        for number, table in gather(counted(pieces, told), Gathered(frozenset(numbers))):
            yield number, array_of_rows(table["vector"])


def read_texts(plan: RowPlan, templates: Sequence[str] | None, number: int) -> Iterator[Piece]:
    """The texts of one part, CAPTIONS_AT_ONCE a piece."""
    last = max(0, (plan.parts[number] - 1) // CAPTIONS_AT_ONCE)
    for at, texts in enumerate(texts_of_part(plan, number, CAPTIONS_AT_ONCE, templates)):
        yield Piece(number, at, at == last, pa.table({"text": pa.array(texts, pa.string())}))


def tokenise_texts(
    recipe: TokenizerRecipe | None, prompts: Sequence[str], table: pa.Table
) -> pa.Table:
    """The ids of the texts in each prompt, a column each; the texts where only a model can tell."""
    if recipe is None:
        return table
    tokenise = _tokeniser(recipe)
    texts = table["text"].to_pylist()
    columns = [
        rows_of_array(tokenise([fill_prompt(prompt, text) for text in texts])) for prompt in prompts
    ]
    return pa.table(columns, names=[f"ids_{number}" for number in range(len(prompts))])


@functools.lru_cache(maxsize=2)
def _tokeniser(recipe: TokenizerRecipe) -> Tokenise:
    """Made once in a process."""
    return tokeniser_for(recipe)


def text_encoder(wanted: WorkerEncoder, prompts: Sequence[str]) -> Step:
    """What an encoding actor does to a piece: texts or ids to a column `vector`."""
    encoder = load_for_worker(wanted)

    def encode(table: pa.Table) -> pa.Table:
        if "text" in table.column_names:
            vectors = encode_prompts(encoder, table["text"].to_pylist(), prompts)
        else:
            ids = (array_of_rows(column) for column in table.columns)
            vectors = average_prompts(encoder.encode_tokens(each) for each in ids)
        return pa.table({"vector": rows_of_array(vectors)})

    return encode
