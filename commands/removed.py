"""Options of earlier versions, each with its successor."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from ..errors import UsageError


class Removed(NamedTuple):
    """What replaces an option."""

    successor: str
    """How it is written now."""
    value: str | None = "{}"
    """The successor's value, with {} for the old one; None: no value can be made of it."""
    is_flag: bool = False


_DATASET = "hf:owner/name[@revision][:[config/]split] or FOLDER:[config/]split"
REMOVED: dict[str, Removed] = {
    "--weight": Removed("--lambda NUMBER"),
    "--label": Removed("--class-prompt NAME=PROMPT"),
    "--head": Removed("--trained DIR"),
    "--clipn": Removed("--trained DIR"),
    "--column": Removed("an index of `bliss index build --column NAME`, with --index", None),
    "--like": Removed("--image IMAGE"),
    "--search-kind": Removed("--search KIND,NAME=NUMBER,device=DEVICE,shards"),
    "--search-set": Removed("--search KIND,NAME=NUMBER,device=DEVICE,shards"),
    "--search-device": Removed("--search KIND,NAME=NUMBER,device=DEVICE,shards", "device={}"),
    "--search-shards": Removed("--search KIND,NAME=NUMBER,device=DEVICE,shards", "shards", True),
    "--ray-address": Removed("--engine ray:ADDRESS,actors=N", ":{}"),
    "--ray-actors": Removed("--engine ray:ADDRESS,actors=N", ",actors={}"),
    "--no-report": Removed("--report none", "none", True),
    "--report-images": Removed("--report N"),
    "--fdr": Removed("--flag fdr=RATE", "fdr={}"),
    "--contamination": Removed("--flag SHARE"),
    "--empirical-null": Removed("--flag empirical-null", "empirical-null", True),
    "--exclude-near-labels": Removed("--exclude near-labels=COSINE", "near-labels={}"),
    "--exclude-label-words": Removed("--exclude label-words", "label-words", True),
    "--images": Removed("--top N or --image-root DIR"),
    "--k": Removed("--top N"),
    "--calibration": Removed("--hold-out SHARE"),
    "--kinds": Removed("--kind KIND"),
    "--split": Removed(_DATASET, None),
    "--revision": Removed(_DATASET, None),
    "--images-config": Removed(_DATASET, None),
    "--images-split": Removed(_DATASET, None),
    "--images-revision": Removed(_DATASET, None),
    "--max-failures": Removed("--fail-on unreadable=N", "unreadable={}"),
    "--strict": Removed("--fail-on small-classes", "small-classes", True),
    "--per-class": Removed("--p-values per-class", "per-class", True),
    "--heatmaps": Removed("`bliss report RUN --heatmaps`", None, True),
    "--shard": Removed("--engine ray", None),
}
"""By the spelling of earlier versions. Where a command has an option of this name, that counts."""


def _one_rule(values: Sequence[str]) -> str:
    """The rule that --contamination, --empirical-null and --fdr together gave."""
    rates = [value.removeprefix("fdr=") for value in values if value.startswith("fdr=")]
    others = [value for value in values if not value.startswith("fdr=")]
    if not others:
        return f"fdr={rates[-1]}"
    return f"{others[-1]}={rates[-1]}" if rates and others[-1] == "empirical-null" else others[-1]


JOINED: dict[str, Callable[[Sequence[str]], str]] = {
    "--search": ",".join,
    "--engine": "".join,
    "--flag": _one_rule,
}
"""Successors of several options, with what makes one value of theirs."""


def refuse_removed(option: str, context: click.Context, arguments: Sequence[str]) -> None:
    """Raise UsageError, with the command as it is written now, where `option` was removed.

    Nothing is raised for other options, and where the command does not have the successor.
    """
    entry = REMOVED.get(option)
    if entry is None:
        return
    known = {spelling for parameter in context.command.params for spelling in parameter.opts}
    if successor_in(entry, known) is None and entry.value is not None:
        return
    translated = shlex.join([*context.command_path.split(), *translate(arguments, known)])
    value = "" if entry.is_flag else f" {_value_of(option, arguments)}"
    raise UsageError(
        f"{option}{value} was given, but is no longer an option",
        f"{entry.successor} in its place",
        f"Run: {translated}" if entry.value is not None else f"Leave {option} out",
    )


def _value_of(option: str, arguments: Sequence[str]) -> str:
    """What follows the first `option`."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == option or word.startswith(f"{option}="):
            return following if word == option else word.partition("=")[2]
    return ""


def successor_in(entry: Removed, known: set[str]) -> str | None:
    """The successor's option, where a command that has the options `known` has it."""
    words = entry.successor.split()
    return next((word for word in words if word.startswith("--") and word in known), None)


def translate(arguments: Sequence[str], known: set[str]) -> list[str]:
    """`arguments` of a command that has the options `known`, with successors for removed ones."""
    made: list[str] = []
    joined: dict[str, dict[str, list[str]]] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            made += [word, *rest]
            break
        option, equals, value = word.partition("=")
        entry = REMOVED.get(option)
        successor = None if entry is None or option in known else successor_in(entry, known)
        if option == "--engine":
            joined.setdefault(option, {})[""] = [value if equals else rest.pop(0) if rest else ""]
        elif entry is None or successor is None or entry.value is None:
            made.append(word)
        else:
            if not entry.is_flag and not equals:
                value = rest.pop(0) if rest else ""
            value = entry.value.format(value)
            if successor in JOINED:
                joined.setdefault(successor, {}).setdefault(option, []).append(value)
            else:
                made += [successor, value]
    order = ["", *REMOVED]
    for successor, by_option in joined.items():
        values = [value for name in sorted(by_option, key=order.index) for value in by_option[name]]
        at = made.index("--") if "--" in made else len(made)
        made[at:at] = [successor, JOINED[successor](values)]
    return made
