"""The worked examples of the modules of vectors run and show what they say."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["unit_rows", "nearest", "rows"])
def test_the_example_runs(name):
    found = doctest.testmod(import_module(f"blissaudit.indexer.vectors.{name}"))
    assert found.attempted > 0 and found.failed == 0
