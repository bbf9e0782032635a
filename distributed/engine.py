"""Ray Data as the engine that embeds parts.

Reading happens on the machine of this process, preparing (tokenising, decoding) in tasks anywhere
in the cluster, encoding in actors that each load the model once, one for each GPU. Ray starts
tasks and actors that die again and gives them the same piece of work; results come back here, so
no disk need be shared.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..errors import BlissError, UsageError
from ..indexer.images.pieces import (
    BROKE_OFF,
    Piece,
    Step,
    apply_step,
    error_piece,
    from_rows,
    to_row,
)
from .cluster import RayEngine, cluster, import_ray

READ_CPUS, PREPARE_CPUS, ENCODE_CPUS = 0.5, 1.0, 0.75
"""What a task of each stage counts as; all differ, since Ray Data joins stages that ask alike."""


@dataclass(frozen=True)
class Stages:
    """What is done to every piece, in three kinds of processes."""

    read: Callable[[int], Iterator[Piece]]
    """The pieces of one ticket, in order; called on the machine of this process."""
    prepare: Step
    encoder: Callable[[], Step]
    """Called once in each encoding actor."""


def run_pieces(tickets: Sequence[int], stages: Stages, engine: RayEngine) -> Iterator[Piece]:
    """Every piece that `read` gives for `tickets`, prepared and encoded, as they become ready.

    Few pieces wait between the stages: what is read ahead is bounded by Ray's object store.
    Errors of the stages are pieces too. Raises UsageError where ray is not installed, BlissError
    for a cluster that cannot be reached, is too small or fails as a whole. Closing the iterator
    ends the work, and the cluster if it is our own.
    """
    if not tickets:
        return
    ray = import_ray(engine)
    with cluster(ray, engine):
        blocks = iter(_pipeline(ray, tickets, stages, engine))
        try:
            while (block := _next(ray, blocks)) is not None:
                yield from from_rows(block)
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()


def _pipeline(ray: Any, tickets: Sequence[int], stages: Stages, engine: RayEngine) -> Iterable[Any]:
    """The stages as a Ray Dataset that runs while its blocks are taken."""
    actors, gpus = count_actors(ray.cluster_resources(), engine)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # every piece travels for itself
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    whole: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    items = [{"ticket": ticket} for ticket in tickets]
    with ray.data.DataContext.current(context):
        read = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            functools.partial(_read, os.getcwd(), stages.read),
            concurrency=1,
            num_cpus=READ_CPUS,
            label_selector=here,
            **whole,
        )
        prepared = read.map_batches(
            functools.partial(_prepare, os.getcwd(), stages.prepare), num_cpus=PREPARE_CPUS, **whole
        )
        encoded = prepared.map_batches(
            _Encode,
            fn_constructor_args=(os.getcwd(), stages.encoder),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=ENCODE_CPUS,
            num_gpus=gpus,
            **whole,
        )
        blocks: Iterable[Any] = encoded.iter_batches(prefetch_batches=0, **whole)
    return blocks


def _next(ray: Any, blocks: Iterator[pa.Table]) -> pa.Table | None:
    """The next block, None behind the last; what Ray itself cannot mend is one plain sentence."""
    try:
        return next(blocks, None)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise BlissError(
            f"Ray gave up ({type(error).__name__}: {(lines or ['no reason given'])[-1].strip()})",
            "a cluster whose workers stay up",
            "Run the same command again to go on from the finished parts",
        ) from error


def _go_to(folder: str) -> None:
    """Work where the command was given, so that relative paths mean the same; if it is there."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


def _read(
    folder: str, read: Callable[[int], Iterator[Piece]], tickets: pa.Table
) -> Iterator[pa.Table]:
    _go_to(folder)
    for ticket in tickets["ticket"].to_pylist():
        try:
            for piece in read(ticket):
                yield to_row(piece)
        except Exception as error:
            yield to_row(error_piece(error, BROKE_OFF))


def _prepare(folder: str, step: Step, rows: pa.Table) -> Iterator[pa.Table]:
    _go_to(folder)
    for piece in from_rows(rows):
        yield to_row(apply_step(step, piece))


class _Encode:
    """An encoding actor; a model that cannot be loaded is told with the first piece."""

    def __init__(self, folder: str, make: Callable[[], Step]) -> None:
        _go_to(folder)
        try:
            self.step = make()
        except Exception as error:
            failure = error
            self.step = functools.partial(_fail, failure)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for piece in from_rows(rows):
            yield to_row(apply_step(self.step, piece))


def _fail(error: Exception, table: pa.Table) -> pa.Table:
    raise error


def count_actors(there: Mapping[str, float], engine: RayEngine) -> tuple[int, int]:
    """How many encoders there are to be, and how many GPUs each has, given a cluster's resources.

    Raises UsageError where more encoders than GPUs were asked for, BlissError where there are too
    few CPUs for every stage to run.
    """
    on_cpu = (engine.choice.device or "cuda").startswith("cpu")
    gpus = 0 if on_cpu else int(there.get("GPU", 0))
    actors = engine.actors or max(1, gpus)
    if 0 < gpus < actors:
        raise UsageError(
            f"{actors} Ray actors were asked for and the cluster has {gpus} GPU{'s' * (gpus != 1)}",
            "a GPU for each",
            "Ask for fewer with --ray-actors, or encode with --device cpu",
        )
    cpus, needed = there.get("CPU", 0), READ_CPUS + PREPARE_CPUS + actors * ENCODE_CPUS
    if cpus < needed:
        raise BlissError(
            f"the Ray cluster has {cpus:g} CPUs",
            f"{needed:g} for reading, preparing and {actors} encoders",
            "Add a machine, or ask for fewer with --ray-actors",
        )
    return actors, int(gpus > 0)
