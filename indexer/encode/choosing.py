"""Check a choice of model, its weights and its config before anything is loaded.

open_clip passes parts of `open_clip_config.json` on: `text_cfg.tokenizer_kwargs` to transformers
(where `trust_remote_code` runs code of the repository) or to its own tokenizer (which reads any
file, or downloads with `reduction_mask`), `hf_tokenizer_name`, `hf_model_name` and
`timm_model_name` to libraries that download what they name. `check_config` allows only a short list
of values.

The list of models that the user has named with `--model` on this machine is `models.txt` in the
settings folder, one *foreign* model a line: an `hf-hub:` or `local-dir:` model or a weights file.
`trust` decides by it which models may be loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...corpora import settings_folder, settings_list, write_settings_list
from ...errors import NO_HOME, BlissError, UsageError, causes
from .encoder import DEFAULT_MODEL, DEFAULT_PRETRAINED, DEMO_MODEL, ModelChoice, demo_model

HUB, FOLDER = "hf-hub:", "local-dir:"
LIST = "models.txt"


def remember_model(model: str | None, pretrained: str | None) -> None:
    """Add a foreign model that the user named to the list.

    Raises BlissError where the list cannot be written.
    """
    entry = _entry(model or DEFAULT_MODEL, pretrained)
    if entry is None:
        return
    line, lines = _line(*entry), settings_list(LIST)
    if line is None or line in lines:
        return
    kept = [other for other in lines if other.split("\t")[0] != entry[0]]
    write_settings_list(LIST, [*kept, line])


def named_state(model: str, pretrained: str | None) -> str:
    """Whether a model is "named", has "changed" since it was named, or is "unknown"."""
    entry = _entry(model, pretrained)
    lines = settings_list(LIST)
    # An entry is compared as text first: the disk is not read for a model that was never named.
    if entry is None or entry[0] not in [line.split("\t")[0] for line in lines]:
        return "unknown"
    return "named" if _line(*entry) in lines else "changed"


def named_repository(repository: str) -> bool:
    """Whether the user has named a repository of the Hugging Face hub on this machine."""
    return f"{HUB}{repository}" in settings_list(LIST)


def list_name() -> str:
    """The list's path, for messages."""
    path = settings_folder() / LIST
    known = NO_HOME not in path.parents
    return str(path) if known else f"bliss-audit/{LIST} in your settings folder"


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
    """The local weight files that would be read, other than safetensors."""
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


CONFIG = "open_clip_config.json"
TOKENIZER_ARGUMENTS: Mapping[str, type] = {"clean": str, "language": str, "strip_sep_token": bool}
"""The tokenizer arguments that a config may set; none of them names a file or an address."""

_TOWERS = ("vision_cfg", "text_cfg", "multimodal_cfg")
_NAMES = ("hf_tokenizer_name", "hf_model_name")
_PACKAGES = {"hf_tokenizer_name": "transformers", "hf_model_name": "transformers",
             "timm_model_name": "timm"}  # fmt: skip
_MENTIONED = re.compile(r"\b(sentencepiece|tiktoken|protobuf|tokenizers|transformers|timm)\b", re.I)
_ABSENT = re.compile(r"install|requires|not found|no module", re.I)


def check_config(
    model: str, config: Any, own: Collection[str], named: Callable[[str], bool]
) -> None:
    """Raise UsageError for a forbidden value in the config of an `hf-hub:` or `local-dir:` model.

    It may name the repositories `own`, which open_clip's own configs name, those that the user has
    `named`, and others of the same owner. The tokenizer of a folder may have any name: open_clip
    reads the folder instead.
    """
    where = f"{CONFIG} of {model}"
    if not isinstance(config, dict):
        raise _invalid(f"{where} holds no object", "a model's config")
    for tower, settings in _towers(config, where):
        _check_tokenizer(settings.get("tokenizer_kwargs") or {}, where)
        timm = settings.get("timm_model_name")
        if timm is not None and not re.fullmatch(r"[A-Za-z0-9_.]+", str(timm)):
            raise _invalid(
                f"{where} names {timm!r} as its timm model",
                "the plain name of an architecture: another would be fetched from elsewhere",
            )
        for name in _NAMES:
            repository = settings.get(name)
            if not repository or (name == "hf_tokenizer_name" and model.startswith(FOLDER)):
                continue
            if not isinstance(repository, str):
                raise _invalid(f"{where} has no text as {name}", "a name")
            if not (repository in own or _same_owner(model, repository) or named(repository)):
                raise _invalid(
                    f"{where} names another repository, {repository}, as {tower}.{name}",
                    "no repository but the model's own, its owner's, and those that open_clip's "
                    "own models use",
                    f"If you trust it, add the line {HUB}{repository} to {list_name()}",
                )


def _invalid(given: str, needed: str, remedy: str = "Use another model") -> UsageError:
    return UsageError(given, needed, remedy)


def needed_packages(config: Mapping[str, Any]) -> list[str]:
    """The optional packages that a config needs and that are missing."""
    wanted = {
        package
        for tower in _TOWERS
        for name, package in _PACKAGES.items()
        if isinstance(config.get(tower), dict) and config[tower].get(name)
    }
    return sorted(each for each in wanted if importlib.util.find_spec(each) is None)


def package_of(error: BaseException | None) -> str | None:
    """The package that an error, or its cause, reports as missing; None for other errors."""
    for each in causes(error, implicit=True):
        if isinstance(each, ModuleNotFoundError) and each.name:
            return {"google": "protobuf"}.get(top := each.name.split(".")[0], top)
        mentioned = _MENTIONED.search(str(each))
        if mentioned and isinstance(each, ImportError | ValueError | RuntimeError):
            package = mentioned[1].lower()
            module = "google" if package == "protobuf" else package
            if _ABSENT.search(str(each)) and importlib.util.find_spec(module) is None:
                return package
    return None


def not_installed(model: str, package: str) -> BlissError:
    """The error for a model that needs an optional package."""
    return BlissError(
        f"model {model} needs the package {package}, which is not installed",
        f"{package} beside bliss-audit",
        f"Run python -m pip install {package}",
    )


def _towers(config: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for tower in _TOWERS:
        settings = config.get(tower)
        if settings is not None and not isinstance(settings, dict):
            raise _invalid(f"{where} has no object as {tower}", "an object")
        if settings is not None:
            yield tower, settings


def _check_tokenizer(arguments: Any, where: str) -> None:
    allowed = ", ".join(TOKENIZER_ARGUMENTS)
    if not isinstance(arguments, dict):
        raise UsageError(f"{where} has no object as tokenizer_kwargs", allowed, "Correct the file")
    for name, value in arguments.items():
        if name not in TOKENIZER_ARGUMENTS:
            runs = ", which would run code of the model's folder or repository"
            raise UsageError(
                f"{where} asks for the tokenizer argument {name}"
                f"{runs * (name == 'trust_remote_code')}",
                f"none but {allowed}: a config may not say what is run, read or fetched",
                "Use another model, or a copy of it whose config does not ask for it",
            )
        if not isinstance(value, TOKENIZER_ARGUMENTS[name]):
            raise UsageError(
                f"{where} gives {value!r} as the tokenizer argument {name}",
                f"a value of type {TOKENIZER_ARGUMENTS[name].__name__}",
                "Use another model, or a copy of it with another value",
            )


def _same_owner(model: str, repository: str) -> bool:
    """Whether a hub model and a repository, both owner/name, have the same owner."""
    if not model.startswith(HUB) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        return False
    return repository.split("/")[0] == model.removeprefix(HUB).split("/")[0]
