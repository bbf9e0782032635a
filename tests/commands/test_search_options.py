"""The options of search on every command that retrieves: they change what is found, or refuse."""

import json

import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def coarse(bliss, captions, tmp_path_factory):
    """An index whose own search looks into one of sixteen lists, and so misses captions."""
    folder = tmp_path_factory.mktemp("coarse") / "index"
    made = bliss(
        "index", "build", captions, "--model", "demo", "--kind", "IVF16,Flat", "-o", folder
    )
    assert made.code == 0
    setting = ("--set", "nprobe=1", "--set", "candidates=1")
    assert bliss("index", "kind", folder, "IVF16,Flat", *setting).code == 0
    return folder


def rows(folder):
    return pq.read_table(folder / "scores.parquet")["caption_rows"].to_pylist()


@pytest.fixture(scope="module")
def audits(bliss, collection, coarse, index, tmp_path_factory):
    """An audit with the index's own search, exactly, with every list, and of an exact index."""
    root = tmp_path_factory.mktemp("audits")
    ask = ("audit", collection, "--no-report")
    said = {
        "own": bliss(*ask, "--index", coarse, "-o", root / "own"),
        "exact": bliss(*ask, "--index", coarse, "--search-kind", "exact", "-o", root / "exact"),
        "every": bliss(*ask, "--index", coarse, "--search-set", "nprobe=16", "-o", root / "every"),
        "plain": bliss(*ask, "--index", index, "-o", root / "plain"),
    }
    assert {outcome.code for outcome in said.values()} == {0}
    return root, said


def test_an_audit_searches_as_it_is_told(audits):
    root, said = audits
    assert rows(root / "own") != rows(root / "plain")
    assert rows(root / "exact") == rows(root / "plain")
    assert rows(root / "every") == rows(root / "plain")
    assert said["exact"].err.startswith("search: exact over 300 x 128, in memory as float32")
    assert "search: " not in said["own"].err


def test_hits_kept_of_one_search_are_not_taken_for_another(audits, bliss, collection, coarse):
    root, _ = audits
    again = bliss(
        *("audit", collection, "--no-report", "--index", coarse, "--overwrite"),
        *("--search-kind", "exact", "-o", root / "own"),
    )
    assert again.code == 0
    assert rows(root / "own") == rows(root / "plain")


def test_scoring_searches_as_it_is_told(bliss, collection, coarse, index, tmp_path):
    fitted = tmp_path / "reference"
    assert bliss("reference", "fit", collection, "--model", "demo", "-o", fitted).code == 0
    one = collection / "apple" / "clock.png"
    ask = ("score", one, "--reference", fitted, "--json", "--index")
    own, plain = bliss(*ask, coarse), bliss(*ask, index)
    exact = bliss(*ask, coarse, "--search-kind", "exact")
    found = [json.loads(outcome.out)["worst"][0]["captions"] for outcome in (own, exact, plain)]
    assert found[1] == found[2] != found[0]


@pytest.mark.parametrize("command", ["audit", "score", "eval"])
def test_no_gpu_is_an_error_and_no_silent_cpu(command, bliss, collection, index, tmp_path):
    ask = {
        "audit": ("audit", collection, "-o", tmp_path / "out"),
        "score": ("score", collection / "apple" / "clock.png", "--reference", tmp_path),
        "eval": ("eval", "--reference", collection, "--test", collection, "-o", tmp_path / "out"),
    }[command]
    if command == "score":
        assert bliss("reference", "fit", collection, "--model", "demo", "-o", tmp_path).code == 0
    outcome = bliss(*ask, "--index", index, "--search-device", "cuda")
    assert (outcome.code, outcome.out) == (2, "")
    assert "GPU" in outcome.err and "--search-device" in outcome.err
