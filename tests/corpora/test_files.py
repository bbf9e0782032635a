"""Text files: the same captions from every format, and an error for every way to be broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.files import MAX_LINE
from blissaudit.corpora.registry import CorpusOptions, TextSource, open_corpus
from blissaudit.errors import BlissError, UsageError


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(path: Path, **columns: object) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def column(name: str) -> CorpusOptions:
    return CorpusOptions(column=name)


def read(source: TextSource, size: int = 2) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for batch in source.batches(size):
        assert 1 <= len(batch.texts) == len(batch.rows) <= size
        assert batch.rows.dtype == "int64"
        found += zip(batch.rows.tolist(), batch.texts, strict=True)
    return found


@pytest.mark.parametrize("size", [1, 2, 100])
def test_text_lines(tmp_path: Path, size: int) -> None:
    source = open_corpus(write(tmp_path / "a.TXT", b"\xef\xbb\xbfa\tdog\r\n\n b\xff \nlast"))
    assert read(source, size) == [(0, "a\tdog"), (1, ""), (2, " b\ufffd "), (3, "last")]
    assert read(source, size)[0] == (0, "a\tdog")


def test_csv_with_quotes_blank_short_and_multi_line_records(tmp_path: Path) -> None:
    content = '\ufeffid,caption\n1,"a, b"\n\n2,"two\nlines"\n3\n4,"say ""hi"""\n'
    source = open_corpus(write(tmp_path / "a.csv", content))
    assert read(source) == [(0, "a, b"), (1, "two\nlines"), (2, ""), (3, 'say "hi"')]
    assert read(open_corpus(str(tmp_path / "a.csv"), column("id")))[0] == (0, "1")


def test_tsv(tmp_path: Path) -> None:
    source = open_corpus(write(tmp_path / "a.tsv", "title\na, b\nc\n"))
    assert read(source) == [(0, "a, b"), (1, "c")]
    assert source.facts()["column"] == "title"


def test_jsonl_with_lists_nulls_and_blank_lines(tmp_path: Path) -> None:
    lines = '{"n":1,"t":["a","b",null]}\n\n{"t":"c"}\n{"t":null}\n{"t":[]}\n{"t":5}\n{"n":2}\n'
    source = open_corpus(write(tmp_path / "a.jsonl", lines))
    assert source.facts()["column"] == "t"
    assert read(source) == [
        *[(0, "a"), (0, "b"), (0, "")],
        *[(2, "c"), (3, ""), (4, ""), (5, ""), (6, "")],
    ]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["a", None, "c"]),
        (pa.large_string(), ["a", None, "c"]),
        (pa.dictionary(pa.int32(), pa.string()), ["a", None, "c"]),
        (pa.list_(pa.string()), [["a"], None, ["c"]]),
        (pa.large_list(pa.string()), [["a"], [], ["c"]]),
    ],
)
def test_parquet_columns_of_every_text_type(
    tmp_path: Path, kind: pa.DataType, values: list[object]
) -> None:
    spec = parquet(tmp_path / "a.parquet", id=[1, 2, 3], words=pa.array(values, kind))
    assert read(open_corpus(spec)) == [(0, "a"), (1, ""), (2, "c")]


