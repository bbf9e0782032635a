"""Decoding many images at once in worker processes that may hang or crash without harm.

One thread reads the collection; each of the others owns one process. Processes are commands, not
multiprocessing: scripts need no `__main__` guard and nothing is forked from a process that has
loaded torch.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import NamedTuple

from ..corpora.image_source import ImageItem
from ..errors import UsageError
from .decode_process import (
    Asked,
    Known,
    Outcome,
    Processes,
    Stopped,
    decode_one,
    end_process,
    nothing_known,
    shut_down,
    start_process,
    watch,
)
from .encode.preprocessing import Preprocessing
from .images.decoding import DecodingLimits, Undecodable

READ_AHEAD_BYTES = 32 << 20
"""Encoded images from archives and tables that may wait for a decoder, and one more."""
WAIT_SECONDS = 0.25


class _Task(NamedTuple):
    position: int
    item: ImageItem


class _Finished:
    """Stands behind the last outcome."""


@dataclass
class _Flow:
    """How far the reading thread is ahead; `changed` guards the rest."""

    window: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    taken: int = 0
    """Outcomes that the caller has taken or waits for."""
    waiting_bytes: int = 0


@dataclass(frozen=True)
class _Pool:
    """What the threads of one `decode_images` call share."""

    asked: Asked
    flow: _Flow
    tasks: SimpleQueue[_Task | None] = field(default_factory=SimpleQueue)
    results: SimpleQueue[tuple[int, Outcome | BaseException | _Finished]] = field(
        default_factory=SimpleQueue
    )
    processes: Processes = field(default_factory=Processes)


def default_workers() -> int:
    """As many worker processes as this process may use cores, at least 1 and at most 8."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, min(8, len(affinity(0)) if affinity else os.cpu_count() or 1))


def look_ahead(workers: int) -> int:
    """How many images may be under way or waiting at once: the bound on memory."""
    return 4 * workers + 4


def decode_images(
    items: Iterable[ImageItem],
    preprocessing: Preprocessing,
    limits: DecodingLimits,
    workers: int | None = None,
    ahead: int = 0,
    known: Known = nothing_known,
) -> Iterator[Outcome]:
    """Decode `items`, yielding one outcome each, in the order given.

    An image that is broken, takes longer than `limits.seconds` or kills its process becomes
    Undecodable, and the next one gets a fresh process; one whose SHA-256 is `known` is Recognised
    and not decoded. At most `look_ahead(workers)` items, or `ahead` if that is more, and about
    READ_AHEAD_BYTES of content are read ahead of what was yielded, by a thread of their own: a
    caller that takes images in batches sets `ahead` to a batch, so that decoding goes on while it
    works. Closing the iterator ends every process and thread. Raises UsageError for workers below
    1; the iterator raises BlissError where worker processes cannot be started, and what `items`
    raises, after the outcomes before it.
    """
    count = default_workers() if workers is None else workers
    if count < 1:
        raise UsageError(f"workers is {count}", "at least 1 decoding worker", "Ask for more")
    flow = _Flow(max(look_ahead(count), ahead))
    return _decode_in_order(items, _Pool(Asked(preprocessing, limits, known), flow), count)


def _decode_in_order(items: Iterable[ImageItem], pool: _Pool, workers: int) -> Iterator[Outcome]:
    jobs = [functools.partial(watch, pool.processes), functools.partial(_feed, pool, items)]
    jobs += [functools.partial(_serve, pool)] * workers
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    stop = functools.partial(shut_down, pool.processes, pool.flow.changed, pool.tasks, threads)
    atexit.register(stop)  # for an iterator that is neither used up nor closed
    try:
        for thread in threads:
            thread.start()
        arrived: dict[int, Outcome | BaseException | _Finished] = {}
        for position in itertools.count():
            while position not in arrived:
                with contextlib.suppress(Empty):  # not for long, so that Ctrl-C is always noticed
                    number, outcome = pool.results.get(timeout=WAIT_SECONDS)
                    arrived[number] = outcome
            outcome = arrived.pop(position)
            if isinstance(outcome, _Finished):
                return
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
            with pool.flow.changed:
                pool.flow.taken = position + 1
                pool.flow.changed.notify_all()
    finally:
        stop()
        atexit.unregister(stop)


def _feed(pool: _Pool, items: Iterable[ImageItem]) -> None:
    """Read items while there is room for them; the last result says how it ended."""
    position = 0
    source = iter(items)
    try:
        while _wait_for_room(pool, position) and (item := next(source, None)) is not None:
            if item.problem:
                pool.results.put((position, Undecodable(item.row, item.problem)))
            else:
                with pool.flow.changed:
                    pool.flow.waiting_bytes += _size(item)
                pool.tasks.put(_Task(position, item))
            position += 1
        pool.results.put((position, _Finished()))
    except BaseException as error:
        pool.results.put((position, error))
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _wait_for_room(pool: _Pool, position: int) -> bool:
    """Wait until an item may be read; False where the pool stops."""
    flow = pool.flow
    with flow.changed:
        flow.changed.wait_for(
            lambda: (
                pool.processes.stopping.is_set()
                or (position - flow.taken < flow.window and flow.waiting_bytes < READ_AHEAD_BYTES)
            )
        )
    return not pool.processes.stopping.is_set()


def _size(item: ImageItem) -> int:
    return len(item.data) if isinstance(item.data, bytes) else 0


def _serve(pool: _Pool) -> None:
    """Decode tasks in one process of our own until there are none."""
    process: subprocess.Popen[bytes] | None = None
    task: _Task | None = None
    try:
        while (task := pool.tasks.get()) is not None:
            process = process or start_process(pool.processes)
            outcome, usable = decode_one(process, task.item, pool.asked, pool.processes)
            if not usable:
                end_process(process, pool.processes)
                process = None
            with pool.flow.changed:
                pool.flow.waiting_bytes -= _size(task.item)
                pool.flow.changed.notify_all()
            pool.results.put((task.position, outcome))
    except Stopped:
        pass
    except BaseException as error:
        pool.results.put((task.position if task else -1, error))
    finally:
        if process is not None:
            end_process(process, pool.processes)
