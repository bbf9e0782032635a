"""Planning a search: where its vectors will be and how much memory that takes.

Plans are computed from sizes before anything is read. One that does not fit is refused with the
options of one that does. `this_machine` measures free memory and the memory of each visible GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError
from .kinds import EXACT, LEAST_PER_LIST, Kind, lists_for, read_kind, structure_bytes

SHARE = 0.5
"""The share of free memory for vectors; the rest is for images, models and scores."""
GPU_SHARE = 0.9
GPU_SCRATCH = 2 << 30
"""GPU memory for FAISS itself (1.5 GiB), queries and results."""
BUFFERS = 768 << 20
"""Memory of a scan besides the vectors: candidates, and blocks converted to float32."""
EXACT_ENOUGH = 500_000
"""Up to this many texts `auto` uses exact search: about 1 s per 100 images on two cores."""
ON_GPU = ("Flat", "SQfp16", "SQ8", "SQ6", "SQ4", "PQ")


@dataclass(frozen=True)
class Task:
    """The size of a search, and the device."""

    folder: str
    count: int
    dimension: int
    value_bytes: int
    """Size of one stored number: 2 or 4."""
    kind: str = EXACT
    structure: int | None = None
    """Size of the structure's file; None: estimated from the kind."""
    gpus: tuple[int, ...] | None = None
    """Numbers of GPUs, None for the CPU."""
    shards: bool = False

    @property
    def size(self) -> str:
        """M x d."""
        return f"{self.count:,} x {self.dimension}"


@dataclass(frozen=True)
class Plan:
    """Where the vectors of a search will be."""

    placement: str
    """memory, streamed, structure, mapped; gpu, gpu-shards, gpu-streamed."""
    memory: int
    """Bytes of main memory it takes."""
    gpu: int
    """Bytes of each GPU."""
    line: str
    """The plan in one line."""

    @property
    def resident(self) -> bool:
        """Whether vectors are kept in memory as float32 after the first scan."""
        return self.placement == "memory"


def plan_search(task: Task, machine: Machine) -> Plan:
    """The plan for a task on a machine; UsageError, with a plan that fits, where none does."""
    if task.gpus is not None:
        return _on_gpus(task, machine, task.gpus)
    if task.kind == EXACT:
        return _scanned(task, machine)
    return _through_structure(task, machine)


def _scanned(task: Task, machine: Machine) -> Plan:
    whole = 4 * task.count * task.dimension
    if whole + BUFFERS <= SHARE * machine.memory or whole <= BUFFERS:
        where = f"in memory as float32, {shown(whole)} of {shown(machine.memory)} free"
        return Plan("memory", whole, 0, f"search: exact over {task.size}, {where}")
    disk = task.value_bytes * task.count * task.dimension
    where = (
        f"block by block from disk ({shown(disk)}) with {shown(BUFFERS)} of memory, since "
        f"{shown(whole)} do not fit in half of {shown(machine.memory)} free"
    )
    return Plan("streamed", BUFFERS, 0, f"search: exact over {task.size}, {where}")


def _through_structure(task: Task, machine: Machine) -> Plan:
    kind = read_kind(task.kind)
    size = _structure(task, kind)
    if size <= max(SHARE * machine.memory, BUFFERS):
        return Plan(
            "structure",
            size,
            0,
            f"search: {kind.name} over {task.size}, {shown(size)} of {shown(machine.memory)} free, "
            "hits ranked again from disk",
        )
    if kind.lists:
        return Plan(
            "mapped",
            BUFFERS,
            0,
            f"search: {kind.name} over {task.size}, {shown(size)} mapped from disk, since they "
            f"do not fit in half of {shown(machine.memory)} free",
        )
    raise UsageError(
        f"{kind.name} over {task.size} needs {shown(size)} of memory and half of "
        f"{shown(machine.memory)} is free for it",
        "a kind of search that fits",
        f"Pass --search-kind exact, which reads block by block, or run "
        f"`bliss index kind {task.folder} {smaller_kind(task, machine)}`",
    )


