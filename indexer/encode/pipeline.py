"""Encode captions while one thread reads and tokenises the next ones."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from queue import Empty, Queue
from typing import Any

import numpy as np

from ...corpora import check_prompts, fill_prompt
from .encoder import Encoder, Through, average_prompts

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
    return _encode(batches, encoder, check_prompts(prompts), ahead, through)


def _encode(
    batches: Iterable[Sequence[str]],
    encoder: Encoder,
    prompts: Sequence[str],
    ahead: int,
    through: Through | None,
) -> Iterator[np.ndarray]:
    encode = encoder.encode_tokens
    if through is not None:
        encode = partial(encode, through=through)
    with closing(_tokenised(batches, encoder, prompts, ahead)) as tokenised:
        for ids in tokenised:
            yield average_prompts(encode(each) for each in ids)


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
