"""Image decoding in worker processes, which may hang or crash without harm.

A worker is a command (`decode_worker`), not multiprocessing: scripts need no `__main__` guard and
nothing is forked from a process that has loaded torch. A `Decoder` owns one worker; `decode_images`
decodes many images at once, with one thread that reads the collection and one for each worker.
Within `reused_workers` an idle worker serves the next of them.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from ...corpora import ImageItem
from ...errors import BlissError, UsageError
from ..encode.encoder import Preprocessing, UnreadableImage
from .decode_worker import Frame, image_request, read_frame, thumbnail_request
from .decoding import Decoded, DecodingLimits, Undecodable
from .measures import Measures

WORKER_COMMAND: tuple[str, ...] = (
    sys.executable,
    "-P",
    "-m",
    "blissaudit.indexer.images.decode_worker",
)
START_ATTEMPTS = 3
START_SECONDS = 60.0
END_SECONDS = 5.0
WATCH_SECONDS = 0.05
POLL_SECONDS = 0.25
READ_AHEAD_BYTES = 32 << 20
"""Encoded images from archives and tables that may wait for a worker, and one more."""


_idle: list[subprocess.Popen[bytes]] | None = None
"""Workers that wait for their next pool or decoder, within `reused_workers`."""


@contextmanager
def reused_workers() -> Iterator[None]:
    """Within it, a worker that is no longer needed is kept for whoever needs one next.

    Starting a worker takes as long as decoding about a hundred small images. The outermost of
    several such contexts ends the workers.
    """
    global _idle
    if _idle is not None:
        yield
        return
    _idle = []
    try:
        yield
    finally:
        kept, _idle = _idle, None
        for process in kept:
            kill(process)


def _idle_worker() -> subprocess.Popen[bytes] | None:
    """A worker that was kept and is alive, None where there is none."""
    while _idle:
        try:
            process = _idle.pop()
        except IndexError:  # another pool took the last one
            return None
        if process.args == WORKER_COMMAND and process.poll() is None:
            return process
        kill(process)
    return None


class Cached(NamedTuple):
    """An image that was read and not decoded, since its content is known."""

    row: int
    sha256: str


Outcome = Decoded | Undecodable | Cached


@dataclass(frozen=True)
class DecodeSettings:
    """How every image of a collection is decoded."""

    preprocessing: Preprocessing
    limits: DecodingLimits
    is_cached: Callable[[str], bool] | None = None
    """Whether the image with this SHA-256 need not be decoded."""


def default_workers() -> int:
    """The number of cores that this process may use, at least 1 and at most 8."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, min(8, len(affinity(0)) if affinity else os.cpu_count() or 1))


def look_ahead(workers: int) -> int:
    """How many images may be in progress or waiting at once: the bound on memory."""
    return 4 * workers + 4


def decode_images(
    items: Iterable[ImageItem],
    preprocessing: Preprocessing,
    limits: DecodingLimits,
    workers: int | None = None,
    ahead: int = 0,
    is_cached: Callable[[str], bool] | None = None,
) -> Iterator[Outcome]:
    """Decode `items`, yielding one outcome for each, in their order.

    An image that is broken, takes longer than `limits.seconds` or crashes its worker becomes
    Undecodable, and the next one gets a new worker; one whose SHA-256 `is_cached` becomes Cached
    and is not decoded. A thread reads at most `look_ahead(workers)` items, or `ahead` if that is
    more, and about READ_AHEAD_BYTES of content beyond what was yielded: a caller that takes images
    in batches sets `ahead` to a batch, so that decoding continues while it works. Closing the
    iterator ends all workers and threads.

    Raises UsageError for `workers` below 1; the iterator raises BlissError where workers cannot be
    started, and what `items` raises, after the outcomes before it.
    """
    count = default_workers() if workers is None else workers
    if count < 1:
        raise UsageError(f"workers is {count}", "at least 1 decoding worker", "Request more")
    settings = DecodeSettings(preprocessing, limits, is_cached)
    return _Pool(settings, max(look_ahead(count), ahead)).outcomes(items, count)


