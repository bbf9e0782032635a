"""Claim: a cluster searches and scores with the bits of one process.

A collection that is its own reference is fitted, searched and scored in one process, then by 1, 2
and 4 actors on a Ray cluster of four machines, all of them this one, with one BLAS thread each.
What the command sends (a task, once a machine) and receives (results) is pickled and counted: the
moments of the classes, which do not grow with the images, and the rest, which does. Seconds of a
stage include the start of its actors, which import the package and open the index. The rate of one
core, from which docs/ray.md computes the size of a cluster, is of processor time.

Run as: OMP_NUM_THREADS=1 python benchmarks/ray_search.py [--record] [--images N] [--texts M]
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.audit.retrieval import retrieve
from blissaudit.audit.scoring import ClassScores, class_moments, score_classes
from blissaudit.distributed.cluster import import_ray
from blissaudit.distributed.engine import RayEngine
from blissaudit.indexer import ModelChoice, exact_search, index_embeddings
from blissaudit.indexer.vectors.blas import use_blas_threads
from blissaudit.indexer.vectors.rows import PartedRows
from blissaudit.scorer import LeftOut, Moments, Reference, empty_moments
from measuring import begin, unit
from synthetic import DIMENSION, around

CLAIM = "search and scores on a cluster of four machines against one process"
IMAGES, TEXTS, CLASSES, K = 4000, 60_000, 40, 10
ACTORS = (1, 2, 4)


@dataclass(frozen=True)
class Counted(RayEngine):
    """Counts the bytes that the command sends and receives."""

    moments: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)

    def map(self, task: Callable, items: Iterable) -> Iterator[Any]:
        if isinstance(task, ClassScores):
            self.moments.append(len(pickle.dumps(task.reference)))
            self.others.append(len(pickle.dumps(replace(task, reference=None))))
        else:
            self.others.append(len(pickle.dumps(task)))
        for found in super().map(task, items):
            kind = self.moments if isinstance(found, Moments) else self.others
            kind.append(len(pickle.dumps(found)))
            yield found


def stages(world: dict[str, Any], engine: RayEngine | None) -> tuple[dict[str, float], list[bytes]]:
    """Seconds of each stage, and the bits of what they give."""
    images, labels, prompts, index = (world[n] for n in ("images", "labels", "prompts", "index"))
    seconds, start = {}, time.perf_counter()
    empty = empty_moments([f"class {c}" for c in range(CLASSES)], DIMENSION)
    moments = class_moments(empty, images, labels, engine)
    seconds["moments"] = time.perf_counter() - start
    retrieved = retrieve(index, images, K, engine=engine)
    seconds["search"] = time.perf_counter() - start - sum(seconds.values())
    left_out = LeftOut(np.arange(len(labels)), labels)
    reference = Reference(moments, prompts)
    found = score_classes(images, retrieved, reference, 0.5, labels, left_out, engine=engine)
    seconds["scores"] = time.perf_counter() - start - sum(seconds.values())
    arrays = [retrieved.similarity, retrieved.rows, *vars(found).values()]
    arrays += [part.mean for part in moments.parts]
    return seconds, [np.ascontiguousarray(array).tobytes() for array in arrays]


def make_world(root: Path, images: int, texts: int) -> dict[str, Any]:
    """Clustered images in two files, labels, prompts, and an index of random texts."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((CLASSES, DIMENSION), np.float32))
    labels = np.sort(rng.integers(0, CLASSES, images))
    rows = around(rng, centres, labels, 1.0).astype(np.float16)
    paths = [root / "0.npy", root / "1.npy"]
    for path, some in zip(paths, np.array_split(rows, 2), strict=True):
        np.save(path, some)
    for name in ("text_emb", "metadata"):
        (root / "texts" / name).mkdir(parents=True)
    vectors = unit(rng.standard_normal((texts, DIMENSION), np.float32)).astype(np.float16)
    np.save(root / "texts" / "text_emb" / "text_emb_0.npy", vectors)
    table = pa.table({"caption": [f"text {n}" for n in range(texts)]})
    pq.write_table(table, root / "texts" / "metadata" / "metadata_0.parquet")
    index = index_embeddings(root / "texts", root / "index")
    prompts = around(rng, centres, np.arange(CLASSES), 0.5)
    return {"images": PartedRows(paths), "labels": labels, "prompts": prompts, "index": index}


def core_rate(world: dict[str, Any]) -> float:
    """Operations of a search a second of processor time, which other work hardly changes."""
    images, texts = world["images"][:1024], world["index"].vectors[:32_768]
    exact_search(images, texts, K)
    start = time.process_time()
    exact_search(images, texts, K)
    return 2 * len(images) * len(texts) * DIMENSION / (time.process_time() - start)


def number_after(name: str, default: int) -> int:
    """The number after an option, which is taken out of the command line."""
    if name not in sys.argv:
        return default
    at = sys.argv.index(name)
    value = int(sys.argv[at + 1])
    del sys.argv[at : at + 2]
    return value


def main() -> int:
    n, m = number_after("--images", IMAGES), number_after("--texts", TEXTS)
    report = begin("ray_search", CLAIM, 1)
    use_blas_threads(1)
    ray = import_ray()
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 256 << 20}
    cluster = Cluster(True, head_node_args={**machine, "include_dashboard": False})
    for _ in range(3):
        cluster.add_node(**machine)
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    met = []
    try:
        with tempfile.TemporaryDirectory() as name:
            world = make_world(Path(name), n, m)
            read = 2 * DIMENSION * (n + m)
            report.say(
                f"\nn = {n:,}, M = {m:,}, d = {DIMENSION}, C = {CLASSES}, k = {K}; embeddings on "
                f"disk {read / 2**20:,.1f} MiB"
            )
            report.say(f"search: {core_rate(world) / 1e9:.0f} GFLOP/s for each core")
            whole, expected = stages(world, None)
            report.say(line("one process", whole))
            for actors in ACTORS:
                engine = Counted(ModelChoice(), actors=actors)
                seconds, found = stages(world, engine)
                met.append(found == expected)
                moments, others = sum(engine.moments) / 2**20, sum(engine.others)
                report.say(line(f"{actors} actor{'s' * (actors > 1)}", seconds))
                report.say(
                    f"  => the same bits: {'met' if met[-1] else 'MISSED'}; through the command: "
                    f"moments {moments:,.1f} MiB, all else {others / n:,.0f} bytes an image"
                )
    finally:
        ray.shutdown()
        cluster.shutdown()
    report.finish()
    return int(not all(met))


def line(name: str, seconds: dict[str, float]) -> str:
    """One line with the seconds of each stage, and the load."""
    each = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    return f"{name}: {each} (load {os.getloadavg()[0]:.1f})"


if __name__ == "__main__":
    sys.exit(main())
