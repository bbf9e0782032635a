"""What this machine has to search with: free memory, and the memory of each visible GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

PLENTY = 1 << 62
"""Memory of a system that does not say how much it has."""


@dataclass(frozen=True)
class Machine:
    """Bytes to search with."""

    memory: int
    gpus: tuple[int, ...] = ()
    """Memory of each visible GPU, by its number."""


def this_machine(with_gpus: bool) -> Machine:
    """Free memory, and that of the GPUs where they are asked for."""
    return Machine(available_memory(), gpu_memories() if with_gpus else ())


def available_memory() -> int:
    """Bytes that this process may still take: the system's or its container's, the smaller."""
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
        # Pages of files count as used, yet are given back when asked for.
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
