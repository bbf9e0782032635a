"""Fixtures that several test files share: data, the command in this process, small collections."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import io
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from blissaudit.cli import run
from blissaudit.corpora.captions import CaptionRules
from blissaudit.corpora.registry import TextSource
from blissaudit.demo.scenes import all_captions, render_scene, sample_scene
from blissaudit.indexer.build.plan import make_plan, read_plan_part
from blissaudit.indexer.encode.encoder import Encoder, ModelChoice, demo_model
from hypothesis import settings

# A shell starts background jobs with Ctrl-C ignored; tests and their child processes need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not fail a property: pytest-timeout ends what hangs.
settings.register_profile("bliss", deadline=None)
settings.load_profile("bliss")

# Tests know the shipped corpora alone and no named models, whatever the person who runs them has
# added; models that tests name are remembered in a folder of the tests' own.
_SETTINGS = tempfile.TemporaryDirectory(prefix="bliss-settings-")
os.environ["BLISS_CONFIG"] = _SETTINGS.name

# No test cuts the power: what was written is there for whoever reads it, also after a kill. A
# descriptor that is not open still fails, and child processes of tests still wait for their disks.
os.fsync = os.fstat  # type: ignore[assignment]

HELPERS = Path(__file__).with_name("helpers")
KINDS = ("apple", "boat", "house")
EACH = 8
STRAYS = ("apple/clock.png", "boat/umbrella.png")


SLOW_FILES = (
    "distributed/test_engine.py",
    "distributed/test_scoring.py",
    "distributed/test_stages.py",
    "distributed/test_batches.py",
    "indexer/images/test_workers.py",
    "browser/test_report_in_browser.py",
    "commands/test_train_clipn.py",
    "commands/test_unfinished.py",
    "audit/test_decisions_real.py",
    "commands/test_decisions.py",
    "commands/test_score.py",
    "house/test_trust.py",
    "demo/test_run.py",
    "indexer/encode/test_tokens.py",
    "commands/test_options.py",
    "scorer/scores/plus/test_score.py",
    "indexer/images/test_embedding.py",
    "commands/test_address_trust.py",
    "commands/test_model_trust.py",
    "indexer/images/test_broken_images.py",
    "indexer/images/test_cache.py",
    "commands/test_real.py",
    "audit/test_retrieval.py",
    "indexer/encode/test_pipeline.py",
    "audit/review/test_photographs.py",
)
"""The files of `make test` that take longest, longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under xdist the longest files come first: begun last, one would keep one core waiting."""
    if hasattr(config, "workerinput"):
        place = {Path(__file__).parent / name: number for number, name in enumerate(SLOW_FILES)}
        items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One file after another in their order; all that uses the Ray cluster goes to one worker."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LongestFirst(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "tests/distributed" if file.startswith("tests/distributed/") else file

    config.option.loadscopereorder = False  # by number of tests, in which long files have few
    return LongestFirst(config, log)


def load_file(path: Path) -> ModuleType:
    """A Python file as a module: in importlib mode, tests cannot import one another."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """BLISS again, written with loops from the formula alone."""
    return load_file(Path(__file__).parent / "helpers" / "bliss_oracle.py")


@pytest.fixture(scope="session")
def load_test_file() -> Callable[[str], ModuleType]:
    """`load_test_file(name)` is a helper file beside the tests as a module."""
    return lambda name: load_file(Path(__file__).parent / "helpers" / f"{name}.py")


@pytest.fixture(scope="session")
def small(load_test_file: Callable[[str], ModuleType]) -> ModuleType:
    """An encoder without a model, and what goes with it."""
    return load_test_file("small_encoder")


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """`load_benchmark(name)` is a script of benchmarks/ as a module."""
    return lambda name: load_file(Path(__file__).parent.parent / "benchmarks" / f"{name}.py")


@pytest.fixture(scope="session")
def load_docs() -> Callable[[str], ModuleType]:
    """`load_docs(name)` is a script of docs/ as a module."""
    return lambda name: load_file(Path(__file__).parent.parent / "docs" / f"{name}.py")


@pytest.fixture(scope="session")
def oecl_oracle() -> ModuleType:
    """OECL's losses and scores again, row by row from the formulas alone."""
    return load_file(Path(__file__).parent / "helpers" / "oecl_oracle.py")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CLIP embeddings."""
    if "BLISS_TEST_DATA" not in os.environ:
        pytest.skip("the real embeddings are not here: BLISS_TEST_DATA is not set")
    return Path(os.environ["BLISS_TEST_DATA"]) / "real"


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


class Kept(NamedTuple):
    """The captions an index would hold, their source rows int64, and what became of every text."""

    captions: list[str]
    rows: np.ndarray
    counts: dict[str, int]


KeptCaptions = Callable[..., Kept]


@pytest.fixture(scope="session")
def kept_captions(tmp_path_factory: pytest.TempPathFactory) -> KeptCaptions:
    """`kept_captions(source, rules)` is what the row plan keeps of one source."""

    def kept(source: TextSource, rules: CaptionRules = CaptionRules()) -> Kept:  # noqa: B008
        folder = tmp_path_factory.mktemp("plan")
        plan = make_plan([source], rules, folder, 32_768, [source.facts()])
        rows = pa.concat_tables([read_plan_part(plan, part) for part in range(len(plan.parts))])
        numbers = rows["source_row"].to_numpy()
        return Kept(rows["caption"].to_pylist(), numbers, plan.counts[0])

    return kept


class Outcome(NamedTuple):
    """What one run of the command left behind."""

    code: int
    out: str
    err: str


Bliss = Callable[..., Outcome]


@pytest.fixture(scope="session")
def bliss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bliss]:
    """`bliss(*arguments)` runs the command in this process, with an empty cache of its own.

    `audit` and `score` rank by BLISS where a test names neither a score nor a preset: its numbers
    are those worked out by hand. `--score auto` is the default of the commands themselves. In the
    same way `audit` keeps every image in the fit where a test says nothing of it. What earlier
    commands left for later ones is forgotten first, unless a test sets a BLISS_CACHE of its own.
    On one thread, as its child processes too: models this small lose time to more, and equal
    numbers can then be asked for. Decoding workers serve one command after another.
    """
    import torch
    from blissaudit.indexer import reused_workers

    threads = torch.get_num_threads()
    cache = tmp_path_factory.mktemp("cache")

    def command(*arguments: object) -> Outcome:
        for name in ("image-embeddings", "references"):
            shutil.rmtree(cache / name, ignore_errors=True)
        words = [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments]
        names = {"--score", "--preset", "pairs", "--question=pairs"}
        if words[:1] in (["audit"], ["score"]) and not names & {*words}:
            words += ["--score", "bliss"]
        names = {"--robust", "--no-robust", "--preset", "pairs", "--question=pairs"}
        if words[:1] == ["audit"] and not names & {*words}:
            words += ["--no-robust"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(words)
        assert "Traceback" not in out.getvalue() + err.getvalue()
        return Outcome(code, out.getvalue(), err.getvalue())

    with pytest.MonkeyPatch.context() as patch, reused_workers():
        load_the_demo_model_once(patch)
        patch.setenv("BLISS_CACHE", str(cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield command
        torch.set_num_threads(threads)


def load_the_demo_model_once(patch: pytest.MonkeyPatch) -> None:
    """Commands share an encoder of the demo model for each ModelChoice; training gets copies."""
    from blissaudit.indexer.encode import open_clip

    load_encoder, load, tokenizer = open_clip.load_encoder, open_clip._load, open_clip._tokenizer
    encoder, model, words = (functools.cache(each) for each in (load_encoder, load, tokenizer))
    shipped = demo_model()

    def same_encoder(choice: ModelChoice) -> Encoder:
        return (encoder if getattr(choice, "model", "") == "demo" else load_encoder)(choice)

    def same_model(name: str, *more: Any) -> Any:
        return copy.deepcopy(model(name, *more)) if name == shipped else load(name, *more)

    def same_tokenizer(name: str, *more: Any) -> Any:
        return (words if name == shipped else tokenizer)(name, *more)

    patch.setattr(open_clip, "load_encoder", same_encoder)
    patch.setattr(open_clip, "_load", same_model)
    patch.setattr(open_clip, "_tokenizer", same_tokenizer)


def render(path: Path, kind: str, rng: np.random.Generator) -> None:
    """Draw one scene of `kind` into a file whose suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    render_scene(sample_scene(rng, kind), 64).save(path)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of KINDS with EACH pictures and, in two of them, a stray of STRAYS."""
    rng = np.random.default_rng(3)
    root = tmp_path_factory.mktemp("collection") / "images"
    for kind in KINDS:
        for number in range(EACH):
            render(root / kind / f"{number}.png", kind, rng)
    for stray in STRAYS:
        render(root / stray, Path(stray).stem, rng)
    return root


@pytest.fixture(scope="session")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 captions of the demo's world, one a line; every kind is among them."""
    path = tmp_path_factory.mktemp("captions") / "captions.txt"
    every = list(all_captions())
    chosen = np.random.default_rng(4).choice(len(every), 300, replace=False)
    path.write_text("".join(f"{every[i]}\n" for i in sorted(chosen)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def index(bliss: Bliss, captions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of `captions` with the demo model."""
    folder = tmp_path_factory.mktemp("index") / "captions-index"
    assert bliss("index", "build", captions, "--model", "demo", "-o", folder).code == 0
    return folder


@pytest.fixture(scope="session")
def write_embeddings() -> Callable[[Path, np.ndarray, list[str]], Path]:
    """`write_embeddings(folder, vectors, captions)`: one part in clip-retrieval's layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(folder: Path, vectors: np.ndarray, captions: list[str]) -> Path:
        for name in ("text_emb", "metadata"):
            (folder / name).mkdir(parents=True)
        np.save(folder / "text_emb" / "text_emb_0.npy", vectors)
        table = pa.table({"caption": captions})
        pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
        return folder

    return write
