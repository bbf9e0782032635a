"""Indexes at addresses: built here and copied there, fetched once and checked, errors in words."""

import json
import shutil

import fsspec
import numpy as np
import pytest
from blissaudit import artefacts
from blissaudit.corpora import addresses
from blissaudit.corpora.registry import open_corpus
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.build import IndexOptions, build_index
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.store import addresses as index_addresses
from blissaudit.indexer.store.addresses import build_to, check_output

TEXTS = [f"caption {number}" for number in range(9)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLISS_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    return tmp_path / "cache"


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    return "memory://bucket/an/index" if request.param == "memory" else f"file://{tmp_path}/there"


@pytest.fixture
def source(tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(TEXTS))
    return open_corpus(str(tmp_path / "c.txt"))


def quiet(what, done, total):
    pass


def build(source, small, address, seen=None, **options):
    choices = IndexOptions(part_rows=4, **options)
    encoder = small.small_encoder(seen)
    overwrite = options.get("overwrite", False)
    return build_to(address, overwrite, lambda at: build_index(source, encoder, at, choices), quiet)


def remote(address):
    fs, path = fsspec.core.url_to_fs(address)
    names = fs.find(path)
    return {name.partition(path.strip("/") + "/")[2]: fs.cat_file(name) for name in names}


def put(address, name, data):
    fs, path = fsspec.core.url_to_fs(address)
    fs.pipe_file(f"{path}/{name}", data)


def test_it_is_the_index_a_folder_would_hold_and_is_opened_from_anywhere(
    source, small, address, tmp_path, cache
):
    local = build(source, small, str(tmp_path / "local")).folder
    made = build(source, small, address)
    expected = small.files_of(local)
    assert remote(address) == expected
    assert [path.name for path in (cache / "outputs").iterdir()] == []
    shutil.rmtree(cache)
    for folder in (address, address + "/"):
        index = open_index(folder)
        assert index.captions_of(np.arange(9)) == TEXTS
        assert search(index, small.vector_of(TEXTS[5])[None], 1).rows.tolist() == [[5]]
        assert index.origins_of(np.array([0]))[0].index == folder
    assert index.folder == made.folder and small.files_of(index.folder) == expected


def test_the_same_command_builds_nothing_and_another_one_is_refused(source, small, address):
    build(source, small, address)
    before = remote(address)
    seen = small.Seen()
    assert build(source, small, address, seen).count == 9 and seen.texts == []
    with pytest.raises(UsageError, match=rf"{address} was made with other settings \(dtype diff"):
        build(source, small, address, dtype="float32")
    assert remote(address) == before
    build(source, small, address, dtype="float32", overwrite=True)
    assert open_index(address).stored[np.arange(9)].shape == (9, 16)
    assert json.loads(remote(address)["manifest.json"])["dtype"] == "float32"


def test_what_another_index_left_there_goes_once_the_new_one_is_whole(
    source, small, address, tmp_path
):
    build(source, small, address)
    (tmp_path / "d.txt").write_text("one\ntwo\n")
    build(open_corpus(str(tmp_path / "d.txt")), small, address, overwrite=True)
    assert "text_emb/text_emb_2.npy" not in remote(address)
    index = open_index(address)
    assert index.captions_of(np.arange(index.count)) == ["one", "two"]


def test_a_line_that_goes_dead_keeps_the_work_and_the_same_command_goes_on(
    source, small, address, monkeypatch, cache
):
    real, calls = index_addresses.write_file, []

    def dead(to, file):
        calls.append(to)
        if len(calls) == 5:
            with addresses.reachable(to, action="written"):
                raise OSError(5, "Input/output error")
        real(to, file)

    with monkeypatch.context() as patch:
        patch.setattr(index_addresses, "write_file", dead)
        with pytest.raises(
            BlissError, match=r"could not be written \(Input/output error\)\..*parts are kept"
        ):
            build(source, small, address)
    assert "manifest.json" not in remote(address)
    with pytest.raises(BlissError, match=rf"{address} holds no manifest\.json"):
        open_index(address)
    sent = []
    monkeypatch.setattr(index_addresses, "write_file", lambda to, f: (sent.append(to), real(to, f)))
    seen = small.Seen()
    index = build(source, small, address, seen)
    assert seen.texts == [] and not set(sent) & set(calls[:4])
    assert index.captions_of(np.arange(9)) == TEXTS
    assert sent[-1] == f"{address}/manifest.json"


def test_an_interrupted_build_goes_on_in_the_cache(source, small, address, monkeypatch):
    from blissaudit.indexer.build import parts as encoded_parts

    monkeypatch.setattr(encoded_parts, "CAPTIONS_AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt):
        build(source, small, address, small.Seen([], 7))
    seen = small.Seen()
    build(source, small, address, seen)
    assert seen.texts == TEXTS[4:]


def test_a_vanished_network_folder(source, small, tmp_path, cache):
    address = f"file://{tmp_path}/mount/share/index"
    with pytest.raises(BlissError, match=r"share/index/.* could not be written \(.*kept"):
        build(source, small, address)
    assert not (tmp_path / "mount").exists()
    (tmp_path / "mount" / "share").mkdir(parents=True)
    seen = small.Seen()
    build(source, small, address, seen)
    assert seen.texts == []
    shutil.rmtree(tmp_path / "mount")
    with pytest.raises(BlissError, match=r"share/index holds no manifest\.json"):
        open_index(address)


def test_damaged_and_hostile_files_are_not_opened(source, small, address, cache):
    build(source, small, address)
    whole = remote(address)
    shutil.rmtree(cache)
    put(address, "text_emb/text_emb_1.npy", whole["text_emb/text_emb_1.npy"][:-1])
    with pytest.raises(BlissError, match=rf"{address}/text_emb/text_emb_1\.npy does not match the"):
        open_index(address)
    put(address, "text_emb/text_emb_1.npy", whole["text_emb/text_emb_1.npy"])
    assert open_index(address).count == 9
    manifest = json.loads(whole["manifest.json"])
    for name in ("../../evil", "/etc/passwd", "a.pkl"):
        edited = {**manifest, "checksums": {name: "0" * 64}}
        put(address, "manifest.json", json.dumps(edited).encode())
        with pytest.raises(BlissError, match=r"lists .*only files that a caption index has"):
            open_index(address)
    put(address, "manifest.json", b"{")
    with pytest.raises(BlissError, match=r"manifest\.json could not be read"):
        open_index(address)


def test_places_that_hold_something_else_or_cannot_be_written(source, small, address):
    fs, path = fsspec.core.url_to_fs(address)
    fs.makedirs(path, exist_ok=True)
    put(address, "holiday.jpg", b"x")
    with pytest.raises(UsageError, match=r"bliss did not put there \(holiday\.jpg\)"):
        build(source, small, address)
    assert remote(address) == {"holiday.jpg": b"x"}
    with pytest.raises(UsageError, match=r"nosuch://x/manifest\.json is no address that fsspec"):
        build(source, small, "nosuch://x")
    for option in ("export", "repair"):
        with pytest.raises(UsageError, match=rf"--{option} was given with the address"):
            index_addresses.check_output(address, [option])
        index_addresses.check_output("folder", [option])


def test_from_the_command_line_an_address_serves_as_an_index(
    bliss, captions, collection, tmp_path, monkeypatch
):
    address = "memory://bucket/captions"
    build = ("index", "build", captions, "--model", "demo", "-o", address)
    made = bliss(*build)
    assert made.code == 0
    assert made.out.splitlines()[-1].startswith(f"{address}: copied from {tmp_path}/cache/indexes/")
    assert bliss(*build).out == made.out
    found = bliss("index", "search", address, "--text", "a boat", "--top", 1)
    assert found.code == 0 and len(found.out.splitlines()) == 1
    assert bliss("index", "info", address).code == 0
    assert bliss("audit", collection, "--index", address, "-o", tmp_path / "run").code == 0
    refused = bliss(*build, "--export")
    assert (refused.code, refused.out) == (2, "")
    assert "--export was given with the address memory://bucket/captions" in refused.err
    nothing = bliss("audit", collection, "--index", "memory://none", "-o", tmp_path / "r")
    assert (nothing.code, nothing.out) == (1, "")
    assert "memory://none holds no manifest.json. Needed: a finished caption-index" in nothing.err


@pytest.mark.parametrize("nowhere", ["s3://", "memory:///", "file://"])
def test_an_address_of_no_place_is_refused(source, small, nowhere, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for act in (build_to_nothing, lambda *_: open_index(nowhere)):
        with pytest.raises(UsageError, match=rf"{nowhere} names no place for an index"):
            act(source, small, nowhere)
    assert sorted(tmp_path.iterdir()) == before


def build_to_nothing(source, small, address):
    check_output(address, ())
    build(source, small, address)


def test_a_full_cache_is_not_blamed_on_the_address(source, small, address, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artefacts.os, "fsync", full)
        with pytest.raises(BlissError, match="this is the cache, for") as error:
            build(source, small, address)
    assert str(tmp_path / "cache") in error.value.given and "BLISS_CACHE" in error.value.remedy
    assert build(source, small, address).count == 9
