"""Write finished parts in a thread of their own, so that the encoder need not wait for the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from .stage_rates import StageRates

Submit = Callable[[Callable[[], None], int], None]
"""Takes what is to be called and the number of items it writes."""


@contextmanager
def writing_behind(rates: StageRates, waiting: int = 1) -> Iterator[Submit]:
    """Calls handed over are made one after another, in order, while the caller goes on.

    At most `waiting` calls wait beside the one being made; handing over another waits for room. An
    error of a call is raised by the next hand-over or on leaving, and no later call is made. All
    calls are done on leaving, also where the caller failed: nothing finished is lost.
    """
    under_way: deque[Future[None]] = deque()
    failed = False

    def timed(write: Callable[[], None], items: int) -> None:
        nonlocal failed
        if failed:
            return
        try:
            with rates.timing("writing", items):
                write()
        except BaseException:
            failed = True
            raise

    with ThreadPoolExecutor(1, "write-behind") as thread:

        def submit(write: Callable[[], None], items: int) -> None:
            while len(under_way) > waiting or (under_way and under_way[0].done()):
                under_way.popleft().result()
            under_way.append(thread.submit(timed, write, items))

        yield submit
        while under_way:
            under_way.popleft().result()
