"""Name lists: the ImageNet classes of open_clip, and the paper's dictionary file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blissaudit.corpora import names as builtin
from blissaudit.corpora.captions import PAPER_PROMPT, CaptionRules
from blissaudit.corpora.registry import open_corpus
from blissaudit.errors import BlissError, UsageError

Kept = Callable[..., Any]


class FakeSpec:
    """What importlib says about a package, as far as the reader asks."""

    def __init__(self, folder: Path) -> None:
        self.submodule_search_locations = [str(folder)]


def test_imagenet_names_and_their_counts(kept_captions: Kept) -> None:
    source = open_corpus("imagenet-1k")
    (names,) = source.batches(1000)
    assert names.texts[:3] == ["tench", "goldfish", "great white shark"]
    assert names.texts[-1] == "toilet paper"
    assert names.rows.tolist() == list(range(1000))
    assert source.default_prompt == PAPER_PROMPT
    assert str(source.facts()["fingerprint"]).startswith("sha256:")
    counts = kept_captions(source).counts
    assert counts["read"] == 1000
    assert counts["kept"] + counts["duplicate"] == 1000


def test_neither_torch_nor_open_clip_nor_datasets_is_imported() -> None:
    code = (
        "import sys; from blissaudit.corpora.registry import open_corpus; "
        "open_corpus('imagenet-1k'); "
        "print([name for name in ('torch', 'open_clip', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "OTHER = ['a']\n",
        "IMAGENET_CLASSNAMES = ['a', 'b']\n",
        "IMAGENET_CLASSNAMES = [str(i) for i in range(1000)]\n",
        "IMAGENET_CLASSNAMES = list(range(1000))\n",
        "IMAGENET_CLASSNAMES: tuple\n",
        "IMAGENET_CLASSNAMES = (\n",
    ],
)
def test_a_moved_list_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "zero_shot_metadata.py").write_text(content)
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name: FakeSpec(tmp_path))
    with pytest.raises(BlissError, match=r"no sequence IMAGENET_CLASSNAMES of 1,000 names"):
        open_corpus("imagenet-1k")


def test_a_missing_open_clip_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BlissError, match="open_clip, which is not installed"):
        open_corpus("imagenet-1k")


def test_dictionary_lines_are_split_on_commas(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("tench, Tinca tinca\ngoldfish,Carassius auratus , x\n")
    stripped = open_corpus(f"paper-dictionary:{path}")
    raw = open_corpus(f"paper-dictionary-raw:{path}")
    (terms,), (raw_terms,) = stripped.batches(10), raw.batches(10)
    assert terms.texts == ["tench", "Tinca tinca", "goldfish", "Carassius auratus", "x"]
    assert raw_terms.texts == ["tench", " Tinca tinca", "goldfish", "Carassius auratus ", " x"]
    assert terms.rows.tolist() == raw_terms.rows.tolist() == [0, 0, 1, 1, 1]
    assert stripped.default_prompt == raw.default_prompt == PAPER_PROMPT
    assert stripped.facts()["spec"] == "paper-dictionary:words.txt"
    assert raw.facts()["spec"] == "paper-dictionary-raw:words.txt"
    assert stripped.facts()["fingerprint"] == raw.facts()["fingerprint"]


def test_raw_spaces_survive_whatever_the_rules_say_of_whitespace(
    tmp_path: Path, kept_captions: Kept
) -> None:
    path = tmp_path / "words.txt"
    path.write_text("fox, fox,fox\n")
    source = open_corpus(f"paper-dictionary-raw:{path}")
    for rules in (CaptionRules(), CaptionRules(collapse_whitespace=False)):
        assert kept_captions(source, rules).captions == ["fox", " fox"]
    stripped = open_corpus(f"paper-dictionary:{path}")
    assert kept_captions(stripped).captions == ["fox"]


def test_empty_terms_are_counted(tmp_path: Path, kept_captions: Kept) -> None:
    path = tmp_path / "words.txt"
    path.write_text("a,,b,\n")
    counts = kept_captions(open_corpus(f"paper-dictionary:{path}")).counts
    assert (counts["read"], counts["empty"], counts["kept"]) == (4, 2, 2)


def test_a_missing_dictionary_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"paper-dictionary:.*none\.txt names no file"):
        open_corpus(f"paper-dictionary:{tmp_path / 'none.txt'}")
