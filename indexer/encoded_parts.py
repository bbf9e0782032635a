"""Raw vectors for the missing parts of a row plan: encoded by a model, or read from arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..corpora.captions import closed_after
from ..corpora.plan import RowPlan, plan_batches
from ..corpora.prompts import fill_prompt
from ..progress import Progress
from .build_log import timed
from .embedded_texts import EmbeddedTexts
from .encode.encoder import Encoder
from .encode.pipeline import encode_captions
from .part_building import texts_of_part
from .stage_rates import StageRates
from .store.sources import Described, encoding_prompts
from .vectors.layout import load_vectors

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
