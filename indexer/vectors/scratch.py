"""Large temporary arrays in an unlinked file, so that the system can page them out.

An audit of a million images has some 400 bytes of hits and scores for each. The file is in the
temporary folder (`TMPDIR`) and ends with the process.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from typing import Any

import numpy as np

SCRATCH_BYTES = 16 << 20
"""Arrays up to this size are held in memory."""


def scratch_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array: in a file where it is large and the disk has room, else in memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= SCRATCH_BYTES:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            # Allocate it all now: a page without room on the disk would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
    except (OSError, AttributeError):  # no room there, or no such call on this system
        return np.empty(shape, dtype)
    return np.frombuffer(mapped, dtype).reshape(shape)


def release_pages(*arrays: np.ndarray) -> None:
    """Give the memory of scratch arrays back to the system; their values stay."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        base = base.obj if isinstance(base, memoryview) else base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


class ScratchAllocator:
    """`scratch_array` and `release_pages` for functions that take an `Allocator`."""

    empty = staticmethod(scratch_array)
    release = staticmethod(release_pages)


SCRATCH = ScratchAllocator()
