"""A look at the first rows of a corpus: how many texts, how long, how alike, in which scripts."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

from ..errors import UsageError
from .captions import CaptionRules, normalise_caption
from .sources import TextSource

LENGTH_EDGES = (1, 10, 20, 40, 80, 160, 320, 640, 2001)
"""A bin of the histogram is from one edge to below the next; the last has no end."""

EXAMPLES = 5

_AT_ONCE = 256
_CLEAR = 1.5  # a language is named where its words are this much more frequent than the next's
_SHARE = 0.05  # and are this share of all words
_WORDS = {
    "English": "the a of and with is on in an at to are for",
    "German": "der die das und mit ist ein eine auf im den von für",
    "French": "le la les des et avec est un une dans sur du pour",
    "Spanish": "el la los las y con es un una en del que por",
    "Italian": "il la gli le e con è un una nel di che per",
    "Portuguese": "o a os as e com é um uma em do que na",
    "Dutch": "de het een en met is op in van voor zijn te aan",
}


@dataclass(frozen=True)
class Peek:
    """What the first rows of a corpus hold; lengths are characters after the default cleaning."""

    rows: int
    whole: bool
    """Whether the corpus has no more rows."""
    texts: int
    empty: int
    shortest: int
    longest: int
    lengths: tuple[int, ...]
    """Texts that are not empty, by bins of LENGTH_EDGES."""
    duplicates: float
    """Share of the texts that are not empty and repeat an earlier one."""
    ascii: float
    """Share of the letters that are ASCII."""
    scripts: dict[str, float]
    """Share of the letters by script, the most frequent first."""
    language: str | None
    """A guess from small words, where most letters are Latin and one language stands out."""
    examples: tuple[str, ...]
    """The first EXAMPLES different texts, cleaned."""


def peek(source: TextSource, rows: int = 1000) -> Peek:
    """Look at the texts of the first `rows` rows; little beyond them is read.

    UsageError for fewer than 1 row; BlissError where the data cannot be read.
    """
    if rows < 1:
        raise UsageError(f"{rows} rows were asked for", "at least 1", "Ask for more rows")
    raw, found, whole = _first_texts(source, rows)
    cleaned = [normalise_caption(text, CaptionRules()) for text in raw]
    texts = [text for text in cleaned if text]
    sizes = sorted(map(len, texts))
    different = list(dict.fromkeys(texts))
    scripts = script_shares(texts)
    return Peek(
        rows=found,
        whole=whole,
        texts=len(raw),
        empty=len(raw) - len(texts),
        shortest=sizes[0] if sizes else 0,
        longest=sizes[-1] if sizes else 0,
        lengths=_histogram(sizes),
        duplicates=(len(texts) - len(different)) / max(1, len(texts)),
        ascii=_ascii_share(texts),
        scripts=scripts,
        language=guess_language(texts) if scripts.get("Latin", 0) > 0.5 else None,
        examples=tuple(different[:EXAMPLES]),
    )


def _first_texts(source: TextSource, rows: int) -> tuple[list[str], int, bool]:
    """The texts of the first rows, how many rows these are, and whether there are no more."""
    texts: list[str] = []
    seen: set[int] = set()
    with ExitStack() as closing:
        batches = source.batches(_AT_ONCE)
        closing.callback(getattr(batches, "close", lambda: None))
        for batch in batches:
            for text, row in zip(batch.texts, batch.rows.tolist(), strict=True):
                if row not in seen and len(seen) == rows:
                    return texts, rows, False
                seen.add(row)
                texts.append(text)
    return texts, len(seen), True


def _histogram(sizes: Sequence[int]) -> tuple[int, ...]:
    """How many of the sizes, 1 or more, are in each bin of LENGTH_EDGES."""
    counts = Counter(bisect_right(LENGTH_EDGES, size) - 1 for size in sizes)
    return tuple(counts[number] for number in range(len(LENGTH_EDGES)))


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of the letters in each script, named as Unicode names letters: Latin, CJK, …"""
    counts: Counter[str] = Counter()
    for letter, count in _letters(texts).items():
        counts[_script(letter)] += count
    total = counts.total()
    return {name: count / total for name, count in counts.most_common()}


def guess_language(texts: Iterable[str]) -> str | None:
    """The language whose small words are by far the most frequent among seven, or None.

    Only a hint: labels, short texts and other languages give None or mislead it.
    """
    words = Counter(word for text in texts for word in text.lower().split())
    shares = sorted(
        (sum(words[word] for word in small.split()) / max(1, words.total()), name)
        for name, small in _WORDS.items()
    )
    (second, _), (first, name) = shares[-2:]
    return name if first >= _SHARE and first >= _CLEAR * second else None


def _ascii_share(texts: Iterable[str]) -> float:
    letters = _letters(texts)
    plain = sum(count for letter, count in letters.items() if letter.isascii())
    return plain / letters.total() if letters else 0.0


def _letters(texts: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return Counter({char: count for char, count in counts.items() if char.isalpha()})


@lru_cache(maxsize=65_536)
def _script(letter: str) -> str:
    """The first word of the letter's Unicode name."""
    word = unicodedata.name(letter, "other").partition(" ")[0]
    return word if word == "CJK" else word.capitalize()
