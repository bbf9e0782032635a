"""The worked example of every module of the core runs and shows what it says."""

import doctest
from importlib import import_module

import pytest

CORE = (
    "indexer.vectors.unit_rows",
    "indexer.vectors.nearest",
    "scorer.moments",
    "scorer.statistics",
    "scorer.leave_one_out",
    "scorer.bliss",
    "scorer.reference",
    "scorer.calibration",
)


@pytest.mark.parametrize("name", CORE)
def test_the_example_of_each_core_module_runs(name):
    module = import_module(f"blissaudit.{name}")
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    assert any(each.name == module.__name__ and each.examples for each in found), "no example"
    assert doctest.testmod(module).failed == 0
