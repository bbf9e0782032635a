"""A stand-in for FAISS's GPU surface: the same names, fp16 arithmetic on the CPU, and a log."""

from __future__ import annotations

from types import SimpleNamespace

import faiss
import numpy as np


def halves(rows):
    return np.asarray(rows).astype(np.float16).astype(np.float32)


def best(queries, rows, k):
    found = halves(queries) @ halves(rows).T
    order = np.argsort(-found, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, order, axis=1), order.astype(np.int64)


class Flat:
    """GpuIndexFlatIP; of several, IndexShards and IndexReplicas."""

    def __init__(self, log, device, dimension):
        self.log, self.device = log, device
        self.rows = np.zeros((0, dimension), np.float32)

    def add(self, rows):
        self.rows = np.concatenate([self.rows, rows])
        self.log.append(("add", self.device, len(rows)))

    def search(self, queries, k):
        assert k <= 2048
        self.log.append(("search", self.device, k))
        return best(queries, self.rows, k)


class Several:
    def __init__(self, log, spread):
        self.log, self.spread, self.members = log, spread, []

    def add_shard(self, index):
        assert self.spread
        self.members.append(index)

    def add_replica(self, index):
        assert not self.spread
        self.members.append(index)

    def search(self, queries, k):
        self.log.append(("several", len(self.members), k))
        if not self.spread:
            return self.members[0].search(queries, k)
        return best(queries, np.concatenate([member.rows for member in self.members]), k)


class Moved:
    """An inverted file on GPUs: takes no parameters with a search."""

    def __init__(self, log, index):
        self.log, self.index, self.nprobe = log, index, 1

    def search(self, queries, k):
        assert k <= 2048
        self.log.append(("probe", self.nprobe, k))
        return self.index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=self.nprobe))


def fake_faiss(gpus, fails=None):
    """(module, log) with `gpus` visible; `fails` is what every search raises."""
    log: list[tuple] = []

    def knn_gpu(resource, queries, rows, k, **options):
        if fails:
            raise RuntimeError(
                f"Error in x at /project/faiss/gpu/y.cu:7: Error: 'a' failed: {fails}"
            )
        assert queries.dtype == rows.dtype == np.float16 and rows.flags.c_contiguous
        assert options["metric"] == faiss.METRIC_INNER_PRODUCT and k <= 2048
        log.append(("knn_gpu", options["device"], k, len(rows), options["vectorsMemoryLimit"]))
        return best(queries, rows, k)

    def one(resource, device, index, options):
        assert options.useFloat16
        log.append(("to gpu", device))
        return Moved(log, index)

    def many(resources, index, options, gpus):
        assert options.useFloat16 and len(resources) == len(gpus)
        log.append(("to gpus", tuple(gpus), options.shard))
        return Moved(log, index)

    def set_index_parameter(moved, name, value):
        assert name == "nprobe"
        moved.nprobe = value

    module = SimpleNamespace(
        METRIC_INNER_PRODUCT=faiss.METRIC_INNER_PRODUCT,
        ResultHeap=faiss.ResultHeap,
        get_num_gpus=lambda: gpus,
        StandardGpuResources=object,
        GpuIndexFlatConfig=SimpleNamespace,
        GpuIndexFlatIP=lambda _, dimension, config: Flat(log, config.device, dimension),
        IndexShards=lambda dimension, threaded, successive: Several(log, True),
        IndexReplicas=lambda dimension, threaded: Several(log, False),
        GpuClonerOptions=SimpleNamespace,
        GpuMultipleClonerOptions=SimpleNamespace,
        GpuParameterSpace=lambda: SimpleNamespace(set_index_parameter=set_index_parameter),
        knn_gpu=knn_gpu,
        index_cpu_to_gpu=one,
        index_cpu_to_gpu_multiple_py=many,
    )
    return module, log
