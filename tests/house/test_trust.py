"""What docs/trust.md promises: no foreign code, no contact, no number without its check."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from blissaudit.corpora.names import _literal
from blissaudit.demo import scenes
from blissaudit.indexer.encode.encoder import demo_model
from helpers import ROOT

WATCHED = """
import json, sys
seen = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        family = getattr(arguments[0], "family", None)
        if family is None or family.name != "AF_UNIX":
            seen.append(f"{event} {arguments[-1] if event == 'socket.connect' else arguments[0]}")
    if event == "pickle.find_class":
        seen.append(f"{event} {arguments}")

sys.addaudithook(watch)
from blissaudit.cli import run

for command in json.loads(sys.argv[1]):
    if run(command):
        sys.exit(f"{command} failed")
print("WATCHED", json.dumps(seen))
"""


def watched(commands: list[list[object]], folder: Path) -> list[str]:
    """Connections opened and names unpickled while the commands ran in a process of their own."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BLISS_"))
    }
    environment |= {"BLISS_CACHE": str(folder / "cache"), "BLISS_CONFIG": str(folder / "config")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("WATCHED ")]
    return list(json.loads(line.removeprefix("WATCHED ")))


def test_commands_on_local_files_contact_nothing_and_unpickle_nothing(
    collection, captions, tmp_path
):
    one = collection / "boat" / "umbrella.png"
    commands: list[list[object]] = [
        ["index", "build", captions, "--model", "demo", "-o", "index"],
        ["index", "verify", "index"],
        ["index", "search", "index", "--text", "a boat"],
        ["audit", collection, "--index", "index", "-o", "run"],
        ["report", "run"],
        ["find", "run", "--text", "an umbrella"],
        ["diff", "run", "run"],
        ["reference", "fit", collection, "--model", "demo", "-o", "reference"],
        ["score", one, "--reference", "reference", "--index", "index"],
        ["export", "run", "--save-to-disk", "exported"],
    ]
    assert watched(commands, tmp_path) == []


def test_the_watching_sees_a_contact_and_an_unpickling(tmp_path):
    with pytest.raises(AssertionError, match="failed"):
        watched([["audit", "https://127.0.0.1:9/x.parquet", "--model", "demo"]], tmp_path)
    probe = "import pickle, socket\npickle.loads(b'cbuiltins\\nlist\\n.')\n"
    probe += "socket.socket().connect_ex(('127.0.0.1', 9))\nrun = lambda command: 0\n"
    code = WATCHED.replace("from blissaudit.cli import run\n", probe)
    done = subprocess.run([sys.executable, "-c", code, "[]"], capture_output=True, text=True)
    assert "pickle.find_class ['builtins', 'list']" in done.stdout.replace('"', "").replace(
        "('builtins', 'list')", "['builtins', 'list']"
    )
    assert "socket.connect ('127.0.0.1', 9)" in done.stdout


SCRIPT = "open({marker!r}, 'w').close()\nimport datasets\n"


@pytest.mark.parametrize("names", [("things.py",), ("__init__.py", "other.py", "setup.py")])
def test_a_script_in_a_data_set_folder_is_not_run(bliss, index, tmp_path, names):
    folder, marker = tmp_path / "things", tmp_path / "ran"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(SCRIPT.format(marker=str(marker)))
    pq.write_table(pa.table({"text": ["a boat", "a house"]}), folder / "train.parquet")
    built = bliss("index", "build", folder, "--model", "demo", "-o", tmp_path / "out")
    if "things.py" in names:  # a script that the library would once have run
        assert built.code == 1
        assert "Dataset scripts are no longer supported" in built.err
    else:
        assert built.code == 0
    audited = bliss("audit", folder, "--index", index, "-o", tmp_path / "run")
    assert audited.code in (1, 2)
    assert audited.err.startswith("\nbliss: ")
    assert not marker.exists()