def test_several_captions_a_row_and_rows_across_row_groups(tmp_path: Path) -> None:
    table = pa.table({"caption": [["a", "b"], ["c"], ["d", "e"]]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    source = open_corpus(str(tmp_path / "a.parquet"))
    assert read(source) == [(0, "a"), (0, "b"), (1, "c"), (2, "d"), (2, "e")]


def test_parquet_strings_that_are_not_utf8(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9", b"ok"]).view(pa.string())
    nested = pa.ListArray.from_arrays([0, 2], bad)
    assert read(open_corpus(parquet(tmp_path / "a.parquet", text=bad))) == [
        (0, "caf\ufffd"),
        (1, "ok"),
    ]
    spec = parquet(tmp_path / "b.parquet", text=nested)
    assert read(open_corpus(spec)) == [(0, "caf\ufffd"), (0, "ok")]


def test_coco_annotations(tmp_path: Path) -> None:
    content = {"annotations": [{"caption": "a"}, {"id": 1}, {"caption": "c"}]}
    source = open_corpus(write(tmp_path / "a.json", json.dumps(content)))
    assert read(source) == [(0, "a"), (1, ""), (2, "c")]


@pytest.mark.parametrize(
    ("columns", "given", "chosen"),
    [
        ({"id": [1], "title": ["x"]}, None, "title"),
        ({"url": ["u"], "Caption": ["x"]}, None, "Caption"),
        ({"url": ["u"], "SENTENCE": ["x"]}, None, "SENTENCE"),
        ({"text": [1], "caption": ["x"]}, None, "caption"),
        ({"url": ["u"], "text": ["x"]}, "url", "url"),
    ],
)
def test_the_obvious_column_is_taken(
    tmp_path: Path, columns: dict[str, object], given: str | None, chosen: str
) -> None:
    source = open_corpus(parquet(tmp_path / "a.parquet", **columns), CorpusOptions(given))
    assert source.facts()["column"] == chosen


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({"url": ["u"], "alt": ["x"]}, None, r"no single one .* \('url', 'alt'\)"),
        ({"text": ["u"], "caption": ["x"]}, None, r"no single one .* \('text', 'caption'\)"),
        ({"n": [1]}, None, r"no single one .* \('n'\)"),
        ({"n": [1], "alt": ["x"]}, "Alt", r"no column 'Alt'.* \('n', 'alt'\)"),
        ({"n": [1], "alt": ["x"]}, "n", "column 'n' of .* holds int64"),
        ({"b": [b"x"]}, "b", "column 'b' of .* holds binary"),
    ],
)
def test_columns_that_are_absent_unclear_or_no_text(
    tmp_path: Path, columns: dict[str, object], given: str | None, message: str
) -> None:
    spec = parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(UsageError, match=message):
        open_corpus(spec, CorpusOptions(given))


@pytest.mark.parametrize("other", [pa.array([1]), pa.array([{"b": "x"}]), pa.array(["y"])])
def test_a_text_column_whose_name_another_column_has(tmp_path: Path, other: pa.Array) -> None:
    pq.write_table(pa.table([pa.array(["x"]), other], ["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"more than one column 'a'|no single one looks like"):
        open_corpus(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "given", "message"),
    [
        ("a.csv", "a,b\n1,2\n", None, r"no single one .*\('a', 'b'\).*needs a header"),
        ("a.tsv", "a\tb\n", "c", r"no column 'c'.*\('a', 'b'\).*can be given as .txt"),
        ("a.csv", "text,text\n1,2\n", "text", "more than one column 'text'"),
        ("a.csv", "", None, r"one of its columns \(none\)"),
        ("a.jsonl", '{"a":"x","b":"y"}\n', None, r"\('a', 'b'\)"),
        ("a.jsonl", '{"a":"x"}\n', "b", r"no column 'b'.*\('a'\)"),
    ],
)
def test_unclear_columns_of_plain_files(
    tmp_path: Path, name: str, content: str, given: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_corpus(write(tmp_path / name, content), CorpusOptions(given))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text\na\nb, c\n", r"line 3 of .*a\.csv .*2 fields under 1 columns"),
        ("a.csv", 'text\na\n"b\n', r"line 3 of .*a\.csv cannot be read"),
        ("a.tsv", 'text\n"a"b\n', r"line 2 of .*a\.tsv cannot be read .*well-formed tsv"),
        ("a.jsonl", '{"t":"a"}\n{"t":\n', r"line 2 of .*a\.jsonl cannot be read"),
        ("a.jsonl", '{"t":"a"}\n\n[1]\n', r"line 3 of .*a list, not an object"),
        ("a.jsonl", "[" * 100_000, r"line 1 of .*a\.jsonl cannot be read"),
        ("a.txt", "a\n" + "b" * MAX_LINE, r"line 2 of .*a\.txt has more than 1,048,575 char"),
        ("a.txt", "dog".encode("utf-16"), "is not UTF-8: it starts like UTF-16"),
        ("a.csv", "text".encode("utf-16"), "is not UTF-8: it starts like UTF-16"),
        ("a.txt", "a dog\n".encode("utf-16-le"), "every other byte is NUL, as in UTF-16 without"),
        ("a.csv", "text\ncafé\n".encode("utf-16-be"), "every other byte is NUL, as in UTF-16 with"),
        ("a.json", "{", r"a\.json could not be read"),
        ("a.json", '{"annotations": [{"id": 1}]}', "JSON without captions.*COCO"),
        ("a.json", "[1]", "JSON without captions.*as .jsonl"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet could not be read"),
    ],
)
def test_broken_files_are_named_with_the_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(BlissError, match=message):
        read(open_corpus(write(tmp_path / name, content)))


def test_errors_past_the_sampled_lines_come_while_reading(tmp_path: Path) -> None:
    lines = '{"t":"a"}\n' * 150 + "oops\n"
    source = open_corpus(write(tmp_path / "a.jsonl", lines))
    with pytest.raises(BlissError, match=r"line 151 of .*a\.jsonl"):
        read(source, 10)


def test_a_parquet_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    spec = parquet(tmp_path / "a.parquet", text=["a"] * 10)
    source = open_corpus(spec)
    Path(spec).write_bytes(Path(spec).read_bytes()[:50])
    with pytest.raises(BlissError, match=r"a\.parquet could not be read beyond row 0"):
        read(source)
    Path(spec).unlink()
    with pytest.raises(BlissError, match=r"a\.parquet could not be read"):
        source.facts()


def test_facts_hold_no_folder_and_follow_the_content(tmp_path: Path) -> None:
    source = open_corpus(write(tmp_path / "a.txt", "abc"))
    assert source.facts() == {
        "kind": "text-file",
        "spec": "a.txt",
        "column": None,
        "config": None,
        "split": None,
        "revision": None,
        "fingerprint": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert source.default_prompt == "{}"


@pytest.mark.parametrize("name", ["column", "config", "split", "revision"])
def test_options_without_use_are_refused(tmp_path: Path, name: str) -> None:
    options = CorpusOptions(**{name: "x"})
    with pytest.raises(UsageError, match=f"{name} given for .*Leave out {name}"):
        open_corpus(write(tmp_path / "a.json", "{}"), options)
    with pytest.raises(UsageError, match=f"{name} given for 'imagenet-1k'"):
        open_corpus("imagenet-1k", options)
    if name != "column":
        with pytest.raises(UsageError, match=f"{name} given for .*only column, .* there"):
            open_corpus(write(tmp_path / "a.csv", "a\nb\n"), options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing.txt", r"no such file or folder.*imagenet-1k, paper-dictionary\[:PATH"),
        ("", "'' is not a text corpus.*hf:owner/name"),
        ("hf:name", "named hf:owner/name"),
        ("hf:../name", "named hf:owner/name"),
        ("paper-dictionary:", "the dictionary's path is missing"),
    ],
)
def test_unknown_specs_list_what_is_accepted(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_corpus(spec)


def test_unknown_suffixes_and_batch_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"files ending in '\.doc' are not read.*\.parquet"):
        open_corpus(write(tmp_path / "a.doc", "a"))
    with pytest.raises(UsageError, match="a batch size of 0"):
        read(open_corpus(write(tmp_path / "a.txt", "a")), 0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            np.random.default_rng(0).bytes(5000),
            r"noise\.txt is not UTF-8: [\d,]+ of its first 4,096",
        ),
        (b"PK\x03\x04" + b"\x00" * 40, r"noise\.txt is not text: it holds runs of NUL bytes"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, complaint):
    path = tmp_path / "noise.txt"
    path.write_bytes(content)
    with pytest.raises(BlissError, match=complaint):
        open_corpus(str(path))


def test_a_few_bytes_of_another_encoding_are_no_reason_to_refuse(tmp_path):
    path = tmp_path / "menu.txt"
    path.write_bytes("a café in the old town\nna\u00efve art\n".encode("latin-1"))
    assert [text for batch in open_corpus(str(path)).batches(10) for text in batch.texts] == [
        "a caf\ufffd in the old town",
        "na\ufffdve art",
    ]


def test_halves_of_surrogate_pairs_are_counted_and_not_the_same(tmp_path):
    """JSON can hold them, UTF-8 cannot: without them two captions would be one."""
    (tmp_path / "a.jsonl").write_text('{"caption": "a \\ud800"}\n{"caption": "a \\ud83d\\ude00"}\n')
    (batch,) = open_corpus(str(tmp_path / "a.jsonl")).batches(9)
    assert (batch.texts, batch.undecodable) == (["a \ufffd", "a \U0001f600"], 1)
