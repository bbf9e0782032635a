"""Captions appended to an index: new parts only, whatever happens on the way."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from blissaudit import artefacts
from blissaudit.artefacts import only_run_in
from blissaudit.corpora.registry import open_corpus
from blissaudit.errors import BlissError, FolderInUse, UsageError
from blissaudit.indexer.build import add as add_module
from blissaudit.indexer.build.add import AddOptions, add_captions, add_embeddings
from blissaudit.indexer.build.build import IndexOptions, build_index
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.store.stored_rows import IndexRows, remove_rows, restore_rows
from blissaudit.indexer.store.verify import verify_index

OLD = ["ant", "bee", "cat", "dog", "eel", "fox"]


def corpus(folder, name, texts):
    path = folder / name
    path.write_text("".join(f"{text}\n" for text in texts))
    return open_corpus(str(path))


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("adding")
    options = IndexOptions(part_rows=4, licences=("CC0",))
    source = corpus(root, "old.txt", OLD)
    folder = build_index(source, small.small_encoder(), root / "index", options).folder
    remove_rows(folder, np.array([1]), {"contains": "bee"})
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "index")


@pytest.fixture
def new(tmp_path):
    return [
        corpus(tmp_path, "new.txt", ["cat", "gnu", " hen ", "", "bee", "gnu", "ibis"]),
        corpus(tmp_path, "old.txt", ["hen", "jay", "kea", "lynx", "mole"]),
    ]


def shown(folder):
    index = open_index(folder)
    return index.captions_of(np.arange(index.count))


def problems(folder, encoder):
    checks = verify_index(folder, 99, lambda: encoder, lambda *_: None)
    return [problem.what for check in checks for problem in check.problems]


def test_new_captions_follow_the_old_and_nothing_old_is_written_again(folder, new, small):
    before = small.files_of(folder)
    seen = small.Seen()
    options = AddOptions(licences=("new.txt=CC BY 4.0",))
    added = add_captions(folder, new, small.small_encoder(seen), options)
    assert seen.texts == ["gnu", "hen", "ibis", "jay", "kea", "lynx", "mole"]
    assert shown(folder) == ["ant", "cat", "dog", "eel", "fox", *seen.texts]
    after = small.files_of(folder)
    del before["manifest.json"]
    assert before.items() <= after.items()
    zero = {"too_short": 0, "too_long": 0, "unusable": 0}
    assert added.counts == {**zero, "read": 12, "empty": 1, "duplicate": 4, "kept": 7}
    manifest = json.loads(after["manifest.json"])
    assert manifest["parts"] == [4, 2, 4, 3] and manifest["count"] == 13
    assert manifest["counts"] == {**zero, "read": 18, "empty": 1, "duplicate": 4, "kept": 13}
    named = [(source["name"], source["licence"], source["rows"]) for source in manifest["sources"]]
    assert named == [("old.txt", "CC0", 6), ("new.txt", "CC BY 4.0", 3), ("old.txt#2", None, 4)]
    origins = open_index(folder).origins_of(np.arange(4, 9))
    assert [origin.source for origin in origins] == ["old.txt", *["new.txt"] * 3, "old.txt#2"]
    hits = search(open_index(folder), small.vector_of("kea")[None], 1)
    assert hits.rows.tolist() == [[9]]
    assert problems(folder, small.small_encoder()) == []
    restore_rows(folder, last_only=False)
    assert shown(folder)[:7] == [*OLD, "gnu"]


def test_the_same_command_again_changes_nothing_and_says_so(folder, new, small):
    first = add_captions(folder, new, small.small_encoder())
    before = small.files_of(folder)
    seen = small.Seen()
    again = add_captions(folder, new, small.small_encoder(seen))
    assert (first.before, again.before) == (False, True) and again.counts == first.counts
    assert seen.texts == [] and small.files_of(folder) == before
    with pytest.raises(UsageError, match=r"every caption given is already in .*index, or was rem"):
        add_captions(folder, new[:1], small.small_encoder())
    assert small.files_of(folder) == before


def test_parts_follow_from_the_captions_not_from_how_they_came(folder, new, small, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    add_captions(folder, new[:1], small.small_encoder())
    add_captions(folder, new[1:], small.small_encoder())
    add_captions(other, new, small.small_encoder())
    assert shown(folder) == shown(other)
    assert open_index(folder).manifest["parts"] == [4, 2, 3, 4]


class Killed(BaseException):
    """Nothing may catch it."""


def test_killed_at_every_write_it_goes_on_to_the_same_bytes_and_can_be_searched_meanwhile(
    whole, new, small, tmp_path, monkeypatch
):
    done = shutil.copytree(whole, tmp_path / "done")
    was = shown(whole)
    add_captions(done, new, small.small_encoder())
    expected, becomes = small.files_of(done), shown(done)
    real, state = os.replace, {"left": -1}

    def replace(source: Path, target: Path) -> None:
        if state["left"] == 0:
            raise Killed
        state["left"] -= 1
        real(source, target)
        if state["left"] == 0 and Path(target) == folder / "manifest.json":
            raise Killed  # before anything is cleared away

    monkeypatch.setattr(artefacts.os, "replace", replace)
    monkeypatch.setattr(artefacts.os, "fsync", lambda descriptor: None)
    for number in range(1, 200):
        folder = shutil.copytree(whole, tmp_path / f"run-{number}")
        state["left"] = number
        try:
            add_captions(folder, new, small.small_encoder())
            break
        except Killed:
            state["left"] = -1
            assert shown(folder) in (was, becomes)
            add_captions(folder, new, small.small_encoder())
        assert small.files_of(folder) == expected
    assert number > 20


def test_a_full_disk_at_any_sync_leaves_a_whole_index(whole, new, small, tmp_path, monkeypatch):
    done = shutil.copytree(whole, tmp_path / "done")
    add_captions(done, new, small.small_encoder())
    expected, was = small.files_of(done), shown(whole)
    sync, state = os.fsync, {"left": 0}

    def full(descriptor: int) -> None:
        state["left"] -= 1
        if state["left"] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    for number in range(0, 100, 5):
        folder = shutil.copytree(whole, tmp_path / f"run-{number}")
        state["left"] = number
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                add_captions(folder, new, small.small_encoder())
                break
            except BlissError as error:
                assert "No space left on device" in str(error)
        assert shown(folder) == was
        add_captions(folder, new, small.small_encoder())
        assert small.files_of(folder) == expected
    assert number > 30


def test_finished_parts_are_not_made_again_and_another_addition_waits(
    folder, new, small, tmp_path, monkeypatch
):
    from blissaudit.indexer.build import parts as encoded_parts

    monkeypatch.setattr(encoded_parts, "CAPTIONS_AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt):
        add_captions(folder, new, small.small_encoder(small.Seen([], 6)))
    other = [corpus(tmp_path, "other.txt", ["zebra"])]
    with pytest.raises(
        UsageError, match=r"an addition of other captions to .*index was interrupted \(.*sources"
    ):
        add_captions(folder, other, small.small_encoder())
    assert any("adding/ is left by" in what for what in problems(folder, small.small_encoder()))
    remove_rows(folder, np.array([0]), {"contains": "ant"})
    seen = small.Seen()
    add_captions(folder, new, small.small_encoder(seen))
    assert seen.texts == ["kea", "lynx", "mole"] or seen.texts == ["jay", *seen.texts[1:]]
    assert "gnu" in shown(folder) and "ant" not in shown(folder)
    with pytest.raises(KeyboardInterrupt):
        add_captions(folder, other, small.small_encoder(small.Seen([], 0)))
    more = [corpus(tmp_path, "more.txt", ["yak"])]
    add_captions(folder, more, small.small_encoder(), AddOptions(overwrite=True))
    assert shown(folder)[-1] == "yak" and "zebra" not in shown(folder)


def test_prompts_are_the_corpus_own_or_those_the_index_was_asked_to_have(small, new, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("owl\n")
    added = [new[0], open_corpus(f"paper-dictionary:{names}")]
    for prompts, wanted in (
        (None, ["gnu", "This is a photo of a owl"]),
        (("no {}",), ["no gnu", "no owl"]),
        (("no {}", "ode to {}"), ["no gnu", "ode to owl"]),
    ):
        folder = tmp_path / f"index-{len(prompts or ())}"
        old = corpus(tmp_path, "first.txt", OLD)
        build_index(old, small.small_encoder(), folder, IndexOptions(prompts=prompts))
        seen = small.Seen()
        add_captions(folder, added, small.small_encoder(seen))
        assert set(wanted) <= set(seen.texts)
        assert problems(folder, small.small_encoder()) == []
    seen = small.Seen()
    asked = AddOptions(prompts=("now {}",))
    add_captions(folder, [corpus(tmp_path, "z.txt", ["zebra"])], small.small_encoder(seen), asked)
    assert seen.texts == ["now zebra"]


def test_duplicates_are_kept_where_the_index_keeps_them(small, tmp_path):
    from blissaudit.corpora.captions import CaptionRules

    rules = IndexOptions(rules=CaptionRules(deduplicate=False, min_characters=3))
    source = corpus(tmp_path, "a.txt", ["ant", "bee"])
    folder = build_index(source, small.small_encoder(), tmp_path / "index", rules).folder
    more = [corpus(tmp_path, "b.txt", ["bee", "ox", "bee", "cow"])]
    added = add_captions(folder, more, small.small_encoder())
    assert shown(folder) == ["ant", "bee", "bee", "bee", "cow"] and added.counts["too_short"] == 1


def test_what_cannot_be_added_changes_nothing(folder, new, small, tmp_path, write_embeddings):
    before = small.files_of(folder)
    with pytest.raises(BlissError, match=r"was made with small.* and the model given with other"):
        add_captions(folder, new, small.small_encoder(model="other", weights_sha256="1" * 64))
    with only_run_in(folder), pytest.raises(FolderInUse, match=r"another bliss run"):
        add_captions(folder, new, small.small_encoder())
    with pytest.raises(BlissError, match=r"empty\.txt holds no usable text"):
        add_captions(folder, [corpus(tmp_path, "empty.txt", [""])], small.small_encoder())
    shutil.rmtree(folder / "adding")
    flat = write_embeddings(tmp_path / "flat", np.eye(3, dtype=np.float32), list("xyz"))
    with pytest.raises(BlissError, match=r"16 dimensions.* and .*flat with .*3 dimensions"):
        add_embeddings(folder, flat)
    assert small.files_of(folder) == before


def test_embeddings_made_elsewhere_are_added_but_for_unusable_ones(
    folder, small, tmp_path, write_embeddings
):
    texts = ["cat", "gnu", "hen", "owl"]
    rows = np.stack([2 * small.vector_of(text) for text in texts])
    rows[2] = np.nan
    source = write_embeddings(tmp_path / "more", rows, texts)
    added = add_embeddings(folder, source)
    assert shown(folder)[-2:] == ["gnu", "owl"]
    assert added.counts["unusable"] == 1 and added.counts["duplicate"] == 1
    manifest = added.index.manifest
    assert manifest["failures"][0]["caption"] == "hen" and manifest["normalised"] == 2
    assert problems(folder, small.small_encoder()) == []
    rows[:] = 0
    zero = write_embeddings(tmp_path / "zero", rows, ["p", "q", "r", "s"])
    before = small.files_of(folder)
    with pytest.raises(BlissError, match=r"none of the 4 new embeddings can be used"):
        add_embeddings(folder, zero)
    assert small.files_of(folder) == before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"request": {}}, "'request' lacks the caption rules"),
        ({"request": 1}, "'request' is not as bliss writes it"),
        ({"count": 5}, "'count' is 5 and the parts hold 6 rows"),
        ({"parts": [4, "2"]}, "manifest.json has no usable 'parts'"),
    ],
)
def test_an_edited_manifest_is_not_added_to(folder, new, small, changes, match):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BlissError, match=match):
        add_captions(folder, new, small.small_encoder())


def test_damaged_captions_are_not_compared_with(folder, new, small):
    path = folder / "metadata" / "metadata_1.parquet"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BlissError, match=r"metadata_1\.parquet does not match the checksum"):
        add_captions(folder, new, small.small_encoder())


def test_an_index_of_many_parts_works_with_few_open_files(small, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    folder = tmp_path / "index"
    options = IndexOptions(part_rows=1)
    texts = [f"caption {n}" for n in range(90)]
    build_index(corpus(tmp_path, "many.txt", texts), small.small_encoder(), folder, options)
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, hard))
    try:
        more = [corpus(tmp_path, "more.txt", ["one more", "two more"])]
        index = add_captions(folder, more, small.small_encoder()).index
        assert index.captions_of(np.arange(92)) == [*texts, "one more", "two more"]
        queries = small.small_encoder().encode_texts(texts[::9])
        assert index.nearest(queries, 1).rows[:, 0].tolist() == list(range(0, 90, 9))
        rows = IndexRows(index.opened, resident=False)
        assert sum(len(block) for _, block in rows.blocks()) == 92
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_addition_that_is_done_is_not_said_to_have_failed(small, tmp_path, monkeypatch):
    folder = tmp_path / "index"
    build_index(corpus(tmp_path, "a.txt", ["ant", "bee"]), small.small_encoder(), folder)

    def out_of_files(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    more = [corpus(tmp_path, "b.txt", ["cat"])]
    with monkeypatch.context() as patch:
        patch.setattr(add_module, "open_index", out_of_files)
        added = add_captions(folder, more, small.small_encoder())
        assert added.counts["kept"] == 1 and not added.before
        with pytest.raises(BlissError, match=r"the captions were added.*ulimit -n 4096"):
            added.index  # noqa: B018
    assert add_captions(folder, more, small.small_encoder()).before
