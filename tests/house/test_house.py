"""The house in numbers: names are followed through faces to the module that defines them."""

import ast
import json
import subprocess
import sys

import pytest
from helpers import ROOT

TOY = {
    "__init__.py": '_HOMES = {"shown": "b.deep", "other": "b"}\n',
    "errors.py": "class Wrong(Exception):\n    pass\n",
    "a/__init__.py": "from .one import first as public\n",
    "a/one.py": "from ..b import lazy\nfrom ..errors import Wrong\nfirst = 1\n",
    "a/two.py": "def f():\n    from ..b.deep import made\n    from ..b import plain\n",
    "a/ring.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .back import x\ny = 1\n"
    ),
    "a/back.py": "def f():\n    from .ring import y\nx = 1\n",
    "b/__init__.py": (
        'from .flat import plain\n_EXPORTS = {"lazy": ".deep", "pair": (".flat", "plain")}\n'
        '_LISTS = {"deep": ("many", "more")}\n'
    ),
    "b/deep.py": "from dataclasses import dataclass\n\n@dataclass\nclass lazy:\n    made: int\n",
    "b/flat.py": "plain = 1\n",
    "c/__init__.py": "",
    "c/main.py": (
        "import blissaudit.b.flat\nfrom blissaudit import shown\nfrom ..a import public, two\n"
        "from ..b import more, pair\n"
    ),
    "tests/test_a.py": "from blissaudit.a.one import first\n",
}


@pytest.fixture
def script(load_benchmark):
    return load_benchmark("house")


@pytest.fixture
def toy(script, tmp_path):
    for name, text in TOY.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return script.House(tmp_path)


def test_names_are_resolved_through_plain_and_lazy_faces(toy):
    assert toy.edges["a/one"] == {"b/deep", "errors"}
    assert toy.edges["a/two"] == {"b/deep", "b/flat"}
    assert toy.edges["c/main"] == {"b/flat", "b/deep", "a/one", "a/two"}
    assert toy.reached("c/main") == {"c/main", "a/one", "a/two", "b/deep", "b/flat", "errors"}


def test_imports_in_functions_and_for_types_make_a_cycle(toy):
    assert toy.cycles() == [["a/back", "a/ring"]]


def test_only_what_goes_past_a_face_is_private(toy):
    found = {(one.importer, one.said, one.name or one.target) for one in toy.private()}
    assert found == {
        ("a/two", "b/deep", "made"),
        ("c/main", "b/flat", "b/flat"),
        ("c/main", "a", "a/two"),
    }


def test_files_folders_and_dataclasses_are_counted(toy, script):
    assert len(toy.modules) == len(TOY) - 1
    assert toy.folders().most_common(1) == [("a", 5)]
    assert toy.dataclasses() == 1
    assert toy.core() == set()
    assert toy.lines(toy.modules) == sum(
        len(text.splitlines()) for name, text in TOY.items() if not name.startswith("tests/")
    )


def test_a_missed_target_is_an_error_only_with_check(tmp_path, toy):
    command = [sys.executable, ROOT / "benchmarks" / "house.py", toy.root, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files in an import cycle"] == 2
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "target missed: files in an import cycle" in done.stderr


def test_this_checkout_is_counted_whole(script):
    house = script.House(ROOT)
    known = [start for start in script.STARTS.values() if start in house.modules]
    assert known == list(script.STARTS.values()), "name the new places in STARTS"
    assert house.core(), "name the new places in CORES"
    package = ast.parse((ROOT / "tests" / "conftest.py").read_text())
    used = {node.module for node in ast.walk(package) if isinstance(node, ast.ImportFrom)}
    for module in filter(lambda name: name and name.startswith("blissaudit."), used):
        assert module.removeprefix("blissaudit.").replace(".", "/") in house.modules
    help_text = subprocess.run(
        [sys.executable, "-c", "from blissaudit.cli import run; run(['audit', '--help'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    options = {line.split()[0] for line in help_text.splitlines() if line.startswith("  -")}
    assert script.audit_options(ROOT) == len(options)


def test_the_files_that_start_first_are_there(request):
    shared = request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    assert [name for name in shared.SLOW_FILES if not (ROOT / "tests" / name).is_file()] == []
