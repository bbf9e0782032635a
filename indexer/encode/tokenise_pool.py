"""Chunks of captions read and tokenised ahead of the encoder, in other threads and processes.

One thread reads. One tokenises in this process: for a small corpus that is all there is. A process
takes 0.35 s and 86 MB (see `simple_tokenizer`), in which this process tokenises 6,000 to 15,000
texts, and the build of a small index would be over; so the first is started when more than
`start_after` texts have been read, and the thread here ends when it is ready, for what Python does
there takes the interpreter from the encoder. Another is started each time the encoder had to wait:
a slow encoder never has more than the one. The ids are the same wherever they are made.

The tokenising processes of one pool: started, compared with this process, asked, replaced.

How far the stages of a caption build run ahead, and in how many processes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np

from ...corpora.prompts import fill_prompt
from ...errors import BlissError, UsageError
from ..build.rates import StageRates
from ..images.frames import cause_of_death, exchange, launch
from ..images.workers import Processes, Stopped, end_process, shut_down
from .encoder import Encoder
from .tokenise_worker import ids_answered, recipe_request, texts_request
from .tokens import TRIALS

WAIT_SECONDS = 0.25
NOTICED_SECONDS = 0.005
"""A wait of the encoder that is worth another process."""


class _Task(NamedTuple):
    position: int
    texts: Sequence[str]


class _Finished:
    """Stands behind the last chunk."""


Made = list[np.ndarray] | BaseException | _Finished


@dataclass
class _Flow:
    """How far reading is ahead, and how many processes there are; `changed` guards all."""

    window: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    read: int = 0
    taken: int = 0
    texts_read: int = 0
    wanted: int = 0
    """Processes that may be started."""
    ready: int = 0


@dataclass(frozen=True)
class _Pool:
    """What the threads of one `tokenise_ahead` share."""

    encoder: Encoder
    prompts: Sequence[str]
    options: PipelineOptions
    rates: StageRates
    flow: _Flow
    tasks: SimpleQueue[_Task | None] = field(default_factory=SimpleQueue)
    results: SimpleQueue[tuple[int, Made]] = field(default_factory=SimpleQueue)
    processes: Processes = field(default_factory=Processes)


def tokenise_ahead(
    chunks: Iterable[Sequence[str]],
    encoder: Encoder,
    prompts: Sequence[str],
    options: PipelineOptions,
    rates: StageRates,
) -> Generator[list[np.ndarray], None, None]:
    """For each chunk of n texts in order, one array of ids [n, L] for each prompt.

    Closing the iterator ends every thread and process. It raises what `chunks` or the tokenizer
    raises, after the chunks before it, and BlissError where one chunk kills several processes.
    """
    asked = default_tokenisers() if options.tokenisers is None else options.tokenisers
    count = 0 if encoder.recipe is None else asked
    pool = _Pool(encoder, prompts, options, rates, _Flow(options.ahead + count))
    threads = [threading.Thread(target=_feed, args=(pool, chunks), name="reading", daemon=True)]
    threads += [
        threading.Thread(target=_tokenise_here, args=(pool,), name="tokenising here", daemon=True)
    ]
    threads += [
        threading.Thread(target=_tokenise_there, args=(pool, number), daemon=True)
        for number in range(count)
    ]
    stop = functools.partial(shut_down, pool.processes, pool.flow.changed, pool.tasks, threads)
    atexit.register(stop)  # for an iterator that is neither used up nor closed
    try:
        for thread in threads:
            thread.start()
        yield from _in_order(pool)
    finally:
        stop()
        atexit.unregister(stop)


def _in_order(pool: _Pool) -> Iterator[list[np.ndarray]]:
    arrived: dict[int, Made] = {}
    for position in itertools.count():
        start = time.perf_counter()
        while position not in arrived:
            with contextlib.suppress(Empty):  # not for long, so that Ctrl-C is always noticed
                number, made = pool.results.get(timeout=WAIT_SECONDS)
                arrived[number] = made
        made = arrived.pop(position)
        waited = time.perf_counter() - start
        pool.rates.wait(waited)
        with pool.flow.changed:
            pool.flow.taken = position + 1
            pool.flow.wanted += waited > NOTICED_SECONDS and 0 < pool.flow.wanted
            pool.flow.changed.notify_all()
        if isinstance(made, _Finished):
            return
        if isinstance(made, BaseException):
            raise made
        yield made


def _feed(pool: _Pool, chunks: Iterable[Sequence[str]]) -> None:
    """Read chunks while there is room for them; the last result says how it ended."""
    flow = pool.flow
    source = iter(chunks)
    try:
        while _wait(pool, lambda: flow.read - flow.taken < flow.window):
            start = time.perf_counter()
            texts = next(source, None)
            if texts is None:
                break
            pool.rates.add("reading", len(texts), time.perf_counter() - start)
            pool.tasks.put(_Task(flow.read, texts))
            with flow.changed:
                flow.read += 1
                flow.texts_read += len(texts)
                if flow.wanted == 0 and flow.texts_read > pool.options.start_after:
                    flow.wanted = 1
                    flow.changed.notify_all()
        pool.results.put((flow.read, _Finished()))
    except BaseException as error:
        pool.results.put((flow.read, error))
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _wait(pool: _Pool, condition: Callable[[], bool]) -> bool:
    """Wait until the condition holds; False where the pool stops."""
    stopping = pool.processes.stopping
    with pool.flow.changed:
        pool.flow.changed.wait_for(lambda: stopping.is_set() or condition())
    return not stopping.is_set()


def _filled(pool: _Pool, texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in each prompt."""
    return ([fill_prompt(prompt, text) for text in texts] for prompt in pool.prompts)


