"""An index built in shards, in one folder or several, is byte for byte the one built at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from blissaudit.corpora.registry import open_corpus
from blissaudit.errors import BlissError, FolderInUse, UsageError
from blissaudit.indexer.build.build import build_index, build_shard
from blissaudit.indexer.build.options import IndexOptions
from blissaudit.indexer.build.parts import missing_parts
from blissaudit.indexer.build.shards import Shard, merge_index, parse_shard, running_shard
from blissaudit.indexer.store.lock import only_run_in

SMALL = IndexOptions(part_rows=3, near_duplicates=0.5)


def quiet(what, done, total):
    """No progress."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "captions.txt"
    path.write_text("".join(f"caption {n % 17}\n" for n in range(20)))
    return open_corpus(str(path))


@pytest.fixture(scope="module")
def whole(corpus, small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "index"
    build_index(corpus, small.small_encoder(), folder, SMALL)
    return small.files_of(folder)


def test_shards_in_one_folder(corpus, small, whole, tmp_path):
    folder, seen = tmp_path / "index", small.Seen()
    missing = build_shard(corpus, small.small_encoder(seen), folder, SMALL, Shard(1, 3))
    assert missing == (0, 2, 3, 5)
    assert seen.texts == [f"caption {n}" for n in (3, 4, 5, 12, 13, 14)]
    assert not (folder / "manifest.json").exists()
    with pytest.raises(
        BlissError,
        match=r"parts 0, 2, 3 and 5 are missing in .*index\. Needed: every part of the plan\. Run "
        "the build with --shard 0/3 and --shard 2/3, then merge again",
    ):
        merge_index([folder], quiet)
    again = small.Seen()
    assert build_shard(corpus, small.small_encoder(again), folder, SMALL, Shard(1, 3)) == missing
    assert again.texts == []
    build_shard(corpus, small.small_encoder(), folder, SMALL, Shard(0, 3))
    assert build_shard(corpus, small.small_encoder(), folder, SMALL, Shard(2, 3)) == ()
    assert merge_index([folder], quiet).count == 17 - len(
        np.load(folder / "removed.npy") if (folder / "removed.npy").exists() else ()
    )
    assert small.files_of(folder) == whole
    assert merge_index([folder], quiet).folder == folder
    assert build_shard(corpus, small.small_encoder(), folder, SMALL, Shard(0, 3)) == ()


def test_a_build_without_shards_goes_on_with_what_shards_made(corpus, small, whole, tmp_path):
    folder, seen = tmp_path / "index", small.Seen()
    build_shard(corpus, small.small_encoder(), folder, SMALL, Shard(0, 2))
    build_index(corpus, small.small_encoder(seen), folder, SMALL)
    assert len(seen.texts) == 8
    assert small.files_of(folder) == whole


def test_shards_in_folders_of_their_own(corpus, small, whole, tmp_path):
    folders = [tmp_path / f"machine-{n}" for n in range(3)]
    for number in (0, 1):
        shard = Shard(number, 3)
        build_shard(corpus, small.small_encoder(), folders[number], SMALL, shard)
    with pytest.raises(BlissError, match=r"parts 2 and 5 are missing .*with --shard 2/3, then mer"):
        merge_index(folders[:2], quiet)
    build_shard(corpus, small.small_encoder(), folders[2], SMALL, Shard(2, 3))
    vectors = folders[2] / "text_emb" / "text_emb_5.npy"
    content = vectors.read_bytes()
    vectors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BlissError, match=r"part 5 is missing in .*machine-2\. Needed: every part"):
        merge_index(folders, quiet)
    vectors.write_bytes(content)
    before = small.files_of(folders[1])
    merge_index(folders, quiet)
    assert small.files_of(folders[0]) == whole
    assert small.files_of(folders[1]) == before


def test_folders_that_do_not_belong_together(corpus, small, tmp_path):
    one, other, text = tmp_path / "one", tmp_path / "other", tmp_path / "captions.txt"
    build_shard(corpus, small.small_encoder(), one, SMALL, Shard(0, 2))
    with pytest.raises(
        BlissError, match=r"nowhere holds no unfinished index\. Needed: a folder th"
    ):
        merge_index([one, tmp_path / "nowhere"], quiet)
    text.write_text("another\n")
    encoder = small.small_encoder()
    build_shard(open_corpus(str(text)), encoder, other, IndexOptions(part_rows=3), Shard(1, 2))
    with pytest.raises(
        UsageError,
        match=r"different settings \(near_duplicates, sources\[0\]\.fingerprint differ\)",
    ):
        merge_index([one, other], quiet)
    shutil.rmtree(other)
    shutil.copytree(one, other)
    record = json.loads((other / "plan" / "plan.json").read_text())
    (other / "plan" / "plan.json").write_text(json.dumps({**record, "digest": "0"}))
    with pytest.raises(BlissError, match=r"hold different plans\. Needed: shards of one plan"):
        merge_index([one, other], quiet)
    (one / "plan" / "plan.json").unlink()
    with pytest.raises(
        BlissError, match=r"one has no complete plan\. Needed: the plan that each --sh"
    ):
        merge_index([one], quiet)
    for text, given in (("3/3", "'3/3'"), ("x", "'x'"), ("-1/2", "'-1/2'"), ("1/0", "'1/0'")):
        with pytest.raises(UsageError, match=rf"the shard {given} was given\. Needed: i/N"):
            parse_shard(text)
    assert parse_shard("1/4") == Shard(1, 4) and str(Shard(1, 4)) == "1/4"


