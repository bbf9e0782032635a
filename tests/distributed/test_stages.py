"""Collections in batches, decoded and encoded stage by stage: the parts of one process."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from blissaudit.corpora.images.folders import list_images
from blissaudit.corpora.images.source import ImageItem
from blissaudit.distributed import stages
from blissaudit.distributed.batches import (
    READ_ERROR,
    Batch,
    Stages,
    Step,
    apply_step,
    error_batch,
)
from blissaudit.distributed.engine import RayEngine
from blissaudit.distributed.stages import BatchReader, WorkerEncoder
from blissaudit.errors import BlissError
from blissaudit.indexer.encode.encoder import Encoder, ModelChoice
from blissaudit.indexer.encode.open_clip import load_encoder
from blissaudit.indexer.images import workers as decode_process
from blissaudit.indexer.images.decoding import DecodingLimits
from blissaudit.indexer.images.embedding import EmbedOptions, embed_images
from blissaudit.indexer.search.captions import CaptionIndex

LIMITS = DecodingLimits(max_bytes=1000)
HERE = EmbedOptions(part_rows=10, workers=1)
THERE = replace(HERE, engine=RayEngine(ModelChoice("demo")))


@dataclass(frozen=True)
class Rows:
    """A collection of `total` images of some bytes, of which row 3 is gone and row 4 has none."""

    total: int
    size: int = 10
    fails_at: int | None = None
    spec, count, labels = "rows", None, None

    def facts(self) -> dict[str, str]:
        return {"kind": "rows", "fingerprint": "1"}

    def check(self) -> None:
        pass

    def items(self, skip: Callable[[int], bool]) -> Iterator[ImageItem]:
        for row in range(self.total):
            if row == self.fails_at:
                raise BlissError("the archive ends early", "all of it", "Copy it again")
            if skip(row):
                yield ImageItem(row, "")
            elif row == 3:
                yield ImageItem(row, "three", data=self._gone)
            elif row == 4:
                yield ImageItem(row, "four", problem="it is empty")
            else:
                yield ImageItem(row, f"{row}", "label", data=bytes(self.size))

    def _gone(self) -> bytes:
        raise FileNotFoundError


def cut(rows: Rows, finished: Callable[[int], bool], part: int, batch: int) -> list[Batch]:
    reader = BatchReader(rows, finished, part, batch, LIMITS)  # type: ignore[arg-type]
    return list(reader.batches())


def places(batches: list[Batch]) -> list[tuple[int, int, bool, list[int]]]:
    return [(p.part, p.number, p.last, p.table["row"].to_pylist()) for p in batches]


def test_a_collection_is_cut_by_parts_and_rows():
    *work, end = cut(Rows(12), lambda part: False, part=5, batch=3)
    assert places(work) == [
        (0, 0, False, [0, 1, 2]), (0, 1, True, [3, 4]),
        (1, 0, False, [5, 6, 7]), (1, 1, True, [8, 9]), (2, 0, True, [10, 11]),
    ]  # fmt: skip
    assert end.number == 12 and end.kind == "end"
    found = work[1].table.to_pylist()
    assert [row["problem"] for row in found] == ["the file does not exist", "it is empty"]
    assert [row["data"] for row in found] == [None, None]
    assert work[0].table["label"].to_pylist() == ["label"] * 3


def test_finished_parts_are_counted_and_not_read():
    everything = cut(Rows(12), lambda part: False, part=5, batch=3)
    some = cut(Rows(12), lambda part: part != 1, part=5, batch=3)
    assert some == [batch for batch in everything if batch.part in (1, -1)]
    assert cut(Rows(12), lambda part: True, part=5, batch=3)[-1].number == 12


def test_a_batch_of_large_images_has_fewer_rows(monkeypatch):
    monkeypatch.setattr(stages, "BATCH_BYTES", 25)
    *work, _ = cut(Rows(8), lambda part: part == 0, part=5, batch=5)
    assert places(work) == [(1, 0, True, [5, 6, 7])]
    monkeypatch.setattr(stages, "BATCH_BYTES", 20)
    *work, _ = cut(Rows(8), lambda part: part == 0, part=5, batch=5)
    assert places(work) == [(1, 0, False, [5, 6]), (1, 1, True, [7])]


def test_a_file_that_is_too_large_is_told_like_by_the_decoder(tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(1001))
    (tmp_path / "folder.png").mkdir()
    items = [ImageItem(0, "a", file=str(tmp_path / "a.png")),
             ImageItem(1, "b", file=str(tmp_path / "folder.png")),
             ImageItem(2, "c", file=str(tmp_path / "\udcff\0.png"))]  # fmt: skip
    problems = [stages.read_content(item, LIMITS).problem for item in items]
    assert problems == [
        "the file is larger than the limit of 1000 bytes",
        "it is a folder, not a file",
        "the file name is not valid on this system",
    ]


def in_this_process(engine: RayEngine, tickets: list[int], stages: Stages) -> Iterator[Batch]:
    """`RayEngine.run` one batch after the other, the last one first."""
    encode = stages.encoder()
    read: list[Batch] = []
    try:
        for ticket in tickets:
            read.extend(stages.read(ticket))
    except BlissError as error:
        read.append(error_batch(error, READ_ERROR))
    for batch in reversed(read):
        yield apply_step(encode, apply_step(stages.prepare, batch))


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(RayEngine, "run", in_this_process)
    yield
    stages.own_decoder().close()
    stages.own_decoder.cache_clear()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(ModelChoice("demo", batch_size=4))


def stored(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_parts_are_those_of_one_process(without_ray, bliss, collection, encoder, tmp_path):
    images = list_images(collection)
    told: list[tuple[str, int, int]] = []
    embed_images(images, encoder, tmp_path / "here", HERE)
    embed_images(images, encoder, tmp_path / "there", THERE, lambda *all: told.append(all))
    assert stored(tmp_path / "there") == stored(tmp_path / "here")
    total = images.count
    assert told[-1] == ("images embedded", total, total)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


TRAPPED_WORKER = """
import os, time
from blissaudit.indexer.images import decode_worker, decoding
real = decoding.decode_bytes
def trapped(data, *rest):
    if data == b"hang":
        time.sleep(600)
    if data == b"exit":
        os._exit(3)
    return real(data, *rest)
