"""The tokenising processes of one pool: started, compared with this process, asked, replaced."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from ..errors import BlissError
from .decode_process import Processes, Stopped, end_process
from .encode.encoder import Encoder
from .encode.tokenise_worker import ids_answered, recipe_request, texts_request
from .fast_tokens import TRIALS
from .images.frames import cause_of_death, exchange, launch

WORKER_COMMAND: tuple[str, ...] = (
    sys.executable,
    "-P",
    "-m",
    "blissaudit.indexer.encode.tokenise_worker",
)
ATTEMPTS = 3
"""Processes in a row that may die at their start, or over the same texts."""
COMPARED = (
    *TRIALS,
    "café &amp; crème",
    "naïve “quotes” <b>",
    "日本の猫",
    "itâ€™s mojibake",
    "!",
    "",
)
"""What a process must tokenise as this one does before it is used."""


def start_tokeniser(encoder: Encoder, processes: Processes) -> subprocess.Popen[bytes]:
    """A process that tokenises as `encoder` does, whose recipe it was given.

    BlissError where it cannot start or gives other ids; Stopped where the pool is shutting down.
    """
    assert encoder.recipe is not None
    for _ in range(ATTEMPTS):
        with processes.lock:
            if processes.stopping.is_set():
                raise Stopped
            process = launch(WORKER_COMMAND, subprocess.DEVNULL, "tokenising")
            processes.running.add(process)
        answer = exchange(process, recipe_request(encoder.recipe))
        ready = answer is not None and "ready" in answer[0]
        found = ask_tokeniser(process, COMPARED, encoder) if ready else None
        if found is not None and np.array_equal(found, encoder.tokenise(COMPARED)):
            return process
        cause = "its ids differ from those of this process"
        if found is None:
            cause = f"it ended before it was ready: {cause_of_death(process)}"
        end_process(process, processes)
    if processes.stopping.is_set():
        raise Stopped
    raise BlissError(
        f"a tokenising process cannot be used ({cause})",
        "a Python that can start 'python -m blissaudit.indexer.encode.tokenise_worker'",
        "Reinstall bliss-audit, and check that memory and process limits leave room",
    )


def ask_tokeniser(
    process: subprocess.Popen[bytes], texts: Sequence[str], encoder: Encoder
) -> np.ndarray | None:
    """int64 ids [n, L] of texts, None where the process died.

    Texts that it cannot tokenise are tokenised here, for the tokenizer's own error.
    """
    assert encoder.recipe is not None
    frame = exchange(process, texts_request(texts))
    if frame is None:
        return None
    ids = ids_answered(frame)
    if ids is None:
        return encoder.tokenise(texts)
    full = np.zeros((len(texts), encoder.recipe.context_length), np.int64)
    full[:, : ids.shape[1]] = ids
    return full


def ask_until_answered(
    process: subprocess.Popen[bytes],
    texts: Sequence[Sequence[str]],
    encoder: Encoder,
    processes: Processes,
) -> tuple[list[np.ndarray], subprocess.Popen[bytes]]:
    """Ids of several lists of texts, and the process that gave the last of them.

    A process that dies is replaced and asked again; BlissError when ATTEMPTS die in a row.
    """
    done: list[np.ndarray] = []
    died = 0
    while len(done) < len(texts):
        ids = ask_tokeniser(process, texts[len(done)], encoder)
        if ids is not None:
            done.append(ids)
            died = 0
            continue
        cause = cause_of_death(process)
        end_process(process, processes)
        died += 1
        if processes.stopping.is_set():
            raise Stopped
        if died == ATTEMPTS:
            raise BlissError(
                f"the tokenising process died {ATTEMPTS} times in a row ({cause}) over "
                f"{len(texts[len(done)]):,} texts, the first {texts[len(done)][0][:60]!r}",
                "a process that lives until it has answered",
                "Free memory, then run the same command again; finished parts stay",
            )
        process = _replacement(encoder, processes)
    return done, process


def _replacement(encoder: Encoder, processes: Processes) -> subprocess.Popen[bytes]:
    """Another process; what killed the last one may kill one that is only starting."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(BlissError):
            return start_tokeniser(encoder, processes)
    return start_tokeniser(encoder, processes)
