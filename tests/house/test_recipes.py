"""The recipes of CONTRIBUTING.md: the files they name are there, and toys made by them work."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from blissaudit import UsageError, open_corpus
from blissaudit.scorer.scores import contract
from helpers import ROOT

RECIPES = (ROOT / "CONTRIBUTING.md").read_text().partition("## Recipes")[2].partition("\n## ")[0]


def steps(name):
    """The numbered steps of the recipe of that name."""
    text = RECIPES.partition(f"### {name}\n")[2].partition("\n### ")[0]
    return re.findall(r"^\d\. (.*(?:\n   .*)*)", text, re.MULTILINE)


def test_every_file_a_recipe_names_is_there():
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.(?:py|md))`", RECIPES))
    assert {"scorer/scores/registry.py", "corpora/opening.py", "audit/result.py"} <= named
    assert [file for file in sorted(named) if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(
    ("name", "most"),
    [("Add a score", 2), ("Add a corpus kind", 2), ("Add an image source", 2),
     ("Add an audit option", 6), ("Add an output column", 2)],
)  # fmt: skip
def test_a_recipe_is_short(name, most):
    assert 1 <= len(steps(name)) <= most


def test_a_score_with_a_new_need_is_its_file_and_two_lines_of_the_contract(tmp_path, monkeypatch):
    source = Path(contract.__file__).read_text()
    member, line = '    TEXTS = "', "    Need.TEXTS: Provider("
    assert source.count(member) == source.count(line) == 1
    source = source.replace(member, '    TOY = "a toy"\n' + member)
    toy = '    Need.TOY: Provider("a toy", "Bring one", lambda resources: resources.index),\n'
    changed = tmp_path / "contract.py"
    changed.write_text(source.replace(line, toy + line))
    name = "blissaudit.scorer.scores.toy_contract"
    spec = importlib.util.spec_from_file_location(name, changed)
    new = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, new)
    spec.loader.exec_module(new)

    def fit(fitting, parameters):
        return lambda query: -query.images @ fitting.extras[new.Need.TOY]

    score = new.Score("toy", "-x.s", "this test", fit, {}, frozenset({new.Need.TOY}))
    axes = np.eye(2, dtype=np.float32)
    normals = new.Normals(("a", "b"), axes, axes[:0], np.zeros(0, int))
    with pytest.raises(UsageError, match="toy was used without a toy"):
        new.fit_score(score, new.Fitting(normals, axes[:0]))
    extras = new.provide(score.needs, new.Resources(index=axes[0]))
    met = new.Fitting(normals, axes[:0], extras)
    assert new.fit_score(score, met)(new.Query(axes)).tolist() == [-1, 0]


TOY = """
from blissaudit.corpora import open_corpus

def open_twice(path):
    return open_corpus(path)
"""


def test_a_corpus_kind_of_another_package_is_opened(tmp_path, monkeypatch):
    (tmp_path / "toy_corpus.py").write_text(TOY)
    info = tmp_path / "toy_corpus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-corpus\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[blissaudit.corpora]\ntoy = toy_corpus:open_twice\n")
    (tmp_path / "texts.txt").write_text("a red boat\na blue boat\n")
    with pytest.raises(UsageError, match="is not a text corpus"):
        open_corpus(f"toy:{tmp_path / 'texts.txt'}")
    monkeypatch.syspath_prepend(tmp_path)
    assert open_corpus(f"toy:{tmp_path / 'texts.txt'}").spec.endswith("texts.txt")
    sys.modules.pop("toy_corpus", None)
