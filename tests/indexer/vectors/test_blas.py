"""Work shared among threads: each item once, errors and interrupts end it; which BLAS is in use."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from blissaudit.indexer.vectors import blas
from blissaudit.indexer.vectors.blas import share_among_threads
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.indexer.vectors.rows import JoinedRows
from threadpoolctl import threadpool_info, threadpool_limits


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def several_threads(code):
    """Run `code` where BLAS has three threads, whatever this process was started with."""
    start = "import threadpoolctl, numpy; threadpoolctl.threadpool_limits(3, user_api='blas')\n"
    out = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, check=True
    )
    return out.stdout.split()


@pytest.mark.parametrize("threads", [1, 3])
def test_each_item_is_worked_on_once(threads):
    seen = []
    with threadpool_limits(threads, user_api="blas"):
        share_among_threads(lambda items: seen.extend(items), range(100), 100)
    assert sorted(seen) == list(range(100))


def test_blas_has_one_thread_inside_and_as_many_as_before_afterwards():
    inside = []

    def nested(items):
        for _ in items:
            inside.extend(blas_threads())
            share_among_threads(lambda more: inside.extend(blas_threads()), range(2), 2)

    with threadpool_limits(3, user_api="blas"):
        share_among_threads(nested, range(4), 4)
        assert set(inside) == {1}
        assert set(blas_threads()) == {3}


def test_a_blas_that_is_loaded_later_has_one_thread_inside_as_well():
    code = (
        "from blissaudit.indexer.vectors import blas\n"
        "blas.blas_threads()\n"
        "import scipy.linalg\n"
        "def work(items):\n"
        "    print(*(p['num_threads'] for p in threadpoolctl.threadpool_info()))\n"
        "threadpoolctl.threadpool_limits(2, user_api='blas')\n"
        "blas.share_among_threads(work, range(2), 2)\n"
    )
    assert set(several_threads(code)) == {"1"}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", ["worker", "items"])
def test_an_error_ends_the_work_and_is_raised(threads, place):
    done = []

    def items():
        for item in range(1000):
            if place == "items" and item == 5:
                raise ValueError("item 5")
            yield item

    def worker(some):
        for item in some:
            if place == "worker" and item == 5:
                raise ValueError("item 5")
            done.append(item)
            threading.Event().wait(0.001)

    with threadpool_limits(threads, user_api="blas"), pytest.raises(ValueError, match="item 5"):
        share_among_threads(worker, items(), 1000)
    assert len(done) < 50
    if threads > 1:
        assert blas_threads()


def test_an_interrupt_ends_a_scan_without_finishing_it():
    code = """
import os, signal, threading, time
from blissaudit.indexer.vectors import blas
from blissaudit.indexer.vectors.blas import share_among_threads
done = []
def worker(items):
    for item in items:
        done.append(item); time.sleep(0.01)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    share_among_threads(worker, range(100_000), 100_000)
except KeyboardInterrupt:
    print("interrupted", len(done) < 10_000)
"""
    assert several_threads(code) == ["interrupted", "True"]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_hits_do_not_depend_on_the_number_of_threads(threads):
    rng = np.random.default_rng(3)
    texts = rng.normal(size=(9000, 24)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    texts[5000:7000] = texts[:2000]  # ties, and in another thread's blocks
    texts = texts[np.argsort(texts @ texts[0])]  # every block beats those before it
    queries = texts[::300]
    with threadpool_limits(1, user_api="blas"):
        expected = exact_search(queries, texts, 40)
    blocks = JoinedRows([texts[at : at + 1000] for at in range(0, len(texts), 1000)])
    with threadpool_limits(threads, user_api="blas"):
        for vectors in (texts, blocks):
            found = exact_search(queries, vectors, 40)
            assert found.similarity.tobytes() == expected.similarity.tobytes()
            assert np.array_equal(found.rows, expected.rows)


def test_kernels_of_what_is_loaded_and_nothing_more():
    code = """
from blissaudit import kernels_in_use
print(*kernels_in_use())
import faiss
found = kernels_in_use()
print(*found, "BLAS" in found["numpy"] or "MKL" in found["numpy"], "loops" in found["faiss"])
import sys
print("torch" in sys.modules)
"""
    assert several_threads(code) == ["numpy", "numpy", "faiss", "True", "True", "False"]


def test_without_a_library_for_products_there_is_one_thread(monkeypatch):
    class NoLibrary:
        lib_controllers = ()

    monkeypatch.setattr(blas, "_blas", NoLibrary)
    assert blas._Limit().threads() == 1
