"""Versions, links and settings that a release needs to agree on."""

from __future__ import annotations

import re
import tomllib

import blissaudit
import pytest
import yaml
from helpers import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ["3.11", "3.12", "3.13"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version_everywhere():
    version = PYPROJECT["project"]["version"]
    assert blissaudit.__version__ == version
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    assert re.search(r"^## (\S+),", read("CHANGELOG.md"), re.M)[1] == version


def test_one_list_of_pythons_everywhere():
    named = [each.split(" :: ")[-1] for each in PYPROJECT["project"]["classifiers"]
             if re.fullmatch(r".*Python :: 3\.\d+", each)]  # fmt: skip
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert named == workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS
    assert PYPROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in read("docs/install.md")


def test_the_citation_names_the_paper():
    (paper,) = yaml.safe_load(read("CITATION.cff"))["references"]
    assert [each["family-names"] for each in paper["authors"]] == ["Goodge", "Hooi", "Ng"]
    assert paper["identifiers"][0]["value"] == "arXiv:2407.17083"


def test_the_demo_installs_no_test_tools():
    makefile = read("Makefile")
    rules = dict(re.findall(r"^([\w./]+):(.*(?:\n\t.*)*)", makefile, re.M))
    assert rules["demo"].split("\n")[0].strip() == ".venv/installed"
    assert "[test]" not in rules[".venv/installed"]
    assert "[test]" in rules[".venv/tested"]
    for target in ("test", "lint", "proof", "dist"):
        assert rules[target].split("\n")[0].strip() == ".venv/tested", target


def test_the_recipe_without_cuda_names_every_dependency_with_its_floor():
    recipe = read("docs/install.md")
    for each in PYPROJECT["project"]["dependencies"]:
        name = re.match(r"[\w-]+", each)[0]
        if name not in ("faiss-gpu", "torch"):
            assert f"'{each.split(';')[0]}'" in recipe, each


@pytest.mark.parametrize("name", ["docs/trust.md", "docs/install.md"])
def test_every_linked_file_is_there(name):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", read(name)):
        assert ((ROOT / name).parent / target).exists(), target
