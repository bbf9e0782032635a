"""Captions cleaned, with every drop counted, and the templates they are put into.

A clean caption has one spelling and a length within bounds. A template, or prompt, is the sentence
a caption or a class name is put into before it is embedded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeVar

from ..arguments import checked_fields
from ..errors import BlissError, UsageError
from .sources import TextSource

UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
COUNTS = ("read", "empty", "too_short", "too_long", "duplicate", "kept")

_LINE_SPACE = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]")
_UNSAFE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff]")

Item = TypeVar("Item")
UnicodeForm = Literal["NFC", "NFD", "NFKC", "NFKD"]


@checked_fields
@dataclass(frozen=True)
class CaptionRules:
    """How captions are cleaned and which are kept; lengths are characters after cleaning.

    `unicode_form` None leaves the spelling alone; without `collapse_whitespace` spaces stay as
    they are, outer ones too; `deduplicate` keeps the first of equal captions.
    """

    unicode_form: str | None = "NFC"
    collapse_whitespace: bool = True
    min_characters: int = 1
    max_characters: int = 2000
    deduplicate: bool = True

    def __post_init__(self) -> None:
        if self.unicode_form is not None and self.unicode_form not in UNICODE_FORMS:
            raise UsageError(
                f"the Unicode form {self.unicode_form!r}",
                f"one of {', '.join(UNICODE_FORMS)}, or none",
                "Choose one of these",
            )
        if not 1 <= self.min_characters <= self.max_characters:
            raise UsageError(
                f"captions of {self.min_characters} to {self.max_characters} characters",
                "at least 1 character, and a maximum that is not below the minimum",
                "Change the minimum or the maximum",
            )


def normalise_caption(text: str, rules: CaptionRules) -> str:
    """One line of clean text; applying it twice changes nothing more.

    Tabs and line ends become spaces; other control characters, lone surrogates and byte order
    marks go, so that the result can be stored as UTF-8.
    """
    if not text.isprintable():
        text = _UNSAFE.sub("", _LINE_SPACE.sub(" ", text))
    if rules.unicode_form is not None:
        form: UnicodeForm = rules.unicode_form  # type: ignore[assignment]
        text = unicodedata.normalize(form, text)
    return " ".join(text.split()) if rules.collapse_whitespace else text


def rules_for(source: TextSource, rules: CaptionRules) -> CaptionRules:
    """The rules as they apply to one source: whether its spaces are part of its texts."""
    return replace(rules, collapse_whitespace=False) if source.keeps_spaces else rules


def clean_texts(
    texts: Sequence[str], rules: CaptionRules, counts: dict[str, int]
) -> tuple[list[str], list[int]]:
    """The clean captions that are neither empty, too short nor too long, and their positions.

    Every text is counted as read, and every drop under its reason; duplicates stay.
    """
    clean: list[str] = []
    positions: list[int] = []
    least, most = rules.min_characters, rules.max_characters
    counts["read"] += len(texts)
    for position, text in enumerate(texts):
        caption = normalise_caption(text, rules)
        if not _visible(caption):
            counts["empty"] += 1
        elif len(caption) < least:
            counts["too_short"] += 1
        elif len(caption) > most:
            counts["too_long"] += 1
        else:
            clean.append(caption)
            positions.append(position)
    return clean, positions


def no_usable_text(
    source: TextSource, rules: CaptionRules, counts: Mapping[str, int]
) -> BlissError:
    """The error for a source all of whose texts were dropped."""
    dropped = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in COUNTS[1:-1])
    return BlissError(
        f"{source.spec} holds no usable text ({counts['read']} read: {dropped})",
        f"at least one text of {rules.min_characters} to {rules.max_characters} characters",
        "Check the column and the limits on length",
    )


def _visible(caption: str) -> bool:
    """Whether any character is neither space nor format character (zero width, direction)."""
    if caption[:1].isalnum():
        return True
    return any(not char.isspace() and unicodedata.category(char) != "Cf" for char in caption)


@contextmanager
def closed_after(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Close a generator, and with it its files, on leaving; other iterators need no closing."""
    try:
        yield items
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


PAPER_PROMPT = "This is a photo of a {label}"
CAPTION_PROMPT = "{}"

_PLACEHOLDER = re.compile(r"\{\}|\{label\}")


def fill_prompt(template: str, text: str) -> str:
    """Put `text`, verbatim even where it holds braces, at every placeholder of `template`.

    A template has one placeholder, `{}` or `{label}`, used once or more; any other brace in it
    is a UsageError.
    """
    return text.join(_pieces(template))


def check_prompts(templates: Sequence[str]) -> tuple[str, ...]:
    """The templates as a tuple, each one checked.

    UsageError where there is none, where one is malformed, or where two of them say the same
    (their embeddings are averaged, so a repeated template would count twice).
    """
    if isinstance(templates, str):
        raise UsageError(
            f"the prompts are one string, {templates!r}",
            "a list of templates",
            "Put the template in a list",
        )
    if not templates:
        raise UsageError(
            "no prompt was given",
            "at least one template",
            f"Give one, such as {CAPTION_PROMPT!r} or {PAPER_PROMPT!r}",
        )
    seen: set[tuple[str, ...]] = set()
    for template in templates:
        pieces = _pieces(template)
        if pieces in seen:
            raise UsageError(
                f"the prompt {template!r} was given twice", "different templates", "Leave one out"
            )
        seen.add(pieces)
    return tuple(templates)


@lru_cache(maxsize=256)
def _pieces(template: str) -> tuple[str, ...]:
    """The text around the placeholders; one more piece than there are placeholders."""
    pieces = tuple(_PLACEHOLDER.split(template))
    kinds = set(_PLACEHOLDER.findall(template))
    if len(kinds) != 1 or any("{" in piece or "}" in piece for piece in pieces):
        raise UsageError(
            f"the prompt {template!r} does not say where the text goes",
            "one placeholder, {} or {label}, used once or more, and no other braces",
            f"Write it like {CAPTION_PROMPT!r} or {PAPER_PROMPT!r}",
        )
    return pieces
