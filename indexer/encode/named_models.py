"""The list of models that the user has named with `--model` on this machine.

It is `models.txt` in the settings folder, one *foreign* model a line: an `hf-hub:` or `local-dir:`
model or a weights file. `trust` decides by it which models may be loaded.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ...artefacts import write_atomically
from ...corpora import settings_folder
from ...errors import BlissError
from .encoder import DEFAULT_MODEL, DEMO_MODEL, demo_model

HUB, FOLDER = "hf-hub:", "local-dir:"
LIST = "models.txt"


def remember_model(model: str | None, pretrained: str | None) -> None:
    """Add a foreign model that the user named to the list.

    Raises BlissError where the list cannot be written.
    """
    entry = _entry(model or DEFAULT_MODEL, pretrained)
    if entry is None:
        return
    line, lines = _line(*entry), _lines()
    path = _list_file()
    if line is None or line in lines:
        return
    if path is None:
        raise BlissError(
            "this system names no home folder",
            "a folder for the list of models that you named",
            "Set HOME or BLISS_CONFIG",
        )
    kept = [other for other in lines if other.split("\t")[0] != entry[0]]
    content = "".join(f"{each}\n" for each in [*kept, line])
    write_atomically(path, lambda file: file.write(content.encode("utf-8", "surrogateescape")))


def named_state(model: str, pretrained: str | None) -> str:
    """Whether a model is "named", has "changed" since it was named, or is "unknown"."""
    entry = _entry(model, pretrained)
    lines = _lines()
    # An entry is compared as text first: the disk is not read for a model that was never named.
    if entry is None or entry[0] not in [line.split("\t")[0] for line in lines]:
        return "unknown"
    return "named" if _line(*entry) in lines else "changed"


def named_repository(repository: str) -> bool:
    """Whether the user has named a repository of the Hugging Face hub on this machine."""
    return f"{HUB}{repository}" in _lines()


def list_name() -> str:
    """The list's path, for messages."""
    return str(_list_file() or f"bliss-audit/{LIST} in your settings folder")


def _entry(model: str, pretrained: str | None) -> tuple[str, str | None] | None:
    """A foreign model's entry in the list and its path on this machine; None for other models."""
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


def _line(entry: str, path: str | None) -> str | None:
    """The line for an entry; None where its files are missing.

    For a folder or a file it ends with a checksum of the resolved path and of the name, size and
    time of every file directly in it: a model that has changed must be named again.
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