class Decoder:
    """One worker, started when it is first needed and replaced after it hangs or dies.

    With `processes`, those of a pool, closing the decoder ends only its own worker.
    """

    def __init__(self, processes: WorkerProcesses | None = None) -> None:
        self._own = processes is None
        self._processes = processes or WorkerProcesses()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker, or keep it for the next within `reused_workers`."""
        if self._own:
            self._processes.stop()
        if self._process is not None:
            self._processes.release(self._process)
            self._process = None

    def decode(self, item: ImageItem, settings: DecodeSettings) -> Outcome:
        """The outcome of one image; raises BlissError where no worker can be started."""
        try:
            data = item.data() if callable(item.data) else item.data
            content = item.file if data is None else data
            assert content is not None, "a skipped item cannot be decoded"
            how = (settings.preprocessing, settings.limits)
            if settings.is_cached is not None:
                header, _ = self._ask(image_request(content, *how, True), settings.limits)
                if settings.is_cached(header["sha256"]):
                    return Cached(item.row, header["sha256"])
            header, payload = self._ask(image_request(content, *how), settings.limits)
        except UnreadableImage as error:
            return Undecodable(item.row, str(error))
        except (UnicodeEncodeError, FileNotFoundError, PermissionError) as error:
            return Undecodable(item.row, read_failure(error))
        size = math.prod(header["shape"])
        pixels = np.frombuffer(payload, np.uint8, size).reshape(header["shape"])
        found = Measures(tuple(header["quality"]), header["digest"], bytes(payload[size:]))
        return Decoded(item.row, pixels, header["sha256"], header["exif_rotated"], found)

    def thumbnail(self, data: bytes, side: int, limits: DecodingLimits) -> bytes:
        """A WebP no larger than `side` x `side` of an image file's bytes, rotated upright.

        It holds pixels only: no EXIF, GPS, colour profile or comment. Raises UnreadableImage;
        BlissError where no worker can be started.
        """
        return bytes(self._ask(thumbnail_request(data, side, limits), limits)[1])

    def _ask(self, request: bytes, limits: DecodingLimits) -> Frame:
        """The worker's response; UnreadableImage where it gives a reason, hangs or dies."""
        process = self._process = self._process or self._processes.start()
        frame, expired = self._processes.exchange(process, request, limits.seconds)
        reason = ""
        if frame is not None:
            reason = str(frame[0].get("reason", ""))
        elif expired:
            reason = f"decoding took longer than {limits.seconds:g} s"
        else:
            reason = f"the decoder process died ({cause_of_death(process)})"
        if frame is None or expired:
            kill(process)
            self._process = None
        if frame is None or reason:
            raise UnreadableImage(reason)
        return frame


def read_failure(error: UnicodeEncodeError | FileNotFoundError | PermissionError) -> str:
    """Why the content of an image could not be read, in one short sentence."""
    if isinstance(error, UnicodeEncodeError):
        return "the file name is not valid on this system"
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    return "there is no permission to read the file"


class PoolStopped(Exception):
    """The pool is shutting down: no worker may start any more."""


