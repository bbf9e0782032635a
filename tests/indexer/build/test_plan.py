"""The row plan: one pass over all sources, first rows win, parts of equal size, the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from blissaudit.corpora.captions import COUNTS, CaptionRules, normalise_caption
from blissaudit.corpora.registry import JSON, TextBatch, batch_values
from blissaudit.errors import BlissError
from blissaudit.indexer.build import plan
from blissaudit.indexer.build import plan as plan_making
from blissaudit.indexer.build.plan import (
    RowPlan,
    make_plan,
    open_plan,
    plan_batches,
    read_plan_part,
)
from helpers.any_caption_rules import ANY_RULES
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class Texts:
    """A source in memory; `fails_at` is the row at which it raises."""

    texts: Sequence[str]
    spec: str = "some texts"
    default_prompt: str = "{}"
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None
    fails_at: int | None = None

    def facts(self) -> dict[str, JSON]:
        return {"spec": self.spec, "fingerprint": str(hash(tuple(self.texts)))}

    def batches(self, size: int) -> Iterator[TextBatch]:
        def values() -> Iterator[tuple[int, str]]:
            for row, text in enumerate(self.texts):
                if row == self.fails_at:
                    raise BlissError("row 2 is torn", "a whole file", "Fetch it again")
                yield row, text

        yield from batch_values(values(), size)


def planned(folder: Path, *sources: Texts, rules: CaptionRules | None = None, rows: int = 3):
    expected = [source.facts() for source in sources]
    return make_plan(sources, rules or CaptionRules(), folder / "plan", rows, expected)


def rows_of(made: RowPlan) -> list[tuple[str, int, int]]:
    tables = [read_plan_part(made, number) for number in range(len(made.parts))]
    assert [len(table) for table in tables] == list(made.parts)
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "plan").iterdir()}


def test_the_first_row_of_the_first_source_stays_and_all_texts_are_counted(tmp_path):
    first = Texts(["b", " a", "", "b", "caf\u00e9", "toolong"])
    second = Texts(["a", "c", "cafe\u0301", "c", "d", "e"])
    made = planned(tmp_path, first, second, rules=CaptionRules(max_characters=4))
    assert rows_of(made) == [
        ("b", 0, 0),
        ("a", 0, 1),
        ("caf\u00e9", 0, 4),
        ("c", 1, 1),
        ("d", 1, 4),
        ("e", 1, 5),
    ]
    assert made.parts == (3, 3) and made.count == 6
    zero = dict.fromkeys(COUNTS, 0)
    assert made.counts == (
        {**zero, "read": 6, "empty": 1, "too_long": 1, "duplicate": 1, "kept": 3},
        {**zero, "read": 6, "duplicate": 3, "kept": 3},
    )
    assert sorted(contents(tmp_path)) == ["plan.json", "plan_0.parquet", "plan_1.parquet"]
    assert planned(tmp_path / "other", second, first).digest != made.digest


SMALL = st.text(st.sampled_from("abc \t\u00e9e\u0301\u200b\x00"), max_size=4)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(SMALL, max_size=9), min_size=1, max_size=3),
    ANY_RULES,
    st.integers(1, 4),
)
def test_a_plan_is_what_a_loop_over_all_texts_gives(tmp_path_factory, corpora, rules, rows):
    expected: list[tuple[str, int, int]] = []
    counts = tuple(dict.fromkeys(COUNTS, 0) for _ in corpora)
    for number, texts in enumerate(corpora):
        for row, text in enumerate(texts):
            clean = normalise_caption(text, rules)
            if not clean.strip(" \u200b"):
                what = "empty"
            elif len(clean) < rules.min_characters:
                what = "too_short"
            elif len(clean) > rules.max_characters:
                what = "too_long"
            elif rules.deduplicate and clean in [caption for caption, _, _ in expected]:
                what = "duplicate"
            else:
                what = "kept"
                expected.append((clean, number, row))
            counts[number]["read"] += 1
            counts[number][what] += 1
    folder = tmp_path_factory.mktemp("plan")
    sources = [Texts(texts) for texts in corpora]
    if not all(each["kept"] + each["duplicate"] for each in counts):
        with pytest.raises(BlissError, match="some texts holds no usable text"):
            planned(folder, *sources, rules=rules, rows=rows)
        assert open_plan(folder / "plan") is None
        return
    made = planned(folder, *sources, rules=rules, rows=rows)
    assert rows_of(made) == expected
    assert made.parts == tuple(
        min(rows, len(expected) - start) for start in range(0, len(expected), rows)
    )
    assert made.counts == counts
    assert open_plan(folder / "plan") == made


def test_batches_and_rows_given_to_duckdb_change_nothing(tmp_path, monkeypatch):
    texts = Texts([f"text {n * n % 97}" for n in range(400)])
    whole = planned(tmp_path / "a", texts, rows=40)
    monkeypatch.setattr(plan_making, "TEXTS_AT_ONCE", 7)
    monkeypatch.setattr(plan_making, "ROWS", 11)
    monkeypatch.setattr(plan, "ROWS", 13)
    cut = planned(tmp_path / "b", texts, rows=40)
    assert rows_of(cut) == rows_of(whole) and cut.digest == whole.digest
    assert [len(batch) for batch in plan_batches(cut, 0, 16)] == [16, 16, 8]


def test_memory_that_is_too_small_is_doubled_and_the_bytes_stay_the_same(tmp_path, monkeypatch):
    texts = Texts([f"a caption with some words, number {n % 40_000}" for n in range(60_000)])
    planned(tmp_path / "a", texts, rows=30_000)
    given: list[int] = []
    real = plan._first_rows

    def noted(staged: Path, folder: Path, memory: int) -> Iterator:
        given.append(memory)
        yield from real(staged, folder, memory)

    monkeypatch.setattr(plan, "_first_rows", noted)
    monkeypatch.setattr(plan, "LEAST_MEMORY", 1 << 20)
    made = planned(tmp_path / "b", texts, rows=30_000)
    assert given[:2] == [1 << 20, 2 << 20]
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert made.parts == (30_000, 10_000)


def test_an_unfinished_or_damaged_plan_is_made_again(tmp_path):
    texts = Texts(["a", "b", "c", "d"])
    made = planned(tmp_path, texts)
    before = contents(tmp_path)
    folder = tmp_path / "plan"
    (folder / "plan_1.parquet").write_bytes(before["plan_1.parquet"][:-1])
    assert open_plan(folder) is None
    with pytest.raises(BlissError, match=r"plan_1\.parquet could not be read .*Run the same comm"):
        read_plan_part(made, 1)
    (folder / "staged.parquet").write_bytes(b"half")
    (folder / ".plan_7.parquet.1.tmp").write_bytes(b"half")
    assert planned(tmp_path, texts) == made
    assert contents(tmp_path) == before
    record = json.loads(before["plan.json"])
    outside = {**record, "checksums": {**record["checksums"], "../x": ""}}
    for text in ("{", "[]", "{}", json.dumps(outside)):
        (folder / "plan.json").write_text(text)
        assert open_plan(folder) is None
    assert pq.read_schema(folder / "plan_0.parquet").names == ["caption", "source", "source_row"]


def test_a_source_that_raises_or_changes_leaves_no_plan(tmp_path):
    whole = Texts(["a", "b", "c"])
    torn = Texts(["d", "e", "f"], fails_at=2)
    with pytest.raises(BlissError, match=r"row 2 is torn\. Needed: a whole file"):
        planned(tmp_path, whole, torn)
    assert open_plan(tmp_path / "plan") is None
    with pytest.raises(
        BlissError, match=r"some texts changed while it was read\. Needed: texts th"
    ):
        make_plan([whole], CaptionRules(), tmp_path / "plan", 3, [{"fingerprint": "before"}])
    assert open_plan(tmp_path / "plan") is None
    torn.fails_at = None
    assert rows_of(planned(tmp_path, whole, torn)) == [
        (text, number, row)
        for number, texts in enumerate(("abc", "def"))
        for row, text in enumerate(texts)
    ]


PEAK = """
import sys
from pathlib import Path
from blissaudit.corpora.captions import CaptionRules
from blissaudit.indexer.build.plan import make_plan
from blissaudit.corpora.registry import TextBatch
import numpy as np
class Many:
    spec, default_prompt, keeps_spaces = "many", "{}", False
    def facts(self): return {}
    def batches(self, size):
        for start in range(0, int(sys.argv[1]), size):
            rows = np.arange(start, min(start + size, int(sys.argv[1])))
            texts = [f"a longer caption about thing {row * 7919 % 150001}" for row in rows]
            yield TextBatch(texts, rows)
made = make_plan([Many()], CaptionRules(), Path(sys.argv[2]), 32768, [{}])
lines = [line.split() for line in open("/proc/self/status")]
print(made.count, next(line[1] for line in lines if line[0] == "VmHWM:"))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no peak memory to ask for")
def test_peak_memory_does_not_grow_with_the_number_of_texts(tmp_path):
    peaks = []
    for texts in (40_000, 160_000):
        command = [sys.executable, "-c", PEAK, str(texts), str(tmp_path / str(texts))]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(out[0]) == min(texts, 150_001)
        peaks.append(int(out[1]))
    assert peaks[1] <= 1.15 * peaks[0]
