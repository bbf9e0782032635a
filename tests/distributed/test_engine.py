"""`--engine ray` on a cluster of this machine: the same artefacts, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from blissaudit.corpora.images.folders import list_images
from blissaudit.corpora.registry import open_corpus
from blissaudit.distributed.cluster import cluster
from blissaudit.distributed.engine import RayEngine, count_actors
from blissaudit.distributed.stages import for_workers, load_for_worker
from blissaudit.errors import BlissError
from blissaudit.indexer.build.build import IndexOptions, build_index
from blissaudit.indexer.encode.encoder import Encoder, ModelChoice
from blissaudit.indexer.encode.open_clip import load_encoder
from blissaudit.indexer.images.embedding import EmbedOptions, embed_images

DEMO = ModelChoice("demo", batch_size=4)
ENGINE = RayEngine(DEMO)
ENCODER = "ray::MapWorker(MapBatches(_Encode))"


class Interrupted(Exception):
    """Stands for a kill of this process."""


@pytest.fixture(scope="module")
def encoder(bliss: Callable) -> Encoder:
    return load_encoder(DEMO)


def stored(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_an_index_built_with_ray_is_the_same_file_by_file(running, bliss, captions, tmp_path):
    build = ("index", "build", os.path.relpath(captions), "--model", "demo", "--part-rows", 150)
    local = bliss(*build, "-o", tmp_path / "local", "--prompt", "a {}", "--prompt", "the {}")
    there = bliss(
        *build, "-o", tmp_path / "ray", "--prompt", "a {}", "--prompt", "the {}", "--engine", "ray"
    )
    assert (local.code, there.code) == (0, 0), there.err
    assert there.out == local.out.replace("/local", "/ray")
    assert stored(tmp_path / "ray") == stored(tmp_path / "local")


def test_a_killed_encoder_a_lost_machine_and_an_interrupted_run_lose_nothing(
    running, encoder, captions, tmp_path
):
    source = open_corpus(str(captions))
    options = IndexOptions(part_rows=20)
    build_index(source, encoder, tmp_path / "local", options)
    done: list[int] = []

    def interrupt(what: str, now: int, total: int) -> None:
        if now >= 60 and total:
            raise Interrupted

    def kill_once(what: str, now: int, total: int) -> None:
        done.append(now)
        if len(done) == 3:
            os.kill(encoding_process().pid, signal.SIGKILL)
            running.kill()

    with pytest.raises(Interrupted):
        build_index(source, encoder, tmp_path / "ray", replace(options, engine=ENGINE), interrupt)
    kept = len(list((tmp_path / "ray" / "parts").iterdir()))
    assert 0 < kept < 15
    build_index(source, encoder, tmp_path / "ray", replace(options, engine=ENGINE), kill_once)
    running.add()
    assert done[0] == 20 * kept and len(done) > 3
    assert stored(tmp_path / "ray") == stored(tmp_path / "local")


def encoding_process() -> psutil.Process:
    """The actor that encodes; Ray's own children are those of this process."""
    every = psutil.Process().children(recursive=True)
    (found,) = [each for each in every if each.name().startswith(ENCODER[:15]) and is_encoder(each)]
    return found


def is_encoder(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[0].startswith(ENCODER)
    except (psutil.Error, IndexError):
        return False


def test_images_embedded_with_ray_are_the_same_broken_ones_too(
    running, encoder, collection, tmp_path
):
    root = tmp_path / "images"
    for path in collection.rglob("*.png"):
        copy = root / path.relative_to(collection)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes()[: 60 if path.stem == "5" else None])
    (root / "apple" / "folder.png").mkdir()
    images, options = list_images(root), EmbedOptions(part_rows=8, workers=1)
    here = embed_images(images, encoder, tmp_path / "local", options)
    there = embed_images(images, encoder, tmp_path / "ray", replace(options, engine=ENGINE))
    assert len(here.failures) == 4 and there.failures == here.failures
    assert (there.paths, there.labels, there.hashes) == (here.paths, here.labels, here.hashes)
    # A part with a broken image is cut into other batches, which rounds float32 differently.
    assert_within_an_ulp_of_float16(there.vectors, here.vectors)
    whole = "img_emb/img_emb_2.npy"
    assert (tmp_path / "ray" / whole).read_bytes() == (tmp_path / "local" / whole).read_bytes()


def assert_within_an_ulp_of_float16(one: np.ndarray, other: np.ndarray) -> None:
    ulp = np.spacing(np.abs(other).astype(np.float16)).astype(np.float32)
    assert (np.abs(np.asarray(one) - np.asarray(other)) <= ulp).all()


