"""Several files as one corpus, and several columns of one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.registry import CorpusOptions, TextSource, open_corpus
from blissaudit.errors import BlissError, UsageError

LINES = ["a cat", "a dog, asleep", "two birds"]


def read(source: TextSource) -> list[tuple[int, str]]:
    return [
        pair
        for batch in source.batches(2)
        for pair in zip(batch.rows.tolist(), batch.texts, strict=True)
    ]


def test_ranges_and_wildcards_name_several_files_in_order(memory: Any, tmp_path: Path) -> None:
    for number, line in enumerate(LINES):
        (tmp_path / f"part-{number:03}.txt").write_text(f"{line}\n\n")
        memory.pipe(f"/corpus/part-{number:03}.txt", f"{line}\n\n".encode())
    expected = [(0, LINES[0]), (1, ""), (2, LINES[1]), (3, ""), (4, LINES[2]), (5, "")]
    prints = set()
    for folder in (str(tmp_path), "memory://corpus"):
        for pattern in ("part-{000..002}.txt", "part-*.txt", "part-00?.txt"):
            source = open_corpus(f"{folder}/{pattern}")
            assert read(source) == expected
            assert source.spec == pattern
            prints.add(source.facts()["fingerprint"])
        assert read(open_corpus(f"{folder}/part-{{002..000}}.txt"))[0] == (0, LINES[2])
    assert len(prints) == 2
    (tmp_path / "part-001.txt").write_text("another\n")
    changed = open_corpus(f"{tmp_path}/part-*.txt").facts()["fingerprint"]
    assert changed not in prints


def test_a_fingerprint_of_several_files_is_the_same_in_another_folder(tmp_path: Path) -> None:
    prints = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        for number in range(2):
            (folder / f"{number}.txt").write_text(f"{number}")
        prints.append(open_corpus(f"{folder}/*.txt").facts()["fingerprint"])
    assert prints[0] == prints[1]


def test_later_files_need_the_same_columns(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/corpus/0.csv", b"caption\na\n")
    memory.pipe("/corpus/1.csv", b"text\nb\n")
    with pytest.raises(BlissError, match=r"memory://corpus/1\.csv has no column 'caption'"):
        read(open_corpus("memory://corpus/{0..1}.csv"))
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.csv").write_text("a")
    with pytest.raises(UsageError, match=r"files of different kinds \('\.csv', '\.txt'\)"):
        open_corpus(f"{tmp_path}/{{a.txt,b.csv}}")
    with pytest.raises(BlissError, match=r"part-1\.txt could not be read \(No such file"):
        open_corpus(f"{tmp_path}/part-{{1..2}}.txt")
    with pytest.raises(UsageError, match=r"\*\.txt matches no file"):
        open_corpus(f"{tmp_path}/none*.txt")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_several_columns_are_read_row_by_row(name: str, tmp_path: Path) -> None:
    columns = {"en": ["a cat", None, "a bird"], "de": ["eine Katze", "ein Hund", None]}
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("en,de\na cat,eine Katze\n,ein Hund\na bird\n")
    elif name == "a.jsonl":
        rows = [{"en": "a cat", "de": "eine Katze"}, {"de": "ein Hund"}, {"en": ["a bird"]}]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.table(columns), path)
    expected = [(0, "a cat"), (0, "eine Katze"), (1, ""), (1, "ein Hund"), (2, "a bird"), (2, "")]
    source = open_corpus(str(path), CorpusOptions("en,de"))
    assert read(source) == expected
    assert source.facts()["column"] == "en,de"
    assert read(open_corpus(str(path), CorpusOptions("de,en")))[:2] == [
        (0, "eine Katze"),
        (0, "a cat"),
    ]
    with pytest.raises(UsageError, match=r"no column 'fr'.*\('en', 'de'\)"):
        open_corpus(str(path), CorpusOptions("en,fr"))


def test_a_column_with_a_comma_in_its_name_is_one_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a,b",a\nx,y\n')
    assert read(open_corpus(str(tmp_path / "a.csv"), CorpusOptions("a,b"))) == [(0, "x")]
