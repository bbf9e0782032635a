"""Cleaning captions: normal forms, limits, duplicates, and counts that add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from blissaudit.corpora.captions import (
    CAPTION_PROMPT,
    PAPER_PROMPT,
    CaptionRules,
    check_prompts,
    fill_prompt,
    normalise_caption,
)
from blissaudit.corpora.registry import JSON, TextBatch, batch_values
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build import plan as plan_making
from helpers.any_caption_rules import ANY_RULES
from hypothesis import given, settings
from hypothesis import strategies as st

RULES = CaptionRules()
Kept = Callable[..., Any]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)


@dataclass(frozen=True)
class Texts:
    """A source in memory that notes when its iterator has been closed."""

    texts: Sequence[str]
    spec: str = "some texts"
    default_prompt: str = "{}"
    keeps_spaces: bool = False
    closed: list[bool] = field(default_factory=list)

    def facts(self) -> dict[str, JSON]:
        return {}

    def batches(self, size: int) -> Iterator[TextBatch]:
        try:
            yield from batch_values(enumerate(self.texts), size)
        finally:
            self.closed.append(True)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  a \t dog\r\nruns ", "a dog runs"),
        ("e\u0301", "\u00e9"),
        ("e\x00\u0301", "\u00e9"),
        ("a\x07b\x7fc\x9fd", "abcd"),
        ("a\x1cb\x85c\u2028d\u00a0e\u3000f", "a b c d e f"),
        ("\ufeffdog \ud83d", "dog"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("ﬁsh", "ﬁsh"),
    ],
)
def test_cleaning_by_default(text: str, clean: str) -> None:
    assert normalise_caption(text, RULES) == clean


@pytest.mark.parametrize(
    ("rules", "text", "clean"),
    [
        (CaptionRules(unicode_form=None), "e\u0301 ", "e\u0301"),
        (CaptionRules(unicode_form="NFD"), "\u00e9", "e\u0301"),
        (CaptionRules(unicode_form="NFKC"), "ﬁsh", "fish"),
        (CaptionRules(unicode_form="NFKD"), "ﬁ\u00e9", "fie\u0301"),
        (CaptionRules(collapse_whitespace=False), "  a  b\tc ", "  a  b c "),
    ],
)
def test_options_of_cleaning(rules: CaptionRules, text: str, clean: str) -> None:
    assert normalise_caption(text, rules) == clean
    assert normalise_caption(text, RULES) != clean


@settings(deadline=None, max_examples=60)
@given(ANY_TEXT, ANY_RULES)
def test_cleaning_twice_changes_nothing_and_the_result_can_be_stored(
    text: str, rules: CaptionRules
) -> None:
    clean = normalise_caption(text, rules)
    assert normalise_caption(clean, rules) == clean
    assert pa.array([clean]).to_pylist() == [clean]
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in clean)


def test_every_text_is_kept_or_counted_under_its_reason(
    kept_captions: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_making, "TEXTS_AT_ONCE", 2)
    texts = ["a dog", " ", "", "ox", "a  dog", "a very long one", "\u200b", "a cat", "ox"]
    rules = CaptionRules(min_characters=3, max_characters=10)
    kept = kept_captions(Texts(texts), rules)
    assert kept.captions == ["a dog", "a cat"]
    assert kept.rows.tolist() == [0, 7]
    assert kept.rows.dtype == "int64"
    assert kept.counts == {
        "read": 9,
        "empty": 3,
        "too_short": 2,
        "too_long": 1,
        "duplicate": 1,
        "kept": 2,
    }


@pytest.mark.parametrize(
    ("change", "captions", "rows"),
    [
        ({}, ["b", "caf\u00e9", "a bc"], [0, 1, 4]),
        ({"unicode_form": None}, ["b", "caf\u00e9", "cafe\u0301", "a bc"], [0, 1, 2, 4]),
        ({"collapse_whitespace": False}, ["b", "caf\u00e9", " b", "a  bc"], [0, 1, 3, 4]),
        ({"min_characters": 2}, ["caf\u00e9", "a bc"], [1, 4]),
        ({"max_characters": 3}, ["b"], [0]),
        ({"deduplicate": False}, ["b", "caf\u00e9", "caf\u00e9", "b", "a bc"], [0, 1, 2, 3, 4]),
    ],
)
def test_each_rule_changes_what_is_kept(
    kept_captions: Kept, change: dict[str, Any], captions: list[str], rows: list[int]
) -> None:
    source = Texts(["b", "caf\u00e9", "cafe\u0301", " b", "a  bc"])
    kept = kept_captions(source, CaptionRules(**change))
    assert (kept.captions, kept.rows.tolist()) == (captions, rows)


def test_a_pass_that_is_interrupted_closes_the_source(tmp_path: Path) -> None:
    def told(read: int) -> None:
        raise KeyboardInterrupt(f"after {read}")

    source = Texts(["a", "b"])
    with pytest.raises(KeyboardInterrupt, match="after 2"):
        plan_making.make_plan([source], RULES, tmp_path, 3, [{}], told)
    assert source.closed == [True]


def test_a_corpus_without_usable_text_says_why(kept_captions: Kept) -> None:
    with pytest.raises(
        BlissError,
        match=r"some texts holds no usable text \(3 read: 1 empty, 0 too short, 2 too long, 0 dup",
    ):
        kept_captions(Texts(["", "abc", "abcd"]), CaptionRules(max_characters=2))
    with pytest.raises(BlissError, match="0 read"):
        kept_captions(Texts([]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unicode_form": "NFX"}, "the Unicode form 'NFX'.*NFKD, or none"),
        ({"min_characters": 0}, "captions of 0 to 2000 characters"),
        ({"min_characters": 5, "max_characters": 4}, "captions of 5 to 4 .*not below the minimum"),
    ],
)
def test_impossible_rules_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CaptionRules(**change)


def test_rules_go_into_manifests_as_they_are() -> None:
    assert asdict(RULES) == {
        "unicode_form": "NFC",
        "collapse_whitespace": True,
        "min_characters": 1,
        "max_characters": 2000,
        "deduplicate": True,
    }


@pytest.mark.parametrize(
    ("template", "text", "filled"),
    [
        (PAPER_PROMPT, "red fox", "This is a photo of a red fox"),
        (CAPTION_PROMPT, "a dog", "a dog"),
        ("{label}, only {label}", "x", "x, only x"),
        ("<{}>", "{label} {} {0.__class__} }{", "<{label} {} {0.__class__} }{>"),
        ("a {} b", "", "a  b"),
    ],
)
def test_filling(template: str, text: str, filled: str) -> None:
    assert fill_prompt(template, text) == filled


@settings(deadline=None, max_examples=60)
@given(st.text(), st.text(st.characters(exclude_characters="{}")))
def test_text_goes_in_verbatim(text: str, around: str) -> None:
    assert fill_prompt(f"{around}{{}}{around}", text) == around + text + around


@pytest.mark.parametrize(
    "template",
    ["", "a photo", "{foo}", "{} {foo}", "{} and {label}", "{", "{}}", "{{}}", "{0}", "{label!r}"],
)
def test_malformed_templates_are_refused(template: str) -> None:
    with pytest.raises(UsageError, match="does not say where the text goes"):
        fill_prompt(template, "x")
    with pytest.raises(UsageError, match="one placeholder"):
        check_prompts(["{}", template])


def test_checked_templates_keep_their_order() -> None:
    assert check_prompts(["a {}", PAPER_PROMPT]) == ("a {}", PAPER_PROMPT)


def test_no_repeated_and_unlisted_templates_are_refused() -> None:
    with pytest.raises(UsageError, match="no prompt was given"):
        check_prompts([])
    with pytest.raises(UsageError, match="given twice"):
        check_prompts(["a {}", "a {label}"])
    with pytest.raises(UsageError, match="one string"):
        check_prompts("{}")
