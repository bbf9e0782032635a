"""Exact search through torch, on the CPU in place of a GPU: the bits of the core's search."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.indexer.search import dispatch, torch_scan
from blissaudit.indexer.search.kinds import SearchChoice
from blissaudit.indexer.search.torch_scan import TorchSearcher
from blissaudit.indexer.vectors.nearest import exact_search


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.standard_normal((count, 24), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("close", [False, True])
def test_hits_are_those_of_the_core(held, close, monkeypatch):
    monkeypatch.setattr(torch_scan, "TEXTS_AT_ONCE", 700)
    monkeypatch.setattr(torch_scan, "PRODUCT_BYTES", 14_000)
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
    monkeypatch.setattr(dispatch, "torch_sees_gpu", lambda: torch)
    monkeypatch.setattr(dispatch, "faiss_sees_gpu", lambda module: faiss)
    monkeypatch.setattr(dispatch, "stored_structure", lambda folder: None)
    monkeypatch.setattr(dispatch, "open_gpus", lambda *given: "gpus")
    plan, rows = SimpleNamespace(placement="gpu-streamed"), np.eye(3, dtype=np.float32)
    made = dispatch.searcher_of(None, rows, SearchChoice(device="cuda:1"), plan)
    assert isinstance(made, TorchSearcher) == (found is TorchSearcher)
    if found:
        assert (made.device, made.held) == ("cuda:1", False)
