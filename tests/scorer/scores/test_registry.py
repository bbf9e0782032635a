"""Scores of other packages: found by name, listed, and reported where they are broken."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from blissaudit.audit.scores import choose_score
from blissaudit.errors import BlissError, UsageError
from blissaudit.evaluation.run import choose_scores
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import BUILT_IN, SCORES

TOY = """
import numpy as np
from blissaudit.scorer.scores.contract import Score
from blissaudit.scorer.scores.contract import Need

def fit(fitting, parameters):
    prompts = fitting.normals.prompts
    return lambda query: parameters["scale"] * (1 - (query.images @ prompts.T).mean(axis=1))

SCORE = Score("toy_mean", "1 - mean cosine", "a test", fit, {"scale": 2.0})
NEEDY = Score("toy_needy", "-", "a test", fit, {"scale": 2.0}, frozenset({Need.TEXTS}))
OTHER = SCORE
NUMBER = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with these entry points, as pip would leave it on sys.path."""

    def made(package, entries, source=TOY):
        (tmp_path / f"{package}.py").write_text(source)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[blissaudit.scores]", *lines]) + "\n")

    monkeypatch.syspath_prepend(tmp_path)
    yield made
    for name in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[name]


def test_a_score_of_another_package_is_used_like_any_other(install):
    install("toy_package", {"toy_mean": "toy_package:SCORE", "toy_needy": "toy_package:NEEDY"})
    assert "toy_mean" in SCORES and list(SCORES)[-2:] == ["toy_mean", "toy_needy"]
    score = choose_score("toy_mean", separate=False, saved=False)
    axes = np.eye(2, dtype=np.float32)
    bare = Fitting(Normals(("a", "b"), axes, axes[:0], np.zeros(0, int)), axes[:0])
    assert fit_score(score, bare)(Query(axes[:1])).tolist() == [1.0]
    chosen = choose_scores(["toy_mean:scale=4", "toy_mean+rscin"], SCORES)
    assert fit_score(chosen[0].score, bare, **chosen[0].changed)(Query(axes[:1])).tolist() == [2.0]
    with pytest.raises(UsageError, match="toy_needy was used without external texts"):
        fit_score(SCORES["toy_needy"], bare)
    with pytest.raises(UsageError, match=r"score 'toy_meen' is unknown.*Did you mean toy_mean"):
        choose_score("toy_meen", separate=False, saved=False)


BROKEN = {
    "toy_gone": ("toy_broken:MISSING", r"could not be loaded \(AttributeError"),
    "toy_lost": ("toy_nowhere:SCORE", r"could not be loaded \(ModuleNotFoundError"),
    "toy_number": ("toy_broken:NUMBER", "is int and no Score"),
    "toy_alias": ("toy_broken:OTHER", "calls itself 'toy_mean'"),
}


def test_a_broken_score_is_named_and_breaks_no_other(install):
    install("toy_package", {"toy_mean": "toy_package:SCORE"})
    install("toy_broken", {name: value for name, (value, _) in BROKEN.items()})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        listed = list(SCORES)
    assert set(listed) == {*BUILT_IN, "toy_mean"}
    said = "\n".join(str(each.message) for each in caught)
    for name, (_, problem) in BROKEN.items():
        assert f"the score '{name}' of the package toy_broken" in said
        with pytest.raises(BlissError, match=problem + ".*Update or uninstall toy_broken"):
            choose_score(name, separate=True, saved=False)
    assert SCORES["knn"] is BUILT_IN["knn"] and SCORES["toy_mean"].name == "toy_mean"


def test_a_package_that_ends_the_program_is_reported(install):
    install("toy_exits", {"toy_exit": "toy_exits:SCORE"}, "import sys\nsys.exit(3)\n")
    with pytest.raises(BlissError, match=r"'toy_exit' .*could not be loaded \(SystemExit: 3"):
        SCORES["toy_exit"]
    with pytest.warns(UserWarning, match="the score 'toy_exit' of the package toy_exits"):
        assert set(SCORES) == set(BUILT_IN)


def test_a_package_cannot_replace_a_built_in_score(install):
    install("toy_package", {"knn": "toy_package:SCORE"})
    assert SCORES["knn"] is BUILT_IN["knn"]
    with pytest.warns(UserWarning, match="the score 'knn' .* has the name of a built-in score"):
        assert sorted(SCORES) == sorted(BUILT_IN)


def test_packages_are_not_looked_at_for_a_built_in_score(tmp_path):
    code = (
        "import importlib.metadata as m\n"
        "def refuse(*a, **k): raise AssertionError('looked')\n"
        "m.entry_points = refuse\n"
        "from blissaudit.scorer.scores.registry import SCORES\n"
        "assert SCORES['bliss+'].name == 'bliss+' and 'knn' in SCORES\n"
        "try:\n    'other' in SCORES\nexcept AssertionError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "looked\n", done.stderr
