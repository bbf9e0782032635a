"""How captions are shown: without their template, and one for all that say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

TEMPLATE = re.compile(
    r"""^\s*
    (?:(?:this|that|it|there|here)\s+(?:is|are)\s+|here\s+you\s+can\s+see\s+|look\s+at\s+
       |somebody\s+drew\s+|itap\s+of\s+)?
    (?:(?:(?:an?|the|one|my|some)\s+)?(?:[a-z-]+\s+){0,2}?
       (?:photo|photograph|picture|image|drawing|sketch|painting|rendering|rendition|render|snapshot
         |close-up|closeup|illustration|icon|art)s?
       \s+(?:of|showing|with|depicting)\s+)?
    (?:(?:an?|the|my|one|many)\s+)?""",
    re.IGNORECASE | re.VERBOSE,
)
EMPTY = frozenset(
    "a an and are at before by for from front here image in is it look of on one over photo "
    "picture showing side single some that the there this three to two under with you".split()
)
"""Words that do not tell one caption from another."""
SAME = 0.5
"""Captions say the same if they share at least this share of the words of both."""


def plain_caption(text: str) -> str:
    """A caption without its template: "a photo of a bow_tie." gives "bow tie"."""
    plain = TEMPLATE.sub("", text, count=1).replace("_", " ").strip()
    plain = re.sub(r"(?<=\w)\.$", "", plain)
    return plain or text


def merged(captions: Sequence[str]) -> list[list[int]]:
    """Positions of captions that say the same, together; each list begins with the first of them.

    A caption joins the first list whose first caption shares enough of its words.
    """
    lists: list[list[int]] = []
    words: list[frozenset[str]] = []
    for place, caption in enumerate(captions):
        mine = _words(caption)
        for found, theirs in zip(lists, words, strict=True):
            if len(mine & theirs) >= SAME * len(mine | theirs):
                found.append(place)
                break
        else:
            lists.append([place])
            words.append(mine)
    return lists


@lru_cache(4096)
def _words(caption: str) -> frozenset[str]:
    found = re.findall(r"\w+", plain_caption(caption).casefold())
    kept = [_singular(word) for word in found if word not in EMPTY]
    return frozenset(kept or found or [caption])


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
