"""Interrupted, failed, repeated and damaged work: what was finished is kept and never redone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

REBUILD = "Embed the folder again.\n"


def checksums(folder: Path) -> dict[str, str]:
    return json.loads((folder / "manifest.json").read_text())["checksums"]


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*_emb_*.npy"))}


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def copied(index, tmp_path):
    return shutil.copytree(index, tmp_path / "index")


def test_a_full_disk_keeps_finished_parts_and_the_same_command_goes_on(
    bliss, captions, tmp_path, monkeypatch
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = ("index", "build", captions, "--model", "demo", "--part-rows", 100)
    assert bliss(*command, "-o", whole).code == 0
    sync = os.fsync

    def full_from_the_third_part_on(descriptor: int) -> None:
        if list(out.glob("text_emb/.bliss-*.tmp/text_emb_2.npy")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_from_the_third_part_on)
        failed = bliss(*command, "-o", out)
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.endswith(
        f"\nbliss: could not write {out}/text_emb/text_emb_2.npy: No space left on device. "
        "Needed: a folder that can be written, with room on its disk. Free some space or choose "
        "another folder, then run the same command again: finished parts are kept.\n"
    )
    kept = times(out)
    assert list(kept) == [f"{out}/text_emb/text_emb_{n}.npy" for n in (0, 1)]
    assert not list(out.rglob("*.tmp"))
    again = bliss(*command, "-o", out)
    assert again.code == 0
    assert "captions embedded: 300 of 300" in again.err
    assert {name: times(out)[name] for name in kept} == kept
    assert checksums(out) == checksums(whole)


def test_ctrl_c_says_how_to_go_on_and_the_result_is_that_of_one_run(bliss, captions, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = ["index", "build", str(captions), "--model", "demo", "--part-rows", "30"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "blissaudit", *command, "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (out / "parts" / "part_2.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert stderr.endswith(
        "bliss: interrupted. Finished parts are kept: run the same command again to go on.\n"
    )
    kept = times(out)
    assert f"{out}/text_emb/text_emb_2.npy" in kept
    assert not (out / "manifest.json").exists()
    unfinished = bliss("index", "info", out)
    assert unfinished.code == 1
    assert f"{out} has no manifest.json. Needed: a finished caption-index" in unfinished.err
    assert bliss(*command, "-o", out).code == 0
    assert bliss(*command, "-o", whole).code == 0
    record = {name: times(out)[name] for name in list(kept)[:3]}
    assert record == {name: kept[name] for name in record}
    assert checksums(out) == checksums(whole)


def test_what_a_killed_write_left_is_made_again(bliss, captions, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = ("index", "build", captions, "--model", "demo", "--part-rows", 100)
    assert bliss(*command, "-o", whole).code == 0
    manifest = json.loads((whole / "manifest.json").read_text())
    (out / "text_emb").mkdir(parents=True)
    (out / "building.json").write_text(json.dumps({"request": manifest["request"]}))
    vectors = (whole / "text_emb" / "text_emb_0.npy").read_bytes()
    (out / "text_emb" / "text_emb_0.npy").write_bytes(vectors[:5000])
    (out / "text_emb" / ".text_emb_1.npy.7.tmp").write_bytes(b"half")
    assert bliss(*command, "-o", out).code == 0
    assert checksums(out) == checksums(whole)


def test_a_folder_that_cannot_be_written(bliss, captions, tmp_path):
    (tmp_path / "file").write_text("")
    command = ("index", "build", captions, "--model", "demo")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        outcome = bliss(*command, "-o", out)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.endswith(
            f"\nbliss: {tmp_path}/file is a file. Needed: a folder, or the name of a new one, to "
            "write in. Name a folder for the output, or move what is there away.\n"
        )
    nowhere = bliss(*command, "-o", "/proc/blissaudit")
    assert (nowhere.code, nowhere.out) == (1, "")
    assert "could not write /proc/blissaudit/.bliss.lock: " in nowhere.err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    (tmp_path / "site" / "search").mkdir(parents=True)
    (tmp_path / "site" / "search" / "page.html").write_text("mine")
    (tmp_path / "site" / "manifest.json").write_text('{"name": "a site"}')
    for name, option in product(("notes", "site"), ((), ("--overwrite",))):
        outcome = bliss(*command, "-o", tmp_path / name, *option)
        assert outcome.code == 2
        assert outcome.err.endswith(
            f"\nbliss: {tmp_path}/{name} holds files that bliss did not put there. Needed: an "
            "empty or new output folder. Choose another one.\n"
        )
    assert (tmp_path / "notes" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "site" / "search" / "page.html").read_text() == "mine"


def test_another_index_in_the_same_folder(bliss, captions, copied):
    before = checksums(copied)
    command = ("index", "build", captions, "--model", "demo", "-o", copied)
    assert bliss(*command).code == 0
    refused = bliss(*command, "--dtype", "float32", "--min-characters", 9)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith(
        f"\nbliss: {copied} was made with other settings (dtype, rules.min_characters differ). "
        "Needed: the same settings to continue it, or an empty folder. Choose another output "
        "folder, or pass --overwrite to make this one again.\n"
    )
    assert checksums(copied) == before
    assert bliss(*command, "--dtype", "float32", "--overwrite").code == 0
    assert json.loads((copied / "manifest.json").read_text())["dtype"] == "float32"


def test_another_audit_or_reference_in_the_same_folder(bliss, collection, index, tmp_path):
    audit = ("audit", collection, "--index", index, "-o", tmp_path / "out")
    assert bliss(*audit).code == 0
    scores = (tmp_path / "out" / "scores.parquet").read_bytes()
    assert bliss(*audit, "--workers", 1).code == 0
    refused = bliss(*audit, "--k", 3, "--normal", "apple")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        f"\nbliss: {tmp_path}/out holds an audit made with other settings (k, normal differ). "
        "Needed: the same settings, or another folder. Choose another --output, or pass "
        "--overwrite to replace it.\n"
    )
    assert (tmp_path / "out" / "scores.parquet").read_bytes() == scores
    refused = bliss("pairs", tmp_path / "out" / "images", "-o", tmp_path / "out")
    assert refused.code == 2 and "holds an audit made with other settings (" in refused.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scores.csv").write_text("mine")
    refused = bliss(*audit[:-1], tmp_path / "mine")
    assert refused.code == 2 and "holds scores.csv, which no audit wrote" in refused.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["scores.csv"]
    images = times(tmp_path / "out" / "images")
    assert bliss(*audit, "--k", 3, "--overwrite").code == 0
    assert (tmp_path / "out" / "scores.parquet").read_bytes() != scores
    assert times(tmp_path / "out" / "images") == images
    turned = bliss(*audit, "--k", 3, "--ignore-exif", "--overwrite")
    assert turned.code == 0
    fit = ("reference", "fit", "--embeddings", tmp_path / "out" / "images", "--model", "demo")
    assert bliss(*fit, "-o", tmp_path / "reference").code == 0
    assert bliss(*fit, "-o", tmp_path / "reference").code == 0  # it is done already
    refused = bliss(*fit, "--hold-out", 0, "-o", tmp_path / "reference")
    assert (refused.code, refused.out) == (2, "")
    assert "Needed: a new or empty folder for the reference." in refused.err
    (tmp_path / "reference" / "manifest.json").unlink()  # as an interruption would leave it
    assert bliss(*fit, "-o", tmp_path / "reference").code == 0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "reference"}, " is a reference folder. Needed: a caption-index folder. "),
        ({"format_version": 9}, " has format version 9. Needed: version 1. Use the bliss-audit "),
        ({"parts": None}, "/manifest.json has no usable 'parts'. Needed: the manifest as bliss "),
        ({"checksums": 1}, "/manifest.json has no usable 'checksums'. Needed: the manifest "),
        ({"parts": [7]}, " holds an array of shape (300, 128). Needed: (7, 128), as its manifest "),
        ({"model": {}}, "/manifest.json has no usable 'model.dimension'. Needed: the manifest as"),
    ],
)
def test_an_edited_manifest(bliss, copied, changes, problem):
    edit_manifest(copied, **changes)
    outcome = bliss("index", "info", copied)
    assert (outcome.code, outcome.out) == (1, "")
    assert problem in outcome.err


def test_a_manifest_that_is_no_json_can_be_overwritten(bliss, captions, copied):
    (copied / "manifest.json").write_text('{"kind": ')
    outcome = bliss("index", "info", copied)
    assert (outcome.code, outcome.out) == (1, "")
    assert f"{copied}/manifest.json could not be read (Expecting value: line 1" in outcome.err
    build = ("index", "build", captions, "--model", "demo", "-o", copied)
    assert bliss(*build).code == 1
    assert bliss(*build, "--overwrite").code == 0
    assert bliss("index", "info", copied).code == 0


def test_damaged_files_of_an_index(bliss, copied):
    vectors = copied / "text_emb" / "text_emb_0.npy"
    content = vectors.read_bytes()
    vectors.write_bytes(content[:-100])
    outcome = bliss("index", "search", copied, "--text", "a boat")
    assert (outcome.code, outcome.out) == (1, "")
    assert f"{vectors} could not be read (" in outcome.err
    assert outcome.err.endswith(f" Needed: a whole .npy file. {REBUILD}")
    vectors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    outcome = bliss("index", "verify", copied)
    assert outcome.code == 1
    assert f"PROBLEM  checksums: {vectors} does not match the checksum in its" in outcome.out
    vectors.unlink()
    assert "No such file or directory" in bliss("index", "info", copied).err


def test_damaged_embeddings_of_images(bliss, collection, index, tmp_path):
    assert bliss("audit", collection, "--index", index, "-o", tmp_path / "out").code == 0
    folder = tmp_path / "out" / "images"
    audit = ("audit", "--embeddings", folder, "--index", index, "-o", tmp_path / "again")
    metadata = folder / "metadata" / "metadata_0.parquet"
    content = metadata.read_bytes()
    metadata.write_bytes(content[:-100])
    audited = bliss(*audit, "--model", "demo")
    assert (audited.code, audited.out) == (1, "")
    assert f"{metadata} does not match the checksum in its manifest." in audited.err
    (folder / "manifest.json").unlink()
    foreign = bliss(*audit, "--model", "demo")
    assert (foreign.code, foreign.out) == (1, "")
    assert foreign.err.endswith(f" Needed: a whole parquet file. {REBUILD}")
    metadata.write_bytes(content)
    (folder / "building.json").write_text("{}")
    unfinished = bliss(*audit, "--model", "demo")
    assert (unfinished.code, unfinished.out) == (1, "")
    assert f"{folder} has no manifest.json. Needed: a finished image-embed" in unfinished.err


STOPPED = """
import os, signal, sys, time
from blissaudit import cli
signal.signal(getattr(signal, sys.argv[1]), signal.SIG_DFL)  # nohup has it ignored
def work(*given, **how):
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    time.sleep(5)
cli.bliss.main = work
cli.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_ways_to_stop_a_run_are_as_ctrl_c(name):
    done = subprocess.run([sys.executable, "-c", STOPPED, name], capture_output=True, text=True)
    assert done.returncode == 130
    assert "bliss: interrupted. Finished parts are kept" in done.stderr