class WorkerProcesses:
    """The running workers of one pool; a thread kills those that are past their deadlines."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._deadlines: dict[subprocess.Popen[bytes], float] = {}
        self._watcher: threading.Thread | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """A worker that is ready; BlissError when several in a row die before they are."""
        for _ in range(START_ATTEMPTS):
            with self._lock:
                if self.stopping.is_set():
                    raise PoolStopped
                if self._watcher is None:
                    self._watcher = threading.Thread(target=self._watch, daemon=True)
                    self._watcher.start()
                kept = _idle_worker()
                if kept is not None:
                    return kept
                process = launch(WORKER_COMMAND, subprocess.DEVNULL)
            try:
                frame, expired = self.exchange(process, b"", START_SECONDS)
            except PoolStopped:
                kill(process)
                raise
            if frame is not None and "ready" in frame[0] and not expired:
                return process
            cause = f"no answer in {START_SECONDS:g} s" if expired else cause_of_death(process)
            kill(process)
        if self.stopping.is_set():
            raise PoolStopped
        raise BlissError(
            f"the image decoder process ended {START_ATTEMPTS} times in a row before it was ready "
            f"({cause}; {_last_error_line()})",
            "a Python that can start 'python -m blissaudit.indexer.images.decode_worker'",
            "Reinstall bliss-audit and Pillow, and check that memory and process limits leave room",
        )

    def exchange(
        self, process: subprocess.Popen[bytes], request: bytes, seconds: float
    ) -> tuple[Frame | None, bool]:
        """The response to `request` (None if the worker died), and whether time ran out.

        The worker is killed when time runs out, even if its response has arrived by then. Raises
        PoolStopped after `stop`.
        """
        with self._lock:
            if self.stopping.is_set():
                raise PoolStopped
            self._deadlines[process] = time.monotonic() + seconds
        frame = exchange(process, request)
        with self._lock:
            return frame, self._deadlines.pop(process, None) is None

    def release(self, process: subprocess.Popen[bytes]) -> None:
        """Keep one worker for others if it is idle and they may use it; end it if not."""
        with self._lock:
            is_idle = process not in self._deadlines and process.poll() is None
        if is_idle and _idle is not None:
            _idle.append(process)
        else:
            kill(process)

    def stop(self) -> None:
        """Kill the workers that are busy and give out no more requests; owners reap or release."""
        self.stopping.set()
        with self._lock:
            for process in self._deadlines:
                process.kill()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        while not self.stopping.wait(WATCH_SECONDS):
            now = time.monotonic()
            with self._lock:
                for process in [each for each, end in self._deadlines.items() if end < now]:
                    del self._deadlines[process]
                    process.kill()


def launch(command: Sequence[str], stderr: int) -> subprocess.Popen[bytes]:
    """Start a worker with pipes, this process's import path and single-threaded libraries.

    Raises BlissError where the system refuses.
    """
    folders = [os.path.abspath(entry) for entry in sys.path if os.path.exists(entry or os.curdir)]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), **single},
        )
    except OSError as error:
        raise BlissError(
            f"the image decoder process could not be started ({error.strerror or error})",
            f"permission and memory to run {command[0] or 'Python'}",
            "Use fewer workers, or raise the limit on processes",
        ) from error


def exchange(process: subprocess.Popen[bytes], request: bytes) -> Frame | None:
    """Write `request` and read one frame; None if the worker died or sent something else."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()
        return read_frame(process.stdout)
    except (OSError, ValueError):
        return None


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap a worker and close its pipes."""
    process.kill()
    with suppress(subprocess.TimeoutExpired):  # stuck in the kernel, on a lost network drive
        process.wait(timeout=END_SECONDS)
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):  # bytes that can no longer be delivered
            if stream is not None:
                stream.close()


def cause_of_death(process: subprocess.Popen[bytes]) -> str:
    """How a worker that sent no response ended: its signal or its exit status."""
    try:
        code = process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        return "it sent an invalid response"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _last_error_line() -> str:
    """The last line that a starting worker writes to stderr."""
    process = launch(WORKER_COMMAND, subprocess.PIPE)
    try:
        _, stderr = process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        _, stderr = process.communicate()
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else "it wrote no error"


class _Finished:
    """Stands behind the last outcome."""


class _Pool:
    """The state that the threads of one `decode_images` call share."""

    def __init__(self, settings: DecodeSettings, window: int) -> None:
        self.settings, self.window = settings, window
        self.tasks: SimpleQueue[tuple[int, ImageItem] | None] = SimpleQueue()
        self.results: SimpleQueue[tuple[int, Outcome | BaseException | _Finished]] = SimpleQueue()
        self.processes = WorkerProcesses()
        self.changed = threading.Condition()
        """Guards the two counts below."""
        self.taken = 0
        """Outcomes that the caller has taken."""
        self.waiting_bytes = 0

    def outcomes(self, items: Iterable[ImageItem], workers: int) -> Iterator[Outcome]:
        """An outcome for each item, in order."""
        threads = [threading.Thread(target=self._read, args=(items,), daemon=True)]
        threads += [threading.Thread(target=self._decode, daemon=True) for _ in range(workers)]

        def stop() -> None:
            self._stop(threads)

        atexit.register(stop)  # for an iterator that is neither exhausted nor closed
        try:
            for thread in threads:
                thread.start()
            arrived: dict[int, Any] = {}
            for position in itertools.count():
                while position not in arrived:
                    with suppress(Empty):  # polls, so that Ctrl-C is always noticed
                        number, outcome = self.results.get(timeout=POLL_SECONDS)
                        arrived[number] = outcome
                outcome = arrived.pop(position)
                if isinstance(outcome, _Finished):
                    return
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
                with self.changed:
                    self.taken = position + 1
                    self.changed.notify_all()
        finally:
            stop()
            atexit.unregister(stop)

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        """End all workers and threads now; calling it again does nothing."""
        self.processes.stop()
        with self.changed:
            self.changed.notify_all()
        with suppress(Empty):
            while True:
                self.tasks.get_nowait()
        for _ in threads:
            self.tasks.put(None)
        for thread in threads:
            if thread.is_alive():
                thread.join(timeout=2 * END_SECONDS)

    def _read(self, items: Iterable[ImageItem]) -> None:
        """Read items while there is room for them; the last result says how it ended."""
        position = 0
        source = iter(items)
        try:
            while self._wait_for_room(position) and (item := next(source, None)) is not None:
                if item.problem:
                    self.results.put((position, Undecodable(item.row, item.problem)))
                else:
                    with self.changed:
                        self.waiting_bytes += _size(item)
                    self.tasks.put((position, item))
                position += 1
            self.results.put((position, _Finished()))
        except BaseException as error:
            self.results.put((position, error))
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def _wait_for_room(self, position: int) -> bool:
        """Wait until an item may be read; False where the pool stops."""
        stopping = self.processes.stopping

        def has_room() -> bool:
            few = position - self.taken < self.window and self.waiting_bytes < READ_AHEAD_BYTES
            return few or stopping.is_set()

        with self.changed:
            self.changed.wait_for(has_room)
        return not stopping.is_set()

    def _decode(self) -> None:
        """Decode tasks in one worker until there are none."""
        position = -1
        with Decoder(self.processes) as decoder, suppress(PoolStopped):
            try:
                while (task := self.tasks.get()) is not None:
                    position, item = task
                    outcome = decoder.decode(item, self.settings)
                    with self.changed:
                        self.waiting_bytes -= _size(item)
                        self.changed.notify_all()
                    self.results.put((position, outcome))
            except PoolStopped:
                raise
            except BaseException as error:
                self.results.put((position, error))


def _size(item: ImageItem) -> int:
    return len(item.data) if isinstance(item.data, bytes) else 0
