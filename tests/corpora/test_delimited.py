"""Delimited text: the separator, the header and the column are found, said, or refused."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path
from typing import Any

import pytest
from blissaudit.corpora import delimited, files
from blissaudit.corpora.delimited import Layout
from blissaudit.corpora.registry import CorpusOptions, open_corpus
from blissaudit.corpora.sources import notices_of
from blissaudit.errors import BlissError, UsageError


def read(path: Path, **options: Any) -> list[str]:
    source = open_corpus(str(path), CorpusOptions(**options))
    return [text for batch in source.batches(2) for text in batch.texts]


FLICKR30K = (
    "image_name| comment_number| comment\n"
    "1.jpg| 0| Two young guys , with hair .\n"
    '1.jpg| 1| A "man" looks on .\n'
    "2.jpg| 4   A dog runs .\n"
    "2.jpg| 1| A cat, asleep\n"
)


@pytest.mark.parametrize(
    ("name", "content", "texts", "decided"),
    [
        ("a.csv", "id;caption\n1;a red star\n2;a cat, asleep\n", ["a red star", "a cat, asleep"],
         "columns separated by semicolon, the first line is a header, column caption"),
        ("a.csv", "1;a red star\n2;a cat\n", ["a red star", "a cat"],
         "columns separated by semicolon, no header, column 2"),
        ("a.csv", FLICKR30K,
         [" Two young guys , with hair .", ' A "man" looks on .', "", " A cat, asleep"],
         "columns separated by bar, the first line is a header, column comment"),
        ("a.csv", FLICKR30K.partition("\n")[2],
         [" Two young guys , with hair .", ' A "man" looks on .', "", " A cat, asleep"],
         "columns separated by bar, no header, column 3"),
        ("a.csv", "1.jpg,a red star\n2.jpg,a cat\n", ["a red star", "a cat"],
         "columns separated by comma, no header, column 2"),
        ("a.tsv", "a dog on the beach\thttp://x/1\na cat\thttp://x/2\n",
         ["a dog on the beach", "a cat"], "columns separated by tab, no header, column 1"),
        ("a.tsv", "id,caption\n1,a cat\n", ["a cat"],
         "columns separated by comma, the first line is a header, column caption"),
        ("a.csv", "n001,a dog on a beach\nn002,the cat sat down\n",
         ["a dog on a beach", "the cat sat down"],
         "columns separated by comma, no header, column 2"),
    ],
)  # fmt: skip
def test_what_differs_from_the_suffix_is_found_and_said(
    tmp_path: Path, name: str, content: str, texts: list[str], decided: str
) -> None:
    (tmp_path / name).write_text(content)
    given = {"column": "2"} if content.startswith("n001") else {}
    source = open_corpus(str(tmp_path / name), CorpusOptions(**given))
    assert [text for batch in source.batches(9) for text in batch.texts] == texts
    assert notices_of(source) == (f"{name}: {decided}",)
    assert source.facts()["header"] == ("no" if "no header" in decided else "yes")
    assert {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}[
        str(source.facts()["delimiter"])
    ] in decided


def test_what_is_as_the_suffix_says_is_neither_said_nor_in_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,caption\n1,"a; b"\n2,a | c\n3,d\n')
    source = open_corpus(str(tmp_path / "a.csv"))
    assert notices_of(source) == ()
    assert not {"delimiter", "header"} & source.facts().keys()
    assert read(tmp_path / "a.csv") == ["a; b", "a | c", "d"]


@pytest.mark.parametrize(
    ("content", "message", "options", "texts"),
    [
        ("1;a, b\n2;c, d\n", r"separated by comma or semicolon\. Needed: one sep.*--delimiter",
         {"delimiter": ";"}, ["a, b", "c, d"]),
        ("1;a; b\n2;c\n3;d; e; f\n", "separated by semicolon, but have unequal numbers of fields",
         {"delimiter": ","}, ["1;a; b", "2;c", "3;d; e; f"]),
        ("1|a|b\n2|c\n3|d|e|f\n", "separated by bar, but have unequal numbers",
         {"delimiter": ",", "header": "yes"}, ["2|c", "3|d|e|f"]),
        ("red\ngreen\n", r"first line of .*\('red'\) may be a header or data.*--header yes or",
         {"header": "no"}, ["red", "green"]),
        ("tench,fish\ncod,fish\n", r"\('tench', 'fish'\) may be a header or data",
         {"header": "yes", "column": "tench"}, ["cod"]),
    ],
)  # fmt: skip
def test_what_is_doubtful_is_refused_until_it_is_said(
    tmp_path: Path, content: str, message: str, options: dict[str, str], texts: list[str]
) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "a.csv")
    if "header" not in options:
        options = {**options, "header": "no"}
    assert read(tmp_path / "a.csv", **options) == texts


def test_text_files_with_columns(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text('n1\tentity\nn2\tabstraction, abstract entity\nn3\t"a" b, c\nn4\t\n')
    assert read(lines)[0] == "n1\tentity"
    assert read(lines, column="2") == ["entity", "abstraction, abstract entity", '"a" b, c', ""]
    words = open_corpus(str(lines), CorpusOptions("2", split_cells=","))
    (batch,) = words.batches(9)
    assert batch.texts == ["entity", "abstraction", "abstract entity", '"a" b', "c", ""]
    assert batch.rows.tolist() == [0, 1, 1, 2, 2, 3]
    assert words.default_prompt == "This is a photo of a {label}"
    assert words.facts()["split_cells"] == ","
    assert read(lines, column="entity") == ["abstraction, abstract entity", '"a" b, c', ""]
    with pytest.raises(UsageError, match=r"no column '3'.*\('1', '2'\)"):
        read(lines, column="3")
    lines.write_text("n1\ta\nn2\tb\tc\n")
    with pytest.raises(BlissError, match=r"line 2 of .*lines\.txt .*3 fields under 2 columns"):
        read(lines, column="2", delimiter="\t")


def test_cells_of_any_file_are_split(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"names": ["cat, kitty", "dog"]}\n{"names": "a,,b"}\n')
    assert read(tmp_path / "a.jsonl", split_cells=",") == ["cat", "kitty", "dog", "a", "", "b"]
    (tmp_path / "a.txt").write_text("cat; kitty\n\n")
    assert read(tmp_path / "a.txt", split_cells=";") == ["cat", "kitty", ""]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": "x"}, r"delimiter 'x' was given\. Needed: one of ',', ';'"),
        ({"header": "maybe"}, r"header 'maybe' was given\. Needed: one of 'yes', 'no'"),
        ({"split_cells": ""}, "cells cannot be split at nothing"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CorpusOptions(**options)


@pytest.mark.parametrize(
    ("scheme", "successor"),
    [("keyed-captions", "--column 2;"), ("keyed-words", "--column 2 --split-cells ,;")],
)
def test_removed_schemes_name_what_replaces_them(bliss, tmp_path, scheme, successor) -> None:
    outcome = bliss("index", "build", f"{scheme}:words.txt", "--model", "demo", "-o", tmp_path)
    assert outcome.code == 2
    assert f"{scheme}: is no longer a scheme" in outcome.err
    assert f"Give words.txt {successor}" in outcome.err


@pytest.mark.parametrize("option", ["--split", "--revision"])
@pytest.mark.parametrize("command", ["peek", "build"])
def test_removed_options_name_what_replaces_them(bliss, tmp_path, option, command) -> None:
    begin = ("corpora", "peek") if command == "peek" else ("index", "build", "-o", tmp_path)
    outcome = bliss(*begin, "imagenet-1k", option, "en")
    assert outcome.code == 2
    assert f"{option} en was given, but is no longer an option" in outcome.err
    assert "hf:owner/name[@revision][:[config/]split]" in outcome.err
    now_a_file = bliss(*begin, "imagenet-1k", "--config", "en")
    assert now_a_file.code == 2 and "hf:owner/name:en/SPLIT" in now_a_file.err


def test_the_command_says_what_was_decided_and_takes_names_of_separators(bliss, tmp_path) -> None:
    (tmp_path / "a.csv").write_text("1;a, b\n2;c, d\n")
    found = bliss("corpora", "peek", tmp_path / "a.csv", "--delimiter", "semicolon")
    assert found.code == 0
    assert found.err.strip() == "a.csv: columns separated by semicolon, no header, column 2"
    other = bliss("corpora", "peek", tmp_path / "a.csv", "--delimiter", "comma", "--column", "1")
    assert "column 1" in other.err and "1;a" in other.out
    kept = bliss(
        "corpora", "peek", tmp_path / "a.csv", "--delimiter", ";", "--header", "yes",
        "--split-cells", ",", "--column", "2",
    )  # fmt: skip
    assert kept.out.endswith("  c\n  d\n")


def test_a_build_begun_with_a_removed_scheme_is_continued(tmp_path, small) -> None:
    import json

    from blissaudit.artefacts import BUILDING
    from blissaudit.indexer.build.build import build_index

    (tmp_path / "words.txt").write_text("n1\tapple, boat\nn2\tclock\n")
    folder = tmp_path / "index"
    source = open_corpus(str(tmp_path / "words.txt"), CorpusOptions("2", split_cells=","))
    build_index(source, small.small_encoder(), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (now,) = manifest["request"]["sources"]
    then = {name: now[name] for name in now.keys() - {"split_cells", "delimiter", "header"}}
    then |= {"kind": "keyed-lines", "column": None}
    then |= dict.fromkeys(("spec", "name"), "keyed-words:words.txt")
    before = {**manifest["request"], "sources": [then]}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "request": before}))
    assert build_index(source, small.small_encoder(), folder).count == 3
    (folder / "manifest.json").unlink()
    facts = {"sources": manifest["sources"], "model": manifest["model"], "dtype": "float16"}
    (folder / BUILDING).write_text(json.dumps({"request": before, "facts": facts}))
    again = build_index(source, small.small_encoder(), folder)
    assert again.count == 3 and again.manifest["request"] == before
    plain = open_corpus(str(tmp_path / "words.txt"), CorpusOptions("2"))
    with pytest.raises(UsageError, match=r"sources\[0\]\.(column|kind)"):
        build_index(plain, small.small_encoder(), folder)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_that_a_spreadsheet_wrote_for_itself_is_no_record(tmp_path, end):
    path = tmp_path / "excel.csv"
    lines = ["sep=;", "id;caption", "1;a dog, and a cat", '2;"two; three"', ""]
    path.write_text(end.join(lines), newline="")
    source = open_corpus(str(path))
    (batch,) = source.batches(9)
    assert batch.texts == ["a dog, and a cat", "two; three"]
    assert "separated by semicolon" in source.notices[0]
    path.write_text(end.join([*lines[:3], '3;"open', ""]), newline="")
    with pytest.raises(BlissError, match=r"line 4 of .*excel\.csv cannot be read"):
        list(open_corpus(str(path)).batches(9))


@pytest.mark.parametrize(
    "header", ["image,caption", "image\tcomment_number\tcaption", "id|Caption", "caption;url"]
)
def test_a_txt_file_whose_first_line_names_columns_is_refused(tmp_path, header):
    """Kaggle's captions.txt of Flickr8k begins with `image,caption`."""
    sign = next(each for each in ",\t|;" if each in header)
    row = sign.join(["1.jpg", "a dog", "x"][: header.count(sign) + 1])
    path = tmp_path / "captions.txt"
    path.write_text(f"{header}\n{row}\n{row}\n")
    with pytest.raises(UsageError, match=r"captions\.txt .* names columns.*--column caption"):
        open_corpus(str(path))
    assert open_corpus(str(path), CorpusOptions(header.split(sign)[0])).column is not None


