"""docs/outputs.md names every column and file a run writes, and no other."""

from __future__ import annotations

import csv
import re

import pyarrow.parquet as pq
import pytest
from helpers import ROOT

PAGE = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")


def documented(heading: str) -> dict[str, str]:
    """Column -> type, in the table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found: dict[str, str] = {}
    for names, kind in re.findall(r"^\| (`.*?`) \| (.*?) \|", section, flags=re.MULTILINE):
        found |= dict.fromkeys(re.findall(r"`(\w+)`", names), kind)
    return found


@pytest.mark.parametrize("question", ["stray", "mislabel"])
def test_every_column_is_documented_with_its_type(question, bliss, collection, index, tmp_path):
    command = ("audit", collection, "--index", index, "-o", tmp_path, "--question", question)
    assert bliss(*command, "--robust").code == 0
    schema = pq.read_schema(tmp_path / "scores.parquet")
    columns = documented("Columns of `scores.parquet`")
    more = documented("More columns if labels were questioned")
    if question == "mislabel":
        columns = columns | more
        with open(tmp_path / "label_issues.csv", encoding="utf-8") as file:
            assert set(next(csv.reader(file))) <= set(columns)
    assert set(schema.names) == set(columns)
    kinds = {"double": "float64", "bool": "bool", "string": "string", "int64": "int64"}
    for field in schema:
        assert columns[field.name].rstrip("s") == kinds.get(str(field.type), "list"), field.name
    for file in tmp_path.iterdir():
        assert f"`{file.name}{'/' * file.is_dir()}`" in PAGE
