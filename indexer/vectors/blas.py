"""BLAS: which kernels are in use, and blocks of products shared among threads.

A product that BLAS spreads over cores ends with the slowest of them, and leaves the others idle
while one core processes the result. Threads that each take the next block and use one BLAS thread
avoid both. threadpoolctl sets the number of BLAS threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import PurePath
from threading import Event, Lock
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")

OWNERS = ("numpy", "scipy", "faiss", "torch")
LOADERS = ("numpy", "scipy.linalg", "faiss", "torch")
"""The modules that load them."""
NAMES = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS", "flexiblas": "FlexiBLAS"}


def kernels_in_use() -> dict[str, str]:
    """The BLAS and the kernels of each of numpy, scipy, FAISS and torch that is loaded.

    Nothing is imported. The instruction set of a library's own loops follows its BLAS.
    """
    found: dict[str, list[str]] = {name: [] for name in OWNERS if name in sys.modules}
    for pool in ThreadpoolController().select(user_api="blas").info():
        name = NAMES.get(pool["internal_api"], pool["internal_api"])
        kernel = pool.get("architecture") or "kernel unknown"
        line = f"{name} {pool['version']} {kernel}, threads {pool['num_threads']}"
        found.setdefault(_owner(pool["filepath"]), []).append(line)
    if "faiss" in found:
        found["faiss"].append(f"own loops {sys.modules['faiss'].get_compile_options().strip()}")
    if "torch" in found:
        torch: Any = sys.modules["torch"]
        mkl = "MKL, " if torch.backends.mkl.is_available() else ""
        capability = torch.backends.cpu.get_cpu_capability()
        found["torch"].append(f"{mkl}own loops {capability}, threads {torch.get_num_threads()}")
    return {name: "; ".join(lines) or "BLAS unknown" for name, lines in found.items()}


def _owner(path: str) -> str:
    """The library whose folder a BLAS lies in, or 'shared'."""
    for folder in reversed(PurePath(path).parts[:-1]):
        for name in OWNERS:
            if folder.startswith(name):
                return name
    return "shared"


def share_among_threads(
    worker: Callable[[Iterator[Item]], None], items: Iterable[Item], count: int
) -> None:
    """Call `worker` on as many threads as BLAS had, each with one BLAS thread.

    Each call gets an iterator; every one of the `count` items comes out of exactly one of them.
    Items are produced by one thread at a time. After an error or interrupt all iterators end.
    """
    threads = min(_limit.threads(), count)
    if threads <= 1:
        worker(iter(items))
        return
    source, lock, stopped = iter(items), Lock(), Event()

    def taken() -> Iterator[Item]:
        while True:
            with lock:
                if stopped.is_set():
                    return
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def work() -> None:
        _blas().limit(limits=1)  # an OpenMP build of BLAS has a number for each thread
        try:
            worker(taken())
        except BaseException:
            stopped.set()
            raise

    with _limit.one_each(), ThreadPoolExecutor(threads) as executor:
        try:
            for running in [executor.submit(work) for _ in range(threads)]:
                running.result()
        except BaseException:
            stopped.set()
            raise


def blas_threads() -> int:
    """How many threads BLAS uses for a product."""
    return _limit.threads()


def use_blas_threads(count: int) -> None:
    """Let every BLAS use `count` threads in this process: sums are then taken as elsewhere."""
    _blas().limit(limits=count)


class _Limit:
    """One BLAS thread while there are users; the number before is restored by the last of them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._before = 1
        self._limiter: Any = None

    def threads(self) -> int:
        """The number of BLAS threads without the limit."""
        with self._lock:
            if self._users:
                return self._before
            return max((each.num_threads for each in _blas().lib_controllers), default=1)

    @contextmanager
    def one_each(self) -> Iterator[None]:
        """Limit BLAS to one thread."""
        before = self.threads()
        with self._lock:
            if not self._users:
                self._before = before
                self._limiter = _blas().limit(limits=1)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._limiter.restore_original_limits()


def _blas() -> ThreadpoolController:
    """Every BLAS that is loaded."""
    return _controllers(tuple(name in sys.modules for name in LOADERS))


@cache
def _controllers(loaded: tuple[bool, ...]) -> ThreadpoolController:
    """Those that are there when `loaded` of LOADERS are; finding them takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


_limit = _Limit()
