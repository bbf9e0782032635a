"""Cells of CSV files: nothing begins a formula in any locale, and what was written is read back."""

from __future__ import annotations

import csv
import io
import re
import unicodedata

import pyarrow as pa
import pytest
from blissaudit.audit.folder import write_scores_csv
from blissaudit.evaluation.report import csv_table
from blissaudit.safe_text import (
    GUARD_PATTERN,
    cell_list,
    cell_text,
    csv_text,
    is_plain,
    list_cell,
    text_cell,
)
from hypothesis import example, given
from hypothesis import strategies as st

HOSTILE = st.text(
    st.sampled_from("=+-@＝＋－＠−'\"\\|;,，；\t\r\n 　x09uU\u202e\udc80é"), max_size=12
)
TEXTS = st.one_of(HOSTILE, st.text(max_size=8))
LISTS = st.lists(TEXTS, min_size=1, max_size=4).filter(lambda entries: entries != [""])
SPLITS = (",", ";", "\t", "|", "\n", "，", "；", "،", "؛")


def formulas(text: str) -> list[str]:
    """Every field that would begin a formula, whatever the file is split on.

    Split as Excel does: quotes count where a field begins with one. Spaces are dropped; numbers
    are no formulas.
    """
    found = []
    for separator in SPLITS:
        delimiter = separator if separator != "\n" else ","
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            fields = [each for field in row for each in re.split("[,;\t|\n\r]", field)]
            for field in (*row, *fields):
                start = unicodedata.normalize("NFKC", field.strip(' "\u3000\xa0'))
                number = re.fullmatch(r"-[\d.]+(e[+-]\d+)?", start)
                if start.startswith(("=", "+", "-", "@", "−", "\t", "\r")) and not number:
                    found.append(field)
    return found


@given(TEXTS)
@example("=1+1")
@example("'=1")
@example("a;=cmd|' /C calc'!A0")
@example('a;"=1"')
@example("a,\u3000＝1")
@example("\\x09=1")
@example("\t=1")
def test_a_text_survives_and_no_part_of_its_cell_is_a_formula(text: str) -> None:
    cell = text_cell(text)
    assert cell_text(cell) == text
    assert formulas(csv_text([["x", text, 1]])) == []
    assert formulas(csv_text([[text, "x"]])) == []
    (row,) = csv.reader(io.StringIO(csv_text([[text, "x"]]), newline=""))
    assert row == [cell, "x"]
    assert cell.isprintable() or set(cell) & set("\u3000\xa0") or not text.isprintable()
    assert not any(unicodedata.category(char).startswith("C") for char in cell)


@given(LISTS)
@example(["a | b", "c"])
@example(["a |", "| b", "\\", "\\|"])
@example(["x", "=1", " =1", "a|=1"])
def test_lists_of_captions_survive_the_separator(entries: list[str]) -> None:
    cell = list_cell(entries)
    assert cell_list(cell) == entries
    assert formulas(csv_text([[entries, 1]])) == []


@given(st.lists(st.floats(allow_nan=False), max_size=4))
def test_lists_of_numbers_are_read_back_and_only_the_cell_is_guarded(values: list[float]) -> None:
    cell = list_cell(values)
    assert [float(each) for each in cell_list(cell)] == values
    assert cell.removeprefix("'") == " | ".join(map(str, values))
    assert cell.startswith("'") == (len(values) > 1 and str(values[0]).startswith("-"))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("plain, with a comma; and more | of it", "plain, with a comma; and more | of it"),
        ("a - b = c + d", "a - b = c + d"),
        ("me@example.org", "me@example.org"),
        ("'tis", "'tis"),
        ("-5", "'-5"),
        ("a,-5", "a,'-5"),
        ("caf\\xe9.png", "caf\\\\xe9.png"),
        ("a\nb", "a\\x0ab"),
        ("＝1", "'＝1"),
        ("a；−1", "a；'−1"),
    ],
)
def test_what_a_cell_looks_like(text: str, cell: str) -> None:
    assert text_cell(text) == cell


def test_numbers_stay_numbers_and_nothing_is_empty() -> None:
    assert csv_text([[-1, -0.5, 1e-7, None, True, float("nan")]]) == "-1,-0.5,1e-07,,True,nan\n"
    assert list_cell([-0.5]) == "-0.5"
    assert cell_list("") == []


@pytest.mark.parametrize("cell", ["\\U99999999", "\\x", "\\", "\\uzzzz", "\\Uffffffff"])
def test_a_cell_that_nobody_wrote_is_read_as_it_is(cell: str) -> None:
    assert cell_text(cell) == cell


@given(TEXTS)
def test_a_plain_text_is_harmless_as_it_is(text: str) -> None:
    if is_plain(text):
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(["x", text])
        assert formulas(out.getvalue()) == []
        assert text_cell(text).replace("\\\\", "\\") == text


def test_long_runs_of_spaces_and_quotes_take_no_long_time() -> None:
    for text in ("," + " " * 100_000 + "x", "," + '"' * 100_000 + "x", ", " * 100_000):
        assert re.sub(GUARD_PATTERN, "!", text).count("!") == 0


def test_scores_csv_holds_the_same_as_the_table() -> None:
    table = pa.table(
        {
            "path": ["a;=1.png", "-b.png"],
            "score": [-1.5, float("inf")],
            "flagged": [True, False],
            "p": pa.array([None, 0.5]),
            "captions": [["a | b", "=c"], ["x"]],
            "z": [[-0.5, -0.25], [-1.0]],
        }
    )
    written: list[bytes] = []
    write_scores_csv(table.column_names, table.to_batches(1), written.append)
    text = b"".join(written).decode()
    assert formulas(text) == []
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert [cell_text(row["path"]) for row in (first, second)] == table["path"].to_pylist()
    assert [cell_list(row["captions"]) for row in (first, second)] == table["captions"].to_pylist()
    assert [list(map(float, cell_list(r["z"]))) for r in (first, second)] == table["z"].to_pylist()
    assert (first["score"], second["score"], first["p"]) == ("-1.5", "inf", "")
    assert (first["flagged"], second["flagged"]) == ("true", "false")


def test_columns_are_written_as_their_values_are() -> None:
    lists = [[-1.5, 2.0], [-1.0], [], None, [None, 1e-05], [float("-inf"), -0.0]]
    table = pa.table(
        {
            "text": pa.array(["=a", "b\\|c", None, "-1", "\u202e", 'x,"y"']),
            "texts": [["=a", "|"], ["-b"], [], None, [None, "q"], ["\u200b"]],
            "numbers": lists,
            "float32": pa.array(lists, pa.list_(pa.float32())),
            "integers": [[-1, 2], [-3], [], None, [None, 4], [-5, -6]],
            "truths": [[True, False], [True], [], None, [None, False], [False]],
            "integer": [1, -2, None, 3, 4, 5],
            "float": [-1.5, None, float("nan"), 1e300, 0.1, 2.0],
            "large": pa.array(["a", "-b", None, "c", "d", "e"], pa.large_string()),
        }
    )
    for some in (table, table.slice(1, 4)):
        written: list[bytes] = []
        write_scores_csv(some.column_names, some.to_batches(), written.append)
        rows = zip(*some.to_pydict().values(), strict=True)
        assert b"".join(written).decode() == csv_text([some.column_names, *rows])


def test_the_table_of_an_evaluation_is_guarded_within_cells_too() -> None:
    text = csv_table([{"score": "bliss;=1", "auroc": -0.5, "=head": None}])
    assert text == "score,auroc,'=head\nbliss;'=1,-0.5,\n"
