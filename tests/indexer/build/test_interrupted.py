"""A building that is stopped, killed, damaged or out of room: the same command ends it alike."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from blissaudit import artefacts
from blissaudit.artefacts import only_run_in
from blissaudit.corpora.registry import CorpusOptions, open_corpus
from blissaudit.errors import BlissError, FolderInUse
from blissaudit.indexer.build import parts as encoded_parts
from blissaudit.indexer.build.build import IndexOptions, build_index
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.store import parts as stored_parts

SMALL = IndexOptions(part_rows=4)
TEXT = CorpusOptions(column="text")


@pytest.fixture
def names(small, tmp_path):
    return small.names_corpus(tmp_path)


@pytest.fixture
def captions(small, tmp_path):
    return small.captions_corpus(tmp_path)


class Killed(BaseException):
    """Nothing may catch it."""


def test_stopped_at_every_single_write_the_same_command_goes_on_to_the_same_bytes(
    names, captions, small, tmp_path, monkeypatch
):
    options = IndexOptions(part_rows=4, near_duplicates=0.2)
    whole = tmp_path / "whole"
    build_index([names, captions], small.small_encoder(), whole, options)
    expected = small.files_of(whole)
    real, state = os.replace, {"left": 0, "done": 0}

    def replace(source: Path, target: Path) -> None:
        if state["left"] == 0:
            raise Killed
        state["left"] -= 1
        real(source, target)
        if state["left"] == 0 and Path(target).name == "manifest.json":
            raise Killed  # before anything is cleared away

    monkeypatch.setattr(artefacts.os, "replace", replace)
    monkeypatch.setattr(artefacts.os, "fsync", lambda descriptor: None)  # slow, and no matter here
    for number in range(1, 200):
        folder = tmp_path / f"run-{number}"
        state["left"] = number
        try:
            build_index([names, captions], small.small_encoder(), folder, options)
            break
        except Killed:
            state["left"] = -1
            build_index([names, captions], small.small_encoder(), folder, options)
        assert small.files_of(folder) == expected
    assert number > 20
    assert small.files_of(folder) == expected


KILLED = """
import os, runpy, signal, sys
from blissaudit.corpora.registry import open_corpus
from blissaudit.indexer.build.build import build_index
from blissaudit.indexer.build.build import IndexOptions
real = os.replace
def replace(source, target):
    if sys.argv[4] and sys.argv[4] in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.replace = replace
