"""`bliss demo` finds what it planted, says why, and gives the same result for the same seed."""

import json
import re
import shlex
import sys

import pyarrow.parquet as pq
import pytest
from blissaudit.cli import run
from blissaudit.commands.demo import _program
from blissaudit.demo import run as demo
from blissaudit.demo.scenes import KINDS
from PIL import Image


def no_progress(what, done, total):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["demo"]) == 0
    return folder / "bliss-demo"


@pytest.fixture(scope="module")
def planted(whole):
    return demo.plant(whole.parent / "again", 0, no_progress)


def test_the_planted_strays_come_first(whole, planted):
    table = pq.read_table(whole / "audit" / "scores.parquet").to_pydict()
    worst = sorted(zip(table["rank"], table["path"], strict=True))[: demo.STRAYS]
    found = sum(planted.is_stray(path) for _, path in worst)
    assert sum(planted.is_stray(path) for path in table["path"]) == demo.STRAYS
    assert found >= 0.9 * demo.STRAYS
    assert set(planted.normal) == set(table["nearest_class"]) < set(KINDS)


def test_captions_name_what_the_strays_show(whole, planted):
    table = pq.read_table(whole / "audit" / "scores.parquet").to_pydict()
    named = 0
    for path, captions, z in zip(table["path"], table["captions"], table["z"], strict=True):
        if planted.is_stray(path):
            strongest = captions[max(range(len(z)), key=z.__getitem__)]
            named += bool(re.search(rf"\b{planted.kinds[path][:-1]}", strongest))
    assert named >= 0.9 * demo.STRAYS


def test_the_run_says_how_it_was_made(whole):
    facts = json.loads((whole / "audit" / "run.json").read_text())
    assert facts["index"]["count"] == demo.CAPTIONS == 20_000
    assert facts["images"]["scored"] == demo.CLASSES * demo.IMAGES
    dropped = facts["robust"]["dropped"]
    assert facts["images"]["left_out"] + dropped == facts["images"]["scored"] and dropped > 10
    assert facts["model"]["model"] == "demo"
    assert facts["reference"]["prompts"][0].startswith("This is a photo of a ")


def test_the_report_gives_precision_and_recall_beside_plain_cosine(tmp_path, monkeypatch, capsys):
    for name, value in (("CLASSES", 3), ("IMAGES", 12), ("STRAYS", 4), ("CAPTIONS", 300)):
        monkeypatch.setattr(demo, name, value)
    assert run(["demo", "-o", str(tmp_path / "small"), "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    assert "The 4 most anomalous of 36 images, against 300 captions:" in out
    assert "4 strays were planted. precision / recall among the most anomalous:" in out
    assert re.search(r"^ +top 4 +top 8$", out, re.M)
    assert re.search(r"^BLISS +1\.00 / 1\.00 +0\.50 / 1\.00$", out, re.M)
    assert re.search(r"^plain cosine +[01]\.\d\d / [01]\.\d\d +[01]\.\d\d / [01]\.\d\d$", out, re.M)
    assert "4 of them are strays of other kinds, filed among these" in err
    assert run(["demo", "-o", str(tmp_path / "small"), "--seed", "3"]) == 0
    assert capsys.readouterr().out == out
    commands = [shlex.split(line) for line in out.split("Try next:")[1].splitlines() if line]
    called = len(commands[0]) - commands[0][::-1].index("find") - 1
    assert [command[called] for command in commands] == ["find", "audit", "diff"]
    for command in commands:
        assert run(command[called:]) == 0, (command, capsys.readouterr().err)
        assert capsys.readouterr().out.count(".png") >= 4
    assert (tmp_path / "small" / "second" / "report.html").is_file()


@pytest.mark.parametrize(
    ("found", "started", "program"),
    [
        ("/bin/bliss", "/elsewhere/bliss", "bliss"),
        (None, "/a b/bin/bliss", "'/a b/bin/bliss'"),
        (None, "/a/blissaudit/__main__.py", f"{shlex.quote(sys.executable)} -m blissaudit"),
    ],
)
def test_the_next_commands_call_the_program_as_a_shell_finds_it(
    monkeypatch, found, started, program
):
    monkeypatch.setattr("shutil.which", lambda name: found)
    monkeypatch.setattr("sys.argv", [started, "demo"])
    assert _program() == program


def test_another_seed_is_another_collection(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "IMAGES", 4)
    monkeypatch.setattr(demo, "STRAYS", 2)
    one = demo.plant(tmp_path / "one", 1, no_progress)
    two = demo.plant(tmp_path / "two", 2, no_progress)
    assert one.normal != two.normal
    with Image.open(tmp_path / "one" / next(iter(one.kinds))) as picture:
        assert picture.size == (demo.PIXELS, demo.PIXELS)
