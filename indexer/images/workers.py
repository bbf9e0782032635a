"""Decoding many images at once in worker processes that may hang or crash without harm.

One thread reads the collection; each of the others owns one process. Processes are commands, not
multiprocessing: scripts need no `__main__` guard and nothing is forked from a process that has
loaded torch.

The decoding processes of one pool: started, asked with a deadline, killed and reaped.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

import numpy as np

from ...corpora.images.source import ImageItem
from ...errors import BlissError, UsageError
from ..encode.preprocessing import Preprocessing
from .decode_worker import request_bytes
from .decoding import Decoded, DecodingLimits, Undecodable
from .frames import END_SECONDS, Frame, cause_of_death, end, exchange, launch

WORKER_COMMAND: tuple[str, ...] = (
    sys.executable,
    "-P",
    "-m",
    "blissaudit.indexer.images.decode_worker",
)
START_ATTEMPTS = 3
START_SECONDS = 60.0
WATCH_SECONDS = 0.05

Task = TypeVar("Task")

Known = Callable[[str], bool]
"""Whether the image with this SHA-256 need not be decoded."""


def nothing_known(sha256: str) -> bool:
    """The `Known` that knows no image."""
    return False


class Recognised(NamedTuple):
    """An image that was read and not decoded, since its content is known."""

    row: int
    sha256: str


Outcome = Decoded | Undecodable | Recognised


class Asked(NamedTuple):
    """What is asked of every image alike."""

    preprocessing: Preprocessing
    limits: DecodingLimits
    known: Known


class Stopped(Exception):
    """The pool is shutting down: no process may start any more."""


@dataclass(frozen=True)
class Processes:
    """What the threads of one pool share; `lock` guards the last two."""

    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    deadlines: dict[subprocess.Popen[bytes], float] = field(default_factory=dict)


def start_process(pool: Processes) -> subprocess.Popen[bytes]:
    """A process that has said it is ready; BlissError when several in a row die before."""
    for _ in range(START_ATTEMPTS):
        with pool.lock:
            if pool.stopping.is_set():
                raise Stopped
            process = launch(WORKER_COMMAND, subprocess.DEVNULL)
            pool.running.add(process)
        frame, expired = exchange_in_time(process, b"", START_SECONDS, pool)
        if frame is not None and "ready" in frame[0] and not expired:
            return process
        cause = f"no answer in {START_SECONDS:g} s" if expired else cause_of_death(process)
        end_process(process, pool)
    if pool.stopping.is_set():
        raise Stopped
    raise BlissError(
        f"the image decoder process ended {START_ATTEMPTS} times in a row before it was ready "
        f"({cause}; {_last_words()})",
        "a Python that can start 'python -m blissaudit.indexer.images.decode_worker'",
        "Reinstall bliss-audit and Pillow, and check that memory and process limits leave room",
    )


def end_process(process: subprocess.Popen[bytes], pool: Processes) -> None:
    """Kill and reap one process."""
    end(process)
    with pool.lock:
        pool.running.discard(process)


def kill_all(pool: Processes) -> None:
    """Let no process start any more and kill those that run; their threads reap them."""
    pool.stopping.set()
    with pool.lock:
        for process in pool.running:
            process.kill()


def shut_down(
    pool: Processes,
    changed: threading.Condition,
    tasks: SimpleQueue[Task | None],
    threads: Sequence[threading.Thread],
) -> None:
    """End all processes and threads now; calling it again does nothing.

    The threads wait for `changed` or for `tasks`, of which None is the last.
    """
    kill_all(pool)
    with changed:
        changed.notify_all()
    while not tasks.empty():
        with suppress(Empty):
            tasks.get_nowait()
    for _ in threads:
        tasks.put(None)
    for thread in threads:
        if thread.is_alive():
            thread.join(timeout=2 * END_SECONDS)


def watch(pool: Processes) -> None:
    """Kill every process that is past its deadline, until the pool stops."""
    while not pool.stopping.wait(WATCH_SECONDS):
        now = time.monotonic()
        with pool.lock:
            for process in [each for each, end in pool.deadlines.items() if end < now]:
                del pool.deadlines[process]
                process.kill()


def exchange_in_time(
    process: subprocess.Popen[bytes], request: bytes, seconds: float, pool: Processes
) -> tuple[Frame | None, bool]:
    """The answer to `request` (None if the process died), and whether time ran out.

    The process is killed when time runs out, even if its answer has arrived by then.
    """
    with pool.lock:
        pool.deadlines[process] = time.monotonic() + seconds
    frame = exchange(process, request)
    with pool.lock:
        return frame, pool.deadlines.pop(process, None) is None


def decode_one(
    process: subprocess.Popen[bytes], item: ImageItem, asked: Asked, pool: Processes
) -> tuple[Outcome, bool]:
    """The outcome of one image, and whether the process can be used for another."""
    try:
        data = item.data() if callable(item.data) else item.data
        content = item.file if data is None else data
        assert content is not None, "a skipped item was to be decoded"
        settings = (asked.preprocessing, asked.limits)
        if asked.known is not nothing_known:
            found = _ask(process, item.row, request_bytes(content, *settings, True), asked, pool)
            if not isinstance(found[0], Recognised) or asked.known(found[0].sha256):
                return found
        return _ask(process, item.row, request_bytes(content, *settings), asked, pool)
    except UnicodeEncodeError:
        return Undecodable(item.row, "the file name is not valid on this system"), True
    except FileNotFoundError:
        return Undecodable(item.row, "the file does not exist"), True
    except PermissionError:
        return Undecodable(item.row, "there is no permission to read the file"), True


def _ask(
    process: subprocess.Popen[bytes], row: int, request: bytes, asked: Asked, pool: Processes
) -> tuple[Outcome, bool]:
    """The outcome of one request, and whether the process can be used for another."""
    seconds = asked.limits.seconds
    frame, expired = exchange_in_time(process, request, seconds, pool)
    if frame is not None:
        return _outcome(row, *frame), not expired
    if expired:
        return Undecodable(row, f"decoding took longer than {seconds:g} s"), False
    return Undecodable(row, f"the decoder process died ({cause_of_death(process)})"), False


def _outcome(row: int, header: dict[str, object], payload: bytearray) -> Outcome:
    if "reason" in header:
        return Undecodable(row, str(header["reason"]))
    if "shape" not in header:
        return Recognised(row, str(header["sha256"]))
    shape = header["shape"]
    assert isinstance(shape, list)
    pixels = np.frombuffer(payload, dtype=np.uint8).reshape(shape)
    return Decoded(row, pixels, str(header["sha256"]), bool(header["exif_rotated"]))


def _last_words() -> str:
    """The last line a starting process writes to stderr, for the error message."""
    process = launch(WORKER_COMMAND, subprocess.PIPE)
    try:
        _, stderr = process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        _, stderr = process.communicate()
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else "it wrote no error"


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