encoder = runpy.run_path(sys.argv[1])["small_encoder"]()
build_index(open_corpus(sys.argv[2]), encoder, sys.argv[3], IndexOptions(part_rows=7))
"""


def test_killed_in_the_plan_in_a_part_and_at_the_end(small, tmp_path):
    corpus = tmp_path / "many.txt"
    corpus.write_text("".join(f"a caption, number {n % 50}\n" for n in range(80)))
    options = IndexOptions(part_rows=7)
    whole = build_index(
        open_corpus(str(corpus)), small.small_encoder(), tmp_path / "whole", options
    )
    assert whole.count == 50
    folder = tmp_path / "index"
    command = [sys.executable, "-c", KILLED, small.__file__, str(corpus), str(folder)]
    for moment in ("first_rows.parquet", "metadata_3.parquet", "manifest.json"):
        assert subprocess.run([*command, moment]).returncode == -signal.SIGKILL
        assert list(folder.rglob(f".bliss-*.tmp/{moment}"))
        assert (folder / ".bliss.lock").exists() and not (folder / "manifest.json").exists()
    subprocess.run([*command, ""], check=True)
    assert small.files_of(folder) == small.files_of(tmp_path / "whole")


def test_finished_parts_and_a_finished_plan_are_not_made_again(
    names, captions, small, tmp_path, monkeypatch
):
    folder = tmp_path / "index"
    monkeypatch.setattr(encoded_parts, "CAPTIONS_AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt):
        build_index([names, captions], small.small_encoder(small.Seen([], 7)), folder, SMALL)
    (folder / "shards" / "0-of-2").mkdir(parents=True)  # as --shard of version 0.1 left it
    made = folder / "text_emb" / "text_emb_0.npy"
    times = [path.stat().st_mtime_ns for path in (made, folder / "plan" / "plan_0.parquet")]
    seen = small.Seen()
    build_index([names, captions], small.small_encoder(seen), folder, SMALL)
    assert seen.texts == ["a bee", "a dog", "an eel", "a fox", "a gnu"]
    assert made.stat().st_mtime_ns == times[0]
    monkeypatch.setattr(encoded_parts, "CAPTIONS_AT_ONCE", 4096)
    other = build_index([names, captions], small.small_encoder(), tmp_path / "other", SMALL)
    assert small.files_of(folder) == small.files_of(other.folder)


def test_what_was_encoded_of_an_unfinished_part_is_not_encoded_again(
    names, captions, small, tmp_path, monkeypatch
):
    folder, seen = tmp_path / "index", small.Seen()
    build_index([names, captions], small.small_encoder(), tmp_path / "whole")
    monkeypatch.setattr(encoded_parts, "CAPTIONS_AT_ONCE", 2)
    monkeypatch.setattr(stored_parts, "JOURNAL_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        build_index([names, captions], small.small_encoder(small.Seen([], 5)), folder)
    stored = sorted((folder / "journal").glob("*.npz"))
    assert len(stored) == 2
    stored[0].write_bytes(stored[0].read_bytes()[:-40])  # a damaged one is as good as none
    build_index([names, captions], small.small_encoder(seen), folder)
    assert len(seen.texts) == 9 - 2
    assert small.files_of(folder) == small.files_of(tmp_path / "whole")


def test_a_damaged_or_missing_part_of_an_unfinished_index_is_made_again(
    names, captions, small, tmp_path
):
    folder, whole = tmp_path / "index", tmp_path / "whole"
    build_index([names, captions], small.small_encoder(), whole, SMALL)
    with pytest.raises(KeyboardInterrupt):
        build_index([names, captions], small.small_encoder(small.Seen([], 8)), folder, SMALL)
    assert (folder / "parts" / "part_1.json").is_file()
    vectors = folder / "text_emb" / "text_emb_0.npy"
    content = bytearray(vectors.read_bytes())
    content[-1] ^= 1
    vectors.write_bytes(bytes(content))
    (folder / "captions" / "captions_1.bin").unlink()
    (folder / "metadata" / ".metadata_1.parquet.3.tmp").write_bytes(b"half")
    build_index([names, captions], small.small_encoder(), folder, SMALL)
    assert small.files_of(folder) == small.files_of(whole)


def test_a_folder_is_held_by_one_run_and_a_full_disk_keeps_what_is_finished(
    names, captions, small, tmp_path, monkeypatch
):
    folder = tmp_path / "index"
    with only_run_in(folder), pytest.raises(FolderInUse, match=r"another bliss run \(process "):
        build_index([names, captions], small.small_encoder(), folder, SMALL)
    sync, writer = os.fsync, []

    def full(descriptor: int) -> None:
        if list(folder.glob("captions/.bliss-*.tmp/captions_1.bin")):
            writer.append(threading.current_thread())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            BlissError, match=r"could not write .*captions_1\.bin: No space left.*finished parts ar"
        ):
            build_index([names, captions], small.small_encoder(), folder, SMALL)
    assert writer[0] is not threading.main_thread()
    assert (folder / "parts" / "part_0.json").is_file()
    assert not (folder / "parts" / "part_1.json").exists()
    index = build_index([names, captions], small.small_encoder(), folder, SMALL)
    assert open_index(folder).count == index.count == 9


def test_a_full_disk_while_planning(names, captions, small, tmp_path, monkeypatch):
    folder, sync = tmp_path / "index", os.fsync
    for pattern in (
        "staged.parquet",
        "first_rows.parquet",
        "plan_1.parquet",
        "plan.json",
    ):

        def full(descriptor: int, pattern: str = pattern) -> None:
            if list(folder.glob(f"plan/.bliss-*.tmp/{pattern}")):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(
                BlissError, match=r"could not write .*plan/.*: No space left on dev"
            ):
                build_index([names, captions], small.small_encoder(), folder, SMALL)
    assert build_index([names, captions], small.small_encoder(), folder, SMALL).count == 9
