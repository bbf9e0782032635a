"""A Ray cluster for one command, connected to or started, and its actors.

This is the only module that imports ray. Actors search and compute: a shard holds some stored rows
of an index, or all of an index with an approximate structure, which several actors then hold; it
answers queries that arrive through the object store. A worker holds one task and is given one item
after another. Ray starts actors that die again, on another machine where theirs is gone, and gives
them the call they were in. They reserve no CPU, so that they never wait for one: a machine that is
lost need not be replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BlissError, UsageError
from ..indexer import (
    EXACT,
    CaptionIndex,
    FolderIndex,
    Hits,
    JoinedIndex,
    Rows,
    SearchChoice,
    Searcher,
    StructureSearcher,
    merge_hits,
    open_searcher,
    use_blas_threads,
)
from .batches import FAILED, Batch, batch_error, change_folder, error_batch

OBJECT_STORE_BYTES = 1 << 30
"""Object store of a local cluster: the most that may wait between the stages."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a local cluster on loopback on every system
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
}
AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
CONNECT_SECONDS = 10.0


def import_ray(address: str | None = None) -> Any:
    """The module `ray`, imported with the environment variables that it reads while loading.

    Without an address, a token of this process keeps other users of the machine out of the local
    cluster; Ray itself would leave one in the home folder. Raises UsageError without Ray.
    """
    if "ray" not in sys.modules:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        if address is None and not AUTHENTICATION & set(os.environ):
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(
            f"--engine ray was given and Ray cannot be imported ({error})",
            "the extra [ray]",
            "pip install 'bliss-audit[ray]', or leave --engine out",
        ) from error
    return ray


@contextlib.contextmanager
def cluster(ray: Any, address: str | None = None, actors: int | None = None) -> Iterator[None]:
    """A cluster for the block: the one this process is in, the one at `address`, or a local one.

    Raises BlissError where there is none at `address` or a local one for `actors` cannot start.
    """
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as ending:
        ending.enter_context(_no_messages_on_stdout(ray))
        if address is not None:
            _connect(ray, address)
        else:
            folder = ending.enter_context(
                tempfile.TemporaryDirectory(prefix="bliss-ray-", ignore_cleanup_errors=True)
            )
            _start(ray, folder, actors or 1)
        ending.callback(ray.shutdown)
        yield


