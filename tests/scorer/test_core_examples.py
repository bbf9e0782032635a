"""The worked example of every module of the core runs and shows what it says."""

import dataclasses
import doctest
from importlib import import_module

import pytest

CORE = (
    "indexer.vectors.unit_rows",
    "indexer.vectors.nearest",
    "indexer.vectors.rows",
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


@pytest.mark.parametrize("name", [*CORE, "audit.decisions"])
def test_results_cannot_be_changed(name):
    module = import_module(f"blissaudit.{name}")
    for made in vars(module).values():
        if (
            isinstance(made, type)
            and made.__module__ == module.__name__
            and vars(made).get("__annotations__")
        ):
            if not getattr(made, "_is_protocol", False):
                assert dataclasses.is_dataclass(made) and made.__dataclass_params__.frozen, made


def test_calibration_images_are_held_out_unless_said_otherwise():
    from blissaudit.scorer.reference import Calibration

    assert Calibration(None, None).in_moments is False
