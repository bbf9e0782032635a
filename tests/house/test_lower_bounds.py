"""The floors in pyproject.toml, the versions in constraints.txt, and the record of pip's answer."""

from __future__ import annotations

import sys

import pytest
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

RECORD = ROOT / "benchmarks" / "results" / "lower_bounds.txt"


@pytest.fixture(scope="module")
def bounds(load_benchmark):
    return load_benchmark("lower_bounds")


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}


def test_every_version_measured_with_is_allowed_and_every_dependency_has_one(bounds):
    project, pins = bounds.project(), constraints()
    extras = [each for group in project["optional-dependencies"].values() for each in group]
    for each in map(Requirement, [*project["dependencies"], *extras]):
        pin = pins.get(canonicalize_name(each.name))
        assert pin is None or each.specifier.contains(pin), f"{each} and {each.name}=={pin}"
    needed = [Requirement(each) for each in project["dependencies"]]
    here = [each for each in needed if each.marker is None or each.marker.evaluate()]
    assert {canonicalize_name(each.name) for each in here} <= set(pins)


def test_floors_of_security_are_kept(bounds):
    floors = {
        each.name: each.specifier for each in map(Requirement, bounds.project()["dependencies"])
    }
    for name, vulnerable in (("torch", "2.9.1"), ("faiss-cpu", "1.14.3"), ("faiss-gpu", "1.14.3")):
        assert not floors[name].contains(vulnerable), f"{name} {vulnerable}"


def test_floors_are_pinned_by_name_marker_and_extra(bounds):
    given = ["a>=1.2,<3", "b[x,w]>=4; python_version>='3'", "c>=1; python_version<'3'", "a>=1.2"]
    assert bounds.floors(given) == ["a==1.2", "b[w,x]==4"]
    for without in ("d", "d<3"):
        with pytest.raises(SystemExit, match="d has no lower bound"):
            bounds.floors([without])


@pytest.mark.skipif(sys.platform != "linux", reason="the record is of Linux")
def test_the_record_is_of_the_floors_there_are(bounds):
    record = RECORD.read_text(encoding="utf-8").split()
    missing = [each for each in bounds.floors(bounds.project()["dependencies"])
               if each not in record]  # fmt: skip
    assert not missing, "run benchmarks/lower_bounds.py again: `make proof` records it"
