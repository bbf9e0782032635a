"""The core imports numpy, faiss, threadpoolctl, `errors`, `arguments` and itself, no more."""

import ast
import sys

import pytest
from helpers import ROOT

CORE = (
    "indexer/vectors/unit_rows",
    "indexer/vectors/blas",
    "indexer/vectors/nearest",
    "scorer/moments",
    "scorer/statistics",
    "scorer/leave_one_out",
    "scorer/bliss",
    "scorer/reference",
    "scorer/calibration",
)
"""In the order in which the README reads them."""
OWN = (*CORE, "errors", "arguments")
FACE = "indexer/vectors"
LIBRARIES = {"numpy", "faiss", "threadpoolctl"}
MOST_LINES = 2200


def defined_in(root, name):
    """The module behind a name of the face of indexer/vectors."""
    stub = (root / FACE / "__init__.pyi").read_text(encoding="utf-8")
    return next(
        f"{FACE}/{node.module}"
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]
    )


def foreign_imports(root):
    """Every import of a core module at `root`, wherever in it, that is not of the core."""
    found = []
    for name in CORE:
        path = root / f"{name}.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ():
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top not in LIBRARIES and top not in sys.stdlib_module_names:
                    found.append(f"{name} imports {module}")
            if isinstance(node, ast.ImportFrom) and node.level:
                package = name.split("/")[: -node.level]
                inside = ["/".join([*package, *node.module.split(".")])] if node.module else [
                    "/".join([*package, alias.name]) for alias in node.names
                ]  # fmt: skip
                if inside == [FACE]:
                    inside = [defined_in(root, alias.name) for alias in node.names]
                found += [f"{name} imports {each}" for each in inside if each not in OWN]
    return found


def test_the_core_imports_nothing_else():
    assert foreign_imports(ROOT) == []


@pytest.mark.parametrize(
    ("name", "line", "imported"),
    [
        ("scorer/bliss", "import pyarrow.compute as pc", "pyarrow.compute"),
        ("scorer/moments", "def f():\n    from scipy.stats import norm", "scipy.stats"),
        ("scorer/calibration", "from .members import as_members", "scorer/members"),
        ("scorer/reference", "from . import reference_file", "scorer/reference_file"),
        ("scorer/bliss", "from ..indexer.vectors.rows import x", "indexer/vectors/rows"),
        ("scorer/bliss", "from ..indexer.vectors import release", "indexer/vectors/rows"),
        ("indexer/vectors/nearest", "from .rows import StoredRows", "indexer/vectors/rows"),
        ("indexer/vectors/nearest", "from ...artefacts import digest", "artefacts"),
    ],
)
def test_the_check_fails_where_it_should(tmp_path, name, line, imported):
    for folder in ((tmp_path / name).parent, tmp_path / FACE):
        folder.mkdir(parents=True, exist_ok=True)
    stub = "from .unit_rows import Rows as Rows\nfrom .rows import release as release\n"
    (tmp_path / FACE / "__init__.pyi").write_text(stub)
    (tmp_path / f"{name}.py").write_text(f"import numpy as np\nfrom typing import Any\n{line}\n")
    assert foreign_imports(tmp_path) == [f"{name} imports {imported}"]


def test_the_core_is_what_is_counted_and_short_enough(load_benchmark):
    script = load_benchmark("house")
    house = script.House(ROOT)
    assert house.core() == set(CORE)
    assert house.lines(CORE) <= MOST_LINES == script.TARGETS["lines of the core"]
