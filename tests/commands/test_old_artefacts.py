"""What commit 8c30c78 made, of thirteen drawings of the demo and 48 captions, is used here.

`tests/artefacts/8c30c78.tar.xz` was made with that commit's commands: `index build captions.txt -o
index --model demo`, `audit images --index index -o run --model demo` (without the page, which the
run does not need), `reference fit images --index index -o reference`, the cache they left, and a
build with parts of 16 captions that was interrupted after the first part. /old_world in the cache
stands for where that was.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit import IndexOptions, build_index, load_encoder, open_corpus, open_index
from blissaudit.indexer import ModelChoice

PACKED = Path(__file__).parents[1] / "artefacts" / "8c30c78.tar.xz"


@pytest.fixture
def old(tmp_path, monkeypatch):
    with tarfile.open(PACKED) as packed:
        # Python below 3.11.4 has no filters.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        packed.extractall(tmp_path, **safely)
    for entry in (tmp_path / "cache").rglob("*.json"):
        entry.write_text(entry.read_text().replace("/old_world", str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLISS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def vectors(folder):
    return np.concatenate([np.load(path) for path in sorted(folder.glob("text_emb/*.npy"))])


def test_its_index_and_cache_give_its_run_again(bliss, old):
    done = bliss("audit", "images", "--index", "index", "--output", "again", "--report", "none")
    assert done.code == 0, done.err
    assert "images of images that are in" in done.err
    # It lacks what recognises rounded embeddings, and so is fitted again.
    assert "fitted reference reused from" not in done.err
    before = pq.read_table(old / "run" / "scores.parquet", columns=["path", "score"])
    again = pq.read_table(old / "again" / "scores.parquet", columns=["path", "score"])
    assert before["path"].equals(again["path"])
    np.testing.assert_allclose(before["score"].to_numpy(), again["score"].to_numpy(), atol=1e-5)
    assert bliss("index", "verify", "index").code == 0


def test_its_run_and_its_reference_are_opened(bliss, old):
    assert "apple/clock.png" in bliss("find", "run", "--text", "a clock").out
    done = bliss("report", "run")
    assert done.code == 0 and (old / "run" / "report.html").is_file(), done.err
    done = bliss("score", "images/apple/clock.png", "--reference", "reference", "--index", "index")
    assert done.code == 0 and "clock.png" in done.out, done.err


def test_its_unfinished_build_is_continued(old):
    made = (old / "unfinished" / "text_emb" / "text_emb_0.npy").stat().st_mtime_ns
    encoder = load_encoder(ModelChoice("demo"))
    build_index(open_corpus("captions.txt"), encoder, "unfinished", IndexOptions(part_rows=16))
    assert (old / "unfinished" / "text_emb" / "text_emb_0.npy").stat().st_mtime_ns == made
    assert json.loads((old / "unfinished" / "manifest.json").read_text())["parts"] == [16] * 3
    assert open_index("unfinished").count == 48
    rebuilt, before = vectors(old / "unfinished"), vectors(old / "index")
    # CPUs differ in the last bit of float16.
    np.testing.assert_allclose(rebuilt, before, rtol=2**-10, atol=1e-6)
