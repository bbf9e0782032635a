"""A local data set folder is read by itself: its card and its links name nothing outside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import BlissError
from .dataset_cards import CARD
from .image_paths import LINK_OUT, display_path, why_outside

STANDALONE_CARD = ".huggingface.yaml"
"""Read by `datasets` over the card's head."""

_PLACES = ("data_files", "data_dir")
_ELSEWHERE = re.compile(r"[\\/~]|[A-Za-z][\w+.-]*:|.*(://|::)", re.DOTALL)
"""Absolute paths, drives, home folders, addresses, and archives at addresses."""


def check_dataset_folder(folder: str) -> None:
    """BlissError where the card names, or a link leads to, anything outside the folder.

    Nothing that the card names is looked at. Hidden folders are passed over, as `datasets` does;
    `check_inside` is for the files that it then lists.
    """
    for name, place in _named_places(folder):
        bare = re.sub(r"[\0-\x20]", "", place)  # which URL parsers drop
        if _ELSEWHERE.match(bare) or ".." in re.split(r"[\\/]", place):
            raise _leaves(folder, name, place)
    for path in _links(folder):
        check_inside(folder, [path], "a link")


def check_inside(folder: str, names: Iterable[str], who: str) -> None:
    """BlissError, which says that `who` named it, for a file that is not inside the folder."""
    for name in names:
        reason = why_outside(folder, name)
        if reason == LINK_OUT:
            raise BlissError(
                f"{display_path(name)} in {display_path(folder)} is or lies below a link that "
                "leaves the folder",
                "files inside the folder",
                "Copy what it leads to into the folder, if it belongs to the data set",
            )
        if reason:
            raise _leaves(folder, who, name)


def _named_places(folder: str) -> Iterator[tuple[str, str]]:
    """(file, place) of every `data_files` and `data_dir` of the card, of all configs and splits."""
    for name in (CARD, STANDALONE_CARD):
        file = os.path.join(folder, name)
        if not os.path.lexists(file):
            continue
        check_inside(folder, [name], "a link")
        try:
            places = _places(_card_facts(file))
        except Exception as error:  # of many kinds: not UTF-8, no YAML, no mapping
            reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            raise BlissError(
                f"{name} in {display_path(folder)} could not be read "
                f"({type(error).__name__}: {reason})",
                "a data set card with YAML at its head",
                "Correct it, or remove it if the files need no description",
            ) from error
        for place in places:
            yield name, place


def _card_facts(file: str) -> Any:
    """The YAML of a card, read as `datasets` reads it."""
    import yaml
    from huggingface_hub import DatasetCard

    if os.path.basename(file) == CARD:
        return DatasetCard.load(file).data.to_dict()
    with open(file, encoding="utf-8") as text:
        return yaml.safe_load(text)


def _places(facts: Any) -> list[str]:
    """Every text below a key of _PLACES: one, a list, by split, or either of these by config."""
    found: list[str] = []
    seen: set[tuple[int, bool]] = set()  # YAML can repeat a value, within itself too
    pending = [(facts, False)]
    while pending:
        value, is_place = pending.pop()
        if isinstance(value, str):
            found += [value] * is_place
        elif isinstance(value, dict | list) and (id(value), is_place) not in seen:
            seen.add((id(value), is_place))
            if isinstance(value, dict):
                pending += [(below, is_place or key in _PLACES) for key, below in value.items()]
            else:
                pending += [(below, is_place) for below in value]
    return found


def _links(folder: str) -> Iterator[str]:
    """Paths below the folder, relative to it, that are links; links are not followed."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in (*folders, *files):
            path = os.path.join(where, name)
            if not name.startswith(".") and os.path.islink(path):
                yield os.path.relpath(path, folder)


def _leaves(folder: str, who: str, name: str) -> BlissError:
    return BlissError(
        f"{who} in {display_path(folder)} names {display_path(name)}, which leaves the folder",
        "files inside the folder",
        "Do not use a data set that does this",
    )
