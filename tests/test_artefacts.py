"""Files appear whole, an error means that they did not, and killed runs leave nothing for long."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys

import pytest
from blissaudit import artefacts
from blissaudit.artefacts import (
    LOCK,
    check_checksum,
    delete_abandoned,
    link_file,
    only_run_in,
    temporary_folder,
    write_atomically,
    write_json,
)
from blissaudit.corpora.registry import settings_folder
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.encode.tokens import cache_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from blissaudit import artefacts
real = {name: getattr(os, name) for name in ("fsync", "replace")}
def killing(name, after):
    def call(*given):
        if after:
            real[name](*given)
        os.kill(os.getpid(), signal.SIGKILL)
    return call
name, after = sys.argv[2].split("-")
setattr(artefacts.os, name, killing(name, after == "after"))
artefacts.write_json(Path(sys.argv[1]), {"new": True})
"""


@pytest.fixture(autouse=True)
def nothing_cleared(monkeypatch):
    monkeypatch.setattr(artefacts, "_CLEARED", set())


def temporaries(folder):
    return list(folder.rglob(".bliss-*.tmp"))


@pytest.mark.parametrize("moment", ["fsync-before", "replace-after"])
def test_what_a_killed_write_leaves_the_next_write_or_run_deletes(moment, tmp_path):
    for folder in (tmp_path / "written again", tmp_path / "run" / "parts"):
        folder.mkdir(parents=True)
        command = [sys.executable, "-c", KILLED, str(folder / "a.json"), moment]
        assert subprocess.run(command).returncode == -signal.SIGKILL
        assert len(temporaries(folder)) == 1
        assert (folder / "a.json").exists() == (moment == "replace-after")
    write_json(tmp_path / "written again" / "b.json", {})
    with only_run_in(tmp_path / "run"):
        pass
    assert not temporaries(tmp_path)


def test_temporaries_of_a_living_process_stay(tmp_path):
    writes = f"""
from pathlib import Path
from blissaudit.artefacts import delete_abandoned, write_json
write_json(Path({str(tmp_path)!r}, "b.json"), {{}})
delete_abandoned(Path({str(tmp_path)!r}))
"""
    with temporary_folder(tmp_path) as mine:
        (mine / "half").write_text("half")
        subprocess.run([sys.executable, "-c", writes], check=True)
        assert (mine / "half").read_text() == "half"
    assert not temporaries(tmp_path) and (tmp_path / "b.json").exists()


def test_only_folders_that_bliss_left_are_deleted(tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "lock").write_bytes(b"")
    (tmp_path / ".bliss-link.tmp").symlink_to(tmp_path / "photographs")
    (tmp_path / ".bliss-file.tmp").write_bytes(b"")
    (tmp_path / ".bliss-mine.tmp").mkdir()
    (tmp_path / ".bliss-mine.tmp" / "no lock file").write_bytes(b"")
    (tmp_path / ".bliss-empty.tmp").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    delete_abandoned(tmp_path)
    assert before - {path.name for path in tmp_path.iterdir()} == {".bliss-empty.tmp"}
    assert (tmp_path / "photographs" / "lock").exists()


def test_a_file_that_was_renamed_is_not_reported_as_unwritten(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"linked")
    real = os.open

    def open_(path, flags, *rest, **how):
        if os.path.isdir(path):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *rest, **how)

    monkeypatch.setattr(artefacts.os, "open", open_)
    write_json(tmp_path / "new.json", {})
    link_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"linked" and (tmp_path / "new.json").exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_the_limit_on_open_files_has_its_own_remedy(number, tmp_path, monkeypatch):
    def full(file):
        raise OSError(number, os.strerror(number))

    with pytest.raises(BlissError, match=r"Too many open files.*ulimit -n 4096"):
        write_atomically(tmp_path / "a", full)
    with pytest.raises(BlissError) as found:
        try:
            full(None)
        except OSError as error:
            raise BlissError("a.npy could not be read", "a whole file", "Restore it") from error
    assert "ulimit -n 4096" in str(found.value) and "Restore" not in str(found.value)


def test_a_user_without_a_home_gets_no_folder_called_tilde(tmp_path, monkeypatch):
    """As in containers run as any user: nothing is kept, and what needs to be says so."""
    pwd = pytest.importorskip("pwd")

    def nobody(number):
        raise KeyError(number)

    for name in ("HOME", "BLISS_CACHE", "BLISS_CONFIG", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    for folder in (cache_folder(), settings_folder()):
        assert not folder.exists()
        with pytest.raises(UsageError, match=r"no home folder.*Set BLISS_CACHE and BLISS_CONFIG"):
            write_json(folder / "kept.json", {})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "bliss-audit"
    assert settings_folder() == tmp_path / ".config" / "bliss-audit"


def test_a_file_that_another_process_is_writing_is_not_called_damaged(tmp_path):
    (tmp_path / "rows.npy").write_bytes(b"new")
    manifest = {"checksums": {"rows.npy": hashlib.sha256(b"old").hexdigest()}}
    with pytest.raises(BlissError, match="Restore it from a backup"):
        check_checksum(tmp_path, "rows.npy", manifest)
    hold = (
        "import fcntl, os, sys\n"
        f"file = open({str(tmp_path / LOCK)!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(os.getpid(), file=file, flush=True)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlissError, match=rf"process {other.pid} is writing.*other one has end"):
            check_checksum(tmp_path, "rows.npy", manifest)
        other.stdin.close()
    with pytest.raises(BlissError, match="Restore it from a backup"):
        check_checksum(tmp_path, "rows.npy", manifest)