def _on_gpus(task: Task, machine: Machine, numbers: tuple[int, ...]) -> Plan:
    missing = [number for number in numbers if number >= len(machine.gpus)]
    if not machine.gpus or missing:
        there = f"{len(machine.gpus)} visible" if machine.gpus else "none visible"
        raise UsageError(
            f"a search on GPU {', '.join(map(str, missing or numbers)) or 'cuda'} was asked for "
            f"where there is {there}",
            "a CUDA GPU that this process can see",
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or pass --search-device cpu",
        )
    chosen = numbers or tuple(range(len(machine.gpus)))
    room = int(GPU_SHARE * min(machine.gpus[number] for number in chosen)) - GPU_SCRATCH
    kind = None if task.kind == EXACT else read_kind(task.kind)
    if kind is not None:
        check_gpu_kind(task, kind)
        whole = _structure(task, kind)
    else:
        whole = 2 * task.count * task.dimension
    what = f"search: {task.kind} over {task.size}"
    named = f"GPU {', '.join(map(str, chosen))}"
    share = -(-whole // len(chosen))
    if task.shards and share <= room:
        return Plan(
            "gpu-shards", BUFFERS, share, f"{what}, spread over {named}: {shown(share)} on each"
        )
    if not task.shards and whole <= room:
        return Plan("gpu", BUFFERS, whole, f"{what}, {shown(whole)} in fp16 on {named}")
    return _too_large_for_gpus(task, whole, room, chosen, what)


def _too_large_for_gpus(
    task: Task, whole: int, room: int, chosen: tuple[int, ...], what: str
) -> Plan:
    """Streaming for an exact search; else UsageError with what would fit."""
    if len(chosen) > 1 and not task.shards and -(-whole // len(chosen)) <= room:
        remedy = "Pass --search-shards, which spreads them over the GPUs"
    elif task.kind == EXACT and not task.shards and room > 0:
        return Plan(
            "gpu-streamed",
            BUFFERS,
            room,
            f"{what}, {shown(whole)} streamed in fp16 through GPU {chosen[0]}, which has room "
            f"for {shown(room)}",
        )
    elif task.kind == EXACT and room > 0:
        remedy = "Leave --search-shards out: the vectors are then streamed through the first GPU"
    elif room > 0:
        remedy = "Pass --search-kind exact, which streams the vectors, or --search-device cpu"
    else:
        remedy = "Pass --search-device cpu"
    raise UsageError(
        f"{what[8:]} needs {shown(whole)} of GPU memory and there is room for "
        f"{shown(max(0, room))} on each of {len(chosen)}",
        "a search that fits",
        remedy,
    )


def check_gpu_kind(task: Task, kind: Kind) -> None:
    """Raise UsageError for a kind that FAISS does not support on GPUs."""
    held = kind.lists and not kind.links and kind.code.rstrip("0123456789") in (*ON_GPU, "SQ")
    if held and kind.name.startswith("IVF"):
        return
    if kind.code in ("Flat", "SQfp16") and not kind.links and not kind.lists:
        return
    lists = kind.lists or max(1, min(lists_for(task.count), task.count // LEAST_PER_LIST))
    raise UsageError(
        f"{kind.name} was asked for on a GPU, which FAISS holds on the CPU alone",
        "exact search, or a kind of IVF with Flat, SQ or PQ codes",
        f"Pass --search-device cpu, or --search-kind exact, or run "
        f"`bliss index kind {task.folder} IVF{lists},SQ8`",
    )


def auto_kind(task: Task, machine: Machine) -> tuple[str, str]:
    """The kind of search for an index of this size on this machine, and why."""
    lists = lists_for(task.count)
    if machine.gpus and 2 * task.count * task.dimension <= GPU_SHARE * max(machine.gpus):
        return EXACT, (
            f"{task.size} in fp16 fit on a GPU, which scans them quickly with --search-device cuda"
        )
    if task.count <= EXACT_ENOUGH or lists < 2:
        return EXACT, f"scanning {task.size} takes little, and is exact"
    kind = smaller_kind(task, machine)
    size = structure_bytes(read_kind(kind), task.count, task.dimension)
    free = shown(machine.memory)
    return kind, (
        f"{task.size} take long to scan; its structure takes {shown(size)} of {free} free"
    )


def smaller_kind(task: Task, machine: Machine) -> str:
    """The most accurate kind with lists whose structure fits in half of the free memory."""
    lists = lists_for(task.count)
    found = f"IVF{lists}{'_HNSW32' if lists >= 16_384 else ''}"
    pieces = max(m for m in range(1, min(64, task.dimension) + 1) if not task.dimension % m)
    for code in ("SQ8", "RaBitQ4"):
        size = structure_bytes(read_kind(f"{found},{code}"), task.count, task.dimension)
        if size <= SHARE * machine.memory:
            return f"{found},{code}"
    return f"{found},PQ{pieces}"


def _structure(task: Task, kind: Kind) -> int:
    if task.structure is not None:
        return task.structure
    return structure_bytes(kind, task.count, task.dimension)


def shown(size: int) -> str:
    """A size for people, in MiB or GiB."""
    if size < 1 << 30:
        return f"{size / 2**20:,.0f} MiB" if size >= 10 << 20 else f"{size / 2**20:,.1f} MiB"
    return f"{size / 2**30:,.1f} GiB"


PLENTY = 1 << 62
"""Assumed where the system does not report its memory."""


@dataclass(frozen=True)
class Machine:
    """Memory of a machine, in bytes."""

    memory: int
    gpus: tuple[int, ...] = ()
    """Memory of each visible GPU, by its number."""


def this_machine(with_gpus: bool) -> Machine:
    """Free memory, and with `with_gpus` that of the GPUs."""
    return Machine(available_memory(), gpu_memories() if with_gpus else ())


def available_memory() -> int:
    """Free memory of the system or of its container, whichever is less, in bytes."""
    return min(_system_memory(), _container_memory())


def _system_memory() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return PLENTY


def _container_memory() -> int:
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text())  # ValueError: "max", no limit
        used = int((group / "memory.current").read_text())
        # Cached pages of files count as used but can be reclaimed.
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                used -= int(line.split()[1])
        return max(0, limit - used)
    return PLENTY


def gpu_memories() -> tuple[int, ...]:
    """Total bytes of each visible CUDA GPU, from the driver; () where there is none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = []
    for number in range(count.value):
        device, size = ctypes.c_int(), ctypes.c_size_t()
        if driver.cuDeviceGet(ctypes.byref(device), number):
            return ()
        if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device):
            return ()
        found.append(size.value)
    return tuple(found)
