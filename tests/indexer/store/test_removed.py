"""Removal by tombstones: what is asked goes, nothing else; a crash leaves one of two states."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from blissaudit import artefacts
from blissaudit.artefacts import only_run_in
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.build import IndexOptions, index_embeddings
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.search.row_choice import CaptionFilter, matching_rows
from blissaudit.indexer.store.stored_rows import read_rows, remove_rows, restore_rows

TEXTS = ["a red dog", "a Dog of 2 colours", "cat", "a red cat", "dogs", "naïve", "(odd) [x]"]
D = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory, write_embeddings):
    root = tmp_path_factory.mktemp("remove")
    rows = np.random.default_rng(2).standard_normal((len(TEXTS), D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    source = write_embeddings(root / "pets", rows, TEXTS)
    return index_embeddings(source, root / "index", options=IndexOptions(part_rows=3)).folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "index")


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def shown(folder):
    index = open_index(folder)
    return index.captions_of(np.arange(index.count))


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (CaptionFilter(caption="dog"), [0, 4]),
        (CaptionFilter(caption="(?i)\\bdog\\b"), [0, 1]),
        (CaptionFilter(caption="^cat$"), [2]),
        (CaptionFilter(caption="na.ve"), [5]),
        (CaptionFilter(contains="DOG"), [0, 1, 4]),
        (CaptionFilter(contains="(odd) ["), [6]),
        (CaptionFilter(source="pets"), [0, 1, 2, 3, 4, 5, 6]),
        (CaptionFilter(contains="red", caption="cat"), [3]),
        (CaptionFilter(contains="red", source="pets"), [0, 3]),
    ],
)
def test_which_captions_a_request_names(whole, where, rows):
    assert matching_rows(open_index(whole), where).tolist() == rows


def test_likeness_is_the_cosine_with_what_is_stored(folder):
    index = open_index(folder)
    stored = index.stored[np.arange(7)].astype(np.float64)
    query = np.array([0.5, -0.5, 0.5, 0.5], np.float32)
    cosines = stored @ query
    for above in (-1.0, 0.0, float(np.sort(cosines)[3]), 0.99):
        found = matching_rows(index, CaptionFilter(like="?", above=above), lambda text: query)
        assert found.tolist() == np.flatnonzero(cosines > above).tolist()
    remove_rows(folder, np.array([int(cosines.argmax())]), {})
    found = matching_rows(
        open_index(folder), CaptionFilter(like="?", above=-1.0), lambda text: query
    )
    assert len(found) == 6 and cosines.argmax() not in found


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({}, "nothing says which captions are meant"),
        ({"caption": "("}, r"--caption '\(' is no pattern \(missing \): \(\)"),
        ({"caption": r"(a)\1"}, "is no pattern .*without look-around and back references"),
        ({"caption": "(?=a)"}, "is no pattern"),
        ({"caption": "\ud800"}, "is no pattern"),
        ({"contains": ""}, "--contains is empty"),
        ({"like": "a dog"}, "--like was given without --above"),
        ({"above": 0.5}, "--above was given without --like"),
        ({"like": "a", "above": 1.0}, "a cosine above 1 was asked for"),
        ({"like": "a", "above": -1.5}, "a cosine above -1.5 was asked for"),
        ({"like": "a", "above": float("nan")}, "a cosine above nan was asked for"),
    ],
)
def test_requests_that_cannot_be_met(asked, match):
    with pytest.raises(UsageError, match=match):
        CaptionFilter(**asked)


def test_a_pattern_that_makes_others_hang_costs_no_time(tmp_path, write_embeddings):
    rows = np.eye(3, dtype=np.float32)
    texts = ["a" * 1900 + "b", "a" * 1000, "x"]
    source = write_embeddings(tmp_path / "s", rows, texts)
    index = index_embeddings(source, tmp_path / "index")
    assert matching_rows(index, CaptionFilter(caption="^(a|aa)+$")).tolist() == [1]
    assert matching_rows(index, CaptionFilter(caption="(a*)*c")).tolist() == []


def test_removals_add_up_and_are_undone_one_by_one_to_the_same_bytes(folder):
    before = tree(folder)
    remove_rows(folder, np.array([4, 0]), {"contains": "dog"})
    once = tree(folder)
    manifest = remove_rows(folder, np.array([2, 4]), {"caption": "cat"})
    assert manifest["removed"] == {
        "file": "removed_2.npy",
        "count": 3,
        "log": [
            {"where": {"contains": "dog"}, "rows": 2},
            {"where": {"caption": "cat"}, "rows": 1},
        ],
    }
    assert np.load(folder / "removed_2.npy").tolist() == [0, 2, 4]
    assert shown(folder) == [TEXTS[row] for row in (1, 3, 5, 6)]
    parts = {name: data for name, data in before.items() if name.name != "manifest.json"}
    assert parts.items() <= tree(folder).items()
    assert restore_rows(folder, last_only=True)[1] == 1
    assert tree(folder) == once and shown(folder) == [TEXTS[row] for row in (1, 2, 3, 5, 6)]
    remove_rows(folder, np.array([1]), {})
    assert restore_rows(folder, last_only=False)[1] == 3
    assert tree(folder) == before
    for last_only in (True, False):  # the same again, as after a kill just past the commit
        assert restore_rows(folder, last_only)[1] == 0 and tree(folder) == before


def test_what_a_building_left_out_stays_out_and_an_export_that_no_longer_fits_goes(folder):
    manifest = remove_rows(folder, np.array([1]), {})
    manifest["removed"]["log"] = [{"reason": "near duplicate of an earlier row", "rows": 1}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert restore_rows(folder, last_only=False) == (manifest, 0)
    (folder / "text.index").write_bytes(b"rows of before")
    remove_rows(folder, np.array([2]), {"caption": "cat"})
    assert not (folder / "text.index").exists()
    manifest, back = restore_rows(folder, last_only=False)
    assert back == 1 and manifest["removed"]["file"] == "removed.npy"
    assert len(shown(folder)) == 6


def test_removing_all_or_none_is_refused(folder):
    remove_rows(folder, np.array([0]), {})
    with pytest.raises(UsageError, match=r"all 6 captions of .* were to be removed"):
        remove_rows(folder, np.arange(7), {})
    with pytest.raises(UsageError, match=r"none of the 6 captions of .* was named"):
        remove_rows(folder, np.array([0]), {})
    assert open_index(folder).count == 6


def test_the_same_removal_again_changes_nothing(folder):
    where = {"contains": "dog"}
    remove_rows(folder, np.array([0, 4]), where)
    once = tree(folder)
    assert remove_rows(folder, np.zeros(0, np.int64), where)["removed"]["count"] == 2
    assert tree(folder) == once
    with pytest.raises(UsageError, match="was named"):
        remove_rows(folder, np.zeros(0, np.int64), {"contains": "cow"})


@pytest.mark.parametrize("call", ["remove", "undo"])
@pytest.mark.parametrize("step", range(8))
def test_a_full_disk_or_a_kill_at_any_step_leaves_one_state_or_the_other(
    folder, monkeypatch, call, step
):
    """Each file call in turn, and all after it, raise as on a full disk."""
    remove_rows(folder, np.array([3]), {})
    was = shown(folder)
    if call == "undo":
        expected = TEXTS
    else:
        expected = [t for t in was if t != "cat"]
    calls = []

    def failing(real):
        def call_(*arguments, **named):
            calls.append(real)
            if len(calls) > step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        return call_

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace"):
            patch.setattr(os, name, failing(getattr(os, name)))
        try:
            if call == "remove":
                remove_rows(folder, np.array([2]), {})
            else:
                restore_rows(folder, last_only=False)
            assert shown(folder) == expected
            assert len(calls) <= step + 1  # a folder that could not be synced after its rename
        except BlissError as error:
            assert "No space left on device" in str(error)
    assert shown(folder) in (was, expected)
    if call == "remove" and shown(folder) == was:
        remove_rows(folder, np.array([2]), {})
        assert shown(folder) == expected
    if call == "undo" and shown(folder) == was:
        restore_rows(folder, last_only=False)
        assert shown(folder) == expected


def test_two_runs_at_once_and_a_folder_that_cannot_be_written(folder, monkeypatch):
    with only_run_in(folder), pytest.raises(BlissError, match=r"another bliss run .* is working"):
        remove_rows(folder, np.array([0]), {})

    def read_only(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = tree(folder)
    monkeypatch.setattr(artefacts, "_open_lock", read_only)
    with pytest.raises(BlissError, match=r"could not write .*Read-only file system"):
        remove_rows(folder, np.array([0]), {})
    with pytest.raises(BlissError, match=r"could not write .*Read-only file system"):
        restore_rows(folder, last_only=True)
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: {**r, "file": "../removed.npy"}, "has no usable 'removed'"),
        (lambda r: {**r, "file": "removed_1.npy"}, "has no usable 'removed'"),
        (lambda r: {**r, "file": "text_emb/text_emb_0.npy"}, "has no usable 'removed'"),
        (lambda r: {**r, "file": "removed_2.npy"}, r"removed_2\.npy is missing"),
        (lambda r: {**r, "count": 1}, "has no usable 'removed'"),
        (lambda r: {**r, "count": True, "log": []}, "has no usable 'removed'"),
        (lambda r: {**r, "count": 1, "log": []}, r"lists 2 of 7 rows\. Needed: the 1 its manifest"),
        (lambda r: [1], "has no usable 'removed'"),
    ],
)
def test_an_edited_account_of_removals_is_refused(folder, change, match):
    manifest = remove_rows(folder, np.array([1, 2]), {})
    edited = {**manifest, "removed": change(manifest["removed"])}
    (folder / "manifest.json").write_text(json.dumps(edited))
    with pytest.raises(BlissError, match=match):
        open_index(folder)
    del manifest["removed"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BlissError, match="has no usable 'removed'"):
        open_index(folder)


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_damaged_list_is_refused(folder, damage):
    remove_rows(folder, np.array([1, 2]), {})
    path = folder / "removed.npy"
    path.write_bytes(damage(path.read_bytes()))
    for attempt in (open_index, lambda f: remove_rows(f, np.array([0]), {})):
        with pytest.raises(BlissError, match=r"removed\.npy does not match the checksum"):
            attempt(folder)


def test_what_an_undoing_would_name_is_checked_first(folder):
    for row in range(3):
        remove_rows(folder, np.array([row]), {})
    np.save(folder / "removed_2.npy", np.array([1, 0]))
    with pytest.raises(BlissError, match=r"removed_2\.npy does not match the checksum"):
        restore_rows(folder, last_only=True)
    assert len(shown(folder)) == 4
    with pytest.raises(BlissError, match=r"Needed: ascending row numbers from 0 to 6\."):
        read_rows(folder / "removed_2.npy", 7)
