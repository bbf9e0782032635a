"""Dataset folders and repositories, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.datasets import DatasetTexts, card_licence
from blissaudit.corpora.registry import CorpusOptions, open_corpus
from blissaudit.errors import BlissError, UsageError

CARD = """---
configs:
- config_name: short
  data_files: [{split: train, path: short.parquet}, {split: test, path: test.parquet}]
- config_name: other
  data_files: [{split: a, path: short.parquet}, {split: b, path: test.parquet}]
---
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configs; `short` has the default split, `other` has none of that name."""
    made = tmp_path_factory.mktemp("captions-dataset")
    shorts = {"n": [1, 2, 3], "caption": ["a", None, "c"], "alt": [["x", "y"], [], ["z"]]}
    pq.write_table(pa.table(shorts), made / "short.parquet")
    pq.write_table(pa.table({**shorts, "caption": ["d", "e", "f"]}), made / "test.parquet")
    (made / "README.md").write_text(CARD)
    return made


def read(spec: str, options: CorpusOptions) -> list[tuple[int, str]]:
    source = open_corpus(spec, options)
    return [
        pair
        for batch in source.batches(2)
        for pair in zip(batch.rows.tolist(), batch.texts, strict=True)
    ]


def test_config_split_and_column_choose_the_texts(folder: Path) -> None:
    spec = str(folder)
    assert read(spec, CorpusOptions("caption", "short")) == [(0, "a"), (1, ""), (2, "c")]
    assert read(spec, CorpusOptions("caption", "short", "test")) == [(0, "d"), (1, "e"), (2, "f")]
    assert read(spec, CorpusOptions("caption", "other", "b"))[0] == (0, "d")
    alternatives = [(0, "x"), (0, "y"), (1, ""), (2, "z")]
    assert read(spec, CorpusOptions("alt", "short")) == alternatives


def test_the_name_of_a_folder_says_config_and_split(folder: Path) -> None:
    caption = CorpusOptions("caption")
    for name, options in (
        ("short/test", CorpusOptions("caption", "short", "test")),
        ("other/b", CorpusOptions("caption", "other", "b")),
    ):
        named, said = open_corpus(f"{folder}:{name}", caption), open_corpus(str(folder), options)
        assert named.facts() == said.facts()
        assert read(f"{folder}:{name}", caption) == [(0, "d"), (1, "e"), (2, "f")]
    assert read(f"{folder}:test", CorpusOptions("caption", "short"))[0] == (0, "d")
    with pytest.raises(UsageError, match=r"no split 'dev'\. Needed: one of train, test"):
        open_corpus(f"{folder}:short/dev", caption)
    with pytest.raises(UsageError, match=r"says split 'test', and 'train' was given too"):
        open_corpus(f"{folder}:short/test", CorpusOptions("caption", split="train"))
    with pytest.raises(UsageError, match="no such file or folder"):
        open_corpus(f"{folder}/none:short/test", caption)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("hf:a/b", {"name": None, "revision": None}),
        ("hf:a/b:c/d", {"name": "c", "revision": None}),
        ("hf:a/b:d", {"name": None, "revision": None}),
        ("hf:a/b@refs/convert/parquet:c/d", {"name": "c", "revision": "refs/convert/parquet"}),
        ("hf:a/b@0d6d904", {"name": None, "revision": "0d6d904"}),
    ],
)
def test_the_name_of_a_repository_says_revision_and_config(
    monkeypatch: pytest.MonkeyPatch, spec: str, options: dict[str, str | None]
) -> None:
    import datasets

    asked: list[object] = []

    def load(address: str, **given: object) -> None:
        asked.extend((address, given))
        raise RuntimeError("stop here")

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    with pytest.raises(BlissError, match="RuntimeError: stop here"):
        open_corpus(spec)
    assert asked == ["hf://datasets/a/b", options]


def test_facts_of_a_folder_follow_its_content(folder: Path, tmp_path: Path) -> None:
    facts = open_corpus(str(folder), CorpusOptions("caption", "short")).facts()
    fingerprint = facts.pop("fingerprint")
    assert facts == {
        "kind": "dataset-folder",
        "spec": folder.name,
        "column": "caption",
        "config": "short",
        "split": "train",
        "revision": None,
    }
    (tmp_path / "copy").mkdir()
    for file in folder.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    copy = open_corpus(str(tmp_path / "copy"), CorpusOptions("caption", "short"))
    assert copy.facts()["fingerprint"] == fingerprint
    pq.write_table(pa.table({"caption": ["changed"]}), tmp_path / "copy" / "short.parquet")
    assert copy.facts()["fingerprint"] != fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CorpusOptions("caption"), "has several configs. Needed: one of short, other"),
        (CorpusOptions("caption", "long"), "has no config 'long'. Needed: one of short, other"),
        (CorpusOptions("caption", "short", "dev"), "no split 'dev'. Needed: one of train, test"),
        (CorpusOptions("caption", "other"), "has several splits. Needed: one of a, b"),
        (CorpusOptions("text", "short"), r"no column 'text'.*\('n', 'caption', 'alt'\)"),
        (CorpusOptions("n", "short"), "column 'n' of .* holds int64"),
        (CorpusOptions(config="short", revision="main"), "revision given for"),
    ],
)
def test_wrong_choices_list_what_there_is(
    folder: Path, options: CorpusOptions, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_corpus(str(folder), options)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,caption\n1,one\n2,two\n3,three\n"),
        ("a.jsonl", '{"id":1,"caption":"one"}\n{"caption":"two"}\n{"caption":"three"}\n'),
        ("a.txt", "one\ntwo\nthree\n"),
    ],
)
def test_folders_of_other_formats(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read(str(tmp_path), CorpusOptions()) == [(0, "one"), (1, "two"), (2, "three")]


def test_a_folder_without_data_or_without_text(tmp_path: Path) -> None:
    with pytest.raises(BlissError, match=r"could not be opened \(EmptyDatasetError"):
        open_corpus(str(tmp_path))
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(BlissError, match=r"holds webdataset data.*tables of text"):
        open_corpus(str(tmp_path))


def test_a_shard_that_breaks_or_lacks_the_column(tmp_path: Path) -> None:
    for name in ("train-0.parquet", "train-1.parquet"):
        pq.write_table(pa.table({"caption": ["a", "b"]}), tmp_path / name)
    source = open_corpus(str(tmp_path))
    pq.write_table(pa.table({"other": ["a"]}), tmp_path / "train-1.parquet")
    with pytest.raises(BlissError, match=r"train-1\.parquet has no column 'caption'"):
        list(source.batches(1))
    (tmp_path / "train-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(BlissError, match=r"train-1\.parquet could not be read beyond row 0"):
        list(source.batches(1))


def test_a_broken_line_of_a_streamed_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("caption\none\n")
    source = open_corpus(str(tmp_path))
    (tmp_path / "a.csv").write_text('caption\n"one\n')
    with pytest.raises(BlissError, match="could not be read beyond row 0"):
        list(source.batches(1))


def test_repositories_are_read_through_their_addresses(folder: Path) -> None:
    files = {"train": [(folder / name).as_uri() for name in ("short.parquet", "test.parquet")]}
    builder = SimpleNamespace(name="parquet", config=SimpleNamespace(data_files=files))
    source = DatasetTexts("hf:a/b", CorpusOptions("caption", "c", "train", "v1"), None, builder)
    (batch,) = source.batches(10)
    assert batch.texts == ["a", "", "c", "d", "e", "f"]
    assert batch.rows.tolist() == [0, 1, 2, 3, 4, 5]
    facts = source.facts()
    assert (facts["kind"], facts["spec"], facts["revision"]) == ("hub-dataset", "hf:a/b", "v1")
    files["train"].pop()
    assert source.facts()["fingerprint"] != facts["fingerprint"]


def fails(error: Exception) -> Callable[..., Any]:
    def call(*arguments: object, **options: object) -> None:
        raise error

    return call


def test_an_unreachable_repository_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    error = ConnectionError("Couldn't reach it.\nMore.")
    monkeypatch.setattr(datasets, "load_dataset_builder", fails(error))
    bars = datasets.utils.are_progress_bars_disabled()
    level = datasets.logging.get_verbosity()
    with pytest.raises(
        BlissError,
        match=r"hf:a/b could not be opened \(ConnectionError: Couldn't reach it\).*token",
    ):
        open_corpus("hf:a/b")
    assert datasets.utils.are_progress_bars_disabled() == bars
    assert datasets.logging.get_verbosity() == level


def test_the_name_config_and_revision_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[object, ...]] = []

    def load(address: str, **options: object) -> None:
        asked.append((address, options))
        raise RuntimeError("stop here")

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    with pytest.raises(BlissError, match="RuntimeError: stop here"):
        open_corpus("hf:a/b", CorpusOptions(config="c", revision="r"))
    assert asked == [("hf://datasets/a/b", {"name": "c", "revision": "r"})]


def test_unfinished_iterators_neither_trace_back_nor_hang_at_exit(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"caption":"one"}\n{"caption":"two"}\n')
    code = f"""
