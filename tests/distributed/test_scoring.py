"""Search and scores on a cluster of two machines: the bits of one process, whatever is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from blissaudit.audit import retrieval
from blissaudit.audit.fitting.reference import fit_reference
from blissaudit.audit.result import AuditResult
from blissaudit.audit.run import AuditSettings, audit_against
from blissaudit.distributed.engine import RayEngine
from blissaudit.errors import BlissError
from blissaudit.indexer.encode.encoder import ModelChoice
from blissaudit.indexer.images.embedded import EmbeddedImages
from blissaudit.indexer.search.captions import CaptionIndex
from blissaudit.indexer.search.index import join_indexes, open_index
from blissaudit.indexer.search.kinds import SearchChoice
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.indexer.vectors.rows import PartedRows
from blissaudit.scorer import bliss

N, M, D, C = 3000, 2000, 16, 7


@dataclass(frozen=True)
class Unlucky(RayEngine):
    """Loses the second machine in the search and in the scores, once their first item is done."""

    machines: Any = None

    def spread(self, index: CaptionIndex, exact: bool = False) -> Any:
        self.machines.add()
        return super().spread(index, exact)

    def map(self, task: Callable, items: Iterable) -> Iterator:
        self.machines.add()
        for number, found in enumerate(super().map(task, items)):
            if number == 0 and type(task).__name__ != "ClassImages":  # like scores
                wait_for(self.machines.raylet, {"Worker"})
                self.machines.lost.append(type(task).__name__)
                self.machines.kill()
            yield found


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.standard_normal((count, D), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def folder(bliss: Callable, write_embeddings: Callable, tmp_path_factory) -> Path:
    """An index of several parts from which rows were removed, and images in two files."""
    root = tmp_path_factory.mktemp("scoring")
    rng = np.random.default_rng(0)
    texts = unit(rng, M)
    texts[M // 2 :: 3] = texts[: len(texts[M // 2 :: 3])]  # equal texts: the lower row comes first
    write_embeddings(root / "texts", texts, [f"text {row}" for row in range(M)])
    build = ("index", "build", "--embeddings", root / "texts", "-o", root / "index")
    assert bliss(*build, "--part-rows", 300).code == 0
    assert bliss("index", "remove", root / "index", "--contains", "99").code == 0
    for number in range(2):
        np.save(root / f"{number}.npy", unit(rng, N // 2))
    return root


@pytest.fixture
def images(folder: Path) -> EmbeddedImages:
    labels = tuple(f"class {row % C}" if row % 11 else None for row in range(N))
    names = tuple(map(str, range(N)))
    vectors = PartedRows([folder / "0.npy", folder / "1.npy"])
    model = open_index(folder / "index").model
    return EmbeddedImages(vectors, np.arange(N), names, labels, names, (), model, "images")


def audit(folder: Path, images: EmbeddedImages, engine: Any, hits: Path, **settings: Any) -> Any:
    index, rng = open_index(folder / "index"), np.random.default_rng(1)
    words = unit(rng, C)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blissaudit.audit.fitting.reference.look_up_class_prompts", lambda *_: words)
        reference = fit_reference(images, index, engine=engine)
    chosen, cache = AuditSettings(k=5, **settings), retrieval.HitsCache(hits)
    return audit_against(images, index, reference, chosen, hits=cache, engine=engine)


def bits(result: AuditResult) -> dict[str, bytes]:
    parts = [part for part in result.reference.moments.parts]
    moments = [m for p in parts for m in (p.mean, p.centred, p.scatter) if m is not None]
    values = {**vars(result.scores), "rows": result.retrieved.rows}
    values |= {"cosines": result.retrieved.similarity}
    values |= {f"moments {number}": array for number, array in enumerate(moments)}
    return {name: np.asarray(value).tobytes() for name, value in values.items()}


def wait_for(raylet: int, wanted: set[str]) -> None:
    """Wait until these actors run on the machine of a raylet, and have most likely an item."""
    end, found = time.monotonic() + 60, set()
    while not wanted <= found:
        assert time.monotonic() < end, f"{wanted} are not all among {found}"
        time.sleep(0.3)
        for each in psutil.Process(raylet).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):  # it has just ended
                found.add(each.cmdline()[0].split(".")[0].removeprefix("ray::"))
    time.sleep(0.5)


@pytest.mark.skipif(
    "BLISS_LOSE_MACHINES" not in os.environ,
    reason="takes minutes, and fails where Ray starts no actor on the second machine in time: "
    "set BLISS_LOSE_MACHINES=1",
)
def test_every_stage_survives_the_loss_of_a_machine_with_the_bits_of_one_process(
    running, folder, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(retrieval, "LEAST_ROWS", 500)
    monkeypatch.setattr(retrieval, "MOST_ROWS", 500)
    monkeypatch.setattr(bliss, "TABLE_ENTRIES", 2 * M)  # blocks of a few classes
    running.lost = []
    here = audit(folder, images, None, tmp_path / "here")
    engine = Unlucky(ModelChoice("demo"), machines=running)
    there = audit(folder, images, engine, tmp_path / "there")
    running.add()
    assert bits(there) == bits(here)
    assert running.lost == ["BatchSearch", "ClassScores"]
    # What was searched is kept, whoever searched it: the batches have the names of one process.
    names = [{path.name for path in (tmp_path / each).iterdir()} for each in ("here", "there")]
    assert names[0] == names[1] and len(names[0]) == 2 * N / 500


def test_hidden_captions_joined_indexes_and_structures_are_searched_alike(
    running, bliss, write_embeddings, folder, tmp_path
):
    rng = np.random.default_rng(2)
    more = write_embeddings(tmp_path / "more", unit(rng, 400), [f"more {n}" for n in range(400)])
    build = ("index", "build", "--embeddings", more, "-o", tmp_path / "ivf", "--kind", "IVF4,SQ8")
    assert bliss(*build).code == 0
    indexes = [open_index(folder / "index"), open_index(tmp_path / "ivf")]
    both = join_indexes(indexes).without(np.arange(100, 1700, 3))
    queries = unit(rng, 50)
    running.add()
    with RayEngine(ModelChoice("demo"), actors=2).spread(both) as spread:
        for _ in range(2):  # another actor's turn
            found, wanted = spread.nearest(queries, 20), both.nearest(queries, 20)
            assert np.array_equal(found.rows, wanted.rows)
            assert found.similarity.tobytes() == wanted.similarity.tobytes()
        assert spread.count == both.count and spread.captions_of(np.array([0]))
    approximate = open_index(tmp_path / "ivf", SearchChoice(parameters={"nprobe": 1}))
    with RayEngine(ModelChoice("demo"), actors=1).spread(approximate, exact=True) as spread:
        wanted = exact_search(queries, indexes[1].vectors, 20).rows
        assert np.array_equal(spread.nearest(queries, 20).rows, wanted)
        assert not np.array_equal(approximate.nearest(queries, 20).rows, wanted)


def test_an_error_of_a_worker_is_that_of_one_process(running, folder, images, tmp_path):
    running.add()
    shutil.copytree(folder / "index", tmp_path / "index")
    vectors = np.load(tmp_path / "index" / "text_emb" / "text_emb_1.npy", mmap_mode="r+")
    vectors[[0, 1]] = vectors[[1, 0]]
    vectors.flush()
    with pytest.raises(BlissError, match=r"text_emb_1\.npy does not match the checksum"):
        audit(tmp_path, images, RayEngine(ModelChoice("demo")), tmp_path / "hits")
