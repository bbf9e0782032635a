"""The sources of a caption index as its manifest states them: names, licences and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...corpora import CAPTION_PROMPT, TextSource, check_prompts
from ...errors import UsageError

Described = Mapping[str, Any]
"""name, licence (or None), corpus (the facts of its TextSource) and prompts of one source."""


def describe_sources(
    sources: Sequence[TextSource], prompts: Sequence[str] | None, licences: Sequence[str]
) -> list[dict[str, Any]]:
    """A Described for each source; without `prompts` each has its corpus's own.

    `licences` hold one text for all sources, or `NAME=TEXT` for each; a source that none of them
    names has the licence of its preset or card, if any. UsageError where they name no source or two
    name the same one, or where there is no source.
    """
    if not sources:
        raise UsageError("no corpus was given", "at least one", "Name a corpus")
    names = _names(sources)
    stated = _licences(names, licences)
    facts = [source.facts() for source in sources]
    return [
        {
            "name": name,
            "licence": stated.get(name, source.licence),
            "corpus": fact,
            "prompts": list(check_prompts(prompts or (source.default_prompt,))),
        }
        for name, source, fact in zip(names, sources, facts, strict=True)
    ]


def request_of(described: Sequence[Described]) -> list[dict[str, Any]]:
    """The sources as a request states them: flat, so that a changed field has a short name."""
    return [
        {**each["corpus"], **{name: each[name] for name in ("name", "licence", "prompts")}}
        for each in described
    ]


def in_current_terms(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request, perhaps of an earlier version, in the terms of this version.

    Lines of a key, a tab and a text had the schemes `keyed-captions:` and `keyed-words:`.
    """
    sources = request.get("sources")
    if not isinstance(sources, list):
        return dict(request)
    return {**request, "sources": [_in_current_terms(source) for source in sources]}


def _in_current_terms(source: Any) -> Any:
    if not isinstance(source, Mapping) or source.get("kind") != "keyed-lines":
        return source
    scheme = str(source.get("spec")).partition(":")[0]
    current = {
        **source,
        "kind": "text-file",
        "column": "2",
        "delimiter": "\t",
        "header": "no",
        **{name: str(source.get(name)).removeprefix(f"{scheme}:") for name in ("spec", "name")},
    }
    return {**current, "split_cells": ","} if scheme == "keyed-words" else current


def encoding_prompts(
    described: Sequence[Described],
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The prompts that captions are encoded in, and a template of each source to apply first.

    The templates are None unless the sources have different prompts, which are then single
    templates, the defaults of their corpora.
    """
    prompts = [tuple(each["prompts"]) for each in described]
    if len(set(prompts)) == 1:
        return prompts[0], None
    return (CAPTION_PROMPT,), tuple(template for (template,) in prompts)


def without_names(described: Sequence[Described], taken: Sequence[str]) -> list[dict[str, Any]]:
    """The same sources with names that are not `taken`: NAME#2 where NAME is."""
    names = list(taken)
    for each in described:
        names.append(_free_name(each["name"], names))
    renamed = zip(described, names[len(taken) :], strict=True)
    return [{**each, "name": name} for each, name in renamed]


def _free_name(name: str, taken: Sequence[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def _names(sources: Sequence[TextSource]) -> list[str]:
    """The preset or spec of each source; the second with the same name is NAME#2."""
    names: list[str] = []
    for source in sources:
        names.append(_free_name(source.preset or source.spec, names))
    return names


def _licences(names: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        named = [name for name in names if text.startswith(f"{name}=")]
        if not named and ("=" in text or len(given) > 1):
            raise UsageError(
                f"the licence {text!r} names no source",
                f"NAME=TEXT with one of {', '.join(names)}, or one text for all sources",
                "Name the source it is of",
            )
        for name in named or names:
            if name in found:
                raise UsageError(
                    f"two licences were given for {name}", "one", "Leave one of them out"
                )
            found[name] = text.removeprefix(f"{name}=") if named else text
    return found
