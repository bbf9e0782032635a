"""Tables are read by the calling thread, and nowhere but in `tables`."""

from __future__ import annotations

import ast
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.tables import open_table, read_batches, read_table
from helpers import ROOT

LIBRARY = ("audit", "commands", "corpora", "demo", "distributed", "evaluation", "indexer",
           "scorer", "training")  # fmt: skip
READERS = ("pq.ParquetFile", "pq.read_table", "pq.ParquetDataset", "parquet.read_table",
           "pq.read_schema", "pq.read_metadata")  # fmt: skip

THREADS = """
import os, sys
from pathlib import Path
from blissaudit.tables import open_table, read_batches, read_table
def threads():
    return len(os.listdir("/proc/self/task"))
before = threads()
path = Path(sys.argv[1])
read_table(path, ["b"])
with open(path, "rb") as file:
    read_table(file)
with open_table(path) as table:
    list(read_batches(table, 10, ["a"]))
print(threads() - before)
"""


@pytest.fixture
def table(tmp_path):
    pq.write_table(
        pa.table({"a": list(range(100)), "b": [f"text {i}" for i in range(100)]}),
        tmp_path / "table.parquet",
        row_group_size=40,
    )
    return tmp_path / "table.parquet"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_reading_a_table_starts_no_thread(table):
    command = [sys.executable, "-c", THREADS, str(table)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_columns_come_in_the_order_asked_and_a_missing_one_is_an_error(table):
    assert read_table(table).column_names == ["a", "b"]
    assert read_table(table, ["b", "a"]).column_names == ["b", "a"]
    with pytest.raises(pa.ArrowInvalid, match="there is no column c"):
        read_table(table, ["a", "c"])


def test_batches_are_of_the_groups_columns_and_size_asked(table):
    with open_table(table) as opened:
        batches = list(read_batches(opened, 30, ["a"], [1, 2]))
    assert [row for batch in batches for row in batch["a"].to_pylist()] == list(range(40, 100))
    assert max(map(len, batches)) <= 30 and batches[0].schema.names == ["a"]


def test_no_other_module_reads_parquet_by_itself():
    found = []
    for room in LIBRARY:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in READERS:
                    found.append(f"{path.relative_to(ROOT)}: {ast.unparse(node)}")
    assert found == []