def _tokenise_here(pool: _Pool) -> None:
    """Tokenise chunks in this process until a process is ready to do it."""
    while pool.flow.ready == 0 and (task := pool.tasks.get()) is not None:
        start = time.perf_counter()
        try:
            made: Made = [pool.encoder.tokenise(texts) for texts in _filled(pool, task.texts)]
        except BaseException as error:
            made = error
        pool.rates.add("tokenising", len(task.texts), time.perf_counter() - start)
        pool.results.put((task.position, made))


def _tokenise_there(pool: _Pool, number: int) -> None:
    """Tokenise chunks in a process of this thread's own, once that is wanted."""
    flow, task = pool.flow, None
    process: subprocess.Popen[bytes] | None = None
    try:
        if not _wait(pool, lambda: flow.wanted > number):
            return
        process = start_tokeniser(pool.encoder, pool.processes)
        with flow.changed:
            flow.ready += 1
            pool.rates.set_workers("tokenising", flow.ready)
        while (task := pool.tasks.get()) is not None:
            start = time.perf_counter()
            texts = list(_filled(pool, task.texts))
            made, process = ask_until_answered(process, texts, pool.encoder, pool.processes)
            pool.rates.add("tokenising", len(task.texts), time.perf_counter() - start)
            pool.results.put((task.position, made))
    except Stopped:
        pass
    except BaseException as error:
        if task is None:  # none could be started: this process goes on tokenising
            pool.rates.note(str(error))
        else:
            pool.results.put((task.position, error))
    finally:
        if process is not None:
            end_process(process, pool.processes)


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


@dataclass(frozen=True)
class PipelineOptions:
    """How far reading and tokenising run ahead of the encoder, and in how many processes."""

    tokenisers: int | None = None
    """Most processes that tokenise, 0 for none; default half the cores, at most 8."""
    ahead: int = 4
    """Chunks that may be read or wait tokenised beyond one for each process."""
    start_after: int = 16_384
    """Texts to read before the first process is started."""

    def __post_init__(self) -> None:
        if self.tokenisers is not None and self.tokenisers < 0:
            raise UsageError(
                f"{self.tokenisers} tokenising processes were asked for",
                "0, for none, or more",
                "Leave the number out to have it chosen",
            )
        if self.ahead < 1:
            raise UsageError(f"ahead is {self.ahead}", "at least 1 chunk", "Allow more")


def default_tokenisers() -> int:
    """Half the cores this process may use, at most 8; none where there is only one."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(8, (len(affinity(0)) if affinity else os.cpu_count() or 1) // 2)
