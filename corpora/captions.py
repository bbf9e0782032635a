"""Cleaning captions: one spelling for each, lengths within bounds, and every drop counted."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal, TypeVar

import numpy as np

from ..errors import BlissError, UsageError
from .texts import TextBatch, TextSource

UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
COUNTS = ("read", "empty", "too_short", "too_long", "duplicate", "kept")

_LINE_SPACE = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]")
_UNSAFE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff]")

Item = TypeVar("Item")
UnicodeForm = Literal["NFC", "NFD", "NFKC", "NFKD"]


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


@dataclass(frozen=True)
class PreparedCaptions:
    """The kept captions [M], their source rows int64 [M], and what became of every text.

    `counts` has the keys COUNTS; `read` is the sum of the others and `kept` is M.
    """

    captions: list[str]
    rows: np.ndarray
    counts: dict[str, int]


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


def stream_captions(
    source: TextSource, rules: CaptionRules, counts: dict[str, int], batch: int = 4096
) -> Iterator[TextBatch]:
    """The kept captions in corpus order, in non-empty batches of at most `batch`.

    `counts` is brought up to date before each batch is handed out. Memory beyond one batch is a
    16-byte digest for each kept caption, and none without `deduplicate`. BlissError at the end
    where nothing was kept.
    """
    rules = rules_for(source, rules)
    counts.update(dict.fromkeys(COUNTS, 0))
    seen: set[bytes] = set()
    with closed_after(source.batches(batch)) as batches:
        for some in batches:
            clean, positions = clean_texts(some.texts, rules, counts)
            if rules.deduplicate:
                fresh = [_is_new(caption, seen) for caption in clean]
                clean = list(compress(clean, fresh))
                counts["duplicate"] += len(positions) - len(clean)
                positions = list(compress(positions, fresh))
            counts["kept"] += len(clean)
            if clean:
                yield TextBatch(clean, some.rows[positions])
    if not counts["kept"]:
        raise no_usable_text(source, rules, counts)


def prepare_captions(
    source: TextSource, rules: CaptionRules, batch: int = 4096
) -> PreparedCaptions:
    """All kept captions in memory; see `stream_captions` for rules and errors."""
    counts: dict[str, int] = {}
    captions: list[str] = []
    rows: list[np.ndarray] = []
    for some in stream_captions(source, rules, counts, batch):
        captions.extend(some.texts)
        rows.append(some.rows)
    return PreparedCaptions(captions, np.concatenate(rows), counts)


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


def _is_new(caption: str, seen: set[bytes]) -> bool:
    """Whether a caption was not seen before; it is added."""
    digest = hashlib.blake2b(caption.encode(), digest_size=16).digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True


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
