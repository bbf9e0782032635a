"""A small version of benchmarks/fuzz.py: broken inputs are read or refused, never a traceback."""

import importlib.util
import sys

import pytest
from blissaudit.artefacts import read_json
from blissaudit.errors import BlissError
from helpers import BENCHMARKS


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", BENCHMARKS / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def world(fuzz, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    fuzz.make_world(folder)
    return folder


@pytest.mark.parametrize("name", ["manifests", "tables", "npy headers", "option values"])
def test_no_input_ends_as_an_error_of_bliss_itself(fuzz, world, name):
    target = fuzz.TARGETS[name](world)
    target.run(80)
    assert not target.faults, next(iter(target.faults.values()))
    assert target.seen["refused"] and target.seen["read"] + target.seen["refused"] >= 80


@pytest.mark.parametrize("opened", ['{"kind": ', "["])
def test_deeply_nested_json_is_refused(fuzz, world, opened):
    (world / "deep.json").write_text(opened * 100_000)
    with pytest.raises(BlissError, match=r"deep\.json could not be read"):
        read_json(world / "deep.json")
