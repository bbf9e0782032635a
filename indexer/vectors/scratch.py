"""Arrays too large for memory: they lie in a temporary file that has been unlinked.

An audit of a million images has some 400 bytes of hits and scores for each. As ordinary arrays
they would all be memory of this process until the end; here they are pages of a file, which the
system writes out and takes back. The file is in the temporary folder (`TMPDIR`) and is gone with
the process, however it ends.
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
    """A new array, its values unset: in a file where it is large, if there is one with room."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= SCRATCH_BYTES:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            # All of its room now: a page that the disk has none for would end the process.
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
