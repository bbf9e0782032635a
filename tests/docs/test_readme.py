"""Every block of the README runs as printed, on a small collection in its place."""

import contextlib
import io
import os
import re
import shlex

import numpy as np
import pytest
from blissaudit.cli import run
from blissaudit.demo.captions import sample_captions
from blissaudit.demo.scenes import render_scene, sample_scene
from helpers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands():
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for kind in ("cup", "key"):
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(6):
            picture = render_scene(sample_scene(rng, kind), 96)
            picture.save(folder / "photos" / kind / f"{number}.png")
    render_scene(sample_scene(rng, "house"), 96).save(folder / "photos" / "cup" / "stray.png")
    (folder / "new").mkdir()
    for name, kind in (("one", "key"), ("two", "tree")):
        render_scene(sample_scene(rng, kind), 96).save(folder / "new" / f"{name}.png")
    captions = "\n".join(sample_captions(rng, 400))
    (folder / "captions.txt").write_text(captions + "\n")
    return folder


def test_the_make_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = [command[1] for command in commands() if command[0] == "make"]
    assert named == ["demo", "test"]
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_shell_blocks_run_in_order(collection, monkeypatch, capsys):
    monkeypatch.chdir(collection)
    ran = []
    for command in commands():
        if command[0] == "bliss":
            assert run(command[1:]) == 0, (command, capsys.readouterr().err)
            ran.append(" ".join(command[1:3]))
    assert ran == [
        "audit photos",
        "index build",
        "audit photos",
        "find second",
        "diff first",
        "reference fit",
        "score new/one.png",
        "corpora peek",
        "index build",
        "corpora compare",
        "index tune",
    ]
    out = capsys.readouterr().out
    first = out.index("cup/stray.png")
    assert first < out.index("key/") and first < out.index("cup/0.png")
    assert out.index("two.png") < out.index("one.png")
    assert (collection / "second" / "scores.parquet").is_file()


def test_the_python_block_runs(collection, monkeypatch):
    (block,) = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(collection)
    out = io.StringIO()
    scope = {}
    with contextlib.redirect_stdout(out):
        exec(compile(block, "README.md", "exec"), scope)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("cup/stray.png ")
    assert len(lines) == 5
    assert scope["scores"].argmax() == scope["result"].images.paths.index("cup/stray.png")


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert os.path.exists(ROOT / target), target
