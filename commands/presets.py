"""Presets: choices that a paper published, set together by one option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from ..corpora.prompts import PAPER_PROMPT
from .options import say

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "model": "ViT-B-16",
        "pretrained": "openai",
        "statistics": ((0.4913, 0.4821, 0.4465), (0.2470, 0.2434, 0.2615)),
        "corpus": "paper-dictionary-raw",
        "keep_duplicates": True,
        "prompt": (PAPER_PROMPT,),
        "k": 10,
        "weight": 0.5,
    },
}
"""For each preset what it sets, by the options' names (Goodge, Hooi and Ng, BMVC 2024).

The `statistics` of pixels are CIFAR's mean and standard deviation, as published, not the model's;
resizing (bicubic, to 224) is the model's own. Statistics over reference images have ddof 0 and
1e-8 added where they divide, with a preset and without. The corpus is all 1,860 terms as they are.
"""

ENCODER = ("model", "pretrained", "statistics")
"""What is set of the model, where one is needed."""
WORDED = {
    "statistics": "pixel mean and standard deviation",
    "keep_duplicates": "equal captions kept",
    "weight": "λ",
}
ASKED = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)

PRESET = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Published choices: model, pixel statistics, dictionary, prompt, k, λ.",
)


def asked_for(name: str) -> bool:
    """Whether option `name` of the running command was given, here or in a file it repeats."""
    return click.get_current_context().get_parameter_source(name) in ASKED


def with_preset(given: dict[str, Any], uses: Sequence[str]) -> dict[str, Any]:
    """`given` with what its preset sets of `uses`; an option that was given wins. Says both."""
    if given["preset"] is None:
        return given
    chosen = {name: PRESETS[given["preset"]][name] for name in uses}
    kept = [name for name in chosen if asked_for(name)]
    if "model" in kept:
        chosen.pop("pretrained")
    made = {name: value for name, value in chosen.items() if name not in kept}
    shown = "; ".join(map(_shown, made, made.values())) or "nothing is left for it to set here"
    say(f"preset {given['preset']}: {shown}")
    for name in kept:
        value = given[name]
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        say(f"{name} {shown} was given and wins over preset {given['preset']}")
    if given.get("index"):
        _compare_corpus(given["index"], PRESETS[given["preset"]]["corpus"])
    return {**given, **made}


def _compare_corpus(folders: Sequence[str], published: str) -> None:
    """Say so where the index given holds another corpus than the preset's."""
    from ..indexer.search.index import open_indexes

    names = [source["name"] for source in open_indexes(folders).manifest["sources"]]
    held = ", ".join(names)
    if [name.partition(":")[0] for name in names] != [published]:
        say(f"the index holds {held}, not the preset's {published}")


def _shown(name: str, value: Any) -> str:
    if name == "prompt":
        return f"prompt {', '.join(map(repr, value))}"
    if name == "statistics":
        return f"{WORDED[name]} " + " / ".join(", ".join(f"{x:g}" for x in part) for part in value)
    return WORDED[name] if value is True else f"{WORDED.get(name, name)} {value}"
