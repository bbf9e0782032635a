"""Prompt templates: the sentence a caption or a class name is put into before it is embedded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ..errors import UsageError

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
