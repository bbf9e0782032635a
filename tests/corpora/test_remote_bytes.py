"""How much is fetched of a remote parquet file whose captions lie between pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora import addresses as change_marks
from blissaudit.corpora import datasets as data_sets
from blissaudit.corpora.files import file_values, read_parquet
from blissaudit.corpora.registry import CorpusOptions, open_corpus
from blissaudit.corpora.sources import notices_of

pytest.importorskip("aiohttp", reason="addresses of the web need the package aiohttp")

ROWS, PICTURE = 800, 30_000


@pytest.fixture(scope="module")
def pictures() -> bytes:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "image": [rng.bytes(PICTURE) for _ in range(ROWS)],
            "caption": [f"caption {n} of a picture" for n in range(ROWS)],
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=100, compression="none")
    return file.getvalue()


@pytest.fixture
def served(load_test_file: Any, pictures: bytes):
    """The address of the file, and the bytes sent of it so far, in a list."""
    small_web = load_test_file("../corpora/test_addresses")
    web, sent = small_web.Web(), []
    web.sent = sent.append
    web.files["/a.parquet"] = pictures
    with small_web.serving(web) as address:
        yield f"{address}/a.parquet", sent


def test_a_corpus_fetches_its_column_and_no_pictures(served, pictures: bytes) -> None:
    address, sent = served
    source = open_corpus(address, CorpusOptions("caption"))
    texts = [text for batch in source.batches(64) for text in batch.texts]
    assert texts[::799] == ["caption 0 of a picture", "caption 799 of a picture"]
    assert 0 < sum(sent) < len(pictures) / 100


def test_files_of_a_repository_are_read_the_same_way(served, pictures: bytes) -> None:
    address, sent = served
    assert len(list(file_values(address, read_parquet, "caption"))) == ROWS
    assert 0 < sum(sent) < len(pictures) / 100


@pytest.mark.parametrize("mark", ["blob_id", "xet_hash"])
def test_an_address_of_the_hub_tells_a_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mark: str
) -> None:
    class Hub:
        info_of: ClassVar[dict[str, Any]] = {"size": 3, "name": "a", "type": "file"}

        def info(self, path: str) -> dict[str, Any]:
            return self.info_of

        def invalidate_cache(self) -> None:
            pass

    monkeypatch.setattr(change_marks, "file_system", lambda address: (Hub(), address))
    address = "hf://datasets/owner/name@main/a.txt"
    with pytest.raises(Exception, match="neither a version"):
        change_marks.marks_of([address])
    Hub.info_of = {**Hub.info_of, mark: "0d6d904"}
    assert change_marks.marks_of([address]) == (f"size=3 {mark}=0d6d904",)
    before = change_marks.marks_of([address])
    Hub.info_of = {**Hub.info_of, mark: "1111111"}
    assert change_marks.marks_of([address]) != before


@pytest.mark.parametrize("name", ["a.jsonlines", "a.ndjson", "a.jsonl.gz", "a.csv.gz", "a.txt.gz"])
def test_other_names_of_the_same_formats(tmp_path: Path, name: str) -> None:
    import gzip

    content = b'{"caption": "a cat"}\n{"caption": "a dog"}\n'
    if "csv" in name:
        content = b"caption\na cat\na dog\n"
    if "txt" in name:
        content = b"a cat\na dog\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (batch,) = open_corpus(str(tmp_path / name)).batches(9)
    assert batch.texts == ["a cat", "a dog"]
    if name.endswith(".gz"):
        whole = (tmp_path / name).read_bytes()
        source = open_corpus(str(tmp_path / name))
        (tmp_path / name).write_bytes(whole[:-12])
        with pytest.raises(Exception, match=rf"{name} could not be read beyond row"):
            list(source.batches(1))


def test_a_converted_branch_says_that_configurations_are_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets

    for config in ("a", "b"):
        (tmp_path / config / "train").mkdir(parents=True)
        pq.write_table(pa.table({"caption": ["x"]}), tmp_path / config / "train" / "0000.parquet")
    load = datasets.load_dataset_builder
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda address, name, revision: load(str(tmp_path))
    )
    monkeypatch.setattr(data_sets, "_is_of_repository", lambda address, file: True)
    source = open_corpus("hf:owner/name@refs/convert/parquet")
    assert notices_of(source) == (
        "hf:owner/name: refs/convert/parquet has no card, so its configurations are read as one, "
        "2 files: rows repeat where these overlap",
    )
    assert notices_of(open_corpus("hf:owner/name@main")) == ()
