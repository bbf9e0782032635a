"""Output paths that cannot be written and corpora too wide to be meant: each with its remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from blissaudit.artefacts import write_atomically
from blissaudit.errors import BlissError, UsageError, unwritable

LONG = "x" * 300


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, r"Permission denied\. Needed: a folder that you may write in\. Choose ano"),
        (errno.EROFS, r"Read-only file system\. Needed: .* not read-only\. Choose .* another disk"),
        (errno.EISDIR, r"Is a directory\. Needed: no folder of that name\. Choose another name"),
        (errno.ENOSPC, r"No space left on device\. .* Free some space or .*: nothing is lost\.$"),
    ],
)
def test_each_reason_has_its_remedy(tmp_path, number, message):
    with pytest.raises(BlissError, match=rf"could not write .*/out: {message}"):
        raise unwritable(tmp_path / "out", OSError(number, os.strerror(number)), "nothing is lost")


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "scores.csv" / "inside").mkdir(parents=True)
    with pytest.raises(BlissError, match=r"scores\.csv: Is a directory\. Needed: no folder of th"):
        write_atomically(tmp_path / "scores.csv", lambda file: file.write(b""))


def test_a_link_to_nowhere_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"/out is no folder\. Needed: a folder, or the name of"):
        write_atomically(tmp_path / "out" / "a.npy", lambda file: file.write(b""))


def test_an_audit_into_a_file(bliss, collection, index, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "out"):
        outcome = bliss("audit", collection, "--index", index, "-o", out)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.endswith(
            f"bliss: {tmp_path}/taken is a file. Needed: a folder, or the name of a new one, to "
            "write in. Name a folder for the output, or move what is there away.\n"
        )
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_name_that_is_too_long(bliss, captions, index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ("index", "build", captions, "--model", "demo", "-o", LONG),
        ("index", "build", LONG, "--model", "demo", "-o", "out"),
        ("index", "info", LONG),
        ("audit", "--embeddings", LONG, "--index", index, "-o", "out"),
    ):
        outcome = bliss(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.endswith(
            f"\nbliss: the name {LONG[:40]}… of 300 bytes is too long. Needed: names of at most "
            "255 bytes in a path of at most 4,095, on most systems. Give a shorter one.\n"
        )
    assert list(Path().iterdir()) == []


def test_a_path_that_is_too_long():
    error = OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with pytest.raises(UsageError, match=r"^the path /long/long/.*… of 5,000 bytes is too long\."):
        raise unwritable(Path("/long" * 1000), error)


def test_the_home_folder_and_the_whole_disk_are_no_corpus(bliss, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "texts").mkdir(parents=True)
    (home / "texts" / "train.txt").write_text("a dog\na cat\n")
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "link").symlink_to(home)
    for corpus, what in (
        ("~", "your home folder"),
        (home, "your home folder"),
        (tmp_path / "link", "your home folder"),
        ("/", "the whole file system"),
    ):
        for command in (("corpora", "peek"), ("index", "build", "-o", tmp_path / "out")):
            outcome = bliss(*command, corpus)
            assert outcome == (
                2,
                "",
                f"\nbliss: {str(corpus)!r} is {what}. Needed: a folder that holds texts alone: "
                "every file below it is looked at. Name a folder inside it, or files by a pattern "
                f"such as {corpus}/captions/*.txt.\n".replace("//", "/"),
            )
    assert "texts: 2" in bliss("corpora", "peek", "~/texts").out
