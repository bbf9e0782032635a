"""Captions to vectors with reading, tokenising and encoding under way at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np

from ...corpora.prompts import check_prompts
from ..build.rates import StageRates
from .encoder import Encoder, average_prompts
from .tokenise_pool import PipelineOptions, tokenise_ahead

CHOSEN = PipelineOptions()


def encode_captions(
    chunks: Iterable[Sequence[str]],
    encoder: Encoder,
    prompts: Sequence[str],
    options: PipelineOptions = CHOSEN,
    rates: StageRates | None = None,
) -> Iterator[np.ndarray]:
    """float32 [m, d] unit rows for each chunk of m texts in turn, bit for bit `encode_prompts`.

    `chunks` is read in a thread of its own, at most `options.ahead` chunks and one for each process
    ahead, and closed there. Texts are tokenised in other threads or processes; the encoder runs in
    the caller's. Closing the iterator early ends all of them. `rates` is filled in as work is done.

    Raises UsageError for malformed prompts; the iterator raises what reading or tokenising raises,
    unchanged and after the rows before it, and BlissError where tokenising processes keep dying.
    """
    return _encode(
        chunks, encoder, check_prompts(prompts), options, StageRates() if rates is None else rates
    )


def _encode(
    chunks: Iterable[Sequence[str]],
    encoder: Encoder,
    prompts: Sequence[str],
    options: PipelineOptions,
    rates: StageRates,
) -> Iterator[np.ndarray]:
    with closing(tokenise_ahead(chunks, encoder, prompts, options, rates)) as tokenised:
        for ids in tokenised:
            start = time.perf_counter()
            rows = average_prompts(encoder.encode_tokens(each) for each in ids)
            rates.add("encoding", len(rows), time.perf_counter() - start)
            yield rows
