"""The wheel holds the package and nothing else, and works where only it is installed."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers import ROOT

NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "dist", "*.egg-info", ".*_cache", "__pycache__", ".hypothesis"
)


def not_copied(folder, names):
    """The patterns above, and what builds leave in the root; indexer/build is a package."""
    left_out = NOT_COPIED(folder, names)
    return left_out | ({"build"} & set(names) if folder == str(ROOT) else set())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=not_copied)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    done = subprocess.run([*command, folder / "source"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_nothing_lands_outside_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"blissaudit", "bliss_audit-0.2.0.dist-info"}
    second = {name.split("/")[1] for name in names if name.startswith("blissaudit/")}
    assert not second & {"tests", "benchmarks", "docs", "build", "Makefile", "constraints.txt"}


def test_every_file_the_program_needs_is_inside(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    rooms = (
        *("audit", "commands", "corpora", "demo", "distributed", "evaluation"),
        *("indexer", "scorer", "training"),
    )
    python = [p for room in rooms for p in (ROOT / room).rglob("*.py*") if p.suffix != ".pyc"]
    python += [ROOT / name for name in ("__init__.py", "__main__.py", "cli.py", "errors.py")]
    python += [ROOT / name for name in ("artefacts.py", "__init__.pyi", "tables.py", "progress.py")]
    needed = {f"blissaudit/{path.relative_to(ROOT).as_posix()}" for path in python}
    needed |= {
        "blissaudit/corpora/presets.json",
        "blissaudit/demo/model/open_clip_config.json",
        "blissaudit/demo/model/open_clip_model.safetensors",
        "blissaudit/evaluation/protocols.json",
        "blissaudit/py.typed",
    }
    page = ROOT / "audit/report"
    parts = [page / "page.html", page / "page.css", *sorted((page / "script").glob("*.js"))]
    needed |= {f"blissaudit/{path.relative_to(ROOT).as_posix()}" for path in parts}
    assert needed - names == set()
    model = zipfile.ZipFile(wheel).getinfo("blissaudit/demo/model/open_clip_model.safetensors")
    assert 1_000_000 < model.file_size <= 16 * 2**20
    licence = [name for name in names if name.endswith("licenses/LICENSE")]
    assert licence == ["bliss_audit-0.2.0.dist-info/licenses/LICENSE"]


def test_the_installed_wheel_runs_from_another_directory(wheel, tmp_path):
    target = tmp_path / "target"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", target, wheel], check=True)
    there = {**os.environ, "PYTHONPATH": str(target)}
    where = "import blissaudit; print(blissaudit.__file__)"
    commands = {
        "where": [sys.executable, "-c", where],
        "version": [str(target / "bin" / "bliss"), "--version"],
        "help": [sys.executable, "-m", "blissaudit", "--help"],
    }
    out = {
        name: subprocess.run(
            command, cwd=tmp_path, env=there, capture_output=True, text=True, check=True
        ).stdout
        for name, command in commands.items()
    }
    assert out["where"].strip() == str(target / "blissaudit" / "__init__.py")
    assert out["version"].strip() == "bliss, version 0.2.0"
    assert out["help"].startswith("Usage: bliss [OPTIONS] COMMAND [ARGS]...")
    for command in ("apply", "audit", "demo", "diff", "eval", "find", "report", "score", "train"):
        assert f"\n  {command} " in out["help"]