def test_a_model_that_workers_cannot_load_is_one_plain_error(running, encoder, captions, tmp_path):
    facts = {**encoder.facts, "model": f"local-dir:{tmp_path / 'nowhere'}"}
    with pytest.raises(BlissError, match="nowhere") as caught:
        build_index(
            open_corpus(str(captions)),
            replace(encoder, facts=facts),
            tmp_path / "out",
            IndexOptions(engine=ENGINE),
        )
    assert "Traceback" not in str(caught.value) and "ray" not in str(caught.value).lower()


def test_workers_must_load_the_same_weights(encoder):
    wanted = for_workers(encoder, DEMO)
    assert load_for_worker(wanted).facts == encoder.facts
    other = replace(wanted, facts={**wanted.facts, "weights_sha256": "0" * 64})
    with pytest.raises(BlissError, match="whose weights_sha256 differs from the driver's"):
        load_for_worker(other)


@pytest.mark.parametrize(
    ("asked", "there"), [("cuda:1", "cuda"), ("cuda", "cuda"), ("cpu", "cpu"), (None, None)]
)
def test_the_one_gpu_that_a_worker_sees_is_its_first(encoder, asked, there):
    wanted = for_workers(encoder, replace(DEMO, device=asked))
    assert wanted.choice.device == there
    assert (wanted.choice.model, wanted.choice.precision) == ("demo", "fp32")


def test_ray_missing_is_told_with_the_name_of_the_extra(bliss, captions, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    build = ("index", "build", captions, "--model", "demo", "-o", tmp_path / "x")
    outcome = bliss(*build, "--engine", "ray")
    assert outcome.code == 2
    assert "needed" in outcome.err.lower() and "the extra [ray]" in outcome.err
    assert bliss(*build).code == 0  # the plan is used again, and nothing else is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--engine", "ray:actors=0"),
            "'ray:actors=0' was given. Needed: local, ray or ray:ADDRESS,actors=N, with N from 1",
        ),
        (("--engine", "ray:actors=two"), "--engine 'ray:actors=two' was given"),
        (("--engine", "ray:ray://head:10001"), "Ray client address"),
        (("--engine", "dask"), "--engine 'dask' was given. Needed: local, ray or ray:ADDRESS"),
    ],
)
@pytest.mark.parametrize("command", [("index", "build"), ("audit",)])
def test_engine_options_that_do_not_fit_are_refused(bliss, tmp_path, command, options, message):
    outcome = bliss(*command, tmp_path, "--model", "demo", "-o", tmp_path / "x", *options)
    assert outcome.code == 2 and message in outcome.err


def test_embeddings_have_nothing_to_encode(bliss, index, tmp_path):
    arguments = ("--embeddings", index, "-o", tmp_path / "x", "--engine", "ray")
    outcome = bliss("index", "build", *arguments)
    assert outcome.code == 2 and "--engine ray was given with --embeddings" in outcome.err


def test_an_address_where_no_cluster_is_is_refused_at_once():
    fake: Any = SimpleNamespace(
        is_initialized=lambda: False, _private=SimpleNamespace(worker=SimpleNamespace())
    )
    with pytest.raises(BlissError, match=r"no Ray cluster at 127\.0\.0\.1:1 \(.*refused"):
        with cluster(fake, "127.0.0.1:1"):
            pass


@pytest.mark.parametrize(
    ("there", "engine", "expected"),
    [
        ({"CPU": 4.0}, RayEngine(DEMO), (1, 0)),
        ({"CPU": 16.0}, RayEngine(DEMO, actors=8), (8, 0)),
        ({"CPU": 16.0, "GPU": 4.0}, RayEngine(DEMO), (4, 1)),
        ({"CPU": 16.0, "GPU": 4.0}, RayEngine(DEMO, actors=2), (2, 1)),
        ({"CPU": 16.0, "GPU": 4.0}, RayEngine(replace(DEMO, device="cpu")), (1, 0)),
    ],
)
def test_there_is_an_encoder_for_each_gpu(there, engine, expected):
    assert count_actors(there, engine) == expected


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"CPU": 2.0}, r"the Ray cluster has 2 CPUs\. Needed: 3 for"),
        ({"CPU": 16.0, "GPU": 1.0}, r"2 Ray actors were requested and the cluster has 1 GPU"),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(there, message):
    with pytest.raises(BlissError, match=message):
        count_actors(there, RayEngine(DEMO, actors=2))
