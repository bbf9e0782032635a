"""docs/protocols.md: its commands are commands, and every shipped protocol has one."""

import json
import re
import shlex
import subprocess
import sys

import click
import pytest
from blissaudit.commands.evaluate import evaluate
from blissaudit.commands.index import build
from blissaudit.commands.presets import PRESETS
from blissaudit.corpora.names import open_imagenet
from blissaudit.evaluation.draws import built_in_protocols, find_protocol
from helpers import DOCS

TEXT = (DOCS / "protocols.md").read_text(encoding="utf-8")
CODE = "\n".join(line[4:] for line in TEXT.splitlines() if line.startswith("    "))
COMMANDS = [
    shlex.split(line.replace('"${LABELS[@]}"', "--class-prompt wnid=words"))
    for line in CODE.replace("\\\n", " ").splitlines()
    if line.startswith("bliss ")
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[-4:]))
def test_a_command_is_read_as_it_stands(words):
    command, rest = (evaluate, words[2:]) if words[1] == "eval" else (build, words[3:])
    try:
        given = command.make_context("bliss", list(rest), help_option_names=["-h", "--help"]).params
    except click.UsageError as error:
        pytest.fail(f"{' '.join(words)}: {error.message}")
    if words[1] == "eval":
        protocol = find_protocol(given["protocol"])
        named = {pair.split("=")[0] for pair in given["ood"]}
        assert not protocol.outliers or named == set(protocol.outliers)


def test_every_shipped_protocol_has_a_command():
    shown = {words[words.index("--protocol") + 1] for words in COMMANDS if "--protocol" in words}
    assert set(built_in_protocols()) | {"random-6"} == shown


def test_the_preset_is_described_as_it_is():
    paper = PRESETS["paper"]
    for value in [*paper["statistics"][0], *paper["statistics"][1], paper["k"], paper["weight"]]:
        assert f"{value:.4f}" in TEXT or f"{value:g}" in TEXT, value
    for value in (paper["model"], paper["pretrained"], paper["corpus"], *paper["prompt"]):
        assert f"`{value}`" in TEXT


def test_the_labels_of_imagenet_are_printed_by_the_snippet(tmp_path):
    snippet = re.search(r"mapfile -t LABELS < <\(python -c '\n(.*?)' \)", CODE, re.S)[1]
    for number in range(1000):
        (tmp_path / "imagenet" / "train" / f"n{number:08d}").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-P", "-c", snippet], cwd=tmp_path, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "--class-prompt",
        f"n00000000=This is a photo of a {open_imagenet().names[0]}",
    ]
    assert lines[-1] == f"n00000999=This is a photo of a {open_imagenet().names[-1]}"


def test_the_published_numbers_shown_are_those_of_the_protocols():
    facts = json.loads((DOCS.parent / "evaluation" / "protocols.json").read_text("utf-8"))
    published = facts["imagenet-1k-classic"]["published"]
    every = published["auroc_fpr95_id"] | published["learn_from_the_test_stream"]
    for name, (auroc, fpr) in every.items():
        assert f"{name} {auroc}/{fpr}" in " ".join(TEXT.split())
    assert f"AUROC {facts['cifar10-one-class']['published']['auroc']['BLISS']}" in TEXT
