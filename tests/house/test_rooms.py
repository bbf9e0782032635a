"""The order of the rooms, and what importing the package must not load."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

ORDER = (
    "errors",
    "arguments",
    "safe_text",
    "progress",
    "artefacts",
    "tables",
    "corpora",
    "indexer",
    "scorer",
    "audit",
    "evaluation",
    "demo",
    "training",
    "distributed",
    "commands",
    "cli",
)
APART = {"evaluation": ("audit",)}
"""Rooms to the left that a room still does without."""
HEAVY = {
    "torch": (
        "indexer/encode/open_clip.py",
        "indexer/encode/cells.py",
        "indexer/search/gpu.py",
        "training/",
    ),
    "torchvision": ("training/",),
    "open_clip": ("indexer/encode/open_clip.py", "indexer/encode/cells.py", "training/"),
    "tokenizers": ("indexer/encode/tokens.py",),
    "timm": ("training/",),
    "faiss": ("indexer/search/structures.py", "indexer/vectors/nearest.py"),
    "duckdb": ("indexer/build/plan.py",),
    "matplotlib": ("audit/report/plots.py",),
    "umap": ("audit/report/groups_and_map.py",),
    "datasets": ("corpora/datasets.py", "audit/adapters/hub_dataset.py"),
    "huggingface_hub": (
        "corpora/datasets.py",
        "indexer/encode/open_clip.py",
        "indexer/store/hub.py",
    ),
    "click": ("cli.py", "commands/", "training/"),
    "sklearn": ("audit/adapters/",),
    "pyod": ("audit/adapters/",),
    "fiftyone": ("audit/adapters/",),
    "ray": ("distributed/cluster.py",),
    "pickle": (),
    "dill": (),
    "joblib": (),
}


def library_files(root):
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if parts[0].removesuffix(".py") in ORDER:
            yield path.relative_to(root).as_posix(), path


def is_private(room, module):
    """Whether a module is of another room and not its face; the scorer reads rows and searches."""
    if module is None or "." not in module or (room, module) == ("scorer", "indexer.vectors"):
        return False
    return module.split(".")[0] not in (room, "commands" if room == "cli" else room)


def violations(root):
    """Every import of the library at `root` that the house forbids, as 'file: import'."""
    found = []
    for name, path in library_files(root):
        room = name.split("/")[0].removesuffix(".py")
        depth = name.count("/") + 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            elif isinstance(node, ast.ImportFrom) and node.level == depth:
                if is_private(room, node.module):
                    found.append(f"{name}: imports {node.module}, which is private to its room")
                for target in [node.module] if node.module else [a.name for a in node.names]:
                    target = target.split(".")[0]
                    known = target in ORDER
                    if known and ORDER.index(target) > ORDER.index(room):
                        found.append(f"{name}: imports {target}, which is to its right")
                    if target in APART.get(room, ()):
                        found.append(f"{name}: imports {target}, which it does without")
            elif isinstance(node, ast.ImportFrom) and node.level > depth:
                found.append(f"{name}: leaves the package")
            for module in modules:
                top = module.split(".")[0]
                if top == "blissaudit":
                    found.append(f"{name}: imports blissaudit absolutely")
                if top in HEAVY and not name.startswith(HEAVY[top] or ("-",)):
                    found.append(f"{name}: imports {top}")
    return found


def test_no_room_imports_to_its_right_and_heavy_imports_have_one_home():
    assert violations(ROOT) == []


def test_the_check_sees_every_library_file_there_is():
    rooms = {name.split("/")[0] for name, _ in library_files(ROOT)}
    apart = {f"{name}.py" for name in ORDER if (ROOT / f"{name}.py").exists()}
    assert rooms == {name for name in ORDER if f"{name}.py" not in apart} | apart
    assert "import faiss" in (ROOT / "indexer/search/structures.py").read_text()
    assert "import torch" in (ROOT / "indexer/encode/open_clip.py").read_text()


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("scorer/new.py", "from ..audit import x", "imports audit, which is to its right"),
        (
            "audit/new.py",
            "from ..indexer.search.index import x",
            "imports indexer.search.index, which is private to its room",
        ),
        (
            "audit/new.py",
            "from ..indexer.vectors import x",
            "imports indexer.vectors, which is private to its room",
        ),
        ("corpora/new.py", "from .. import indexer", "imports indexer, which is to its right"),
        ("scorer/new.py", "def f():\n    import torch.nn", "imports torch"),
        ("audit/new.py", "from faiss import x", "imports faiss"),
        ("evaluation/new.py", "from ..audit import x", "imports audit, which it does without"),
        ("demo/new.py", "from .. import distributed", "imports distributed, which is to its right"),
        ("indexer/new.py", "from blissaudit.errors import x", "imports blissaudit absolutely"),
        ("indexer/new.py", "from ...x import y", "leaves the package"),
        ("scorer/new.py", "import pickle", "imports pickle"),
        ("audit/new.py", "from joblib import load", "imports joblib"),
    ],
)
def test_the_check_fails_where_it_should(tmp_path, name, line, complaint):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(line)
    assert violations(tmp_path) == [f"{name}: {complaint}"]


@pytest.mark.parametrize(
    "code",
    [
        "import blissaudit; blissaudit.BlissError; blissaudit.bliss_scores",
        "from blissaudit.cli import run; run(['--help']); run(['audit', '--help'])",
        "import blissaudit.audit.request",
        "from blissaudit.cli import run; run(['eval', '--help'])",
        "from blissaudit.cli import run; run(['train', 'oecl', '--help'])",
        "import blissaudit.evaluation.request",
    ],
)
def test_importing_and_help_load_nothing_heavy(code):
    heavy = ("torch", "open_clip", "faiss", "datasets", "duckdb", "ray", "huggingface_hub")
    if "cli" in code:
        heavy += ("numpy", "pyarrow")
    check = f"; import sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "[]"


def test_every_public_name_is_found_where_it_is_said_to_be():
    import blissaudit

    for name in blissaudit.__all__:
        assert getattr(blissaudit, name) is not None, name
    with pytest.raises(AttributeError, match="No blissaudit attribute nothing"):
        _ = blissaudit.nothing
    assert set(blissaudit.__all__) <= set(dir(blissaudit))


def test_no_file_is_in_an_import_cycle(load_benchmark):
    """Imports inside functions and under TYPE_CHECKING count too."""
    assert load_benchmark("house").House(ROOT).cycles() == []