def test_a_txt_file_of_lines_with_tabs_says_that_these_are_columns(tmp_path):
    path = tmp_path / "token.txt"
    path.write_text("1.jpg#0\ta dog\n1.jpg#1\ta cat\n")
    source = open_corpus(str(path))
    assert source.notices == (
        "token.txt: every line has 2 columns separated by tab, and is one text: "
        "--column 2 reads the last of them",
    )
    (batch,) = source.batches(9)
    assert batch.texts == ["1.jpg#0\ta dog", "1.jpg#1\ta cat"]
    for text in ("a dog, a caption\na cat, two\n", "caption\na dog\n", "one\ttab\nnone\n", ""):
        path.write_text(text)
        assert open_corpus(str(path)).notices == ()


def written(rng, sep, quoted, wild):
    """Random delimited bytes: well-formed, or `wild` ones."""

    def field():
        some = "ab é,;\t|x \u2028\x0b" + '"\n' * (rng.random() < 0.3)
        text = "".join(rng.choice(some) for _ in range(rng.randint(0, 6)))
        if quoted and ({sep, '"', "\n"} & {*text} or rng.random() < 0.1):
            return '"' + text.replace('"', '""') + '"'
        return text if wild else re.sub(f'[{sep}"\n]', "", text)

    rows = [["x", "my text", "z"]]
    rows += [
        [field() for _ in range(3 if not wild or rng.random() < 0.9 else rng.randint(1, 5))]
        for _ in range(rng.randint(1, 14))
    ]
    end = rng.choice(["\n", "\r\n", "\n\n", *["\r"] * wild])
    start = rng.choice(["", "\ufeff", f"sep={sep}\n"])
    data = (start + end.join(map(sep.join, rows)) + end * rng.randint(0, 1)).encode()
    for _ in range(rng.randint(1, 3) * wild):
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice([b'"', b"\xff", b"\0", b"\r", b"\n", b","]) + data[at:]
    return data


def test_arrow_reads_what_the_csv_module_reads(monkeypatch):
    class Stream(io.BytesIO):
        def seekable(self):
            return False

    def read(file, layout):
        values = []
        try:
            values += files.read_delimited(file, "f.csv", layout)
        except BlissError as error:
            values.append(str(error))
        return values

    fast, by_arrow = files._arrow_values, []
    monkeypatch.setattr(
        files, "_arrow_values", lambda *a: by_arrow.append(fast(*a)) or by_arrow[-1]
    )
    rng = random.Random(0)
    for _ in range(250):
        monkeypatch.setattr(delimited, "FIRST_BLOCK", rng.choice([8, 40]))
        monkeypatch.setattr(delimited, "BLOCK", rng.choice([7, 30, 200]))
        sep, header, quoted = rng.choice(",\t;|"), rng.random() < 0.8, rng.random() < 0.8
        column = rng.choice(["my text", "z"] if header else "123")
        layout = Layout(sep, header, quoted, column, False)
        data = written(rng, sep, quoted, rng.random() < 0.4)
        assert read(io.BytesIO(data), layout) == read(Stream(data), layout), data
    used = [each is not None for each in by_arrow]
    assert 60 < sum(used) < len(used)
