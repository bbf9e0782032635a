"""Search on GPUs: dispatch, exactness and refusals, with stand-ins for FAISS's GPU functions.

The searches through torch run on the CPU in place of a GPU.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.search import captions as caption_index
from blissaudit.indexer.search import dispatch as search_dispatch
from blissaudit.indexer.search import gpu
from blissaudit.indexer.search import plan as search_plan
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.gpu import TorchSearcher
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.search.install import set_search_kind
from blissaudit.indexer.search.kinds import SearchChoice
from blissaudit.indexer.search.plan import Machine
from blissaudit.indexer.vectors.nearest import exact_search
from helpers import bliss_oracle as oracle
from helpers import fake_gpus as fake

HERE = Path(__file__)
M, D, K, GIB = 1200, 24, 10, 1 << 30


@pytest.fixture
def world(tmp_path, write_embeddings):
    """(folder, the rows it stores, queries): close texts, equal ones, and far ones."""
    rng = np.random.default_rng(0)
    rows = oracle.unit_rows(rng.standard_normal((M, D)))
    rows[:200] = oracle.unit_rows(rows[0] + 3e-4 * rng.standard_normal((200, D)))
    rows[40:60] = rows[3]
    write_embeddings(tmp_path / "source", rows, [f"text {i}" for i in range(M)])
    options = IndexOptions(part_rows=500, dtype="float16")
    folder = index_embeddings(tmp_path / "source", tmp_path / "index", options=options).folder
    queries = oracle.unit_rows(np.concatenate([rows[:2], rng.standard_normal((6, D))]))
    stored = open_index(folder).vectors[np.arange(M)]
    return folder, stored, queries


@pytest.fixture
def machine(monkeypatch):
    """`machine(gpus, memory)`: a machine with such GPUs, and the log of what FAISS does on them."""

    def make(gpus, memory=80 * GIB, fails=None):
        module, log = fake.fake_faiss(gpus, fails)
        monkeypatch.setattr(search_dispatch, "library", lambda: module)
        has = Machine(64 * GIB, (memory,) * gpus)
        monkeypatch.setattr(search_dispatch, "this_machine", lambda with_gpus: has)
        return log

    return make


def names(log):
    return [entry[0] for entry in log]


@pytest.mark.parametrize(
    ("gpus", "device", "shards", "expected"),
    [
        (1, "cuda", False, {("add", 0)}),
        (3, "cuda:2", False, {("add", 2)}),
        (2, "cuda", False, {("add", 0), ("add", 1)}),
        (3, "cuda:2,0", True, {("add", 2), ("add", 0)}),
    ],
)
def test_vectors_lie_where_they_were_asked_to(world, machine, gpus, device, shards, expected):
    folder, rows, queries = world
    log = machine(gpus)
    index = open_index(folder, SearchChoice(device=device, shards=shards))
    assert log == []  # nothing before the first query
    for _ in range(2):
        hits = search(index, queries, K)
        similarity, best = oracle.brute_force(queries, rows, K)
        assert np.array_equal(hits.rows, best)
        assert hits.similarity == pytest.approx(similarity, rel=2e-7, abs=1e-8)
    added = [entry for entry in log if entry[0] == "add"]
    assert {entry[:2] for entry in added} == expected
    copies = 1 if shards else len(expected)
    assert sum(entry[2] for entry in added) == M * copies  # once, for both searches
    assert ("several" in names(log)) == (len(expected) > 1)
    # Close and equal texts are beyond doubt only once more of them have been selected.
    assert {entry[2] for entry in log if entry[0] in ("search", "several")} >= {64, 256}


def test_more_than_a_gpu_holds_is_streamed_from_the_stored_parts(world, machine, monkeypatch):
    folder, rows, queries = world
    monkeypatch.setattr(search_plan, "GPU_SCRATCH", int(0.9 * GIB) - 40_000)
    log = machine(1, GIB)  # room for 40,000 bytes; the vectors are 57,600
    hits = search(open_index(folder, SearchChoice(device="cuda")), queries, K)
    assert np.array_equal(hits.rows, oracle.brute_force(queries, rows, K)[1])
    assert set(names(log)) == {"knn_gpu"}
    assert [entry[3] for entry in log[:3]] == [500, 500, 200]
    assert {entry[4] for entry in log} == {64 << 20}
    assert "streamed in fp16 through GPU 0" in search_dispatch.describe_plan(
        folder, SearchChoice(device="cuda")
    )


@pytest.mark.parametrize("hidden", [np.arange(0, M, 2), np.arange(5, M), np.array([7])])
def test_hidden_rows_are_not_found_on_a_gpu_either(world, machine, hidden):
    folder, rows, queries = world
    machine(1)
    index = open_index(folder, SearchChoice(device="cuda")).without(hidden)
    k = min(K, index.count)
    left = np.setdiff1d(np.arange(M), hidden)
    assert np.array_equal(
        search(index, queries, k).rows, oracle.brute_force(queries, rows[left], k)[1]
    )


def test_more_equal_texts_than_a_gpu_selects_are_ordered_all_the_same(
    tmp_path, write_embeddings, machine
):
    rows = oracle.unit_rows(np.random.default_rng(1).standard_normal((3000, 8)))
    rows[100:] = rows[100]
    write_embeddings(tmp_path / "source", rows, [f"text {i}" for i in range(3000)])
    folder = index_embeddings(tmp_path / "source", tmp_path / "index").folder
    log = machine(1)
    hits = search(open_index(folder, SearchChoice(device="cuda")), rows[[100]], 4)
    assert hits.rows.tolist() == [[100, 101, 102, 103]]
    assert max(entry[2] for entry in log if entry[0] == "search") == 2048


@pytest.mark.parametrize(
    ("gpus", "device", "shards", "moved"),
    [
        (2, "cuda:1", False, ("to gpu", 1)),
        (2, "cuda", False, ("to gpus", (0, 1), False)),
        (2, "cuda", True, ("to gpus", (0, 1), True)),
    ],
)
def test_inverted_files_are_moved_and_their_hits_ranked_again(
    world, machine, gpus, device, shards, moved
):
    folder, rows, queries = world
    set_search_kind(folder, "IVF8,SQ8", {"nprobe": 8, "candidates": 40})
    log = machine(gpus)
    index = open_index(folder, SearchChoice(device=device, shards=shards))
    hits = search(index, queries, K)
    assert np.array_equal(hits.rows, oracle.brute_force(queries, rows, K)[1])
    assert log == [moved, ("probe", 8, 400)]
    few = index.without(np.setdiff1d(np.arange(M), np.arange(600, 1190)))
    assert search(few, queries, K).rows.min() >= 0
    # Too few of the proposed rows are shown: more are asked for.
    choice = SearchChoice(parameters={"candidates": 1}, device=device, shards=shards)
    half = np.arange(0, M, 2)
    some = open_index(folder, choice).without(half)
    hits = search(some, queries, 200)
    assert ("probe", 8, 206) in log and ("probe", 8, 824) in log
    left = np.setdiff1d(np.arange(M), half)
    same = hits.rows == oracle.brute_force(queries, rows[left], 200)[1]
    assert same.mean() > 0.9
    # And where few are shown at all, those are scanned, on the GPU.
    search(index.without(np.arange(100, M)), queries, K)
    assert log[-1][:2] == ("knn_gpu", int(device == "cuda:1"))


@pytest.mark.parametrize(
    ("kind", "choice", "complaint"),
    [
        ("HNSW8", SearchChoice(device="cuda"), r"HNSW8 was asked for on a GPU.*IVF\d+,SQ8"),
        (None, SearchChoice(device="cuda:3"), r"GPU 3 was asked for where there is 1 visible"),
    ],
)
def test_what_no_gpu_holds_is_refused(world, machine, kind, choice, complaint):
    folder, _, _ = world
    if kind:
        set_search_kind(folder, kind)
    machine(1)
    with pytest.raises(UsageError, match=complaint):
        open_index(folder, choice)


def test_no_gpu_and_no_gpu_support_are_errors_and_no_fallback(world, machine, monkeypatch):
    folder, _, queries = world
    machine(0)
    with pytest.raises(UsageError, match=r"GPU cuda was asked for where there is none visible"):
        open_index(folder, SearchChoice(device="cuda"))
    machine(1)
    monkeypatch.setattr(search_dispatch, "library", lambda: SimpleNamespace())
    with pytest.raises(UsageError, match=r"built without GPU support.*Install faiss-gpu"):
        open_index(folder, SearchChoice(device="cuda"))
    # The driver shows one, FAISS cannot use it: another CUDA version, say.
    monkeypatch.setattr(search_dispatch, "library", lambda: fake.fake_faiss(0)[0])
    with pytest.raises(UsageError, match=r"FAISS sees 0.*that this FAISS can use"):
        open_index(folder, SearchChoice(device="cuda"))
    assert search(open_index(folder), queries, 1).rows.shape == (8, 1)


def test_a_failure_on_the_gpu_says_what_else_to_do(world, machine, monkeypatch):
    folder, _, queries = world
    monkeypatch.setattr(search_plan, "GPU_SCRATCH", int(0.9 * GIB) - 40_000)
    machine(1, GIB, fails="out of memory")
    with pytest.raises(BlissError, match=r"on the GPU failed: out of memory.*search device=cpu"):
        search(open_index(folder, SearchChoice(device="cuda")), queries, K)
    with pytest.raises(UsageError, match=r"k = 2,049 was asked of a search on a GPU"):
        index = open_index(folder, SearchChoice(device="cuda"))
        monkeypatch.setattr(caption_index, "check_k", lambda *_: None)
        monkeypatch.setattr("blissaudit.indexer.search.gpu.check_k", lambda *_: None)
        search(index, queries, 2049)


@pytest.mark.skipif(not hasattr(faiss, "StandardGpuResources"), reason="faiss-cpu is installed")
def test_the_stand_in_has_the_names_and_arguments_that_faiss_has():
    module = fake.fake_faiss(1)[0]
    assert all(hasattr(faiss, name) for name in vars(module))
    options = {"metric", "device", "vectorsMemoryLimit", "queriesMemoryLimit"}
    assert options <= set(inspect.signature(faiss.knn_gpu).parameters)
    several = inspect.signature(faiss.index_cpu_to_gpu_multiple_py).parameters
    assert list(several) == ["resources", "index", "co", "gpus"]
    config, one, many = (
        faiss.GpuIndexFlatConfig(),
        faiss.GpuClonerOptions(),
        faiss.GpuMultipleClonerOptions(),
    )
    assert not config.useFloat16 and config.device == 0
    assert not one.useFloat16 and not many.useFloat16 and not many.shard
    assert callable(faiss.GpuParameterSpace().set_index_parameter)
    assert faiss.IndexShards(D, True, True).successive_ids
    assert callable(faiss.IndexReplicas(D, True).add_replica)


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.standard_normal((count, 24), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("close", [False, True])
def test_hits_are_those_of_the_core(held, close, monkeypatch):
    monkeypatch.setattr(gpu, "TEXTS_AT_ONCE", 700)
    monkeypatch.setattr(gpu, "PRODUCT_BYTES", 14_000)
    rng = np.random.default_rng(0)
    texts, queries = unit(rng, 5000), unit(rng, 30)
    texts[2500:3000] = texts[:500]  # equal texts: the lower row comes first
    if close:  # 4,000 texts that fp16 cannot tell apart: the CPU searches
        texts[:4000] = texts[0] + 1e-5 * texts[:4000]
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    searcher, live = TorchSearcher(texts, "cpu", held), np.arange(0, 5000, 3)
    for _ in range(2):
        found, wanted = searcher.search(queries, 7), exact_search(queries, texts, 7)
        assert np.array_equal(found.rows, wanted.rows)
        assert found.similarity.tobytes() == wanted.similarity.tobytes()
    assert (searcher._blocks is not None) == held
    some = searcher.search(queries, 7, live)
    assert np.array_equal(some.rows, live[exact_search(queries, texts[live], 7).rows])
    with pytest.raises(UsageError, match=r"k = 3,000 was asked of a search on a GPU"):
        searcher.search(queries, 3000)


@pytest.mark.parametrize(
    ("faiss", "torch", "found"),
    [(False, True, TorchSearcher), (False, False, None), (True, True, None)],
)
def test_torch_searches_where_faiss_cannot(faiss, torch, found, monkeypatch):
    monkeypatch.setattr(search_dispatch, "torch_sees_gpu", lambda: torch)
    monkeypatch.setattr(search_dispatch, "faiss_sees_gpu", lambda module: faiss)
    monkeypatch.setattr(search_dispatch, "stored_structure", lambda folder: None)
    monkeypatch.setattr(search_dispatch, "open_gpus", lambda *given: "gpus")
    plan, rows = SimpleNamespace(placement="gpu-streamed"), np.eye(3, dtype=np.float32)
    made = search_dispatch.searcher_of(None, rows, SearchChoice(device="cuda:1"), plan)
    assert isinstance(made, TorchSearcher) == (found is TorchSearcher)
    if found:
        assert (made.device, made.held) == ("cuda:1", False)
