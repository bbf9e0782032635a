"""Actors of a Ray cluster that search and compute: shards of an index, and workers.

A shard holds some stored rows of an index, or all of an index with an approximate structure, which
several actors then hold; it answers queries that arrive through the object store. A worker holds
one task and is given one item after another. Ray starts actors that die again, on another machine
where theirs is gone, and gives them the call they were in. They reserve no CPU, so that they never
wait for one: a machine that is lost need not be replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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


class Shards(NamedTuple):
    """How an index is spread."""

    actors: int
    gpus: int
    """Of each."""
    threads: int
    """Of BLAS."""
    exact: bool
    """Whether structures are left aside."""


@contextmanager
def spread_index(index: CaptionIndex, wanted: Shards) -> Iterator[CaptionIndex]:
    """`index` searched by actors, which end with the block."""
    actors: list[Any] = []
    places = _machines_in_turn()

    def made(one: CaptionIndex) -> CaptionIndex:
        if isinstance(one, JoinedIndex):
            return replace(one, members=tuple(map(made, one.members)))
        assert isinstance(one, FolderIndex), "an index is in a folder, or several joined"
        given = one.origins[0].index if one.origins else str(one.folder)
        folder = str(one.folder.resolve()) if Path(given).is_dir() else given
        shard = _ray().remote(**RESTARTED, num_gpus=wanted.gpus)(Shard)
        whole = isinstance(one.searcher, StructureSearcher) and not wanted.exact
        choice = replace(one.choice, kind=EXACT, parameters=None) if wanted.exact else one.choice
        ends = np.linspace(0, one.stored_count, 1 + (1 if whole else wanted.actors)).astype(
            np.int64
        )
        shards = []
        for start, stop in pairwise(ends.tolist()):
            rows = None if whole else (start, stop)
            copies = range(wanted.actors if whole else 1)
            shards.append([
                shard.options(scheduling_strategy=next(places)).remote(
                    folder, choice, rows, wanted.threads
                )
                for _ in copies
            ])  # fmt: skip
            actors.extend(shards[-1])
        return replace(one, searcher=ShardedSearcher(one.stored, ends, shards))

    try:
        yield made(index)
    finally:
        for actor in actors:
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
    from .cluster import import_ray

    return import_ray()
