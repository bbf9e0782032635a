"""Presets: the settings that a paper published, chosen by one option."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVarTuple

import click
from click.core import ParameterSource

from ..corpora import PAPER_PROMPT
from .base import say

Groups = TypeVarTuple("Groups")

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "model": "ViT-B-16",
        "pretrained": "openai",
        "statistics": ((0.4913, 0.4821, 0.4465), (0.2470, 0.2434, 0.2615)),
        "corpus": "paper-dictionary-raw",
        "keep_duplicates": True,
        "prompt": (PAPER_PROMPT,),
        "score": "bliss",
        "k": 10,
        "weight": 0.5,
        "robust": False,
    },
}
"""For each preset what it sets, by field of the option groups (Goodge, Hooi and Ng, BMVC 2024).

The `statistics` of pixels are CIFAR's mean and standard deviation, as published, not the model's;
resizing (bicubic, to 224) is the model's own. Statistics over reference images have ddof 0 and
1e-8 added where they divide, with a preset and without. The corpus is all 1,860 terms as they are.
"""

ENCODER = ("model", "pretrained", "statistics")
"""Settings of the model, where one is needed."""
SHOWN_AS = {
    "statistics": "pixel mean and standard deviation",
    "keep_duplicates": "equal captions kept",
    "weight": "λ",
    "robust": "every image in the fit",
}

CLEANPATRICK = "cleanpatrick"
"""A published benchmark of whole audits, which `bliss eval` runs."""
EVAL_PRESET = click.option("--preset", type=click.Choice([*PRESETS, CLEANPATRICK]), help="paper: "
                           "published settings, see `bliss audit`. cleanpatrick: judge all issues "
                           "of an audit of --test, a folder of that benchmark.")  # fmt: skip

PRESET = click.option("--preset", type=click.Choice(list(PRESETS)), help="Published settings: "
                      "model, pixel statistics, dictionary, prompt, k, λ.")  # fmt: skip


def was_given(name: str) -> bool:
    """Whether the parameter `name` of the running command was given, also by a file of options."""
    source = click.get_current_context().get_parameter_source(name)
    return source in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)


def with_preset(
    preset: str | None, uses: Sequence[str], *groups: *Groups, index: Sequence[str] = ()
) -> tuple[*Groups]:
    """The option groups with the fields `uses` set by `preset`; an option that was given wins.

    Says which settings were made, which were not, and where `index` holds another corpus.
    """
    if preset is None:
        return groups
    chosen = {name: PRESETS[preset][name] for name in uses}
    given = {
        name: getattr(group, name)
        for group in groups
        for name in chosen
        if hasattr(group, name) and was_given(name)
    }
    if "model" in given:
        chosen.pop("pretrained")
    made = {name: value for name, value in chosen.items() if name not in given}
    shown = "; ".join(map(_shown, made, made.values())) or "nothing is left for it to set here"
    say(f"preset {preset}: {shown}")
    for name in (name for name in chosen if name in given):
        value = given[name]
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        say(f"{name} {shown} was given and wins over preset {preset}")
    if index:
        _compare_corpus(index, PRESETS[preset]["corpus"])
    return tuple(_with(group, made) for group in groups)


def _with(group: Any, made: Mapping[str, Any]) -> Any:
    return dataclasses.replace(
        group, **{name: value for name, value in made.items() if hasattr(group, name)}
    )


def _compare_corpus(folders: Sequence[str], published: str) -> None:
    """Say so where the given index holds a corpus other than the preset's."""
    from ..indexer import open_indexes

    names = [source["name"] for source in open_indexes(folders).manifest["sources"]]
    held = ", ".join(names)
    if [name.partition(":")[0] for name in names] != [published]:
        say(f"the index holds {held}, not the preset's {published}")


def _shown(name: str, value: Any) -> str:
    if name == "prompt":
        return f"prompt {', '.join(map(repr, value))}"
    if name == "statistics":
        return f"{SHOWN_AS[name]} " + " / ".join(
            ", ".join(f"{x:g}" for x in part) for part in value
        )
    return SHOWN_AS[name] if isinstance(value, bool) else f"{SHOWN_AS.get(name, name)} {value}"
