"""Every block of the README runs as printed, on a small collection in its place."""

import os
import re
import shlex
import shutil

import numpy as np
import pytest
from blissaudit.cli import run
from blissaudit.demo.scenes import render_scene, sample_captions, sample_scene
from blissaudit.indexer.vectors.unit_rows import normalise_rows
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
    shutil.copytree(folder / "photos", folder / "clean")
    (folder / "clean" / "cup" / "stray.png").unlink()
    (folder / "new").mkdir()
    for name, kind in (("one", "key"), ("two", "tree")):
        render_scene(sample_scene(rng, kind), 96).save(folder / "new" / f"{name}.png")
    captions = "\n".join(sample_captions(rng, 400))
    (folder / "captions.txt").write_text(captions + "\n")
    return folder


def test_the_run_on_photographs_is_that_of_the_script(real_data, capfd, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("BLISS_CACHE", os.environ.get("BLISS_CACHE", ""))  # put back afterwards
    monkeypatch.setenv("BLISS_TEST_DATA", str(real_data.parent))
    import readme_run

    assert readme_run.main() == 0
    printed = capfd.readouterr().out.splitlines()
    (shown,) = (block for block in blocks("text") if block.startswith("   score "))
    assert [line for line in shown.splitlines() if line and line not in printed] == []
    first = [line.split()[1] for line in printed if line.startswith("   ") and "(+" in line][:9]
    photographs, _ = readme_run.make(real_data, tmp_path)
    columns = readme_run.read_rows(photographs, "img")[1]
    last = dict(zip(columns["label"], columns["image_path"], strict=True))  # of each folder
    assert {*last.values()} <= {*first}


def test_the_make_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = [command[1] for command in commands() if command[0] == "make"]
    assert named == ["demo", "test"]
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target


MODEL = ("audit", "index build", "reference fit")
"""Commands that would download a model; they get the demo's."""


def offline(command):
    """The arguments of a `bliss` command of the README, with the demo's model."""
    words = command[1:]
    name = " ".join(words[:2]) if words[0] in ("index", "reference") else words[0]
    needs_model = name in MODEL and "--index" not in words
    return [*words, "--model", "demo"] if needs_model else words


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_shell_blocks_run_in_order(collection, monkeypatch, capsys):
    monkeypatch.chdir(collection)
    ran = []
    for command in commands():
        if command[0] == "bliss":
            assert run(offline(command)) == 0, (command, capsys.readouterr().err)
            ran.append(" ".join(command[1:3]))
    assert ran == [
        "audit photos",
        "audit photos",
        "audit photos",
        "find first",
        "corpora peek",
        "index build",
        "audit photos",
        "diff first",
        "reference fit",
        "score new/one.png",
    ]
    out = capsys.readouterr().out
    first = out.index("cup/stray.png")
    assert first < out.index("key/") and first < out.index("cup/0.png")
    assert out.rindex("two.png") < out.rindex("one.png")
    assert (collection / "second" / "scores.parquet").is_file()


def test_the_python_block_runs():
    (block,) = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    rng = np.random.default_rng(0)
    rows = normalise_rows(rng.standard_normal((44, 8))).unit
    labels = np.repeat(["cup", "key"], 6)
    scope = {"images": rows[:12], "labels": labels, "prompts": rows[12:14], "texts": rows[14:]}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["result"].scores.score.shape == (12,)
    assert len(scope["table"]) == 12 and scope["result"].issues is not None


def test_the_printed_output_is_of_the_form_that_an_audit_prints(collection, monkeypatch, capsys):
    """The columns and the sentence of the output block are those of a run today."""
    monkeypatch.chdir(collection)
    assert run(["audit", "photos", "--model", "demo", "--output", "form", "--top", "3"]) == 0
    out = capsys.readouterr().out
    (shown,) = blocks("text")
    heading = shown.splitlines()[0].split()
    assert heading == out.splitlines()[0].split()
    number = re.compile(r"[\d,]+")
    sentence = next(line for line in shown.splitlines() if "images scored" in line)
    assert number.sub("N", sentence) in number.sub("N", out)


def test_every_linked_file_is_there():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert os.path.exists(ROOT / target), target