def test_a_record_that_names_other_files_is_no_whole_part(corpus, small, tmp_path):
    from blissaudit.indexer.build.plan import open_plan, read_plan_part

    one = tmp_path / "one"
    assert build_shard(corpus, small.small_encoder(), one, SMALL, Shard(0, 1)) == ()
    path = one / "parts" / "part_2.json"
    record = json.loads(path.read_text())
    (tmp_path / "secret").write_text("x")
    for changed in (
        {"checksums": {**record["checksums"], "../secret": "0"}},
        {"checksums": {}},
        {"plan": "0"},
        {"rows": 0},
    ):
        path.write_text(json.dumps({**record, **changed}))
        plan = open_plan(one / "plan")
        assert missing_parts(one, plan) == (2,)
    assert read_plan_part(plan, 2)["caption"].to_pylist() == [f"caption {n}" for n in (6, 7, 8)]


def test_shards_wait_for_the_plan_and_are_not_run_over(corpus, small, whole, tmp_path):
    folder, told = tmp_path / "index", []
    encoder = small.small_encoder()

    def work():
        build_shard(corpus, encoder, folder, SMALL, Shard(0, 2), lambda what, *_: told.append(what))

    with only_run_in(folder):
        waiting = threading.Thread(target=work)
        waiting.start()
        while not told:
            time.sleep(0.01)
        assert not (folder / "plan").exists()
    waiting.join()
    assert told[0].startswith("waiting: another bliss run (process ")
    with running_shard(folder, Shard(1, 2)):
        for call in (
            lambda: merge_index([folder], quiet),
            lambda: build_index(corpus, encoder, folder, SMALL),
            lambda: build_shard(corpus, encoder, folder, SMALL, Shard(1, 2)),
        ):
            with pytest.raises(
                FolderInUse, match=r"is working in .*shards/1-of-2\. Needed: one run"
            ):
                call()
    build_shard(corpus, encoder, folder, SMALL, Shard(1, 2))
    merge_index([folder], quiet)
    assert small.files_of(folder) == whole


SHARD = """
import runpy, sys
from blissaudit.corpora.registry import open_corpus
from blissaudit.indexer.build.build import build_shard
from blissaudit.indexer.build.options import IndexOptions
from blissaudit.indexer.build.shards import parse_shard
encoder = runpy.run_path(sys.argv[1])["small_encoder"]()
options = IndexOptions(part_rows=3, near_duplicates=0.5)
corpus, shard = open_corpus(sys.argv[2]), parse_shard(sys.argv[4])
print(len(build_shard(corpus, encoder, sys.argv[3], options, shard)))
"""


def test_shards_of_processes_started_at_once(corpus, small, whole, tmp_path):
    folder = tmp_path / "index"
    command = [sys.executable, "-c", SHARD, small.__file__, corpus.addresses[0], str(folder)]
    running = [
        subprocess.Popen([*command, f"{n}/3"], stdout=subprocess.PIPE, text=True) for n in range(3)
    ]
    left = [int(process.communicate(timeout=240)[0]) for process in running]
    assert min(left) == 0
    merge_index([folder], quiet)
    assert small.files_of(folder) == whole


def test_the_command_says_what_is_missing(bliss, captions, tmp_path):
    folder = tmp_path / "index"
    command = ("index", "build", captions, "--model", "demo", "--part-rows", 80, "-o", folder)
    done = bliss(*command, "--shard", "2/3")
    assert (done.code, done.out) == (
        0,
        f"{folder}: shard 2/3 is done; parts 0, 1 and 3 are missing. `bliss index merge` finishes "
        "the index\n",
    )
    refused = bliss("index", "merge", folder)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        f"\nbliss: parts 0, 1 and 3 are missing in {folder}. Needed: every part of the plan. Run "
        "the build with --shard 0/3 and --shard 1/3, then merge again.\n"
    )
    both = bliss("index", "build", "--embeddings", folder, "--shard", "0/2", "-o", tmp_path / "x")
    assert both.code == 2
    assert "--shard was given with --embeddings" in both.err


def test_a_shard_without_a_part_says_so(bliss, captions, tmp_path):
    command = ("index", "build", captions, "--model", "demo", "-o", tmp_path / "index", "--shard")
    idle = bliss(*command, "1/2")
    assert (idle.code, idle.out) == (
        0,
        f"{tmp_path}/index: shard 1/2 is done; part 0 is missing. `bliss index merge` finishes "
        "the index\n",
    )
    assert idle.err == (
        "model demo, device cpu (chosen), precision fp32 (chosen), batch 64 (chosen)\n"
        "there is no part for shard 1/2, so nothing to do: the only part is for those before it\n"
    )
    assert "there is no part" not in bliss(*command, "0/2").err
    pieces = (*command[:5], "--part-rows", 100, "-o", tmp_path / "three", "--shard", "3/4")
    assert "nothing to do: the 3 parts are for those before it\n" in bliss(*pieces).err