def _connect(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself would retry for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        _init(ray, address=address)
    except Exception as error:
        raise BlissError(
            f"no Ray cluster at {address} ({_first_line(error)})",
            "host:port of a Ray cluster that this machine belongs to, or auto",
            "Correct the address in --engine ray:ADDRESS, or leave it out to start Ray here",
        ) from error


def _start(ray: Any, folder: str, actors: int) -> None:
    """A cluster of this machine alone, without a dashboard, reachable from this machine only."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        _init(
            ray,
            num_cpus=(cores or 1) + 1 + actors,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
        )
    except Exception as error:
        raise BlissError(
            f"Ray could not be started on this machine ({_first_line(error)})",
            "memory, processes and a temporary folder for it",
            "Leave --engine out, or name a running cluster with --engine ray:ADDRESS",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _init(ray: Any, **settings: Any) -> None:
    """`ray.init` without the line that it prints to stderr about its log level."""
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **settings)
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextlib.contextmanager
def _no_messages_on_stdout(ray: Any) -> Iterator[None]:
    """Ray reports workers that died on stdout, where a command prints its result as JSON."""
    worker = ray._private.worker
    print_to_stdstream = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = lambda *args, **kwargs: None
    try:
        yield
    finally:
        worker.print_to_stdstream = print_to_stdstream


RESTARTED = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
"""Options of all actors: restarted as often as they die."""


class Shard:
    """Some rows of an index, or all of them, opened when the first query comes."""

    def __init__(
        self, folder: str, choice: SearchChoice, rows: tuple[int, int] | None, threads: int
    ) -> None:
        self.folder, self.choice, self.rows, self.threads = folder, choice, rows, threads

    @cached_property
    def searcher(self) -> Searcher:
        """Errors as of `open_searcher`."""
        use_blas_threads(min(self.threads, os.cpu_count() or 1))
        return open_searcher(self.folder, self.choice, self.rows)

    def search(self, queries: np.ndarray, k: int, live: np.ndarray | None) -> Hits | Batch:
        """See `Searcher`; hits are numbered from the first row here. An error is a batch."""
        try:
            return self.searcher.search(queries, k, live)
        except Exception as error:
            return error_batch(error, FAILED)


@dataclass
class ShardedSearcher:
    """A Searcher whose rows lie in actors: each of several ranges of rows in one or more."""

    rows: Rows
    starts: np.ndarray
    """int64 [ranges + 1], the first row of each range, and the number of rows."""
    shards: Sequence[Sequence[Any]]
    """The actors of each range; they take turns."""
    turn: int = 0

    def search(self, queries: np.ndarray, k: int, live: np.ndarray | None = None) -> Hits:
        """See `Searcher`; the hits of one process, bit for bit."""
        ray = _ray()
        sent = ray.put(np.ascontiguousarray(queries, np.float32))
        waiting: list[tuple[int, Any]] = []
        for (start, stop), actors in zip(pairwise(self.starts.tolist()), self.shards, strict=True):
            here, count = None, stop - start
            if live is not None:
                some = live[slice(*np.searchsorted(live, [start, stop]))]
                if len(some) < count:
                    here, count = some - start, len(some)
            if count:
                actor = actors[self.turn % len(actors)]
                waiting.append((start, actor.search.remote(sent, min(k, count), here)))
        self.turn += 1
        found = []
        for start, reference in waiting:
            hits = _checked(ray.get(reference))
            found.append(Hits(hits.similarity, hits.rows + start))
        return merge_hits(found, k)


@contextmanager
def spread_index(
    index: CaptionIndex, actors: int, gpus: int, threads: int, exact: bool
) -> Iterator[CaptionIndex]:
    """`index` searched by `actors` of `gpus` and `threads` of BLAS each, ended with the block.

    If `exact`, its structures are left aside.
    """
    started: list[Any] = []
    places = _machines_in_turn()

    def made(one: CaptionIndex) -> CaptionIndex:
        if isinstance(one, JoinedIndex):
            return replace(one, members=tuple(map(made, one.members)))
        assert isinstance(one, FolderIndex), "an index is in a folder, or several joined"
        given = one.origins[0].index if one.origins else str(one.folder)
        folder = str(one.folder.resolve()) if Path(given).is_dir() else given
        shard = _ray().remote(**RESTARTED, num_gpus=gpus)(Shard)
        whole = isinstance(one.searcher, StructureSearcher) and not exact
        choice = replace(one.choice, kind=EXACT, parameters=None) if exact else one.choice
        ends = np.linspace(0, one.stored_count, 1 + (1 if whole else actors)).astype(np.int64)
        shards = []
        for start, stop in pairwise(ends.tolist()):
            rows = None if whole else (start, stop)
            copies = range(actors if whole else 1)
            shards.append([
                shard.options(scheduling_strategy=next(places)).remote(
                    folder, choice, rows, threads
                )
                for _ in copies
            ])  # fmt: skip
            started.extend(shards[-1])
        return replace(one, searcher=ShardedSearcher(one.stored, ends, shards))

    try:
        yield made(index)
    finally:
        for actor in started:
            _ray().kill(actor)


class Worker:
    """Holds a task; uses as many threads of BLAS as the command, so that sums are the same."""

    def __init__(self, folder: str, threads: int, task: Callable[[Any], Any]) -> None:
        change_folder(folder)
        use_blas_threads(threads)
        self.task = task

    def run(self, item: Any) -> Any:
        """What the task gives; an error is a batch."""
        try:
            return self.task(item)
        except Exception as error:
            return error_batch(error, FAILED)


def map_items(
    task: Callable[[Any], Any], items: Sequence[Any], count: int, threads: int
) -> Iterator[Any]:
    """What `task` gives for each item, in order; `count` workers compute. Errors unchanged."""
    ray = _ray()
    sent = ray.put(task)  # once for all workers of a machine
    worker = ray.remote(**RESTARTED)(Worker)
    workers = [
        worker.options(scheduling_strategy=place).remote(os.getcwd(), threads, sent)
        for place in islice(_machines_in_turn(), min(count, len(items)))
    ]
    try:
        pool = ray.util.ActorPool(workers)
        yield from map(_checked, pool.map(lambda actor, item: actor.run.remote(item), items))
    finally:
        for each in workers:
            ray.kill(each)


def _machines_in_turn() -> Iterator[Any]:
    """Where to start actors: on each machine in turn; Ray takes another one where it is gone."""
    ray = _ray()
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    machines = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return (affinity(name, soft=True) for name in cycle(machines))


def _checked(found: Any) -> Any:
    """What an actor returned; raises the error that it is."""
    if isinstance(found, Batch):
        raise batch_error(found)
    return found


def _ray() -> Any:
    """The module `ray`, which a command or a process of a cluster has imported."""

    return import_ray()