class Code:
    """Unpickling this runs code: it makes the file that it was given."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("saved", ["weights", "numpy"])
def test_pickled_code_in_a_models_weights_is_not_run(bliss, captions, tmp_path, saved):
    folder, marker = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    shipped = Path(demo_model().removeprefix("local-dir:"))
    (folder / "open_clip_config.json").write_bytes((shipped / "open_clip_config.json").read_bytes())
    weights = folder / "open_clip_pytorch_model.bin"
    if saved == "weights":
        torch.save({"logit_scale": Code(marker)}, weights)
    else:
        with open(weights, "wb") as file:
            np.save(file, np.array([Code(marker)], dtype=object), allow_pickle=True)
    command = ("index", "build", captions, "--model", f"local-dir:{folder}", "-o", tmp_path / "out")
    outcome = bliss(*command)
    assert outcome.code == 1
    assert "could not be loaded" in outcome.err
    assert not marker.exists()


@pytest.mark.parametrize("which", ["image", "text"])
def test_pickled_code_in_given_vectors_is_not_run(bliss, index, tmp_path, which):
    marker, short = tmp_path / "ran", "img" if which == "image" else "text"
    folder = tmp_path / "vectors"
    (folder / f"{short}_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    vectors = np.array([[Code(marker)] * 128], dtype=object)
    np.save(folder / f"{short}_emb" / f"{short}_emb_0.npy", vectors, allow_pickle=True)
    rows = pa.table({"image_path": ["a.png"], "caption": ["a boat"]})
    pq.write_table(rows, folder / "metadata" / "metadata_0.parquet")
    command = ("index", "build", "--embeddings", folder, "-o", tmp_path / "out")
    if which == "image":
        command = ("audit", "--embeddings", folder, "--index", index, "--normal", "boat",
                   "-o", tmp_path / "out")  # fmt: skip
    outcome = bliss(*command)
    assert outcome.code in (1, 2)
    assert outcome.err.startswith("\nbliss: ")
    assert f"{short}_emb_0.npy" in outcome.err
    assert not marker.exists()


@pytest.mark.parametrize("value", ["('a', __import__('os').mkdir('ran'))", "[open('ran', 'w')]"])
def test_a_python_file_of_names_is_only_parsed(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "names.py"
    path.write_text(f"NAMES = {value}\nraise SystemExit\n")
    assert _literal(path, "NAMES") is None
    path.write_text("NAMES = ('a', 'b')\nraise SystemExit\n")
    assert _literal(path, "NAMES") == ("a", "b")
    assert not (tmp_path / "ran").exists()


def test_ray_sends_no_usage_report_and_keeps_a_token_of_its_own(tmp_path):
    (tmp_path / "ray").mkdir()
    for name in ("__init__.py", "data.py"):
        (tmp_path / "ray" / name).write_text("")
    code = (
        "import os\n"
        "from blissaudit.distributed.cluster import import_ray\n"
        "import_ray()\n"
        "print(os.environ['RAY_USAGE_STATS_ENABLED'], os.environ['RAY_AUTH_MODE'],\n"
        "      len(os.environ['RAY_AUTH_TOKEN']))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "token", "64"], done.stderr


def test_exported_pictures_keep_their_exif_as_the_docs_say(bliss, index, tmp_path):
    import datasets
    from PIL import Image

    (tmp_path / "photos" / "boat").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        exif = Image.Exif()
        exif[0x010E] = f"a secret place {number}"
        picture = scenes.render_scene(scenes.sample_scene(rng, "boat"), 64)
        picture.save(tmp_path / "photos" / "boat" / f"{number}.jpg", exif=exif.tobytes())
    run, saved = tmp_path / "run", tmp_path / "saved"
    assert bliss("audit", tmp_path / "photos", "--index", index, "-o", run).code == 0
    assert b"a secret place" not in (run / "report.html").read_bytes()
    assert bliss("export", run, "--save-to-disk", saved).code == 0
    images = datasets.load_from_disk(str(saved)).cast_column("image", datasets.Image(decode=False))[
        "image"
    ]
    assert all(b"a secret place" in image["bytes"] for image in images)


def promises() -> list[tuple[str, str]]:
    """(promise, test) of each row of the table in docs/trust.md."""
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    return [
        (promise.strip(), test)
        for promise, tests in re.findall(r"^\| (.+?) \| (`tests/.+) \|$", page, re.M)
        for test in re.findall(r"`(tests/[^`]+)`", tests)
    ]


def test_every_promise_names_a_test_that_is_there():
    found = promises()
    assert len({promise for promise, _ in found}) >= 20
    for promise, test in found:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{promise}: {test} is not there"


def test_the_page_has_its_sections_in_order():
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.+)$", page, re.M)
    assert heads[0] == "Models"
    assert "What is never executed" in heads and "Reporting a fault" in heads
    assert not re.search(r"[\w.]+@[\w.]+\.\w+", page), "an address that nobody reads"
