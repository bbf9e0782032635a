"""docs/corpora.md: its table is the presets', and what it says to write is accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from blissaudit.corpora import registry
from helpers import DOCS

PAGE = (DOCS / "corpora.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def maker(load_docs: Callable[[str], ModuleType]) -> ModuleType:
    return load_docs("make_corpora_docs")


def test_the_table_is_up_to_date(maker: ModuleType) -> None:
    assert maker.page_with_table(PAGE) == PAGE, "run python docs/make_corpora_docs.py"


def test_every_preset_has_a_row_that_says_whether_it_was_checked() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    presets = registry.presets().values()
    assert [row.split("`")[1] for row in rows] == [preset.name for preset in presets]
    assert ["(not checked)" in row for row in rows] == [not preset.checked for preset in presets]


def test_the_example_of_a_preset_of_ones_own_can_be_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLISS_CONFIG", str(tmp_path / "settings"))
    example = PAGE[PAGE.index('    {"presets"') : PAGE.index("    bliss corpora add")]
    (tmp_path / "presets.json").write_text(example)
    assert registry.add_presets(tmp_path / "presets.json") == ("our-products",)
    assert registry.find_preset("our-products").texts == json.loads(example)["presets"][0]["texts"]


def test_the_fields_it_lists_are_all_there_are() -> None:
    fields = list(registry.Preset.__dataclass_fields__)
    listed = PAGE[PAGE.index("`name`, `spec` and") : PAGE.index("A relative path")]
    assert set(re.findall(r"`([a-z_]+)`", listed)) == set(fields)
