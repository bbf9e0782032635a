"""Broken files, hostile names and captions: counted and shown, and harmless where they show."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys

import pyarrow.parquet as pq
from blissaudit.cli import run


def test_failures_are_listed_with_reasons_and_counted(bliss, collection, index, tmp_path):
    images = shutil.copytree(collection, tmp_path / "images")
    (images / "boat" / "=cmd|x.png").write_bytes(b"not an image")
    (images / "boat" / "cut.png").write_bytes((images / "boat" / "1.png").read_bytes()[:200])
    (images / "boat" / "empty.jpg").write_bytes(b"")
    command = (
        "audit",
        images,
        "--index",
        index,
        "-o",
        tmp_path / "out",
        "--fail-on",
        "unreadable=2",
    )
    outcome = bliss(*command)
    assert outcome.code == 3
    assert "3 images could not be read (failures.csv says why)" in outcome.out
    assert outcome.err.endswith(
        "\nbliss: 3 images could not be read (the first: boat/=cmd|x.png: the content is not a "
        "JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image). Needed: at most 2, as --fail-on "
        "says. Repair or remove them; the results for the readable images are complete.\n"
    )
    with open(tmp_path / "out" / "failures.csv", encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["row", "path", "reason"]
    assert [row[1] for row in rows] == ["boat/=cmd|x.png", "boat/cut.png", "boat/empty.jpg"]
    assert all(row[2] for row in rows)
    found = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert not {int(row[0]) for row in rows} & set(found["row"])
    assert len(found["row"]) + len(rows) == 29
    outcome = bliss(
        "audit", images, "--index", index, "-o", tmp_path / "out", "--fail-on", "unreadable=3"
    )
    assert outcome.code == 0, outcome.err


def test_a_hostile_class_name_is_escaped_in_the_refusal(bliss, collection, index, tmp_path):
    images = shutil.copytree(collection, tmp_path / "images")
    small = images / "\x1b[2J=HYPERLINK(1)"
    small.mkdir()
    for name in ("1.png", "2.png"):
        (small / name).write_bytes(b"x")
    outcome = bliss(
        "audit", images, "--index", index, "-o", tmp_path / "out", "--fail-on", "small-classes"
    )
    assert (outcome.code, outcome.out) == (1, "")
    assert "class '\\x1b[2J=HYPERLINK(1)' has 2 reference images. Needed: at least 3" in outcome.err
    assert "\x1b" not in outcome.err


def test_names_that_are_no_utf8_or_hostile_do_no_harm(
    bliss, collection, captions, tmp_path, monkeypatch
):
    images = shutil.copytree(collection, tmp_path / "images")
    hostile = "\x1b]0;owned\x07\x1b[31m\u202egnp.=cmd\n|' C calc'!A0.png"
    shutil.copy(images / "apple" / "clock.png", images / "apple" / hostile)
    stray = (images / "boat" / "umbrella.png").read_bytes()
    (images / "boat" / os.fsdecode(b"caf\xe9.png")).write_bytes(stray)
    broken = images / "\x1b[2J=HYPERLINK(1)"
    broken.mkdir()
    for name in ("=1+1.png", "=2+2.png", os.fsdecode(b"\xff.png")):
        (broken / name).write_bytes(b"x")
    flat = tmp_path / os.fsdecode(b"out\xff")
    corpus = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"caption": "a photo of a clock \u202e\x1b[31m \U000e0041"})]
    lines += [json.dumps({"caption": line}) for line in captions.read_text().splitlines()]
    corpus.write_text("\n".join(lines))
    command = ["audit", images, "--corpus", corpus, "--model", "demo", "-o", flat, "--top", "30"]
    for name in ("stdout", "stderr"):  # a terminal takes bytes, and what it cannot encode fails
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True))
    printed = [sys.stdout.buffer, sys.stderr.buffer]
    assert run([os.fspath(word) for word in command]) == 0
    stdout, stderr = (file.getvalue() for file in printed)
    for output in (stdout, stderr):
        shown = output.decode("utf-8")
        assert not [c for c in shown if c != "\n" and (ord(c) < 32 or c in "\u202e\U000e0041")]
    assert rb"caf\xe9.png" in stdout
    assert rb"\u202e" in stdout
    rows = list(csv.reader((flat / "failures.csv").read_text("utf-8").splitlines()))
    assert [row[1] for row in rows[1:]] == [
        "\\x1b[2J=HYPERLINK(1)/=1+1.png",
        "\\x1b[2J=HYPERLINK(1)/=2+2.png",
        "\\x1b[2J=HYPERLINK(1)/\\\\xff.png",
    ]
    with open(flat / "scores.parquet", "rb") as file:
        assert "apple/" + hostile in pq.read_table(file)["path"].to_pylist()