from blissaudit.corpora.registry import CorpusOptions, open_corpus
first = open_corpus({str(folder)!r}, CorpusOptions("caption", "short")).batches(1)
second = open_corpus({str(tmp_path)!r}).batches(1)
print(next(first).texts, next(second).texts)
try:
    open_corpus("hf:nobody/nothing")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "['a'] ['one']"
    assert second.startswith("BlissError hf:nobody/nothing could not be opened (ConnectionError")


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("license: cc-by-4.0", "cc-by-4.0"),
        ("license: [mit, cc0-1.0]", "mit, cc0-1.0"),
        ("license: other\nlicense_name: conceptual-12m", "conceptual-12m"),
        ("license: other", "other"),
        ("language: en", None),
        ("license: [", None),
        (None, None),
    ],
)
def test_the_card_states_the_licence(tmp_path: Path, head: str | None, licence: str | None) -> None:
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "train-0.parquet")
    assert card_licence(str(tmp_path)) is None
    if head is not None:
        (tmp_path / "README.md").write_text(f"---\n{head}\n---\n# Captions\n")
    assert card_licence(str(tmp_path)) == licence
    if head != "license: [":
        assert open_corpus(str(tmp_path)).licence == licence


def test_the_cards_revision_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from blissaudit.corpora import datasets as dataset_cards

    asked: list[str] = []
    monkeypatch.setattr(dataset_cards, "read_file", lambda address, most: asked.append(address))
    card_licence("hf://datasets/a/b", "refs/convert/parquet")
    card_licence("hf://datasets/a/b")
    assert asked == [
        "hf://datasets/a/b@refs%2Fconvert%2Fparquet/README.md",
        "hf://datasets/a/b/README.md",
    ]


def test_a_folder_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    for name in ("train-0.parquet", "train-1.parquet"):
        pq.write_table(pa.table({"caption": ["a", "b"]}), tmp_path / name)
    source = open_corpus(str(tmp_path))
    pq.write_table(pa.table({"caption": ["other"]}), tmp_path / "train-1.parquet")
    with pytest.raises(BlissError, match=r"train-1\.parquet was changed while it was in use"):
        list(source.batches(1))
    (tmp_path / "train-1.parquet").unlink()
    with pytest.raises(BlissError, match=r"train-1\.parquet could not be read \(No such file"):
        list(source.batches(1))


def test_several_columns_of_a_streamed_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("en,de\na,b\nc,\n")
    expected = [(0, "a"), (0, "b"), (1, "c"), (1, "")]
    assert read(str(tmp_path), CorpusOptions("en,de")) == expected
