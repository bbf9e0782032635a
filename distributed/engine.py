"""A Ray cluster as the engine that embeds parts, searches and scores.

Parts are embedded with Ray Data: reading runs on the machine of the calling process, preparing
(tokenising, decoding) in tasks anywhere in the cluster, encoding in actors that each load the model
once, one for each GPU. Ray restarts tasks and actors that die and gives them the same batch;
results come back to the calling process, so no disk need be shared. Searches and scores are the
work of actors (actors.py), which read embeddings and indexes themselves: those lie at the same path
on every machine.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from ..corpora import closed_after
from ..errors import BlissError, UsageError
from ..indexer import (
    PROGRESS,
    CaptionIndex,
    Described,
    EmbeddingTask,
    Encoder,
    FolderIndex,
    JoinedIndex,
    ModelChoice,
    PartBuilder,
    RowPlan,
    SearchChoice,
    blas_threads,
)
from ..progress import Progress
from ..safe_text import counted
from .batches import (
    READ_ERROR,
    Batch,
    PartGatherer,
    Stages,
    Step,
    apply_step,
    arrow_to_array,
    change_folder,
    count_rows,
    error_batch,
    from_arrow,
    to_arrow,
)
from .cluster import cluster, import_ray, map_items, spread_index
from .stages import decoded_rows, image_stages, text_stages

Item = TypeVar("Item")
Result = TypeVar("Result")

READ_CPUS, PREPARE_CPUS, ENCODE_CPUS = 0.5, 1.0, 0.75
"""CPUs of a task of each stage; all differ, since Ray Data fuses stages with equal resources."""


@dataclass(frozen=True)
class RayEngine:
    """Works on a Ray cluster: the engine of `IndexOptions` and `EmbedOptions`.

    All methods raise UsageError where Ray is not installed, BlissError for a cluster that cannot
    be reached, is too small or fails as a whole, and errors of the workers unchanged.
    """

    choice: ModelChoice
    """The model that the workers load."""
    address: str | None = None
    """host:port of a running cluster, or `auto`; None: a local one, stopped afterwards."""
    actors: int | None = None
    """How many encoders, or shards of an index; by default one for each GPU of the cluster, without
    GPUs one encoder, and a shard for each machine."""
    opened: contextlib.ExitStack | None = field(default=None, compare=False, repr=False)
    """What closes the cluster once all work is done; None: it is closed after each piece of it."""

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UsageError(
                f"{self.actors} Ray actors were requested", "1 or more", "Request more"
            )
        if self.address is not None and self.address.startswith("ray://"):
            raise UsageError(
                f"the Ray client address {self.address} was given",
                "host:port of a cluster this machine belongs to, or auto",
                "Run bliss on a machine of the cluster, as `ray job submit` does",
            )

    def encode_captions(
        self,
        plan: RowPlan,
        numbers: Sequence[int],
        encoder: Encoder,
        described: Sequence[Described],
        progress: Progress,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(number, float32 [m, d]) of each of the parts `numbers`, as they become complete."""
        before = plan.count - sum(plan.parts[number] for number in numbers)
        progress(PROGRESS, before, plan.count)

        def on_rows(rows: int) -> None:
            progress(PROGRESS, before + rows, plan.count)

        stages = text_stages(plan, encoder, described, self.choice)
        with closed_after(self.run(numbers, stages)) as batches:
            parts = PartGatherer(frozenset(numbers))
            for number, table in parts.gather(count_rows(batches, on_rows)):
                yield number, arrow_to_array(table["vector"])

    def embed_images(self, task: EmbeddingTask) -> int:
        """Embed and write the missing parts of `task`; the number of rows of its collection.

        Batches of the encoder are those of one machine as long as every image of a part can be
        read; otherwise vectors may differ by float32 rounding.
        """

        def on_rows(rows: int) -> None:
            task.progress("images embedded", rows, task.images.count or rows)

        identity = replace(task.encoder, encode_images=lambda vectors: vectors)
        gatherer = PartGatherer()
        with closed_after(self.run([0], image_stages(task, self.choice))) as batches:
            for number, table in gatherer.gather(count_rows(batches, on_rows)):
                part = PartBuilder(identity, task.cached)
                for item, outcome in decoded_rows(table):
                    part.add(item, outcome)
                task.write(number, part.finish())
        return gatherer.input_rows or 0

    def run(self, tickets: Sequence[int], stages: Stages) -> Iterator[Batch]:
        """Every batch that `stages.read` gives for `tickets`, encoded, as they become ready.

        What is read ahead is bounded by Ray's object store. Errors of the stages are batches too.
        Closing the iterator ends the work, and a local cluster with it.
        """
        if not tickets:
            return
        with self._cluster() as ray:
            blocks = iter(_pipeline(ray, tickets, stages, self))
            with closed_after(blocks):
                while True:
                    with _plain_errors(ray):
                        block = next(blocks, None)
                    if block is None:
                        return
                    yield from from_arrow(block)

    @contextlib.contextmanager
    def spread(self, index: CaptionIndex, exact: bool = False) -> Iterator[CaptionIndex]:
        """The same index with the same hits, searched by actors that each hold some of its rows.

        An index with a structure is held by every actor, unless `exact`; they then take turns with
        batches. A GPU is used for each actor where the search is on GPUs.
        """
        with self._cluster() as ray:
            gpus = 0
            if any(choice.device.startswith("cuda") for choice in _choices(index)):
                gpus = int(ray.cluster_resources().get("GPU", 0))
            count = self.actors or gpus or _machines(ray)
            threads = max(1, self._cores(ray) // count)
            spread = spread_index(index, count, int(gpus > 0), threads, exact)
            with _plain_errors(ray), spread as found:
                yield found

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What the built-in `map` gives, computed in workers that each hold `task`, in order."""
        every, threads = list(items), blas_threads()
        if not every:
            return
        with self._cluster() as ray, _plain_errors(ray):
            count = self.actors or max(_machines(ray), self._cores(ray) // threads)
            yield from map_items(task, every, count, threads)

    def _cores(self, ray: Any) -> int:
        """All of the cluster; a local one claims more than there are, so that no stage waits."""
        claimed = int(ray.cluster_resources().get("CPU", 1))
        return claimed if self.address else min(claimed, os.cpu_count() or 1)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[Any]:
        ray = import_ray(self.address)
        connected = cluster(ray, self.address, self.actors)
        if self.opened is None:
            with connected:
                yield ray
        else:
            self.opened.enter_context(connected)  # does nothing from the second time on
            yield ray


def _choices(index: CaptionIndex) -> list[SearchChoice]:
    """How each of several joined indexes is searched."""
    if isinstance(index, JoinedIndex):
        return [choice for member in index.members for choice in _choices(member)]
    return [index.choice] if isinstance(index, FolderIndex) else []


def _machines(ray: Any) -> int:
    return max(1, sum(node["Alive"] for node in ray.nodes()))


def count_actors(resources: Mapping[str, float], engine: RayEngine) -> tuple[int, int]:
    """The number of encoders and of GPUs for each, given the resources of a cluster.

    Raises UsageError where more encoders than GPUs are requested, BlissError where there are too
    few CPUs for every stage to run.
    """
    on_cpu = (engine.choice.device or "cuda").startswith("cpu")
    gpus = 0 if on_cpu else int(resources.get("GPU", 0))
    actors = engine.actors or max(1, gpus)
    if 0 < gpus < actors:
        raise UsageError(
            f"{actors} Ray actors were requested and the cluster has {counted(gpus, 'GPU')}",
            "a GPU for each",
            "Request fewer with --engine ray:actors=N, or encode with --device cpu",
        )
    cpus, needed = resources.get("CPU", 0), READ_CPUS + PREPARE_CPUS + actors * ENCODE_CPUS
    if cpus < needed:
        raise BlissError(
            f"the Ray cluster has {cpus:g} CPUs",
            f"{needed:g} for reading, preparing and {actors} encoders",
            "Add a machine, or request fewer encoders with --engine ray:actors=N",
        )
    return actors, int(gpus > 0)


def _pipeline(ray: Any, tickets: Sequence[int], stages: Stages, engine: RayEngine) -> Iterable[Any]:
    """The stages as a Ray Dataset that runs while its blocks are taken."""
    actors, gpus = count_actors(ray.cluster_resources(), engine)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # every batch is a block
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


@contextlib.contextmanager
def _plain_errors(ray: Any) -> Iterator[None]:
    """An error of Ray itself becomes one line."""
    try:
        yield
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise BlissError(
            f"Ray failed ({type(error).__name__}: {(lines or ['no reason given'])[-1].strip()})",
            "a cluster whose workers keep running",
            "Run the same command again to continue from the finished parts",
        ) from error


def _read(
    folder: str, read: Callable[[int], Iterator[Batch]], tickets: pa.Table
) -> Iterator[pa.Table]:
    change_folder(folder)
    for ticket in tickets["ticket"].to_pylist():
        try:
            for batch in read(ticket):
                yield to_arrow(batch)
        except Exception as error:
            yield to_arrow(error_batch(error, READ_ERROR))


def _prepare(folder: str, step: Step, rows: pa.Table) -> Iterator[pa.Table]:
    change_folder(folder)
    for batch in from_arrow(rows):
        yield to_arrow(apply_step(step, batch))


class _Encode:
    """An encoding actor; a model that cannot be loaded is reported with the first batch."""

    def __init__(self, folder: str, make: Callable[[], Step]) -> None:
        change_folder(folder)
        try:
            self.step = make()
        except Exception as error:
            self.step = functools.partial(_fail, error)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for batch in from_arrow(rows):
            yield to_arrow(apply_step(self.step, batch))


def _fail(error: Exception, table: pa.Table) -> pa.Table:
    raise error
