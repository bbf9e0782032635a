"""Hide the external texts that say what a normal label says.

A text as near to an image of a class as the label itself says nothing about strays. BLISS hardly
suffers, because it compares with how near the class's own images are to that text; a softmax over
labels and external texts does (benchmarks/label_filter.py measures both).

Texts are read a block at a time; one number a text and the rows that stay are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import UsageError
from ..indexer.vectors import ROUNDING, Rows, blocks_of, slices

CAPTIONS_AT_ONCE, TEXTS_AT_ONCE = 65_536, 8192
EXAMPLES = 5
"""Hidden texts that are shown for each reason."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class LabelFilter:
    """Which external texts are hidden; by default none."""

    cosine: float | None = None
    """Those whose cosine to a label's prompt is this or more."""
    words: bool = False
    """Those with all words of a label next to each other, whatever their case and number."""

    def __post_init__(self) -> None:
        if self.cosine is not None and not 0 < self.cosine <= 1:
            raise UsageError(
                f"a cosine of {self.cosine} was given to exclude texts near labels",
                "a number above 0 and at most 1",
                "Try --exclude near-labels=0.95",
            )

    def __bool__(self) -> bool:
        """Whether it can hide anything."""
        return self.cosine is not None or self.words


NO_FILTER = LabelFilter()


@dataclass(frozen=True)
class HiddenText:
    """One text that was hidden."""

    caption: str
    label: str
    """The class it was too like."""


@dataclass(frozen=True)
class HiddenTexts:
    """What a filter hid of an index's M texts."""

    kept: np.ndarray
    """int64 [M'], the rows of the index that stay, ascending."""
    count: int
    """M - M'."""
    near: int
    """How many were within the cosine, and how many had the words: some may be both."""
    worded: int
    near_examples: tuple[HiddenText, ...]
    worded_examples: tuple[HiddenText, ...]


class Captions(Protocol):
    """M captions that are read as they are needed; a caption index is one."""

    def captions_of(self, rows: np.ndarray) -> list[str]:
        """The captions of rows int64 [u]."""


def label_texts(
    captions: Captions,
    vectors: Rows,
    classes: Sequence[str],
    prompts: np.ndarray,
    rule: LabelFilter,
) -> HiddenTexts:
    """Which of M texts are too like one of C `classes`, whose prompts are [C, d].

    `vectors` are the texts' unit rows. Raises UsageError where no text is left.
    """
    nothing = np.full(len(vectors), -1, np.int32)
    near = nothing if rule.cosine is None else labels_near(vectors, prompts, rule.cosine)
    worded = labels_in_words(captions, len(vectors), classes) if rule.words else nothing
    hidden = (near >= 0) | (worded >= 0)
    if hidden.all():
        raise UsageError(
            f"all {len(vectors):,} texts of the corpus are too like a normal label",
            "external texts that say something else",
            "Loosen --exclude near-labels, leave --exclude label-words out, or use another corpus",
        )
    return HiddenTexts(
        np.flatnonzero(~hidden),
        int(hidden.sum()),
        int((near >= 0).sum()),
        int((worded >= 0).sum()),
        _examples(captions, near, classes),
        _examples(captions, worded, classes),
    )


def labels_near(vectors: Rows, prompts: np.ndarray, cosine: float) -> np.ndarray:
    """int32 [M], for each text the nearest of C prompts [C, d], -1 where that is below `cosine`."""
    found = np.full(len(vectors), -1, np.int32)
    exact = prompts.astype(np.float64)
    for first, block in blocks_of(vectors):
        for few in slices(len(block), TEXTS_AT_ONCE):
            texts = block[few]
            cosines = texts @ prompts.T
            best = cosines.argmax(axis=1)
            largest = cosines[np.arange(len(texts)), best].astype(np.float64)
            close = np.flatnonzero(np.abs(largest - cosine) < ROUNDING)
            largest[close] = np.einsum("ij,ij->i", texts[close], exact[best[close]])
            rows = slice(first + few.start, first + few.start + len(texts))
            found[rows] = np.where(largest >= cosine, best, -1)
    return found


def labels_in_words(captions: Captions, count: int, classes: Sequence[str]) -> np.ndarray:
    """int32 [M], for each text a class whose words it has next to each other, -1 for none.

    Words are runs of letters and digits, compared in folded case; a word equals its plural by s,
    es or y → ies, and nothing else is taken off or put on.
    """
    starting: dict[str, list[tuple[int, list[frozenset[str]]]]] = {}
    for number, name in enumerate(classes):
        forms = [word_forms(word) for word in words_of(name)]
        for form in forms[0] if forms else ():
            starting.setdefault(form, []).append((number, forms))
    found = np.full(count, -1, np.int32)
    for rows in slices(count, CAPTIONS_AT_ONCE):
        here = np.arange(rows.start, rows.stop)
        for row, caption in zip(here, captions.captions_of(here), strict=True):
            found[row] = _label_in(words_of(caption), starting)
    return found


def words_of(text: str) -> list[str]:
    """The words of a text or a label, in folded case."""
    return _WORD.findall(text.casefold())


def word_forms(word: str) -> frozenset[str]:
    """A word, its plurals, and what it may be the plural of; a singular has three letters or more.

    >>> sorted(word_forms("pony"))
    ['ponies', 'pony', 'ponyes', 'ponys']
    """
    forms = {word, f"{word}s", f"{word}es"}
    if word.endswith("y"):
        forms.add(f"{word[:-1]}ies")
    for ending, instead in (("s", ""), ("es", ""), ("ies", "y")):
        singular = word.removesuffix(ending) + instead
        if word.endswith(ending) and not word.endswith("ss") and len(singular) >= 3:
            forms.add(singular)
    return frozenset(forms)


def has_label(words: Sequence[str], forms: Sequence[frozenset[str]]) -> bool:
    """Whether words of these `forms`, one after the other, are somewhere among `words`."""
    return bool(forms) and any(
        word in forms[0] and _follows(words, place, forms) for place, word in enumerate(words)
    )


def _follows(words: Sequence[str], place: int, forms: Sequence[frozenset[str]]) -> bool:
    here = words[place : place + len(forms)]
    return len(here) == len(forms) and all(map(frozenset.__contains__, forms, here))


def _label_in(
    words: Sequence[str], starting: dict[str, list[tuple[int, list[frozenset[str]]]]]
) -> int:
    for place, word in enumerate(words):
        for number, forms in starting.get(word, ()):
            if _follows(words, place, forms):
                return number
    return -1


def _examples(
    captions: Captions, labels: np.ndarray, classes: Sequence[str]
) -> tuple[HiddenText, ...]:
    rows = np.flatnonzero(labels >= 0)[:EXAMPLES]
    return tuple(
        HiddenText(caption, classes[labels[row]])
        for row, caption in zip(rows, captions.captions_of(rows), strict=True)
    )