decoding.decode_bytes = decode_worker.decode_bytes = trapped
decode_worker.main()
"""


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "trapped.py"
    script.write_text(TRAPPED_WORKER)
    monkeypatch.setattr(decode_process, "WORKER_COMMAND", (sys.executable, "-P", str(script)))


def test_images_that_hang_or_crash_the_decoder_fail_and_no_other_does(
    without_ray, trapped, bliss, collection, encoder, tmp_path
):
    root = tmp_path / "images"
    shutil.copytree(collection, root)
    for name in ("hang", "exit"):
        (root / "boat" / f"{name}.png").write_text(name)
    images, limits = list_images(root), DecodingLimits(seconds=1.5)
    here = embed_images(images, encoder, tmp_path / "here", replace(HERE, limits=limits))
    there = embed_images(images, encoder, tmp_path / "there", replace(THERE, limits=limits))
    assert there.failures == here.failures and there.paths == here.paths
    assert [(failure.path, failure.reason) for failure in there.failures] == [
        ("boat/exit.png", "the decoder process died (exit status 3)"),
        ("boat/hang.png", "decoding took longer than 1.5 s"),
    ]


def test_known_content_is_not_encoded_again(
    without_ray, bliss, collection, encoder, tmp_path, monkeypatch
):
    images = list_images(collection)
    whole = embed_images(images, encoder, tmp_path / "there", THERE)
    rest = replace(images, paths=images.paths[1:], labels=images.labels[1:])
    encoded: list[int] = []
    real = stages.image_encoder

    def counting(wanted: WorkerEncoder) -> Step:
        step = real(wanted)

        def encode(table: pa.Table) -> pa.Table:
            encoded.append(len(table) - table["pixels"].null_count)
            return step(table)

        return encode

    monkeypatch.setattr(stages, "image_encoder", counting)
    found = embed_images(rest, encoder, tmp_path / "there", THERE)
    assert set(encoded) == {0} and found.paths == images.paths[1:]
    assert np.array_equal(found.vectors, whole.vectors[1:])


@pytest.mark.parametrize("command", ["audit", "score", "eval"])
def test_commands_embed_search_and_score_there(
    without_ray, bliss, collection, index, tmp_path, command
):
    calls: list[str] = []

    def spread(
        engine: RayEngine, index: CaptionIndex, exact: bool = False
    ) -> AbstractContextManager[CaptionIndex]:
        calls.append("spread exactly" if exact else "spread")
        return nullcontext(index)

    def each(engine: RayEngine, task: Callable, items: Iterable) -> Iterator:
        calls.append(type(task).__name__)
        return map(task, items)

    arguments = [collection, "--index", index, "--workers", 1, "--json"]
    if command == "eval":
        sets = ("--reference", collection, "--test", collection)
        arguments = [*sets, *arguments[1:], "--score", "bliss", "--model", "demo"]
        arguments += ["--protocol", "leave-one-out"]
    if command == "score":
        fit = ("reference", "fit", collection, "--model", "demo", "-o", tmp_path / "reference")
        assert bliss(*fit).code == 0
        arguments += ["--reference", tmp_path / "reference"]
    outputs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayEngine, "spread", spread)
        patch.setattr(RayEngine, "map", each)
        for engine in ("local", "ray"):
            folder = [] if command == "score" else ["-o", tmp_path / engine]
            found = bliss(command, *arguments, *folder, "--engine", engine)
            assert found.code == 0, found.err
            costs = r'"[a-z_]*(seconds|mib)": [0-9.e-]+'
            outputs.append(re.sub(costs, "", found.out))
    assert outputs[0] == outputs[1]
    if command == "eval":
        assert calls == ["spread exactly"]
        return
    fitted = ["ClassImages"] if command == "audit" else []
    calibrated = ["spread", "BatchSearch", "ClassScores"] if command == "score" else []
    assert calls == [*fitted, "spread", "BatchSearch", "ClassScores", *calibrated]


def test_a_collection_that_breaks_off_is_told_and_one_without_images_too(
    without_ray, encoder, tmp_path
):
    for rows, message in (
        (Rows(25, fails_at=20), "the archive ends early"),
        (Rows(0), "no images"),
    ):
        with pytest.raises(BlissError, match=message):
            embed_images(rows, encoder, tmp_path / message, THERE)
    # The part that was cut short is not stored: its last row never came.
    records = (tmp_path / "the archive ends early" / "parts").iterdir()
    assert sorted(path.name for path in records) == ["part_0.json", "part_1.json"]
