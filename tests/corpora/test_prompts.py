"""Prompt templates: where the text goes, and what is refused."""

from __future__ import annotations

import pytest
from blissaudit.corpora.prompts import CAPTION_PROMPT, PAPER_PROMPT, check_prompts, fill_prompt
from blissaudit.errors import UsageError
from hypothesis import given, settings
from hypothesis import strategies as st


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
