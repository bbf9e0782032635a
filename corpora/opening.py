"""Which reader a corpus's name belongs to: built-in lists, repositories, folders, files.

An installed package adds a kind of corpus through the entry point group `blissaudit.corpora`:
`kind = "my_package:open_kind"` is called with REST for the corpus `kind:REST`, and returns a
TextSource. Packages are only looked at for a name that is nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from ..errors import UsageError
from . import datasets as hub
from .addresses import as_local, base_name, expand, is_remote, text_suffix
from .files import SUFFIXES, open_text_files
from .names import NAMED, PUBLISHED_DICTIONARIES, open_builtin
from .sources import NO_OPTIONS, CorpusOptions, TextSource

GROUP = "blissaudit.corpora"

ACCEPTED_SPECS = (
    "a name that `bliss corpora list` shows, imagenet-1k, paper-dictionary[:PATH], "
    "paper-dictionary-raw[:PATH], hf:owner/name[@revision][:[config/]split], a dataset folder, "
    "FOLDER:[config/]split, or .txt, .csv, .tsv, .jsonl, .parquet or COCO .json files, by path or "
    "by address (https://, s3://, gs://), with {000..012} and * for several"
)

_CELLS = ("column", "split_cells")
_OPTIONS = {
    **dict.fromkeys((".txt", ".csv", ".tsv"), (*_CELLS, "delimiter", "header")),
    **dict.fromkeys((".jsonl", ".parquet"), _CELLS),
}
"""The options that apply to files, by suffix."""

REMOVED = {"keyed-captions": "--column 2", "keyed-words": "--column 2 --split-cells ,"}
"""Schemes of earlier versions, and the options that replace them."""

HUB_SPEC = re.compile(
    r"hf:(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?"
    r"(?::(?:(?P<config>[^/:]+)/)?(?P<split>[^/:]+))?",
    re.ASCII,
)
FOLDER_PART = re.compile(r"(?P<name>.+):(?:(?P<config>[^/:]+)/)?(?P<split>[^/:]+)")


def open_spec(spec: str, options: CorpusOptions = NO_OPTIONS) -> TextSource:
    """Open the corpus that `spec` names in one of the forms ACCEPTED_SPECS, but for presets.

    Errors as of `open_corpus`.
    """
    scheme, _, rest = spec.partition(":")
    if spec in NAMED or (scheme in PUBLISHED_DICTIONARIES and rest):
        refuse_options(spec, options, accepted=())
        return open_builtin(spec)
    if scheme in REMOVED:
        raise UsageError(
            f"{spec!r} was given, but {scheme}: is no longer a scheme",
            f"the file by itself, with {REMOVED[scheme]}",
            f"Give {rest or 'PATH'} {REMOVED[scheme]}; it has to end in .txt",
        )
    named = HUB_SPEC.fullmatch(spec)
    if named is not None:
        accepted = ("column", "config", "split", "revision")
        refuse_options(spec, options, accepted)
        return hub.open_hub_dataset(named["name"], _with_part(spec, named, options))
    address = as_local(spec)
    path = Path(address).expanduser()
    remote = is_remote(address)
    if spec and not remote and path.is_dir():
        _refuse_too_wide(spec, path)
        refuse_options(spec, options, accepted=("column", "config", "split"))
        return hub.open_dataset_folder(path, options)
    part = None if remote or path.exists() else FOLDER_PART.fullmatch(spec)
    if part is not None and Path(part["name"]).expanduser().is_dir():
        return open_spec(part["name"], _with_part(spec, part, options))
    several = not path.exists() and any(sign in address for sign in "{*?[")
    if remote or several or path.is_file():
        files = expand(address if remote else str(path))
        refuse_options(spec, options, _OPTIONS.get(_only_suffix(spec, files), ()))
        return open_text_files(base_name(address), files, options)
    for entry in entry_points(group=GROUP, name=scheme) if rest else ():
        refuse_options(spec, options, accepted=())
        source: TextSource = entry.load()(rest)
        return source
    raise UsageError(
        f"{spec!r} is not a text corpus" + _reason(scheme, rest),
        ACCEPTED_SPECS,
        "Check the spelling and the path",
    )


def _with_part(spec: str, named: re.Match[str], options: CorpusOptions) -> CorpusOptions:
    """The options with what `spec` says of revision, config and split; UsageError where both do."""
    parts = {name: value for name, value in named.groupdict().items() if name != "name" and value}
    for name, value in parts.items():
        if getattr(options, name) not in (None, value):
            raise UsageError(
                f"{spec!r} says {name} {value!r}, and {getattr(options, name)!r} was given too",
                f"one {name}",
                "Leave one of them out",
            )
    return replace(options, **parts)


def refuse_options(spec: str, options: CorpusOptions, accepted: Sequence[str]) -> None:
    """UsageError naming every option that is set although `spec` has no use for it."""
    unused = [
        name for name, value in vars(options).items() if value is not None and name not in accepted
    ]
    if unused:
        raise UsageError(
            f"{' and '.join(unused)} given for {spec!r}",
            f"only {', '.join(accepted)} there" if accepted else "no such option there",
            f"Leave out {' and '.join(unused)}",
        )


def _refuse_too_wide(spec: str, folder: Path) -> None:
    """UsageError for the home folder and the root: all below would be walked, for hours."""
    folder = folder.resolve()
    if folder == Path(os.path.expanduser("~")).resolve():
        what = "your home folder"
    elif folder == folder.parent:
        what = "the whole file system"
    else:
        return
    raise UsageError(
        f"{spec!r} is {what}",
        "a folder that holds texts alone: every file below it is looked at",
        f"Name a folder inside it, or files by a pattern such as {spec.rstrip('/')}/captions/*.txt",
    )


def _only_suffix(spec: str, files: Sequence[str]) -> str:
    """The suffix of all files; UsageError where it is none of SUFFIXES or they differ."""
    kinds = sorted({text_suffix(file) for file in files})
    if len(kinds) > 1:
        raise UsageError(
            f"{spec} names files of different kinds ({', '.join(map(repr, kinds))})",
            "one kind of file in a corpus",
            "Give a narrower pattern",
        )
    if kinds[0] not in SUFFIXES:
        raise UsageError(
            f"{spec!r} is not a text corpus: files ending in {kinds[0]!r} are not read",
            ACCEPTED_SPECS,
            "Choose another file, or turn it into one of these",
        )
    return kinds[0]


def _reason(scheme: str, rest: str) -> str:
    if scheme == "hf":
        return ": a dataset repository is named hf:owner/name[@revision][:[config/]split]"
    if scheme in PUBLISHED_DICTIONARIES and not rest:
        return ": the dictionary's path is missing"
    return ": there is no such file or folder"
