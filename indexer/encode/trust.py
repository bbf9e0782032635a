"""Which models may be loaded because an artefact names them, and which only the user may name.

The manifest of an index, a reference, a run or a trained head names its model, and may come from
anybody. `demo` and open_clip's own architectures with weights that open_clip itself lists are
loaded on its word. An `hf-hub:` or `local-dir:` model and a weights file are *foreign*: they are
loaded where the user has named them with `--model` on this machine, and refused otherwise, before
anything is looked at or contacted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefacts import write_atomically
from ...corpora.registry import settings_folder
from ...errors import BlissError, ModelNotNamed
from .encoder import DEFAULT_MODEL, DEMO_MODEL, ModelChoice, demo_model

HUB, FOLDER = "hf-hub:", "local-dir:"
LIST = "models.txt"
"""The foreign models that the user has named, one a line, in the settings folder."""


def model_named_by(
    choice: ModelChoice, facts: Mapping[str, Any], made_by: str, *, file: str = "the manifest"
) -> ModelChoice:
    """`choice` with the model that `facts` name: the one way from an artefact to a model to load.

    `made_by` is the artefact, for messages. Raises ModelNotNamed for a foreign model that the user
    has not named on this machine, BlissError where the facts hold no names.
    """
    model, pretrained = facts.get("model"), facts.get("pretrained")
    if not isinstance(model, str) or not isinstance(pretrained, str | None):
        raise BlissError(
            f"{file} of {made_by} does not name its model with text",
            "the name of a model, and of its weights where it needs any",
            "Give --model, and --pretrained with it, or restore the file from a backup",
        )
    if _is_foreign(model, pretrained):
        _check_named(model, pretrained, made_by)
    return replace(choice, model=model, pretrained=pretrained)


def remember_model(model: str | None, pretrained: str | None) -> None:
    """Add a model that the user named to the list, where it is foreign and not there yet.

    BlissError where the list cannot be written.
    """
    entry = _entry(model or DEFAULT_MODEL, pretrained)
    if entry is None:
        return
    identity, lines = _identity(*entry), _lines()
    path = _list_file()
    if identity is None or identity in lines:
        return
    if path is None:
        raise BlissError(
            "this system says of no folder that it is your home",
            "a folder to keep the list of models that you named in",
            "Set HOME or BLISS_CONFIG",
        )
    kept = [line for line in lines if line.split("\t")[0] != entry[0]]
    content = "".join(f"{line}\n" for line in [*kept, identity])
    write_atomically(path, lambda file: file.write(content.encode("utf-8", "surrogateescape")))


def named_repository(repository: str) -> bool:
    """Whether the user has named a repository of the Hugging Face hub on this machine."""
    return f"{HUB}{repository}" in _lines()


def list_name() -> str:
    """The list's path, for messages."""
    return str(_list_file() or f"bliss-audit/{LIST} in your settings folder")


def _is_foreign(model: str, pretrained: str | None) -> bool:
    if model in (DEMO_MODEL, demo_model()):
        return False
    if model.startswith((HUB, FOLDER)):
        return True
    if pretrained is None:
        return False
    from .open_clip import lists_weights

    return not lists_weights(model, pretrained)


def _check_named(model: str, pretrained: str | None, made_by: str) -> None:
    entry = _entry(model, pretrained)
    lines = _lines()
    # An entry is compared as text first: what was never named is not even looked for on the disk.
    known = entry is not None and entry[0] in [line.split("\t")[0] for line in lines]
    if known and entry is not None and _identity(*entry) in lines:
        return
    what = f"weights {pretrained} for {model}" if pretrained else f"the model {model}"
    state = "has changed since you named it" if known else "you have not named on this machine"
    raise ModelNotNamed(
        f"{made_by} names {what}, which {state}",
        "your own word for a model that does not come with open_clip: only what you name with "
        "--model is loaded or fetched",
        ("--model", model, *(("--pretrained", pretrained) if pretrained else ())),
    )


def _entry(model: str, pretrained: str | None) -> tuple[str, str | None] | None:
    """A foreign model's entry in the list and its path on this machine; None for any other."""
    if model.startswith(HUB):
        entry, path = model, None
    elif model in (DEMO_MODEL, demo_model()):
        return None
    elif model.startswith(FOLDER):
        path = os.path.abspath(model.removeprefix(FOLDER))
        entry = f"{FOLDER}{path}"
    elif pretrained:
        path = os.path.abspath(pretrained)
        entry = f"{model} {path}"
    else:
        return None
    return None if any(c in entry for c in "\t\r\n") else (entry, path)


def _identity(entry: str, path: str | None) -> str | None:
    """The whole line for an entry; None where its files are not there.

    Of a folder or a file it holds a checksum of the resolved path and of the name, size and time
    of every file directly in it, so that what was changed since has to be named again.
    """
    if path is None:
        return entry
    files = [path]
    try:
        if os.path.isdir(path):
            with os.scandir(path) as found:
                files = sorted(each.path for each in found if each.is_file())
        elif not os.path.isfile(path):
            return None
        stated = [(os.path.basename(file), os.stat(file)) for file in files]
    except OSError:
        return None
    facts = [os.path.realpath(path), *((n, s.st_size, s.st_mtime_ns) for n, s in stated)]
    return f"{entry}\t{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"


def _list_file() -> Path | None:
    folder = settings_folder()
    return None if str(folder).startswith("~") else folder / LIST


def _lines() -> list[str]:
    path = _list_file()
    try:
        text = "" if path is None else path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [line.strip() for line in text.split("\n") if line.strip()]
