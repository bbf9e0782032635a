"""The stages of a caption index over a cluster: read texts, tokenise them, encode the tokens."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from ..corpora import fill_prompt
from ..indexer import (
    CAPTIONS_AT_ONCE,
    Described,
    Encoder,
    ModelChoice,
    RowPlan,
    Tokenise,
    TokenizerRecipe,
    average_prompts,
    encode_prompts,
    encoding_prompts,
    part_texts,
)
from .batches import Batch, Stages, Step, array_to_arrow, arrow_to_array
from .encoders import WorkerEncoder, for_workers, load_for_worker


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
