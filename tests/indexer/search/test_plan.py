"""Plans of searches worked out by hand for invented machines, and the kinds that `auto` picks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blissaudit.errors import UsageError
from blissaudit.indexer.search.kinds import (
    SearchChoice,
    bytes_per_vector,
    candidate_settings,
    check_parameters,
    default_parameters,
    gpu_numbers,
    lists_for,
    read_kind,
    structure_bytes,
)
from blissaudit.indexer.search.plan import (
    Machine,
    Task,
    auto_kind,
    available_memory,
    gpu_memories,
    plan_search,
    shown,
)

GIB = 1 << 30
MILLION = Task("DIR", 1_000_000, 512, 2)
"""1,000,000 x 512: 2,048,000,000 bytes as float32 (1.9 GiB), half of that as fp16."""


@pytest.mark.parametrize(
    ("memory", "placement", "bytes_", "line"),
    [
        # 2,048,000,000 + 805,306,368 (buffers) = 2,853,306,368; twice that is 5.3 GiB.
        (6 * GIB, "memory", 2_048_000_000, "in memory as float32, 1.9 GiB of 6.0 GiB free"),
        (5 * GIB, "streamed", 768 << 20, "block by block from disk (977 MiB) with 768 MiB"),
        (0, "streamed", 768 << 20, "since 1.9 GiB do not fit in half of 0.0 MiB free"),
    ],
)
def test_exact_search_stays_in_memory_where_half_of_it_holds_it(memory, placement, bytes_, line):
    plan = plan_search(MILLION, Machine(memory))
    assert (plan.placement, plan.memory, plan.gpu) == (placement, bytes_, 0)
    assert plan.line.startswith("search: exact over 1,000,000 x 512, ") and line in plan.line
    assert plan.resident == (placement == "memory")


def test_a_small_index_is_always_held_in_memory():
    assert plan_search(replace(MILLION, count=1000), Machine(0)).resident


@pytest.mark.parametrize(
    ("kind", "each", "whole"),
    [
        ("SQfp16", 1024, 1_024_000_000),
        ("SQ8", 512, 512_000_000),
        ("SQ6", 384, 384_000_000),
        ("PQ64", 64, 64_000_000),
        ("PQ64x4fs", 32, 32_000_000),
        ("RaBitQ4", 272, 272_000_000),  # 4 bits a dimension and 16 bytes
        ("IVF4096,SQ8", 520, 520_000_000 + 4096 * 512 * 4),  # 8 of the row's number, centres
        ("IVF65536_HNSW32,PQ64", 72, 72_000_000 + 65_536 * 512 * 4),
        ("HNSW32", 2048 + 281 + 16, 2_345_000_000),  # 2 x 32 links of 4 bytes, a tenth more above
        ("HNSW32,SQ8", 512 + 281 + 16, 809_000_000),
    ],
)
def test_bytes_of_a_structure(kind, each, whole):
    assert bytes_per_vector(read_kind(kind), 512) == each
    assert structure_bytes(read_kind(kind), 1_000_000, 512) == whole


def test_estimates_agree_with_faiss():
    import faiss
    import numpy as np

    rows = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    for kind in ("SQfp16", "SQ8", "IVF16,SQ8", "IVF16,RaBitQ4", "HNSW32"):
        made = faiss.index_factory(64, kind, faiss.METRIC_INNER_PRODUCT)
        made.train(rows)
        made.add(rows)
        size = len(faiss.serialize_index(made))
        assert structure_bytes(read_kind(kind), 4000, 64) == pytest.approx(size, rel=0.12), kind


def test_a_structure_is_read_mapped_or_refused_with_one_that_fits():
    task = replace(MILLION, kind="IVF4096,SQ8")
    plan = plan_search(task, Machine(2 * GIB))
    assert plan.placement == "structure" and plan.memory == 528_388_608
    big = replace(task, count=100_000_000)  # 52 GB
    assert plan_search(big, Machine(24 * GIB)).placement == "mapped"
    assert "48.4 GiB mapped from disk" in plan_search(big, Machine(24 * GIB)).line
    measured = replace(big, structure=1000)  # what the file really takes counts
    assert plan_search(measured, Machine(24 * GIB)).memory == 1000
    graph = replace(task, kind="HNSW32", count=100_000_000)
    with pytest.raises(
        UsageError,
        match=r"HNSW32 over 100,000,000 x 512 needs 218.4 GiB of memory and half of 24.0 GiB.*"
        r"--search exact.*bliss index kind DIR IVF32768_HNSW32,PQ64",
    ):
        plan_search(graph, Machine(24 * GIB))


H100 = 80 * GIB
"""Room on it: 0.9 x 80 - 2 = 70 GiB."""


@pytest.mark.parametrize(
    ("count", "gpus", "shards", "placement", "each"),
    [
        (50_000_000, 1, False, "gpu", 51_200_000_000),
        (50_000_000, 4, True, "gpu-shards", 12_800_000_000),
        (50_000_000, 4, False, "gpu", 51_200_000_000),  # replicated
        (100_000_000, 1, False, "gpu-streamed", 70 * GIB),
        (100_000_000, 2, True, "gpu-shards", 51_200_000_000),
        (400_000_000, 4, False, "gpu-streamed", 70 * GIB),  # 102 GB each even when spread
    ],
)
def test_exact_search_on_gpus(count, gpus, shards, placement, each):
    task = replace(MILLION, count=count, gpus=(), shards=shards)
    plan = plan_search(task, Machine(24 * GIB, (H100,) * gpus))
    assert (plan.placement, plan.gpu) == (placement, each)
    assert not plan.resident


@pytest.mark.parametrize(
    ("task", "machine", "complaint"),
    [
        ({"gpus": ()}, Machine(GIB), r"GPU cuda was asked for where there is none visible"),
        ({"gpus": (1,)}, Machine(GIB, (H100,)), r"GPU 1 .* there is 1 visible.*nvidia-smi"),
        (
            {"gpus": (), "count": 100_000_000},
            Machine(GIB, (H100, H100)),
            r"needs 95.4 GiB of GPU memory.*70.0 GiB on each of 2.*Pass --search shards",
        ),
        (
            {"gpus": (), "count": 400_000_000, "shards": True},
            Machine(GIB, (H100, H100)),
            r"Leave --search shards out: the vectors are then streamed",
        ),
        ({"gpus": ()}, Machine(GIB, (GIB,)), r"room for 0.0 MiB on each of 1.*search device=cpu"),
        (
            {"gpus": (), "kind": "IVF4096,SQ8", "count": 200_000_000},
            Machine(GIB, (H100,)),
            r"IVF4096,SQ8 over 200,000,000 x 512 needs.*--search exact, which streams",
        ),
        ({"gpus": (), "kind": "HNSW32"}, Machine(GIB, (H100,)), r"HNSW32.*holds on the CPU alone.*"
         r"--search device=cpu, or --search exact, or run `bliss index kind DIR IVF4096,SQ8"),
        ({"gpus": (), "kind": "IVF1024,RaBitQ4"}, Machine(GIB, (H100,)), r"IVF1024,SQ8`"),
        ({"gpus": (), "kind": "SQ8"}, Machine(GIB, (H100,)), r"SQ8 was asked for on a GPU"),
        ({"gpus": (), "kind": "OPQ16,IVF64,PQ16"}, Machine(GIB, (H100,)), r"holds on the CPU"),
        ({"gpus": (), "kind": "IVF64,PQ16x4fs"}, Machine(GIB, (H100,)), r"holds on the CPU"),
    ],
)  # fmt: skip
def test_no_plan_falls_back_silently(task, machine, complaint):
    with pytest.raises(UsageError, match=complaint):
        plan_search(replace(MILLION, **task), machine)


@pytest.mark.parametrize("kind", ["IVF4096,SQ8", "IVF64,Flat", "IVF64_HNSW32,PQ64", "SQfp16"])
def test_kinds_a_gpu_holds(kind):
    task = replace(MILLION, kind=kind, gpus=(0,))
    assert plan_search(task, Machine(GIB, (H100,))).placement == "gpu"


@pytest.mark.parametrize(
    ("count", "machine", "kind", "why"),
    [
        (375_000, Machine(24 * GIB), "exact", "scanning 375,000 x 512 takes little"),
        (1_000_000, Machine(24 * GIB), "IVF4096,SQ8", "takes 504 MiB of 24.0 GiB free"),
        (100_000_000, Machine(24 * GIB), "IVF32768_HNSW32,PQ64", "takes 6.8 GiB"),
        (100_000_000, Machine(64 * GIB), "IVF32768_HNSW32,RaBitQ4", "takes 26.1 GiB"),
        (50_000_000, Machine(24 * GIB, (H100,)), "exact", "--search device=cuda"),
    ],
)
def test_auto_states_its_choice_and_why(count, machine, kind, why):
    found, reason = auto_kind(replace(MILLION, count=count), machine)
    assert found == kind and why in reason


def test_lists_are_a_power_of_two_that_the_vectors_can_train():
    # 4 √M is 400, 4,000 and 40,000; the nearest powers of two in logarithms.
    assert [lists_for(count) for count in (10**4, 10**6, 10**8)] == [256, 4096, 32_768]
    assert lists_for(2000) == 32  # 2000 / 39 = 51
    assert lists_for(1) == 1


def test_default_parameters_and_what_replaces_them():
    assert default_parameters(read_kind("IVF4096,SQ8")) == {"candidates": 2, "nprobe": 128}
    assert default_parameters(read_kind("HNSW32")) == {"candidates": 1, "efSearch": 128}
    made = check_parameters(read_kind("IVF64_HNSW32,PQ64"), {"nprobe": 1000})
    assert made == {"candidates": 32, "nprobe": 64, "quantizer_efSearch": 64}
    assert read_kind("IVF64,RaBitQ4").knobs == ("candidates", "nprobe", "qb")
    assert read_kind("HNSW16,SQ8").code == "SQ8"


def test_settings_worth_measuring_grow_with_the_corpus():
    small = {kind for kind, _ in candidate_settings(500, 512)}
    middle = {kind for kind, _ in candidate_settings(100_000, 512)}
    large = {kind for kind, _ in candidate_settings(10_000_000, 512)}
    assert small == {"exact", "SQfp16", "SQ8"}
    assert middle - small == {
        "HNSW32", "IVF1024,SQ8", "IVF1024,RaBitQ4", "IVF1024,PQ64", "Images,IVF1024,SQ8",
    }  # fmt: skip
    assert "HNSW32" not in large and "IVF16384,SQ8" in large


@pytest.mark.parametrize(
    ("device", "numbers"),
    [("cpu", None), ("cuda", ()), ("cuda:0", (0,)), ("cuda:2,0", (2, 0))],
)
def test_devices(device, numbers):
    assert gpu_numbers(device) == numbers


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:0,0", "cuda:a", "cuda:-1", "cpu:0", ""])
def test_devices_that_are_none(device):
    with pytest.raises(UsageError, match=r"was given\. Needed: cpu, cuda, cuda:0 or cuda:0,1"):
        gpu_numbers(device)
    with pytest.raises(UsageError, match=r"--search shards was given with device=cpu"):
        SearchChoice(shards=True)


def test_this_machine_has_memory_and_says_how_many_gpus():
    assert 0 < available_memory() < 1 << 50
    assert all(size > GIB for size in gpu_memories())
    assert [shown(size) for size in (5 << 19, 700 << 20, 3 << 29)] == [
        "2.5 MiB",
        "700 MiB",
        "1.5 GiB",
    ]
