"""Which open_clip model a choice means, and what kind of weights it would load."""

from __future__ import annotations

import difflib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import UsageError
from .encode.encoder import DEFAULT_MODEL, DEFAULT_PRETRAINED, DEMO_MODEL, ModelChoice, demo_model


def resolve_model(
    choice: ModelChoice, known: Sequence[str], tags_of: Callable[[str], list[str]]
) -> tuple[str, str | None]:
    """open_clip's model name and weights tag, checked before anything is loaded.

    `known` are open_clip's model names, `tags_of` gives the weights tags of one. Raises
    UsageError for a name or tag that is not among them.
    """
    name, pretrained = choice.model or DEFAULT_MODEL, choice.pretrained
    if name == DEMO_MODEL:
        name = demo_model()
    if name.startswith(("local-dir:", "hf-hub:")):
        if pretrained:
            raise UsageError(
                f"--pretrained {pretrained} was given with {choice.model}",
                "no --pretrained: such a model brings its own weights",
                "Leave --pretrained out",
            )
        return name, None
    if name.replace("/", "-") not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise UsageError(
            f"model '{name}' is unknown",
            "an open_clip model name, hf-hub:owner/name, local-dir:FOLDER, or demo",
            f"{hint}List the names with python -c 'import open_clip; "
            "print(open_clip.list_models())'",
        )
    tags = tags_of(name)
    if pretrained is None:
        if name == DEFAULT_MODEL:
            return name, DEFAULT_PRETRAINED
        raise UsageError(
            f"model '{name}' was given without weights",
            f"--pretrained with one of {', '.join(tags) or 'no known tag'}, or a weights file",
            "Add --pretrained",
        )
    if pretrained not in tags and not os.path.isfile(pretrained):
        raise UsageError(
            f"weights '{pretrained}' are unknown for model '{name}'",
            f"one of {', '.join(tags) or 'no known tag'}, or a weights file",
            "Correct --pretrained",
        )
    return name, pretrained


def weight_files(name: str, pretrained: str | None) -> Iterator[Path]:
    """The local weight files a load would read, safetensors aside."""
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not any(folder.glob("*.safetensors")):
            yield from sorted(p for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
    elif pretrained and os.path.isfile(pretrained):
        yield Path(pretrained)


def is_torchscript(path: Path) -> bool:
    """Whether a weights file is a TorchScript archive, which holds code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(entry).name == "constants.pkl" for entry in archive.namelist())
