"""Which reader a corpus's name belongs to: built-in lists, repositories, folders, files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from . import hub
from .addresses import as_local, base_name, expand, is_remote, suffix_of
from .builtin import NAMED, PUBLISHED_DICTIONARIES, open_builtin
from .keyed_lines import TEXTS, open_keyed_lines
from .sources import NO_OPTIONS, CorpusOptions, TextSource
from .text_files import open_text_files
from .text_records import COLUMN_SUFFIXES, SUFFIXES

ACCEPTED_SPECS = (
    "a name that `bliss corpora list` shows, imagenet-1k, paper-dictionary[:PATH], "
    "paper-dictionary-raw[:PATH], keyed-captions:PATH or keyed-words:PATH (a key, a tab and a "
    "caption or words a line), hf:owner/name, a dataset folder, or .txt, .csv, .tsv, .jsonl, "
    ".parquet or COCO .json files, by path or by address (https://, s3://, gs://), with {000..012} "
    "and * for several"
)

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def open_spec(spec: str, options: CorpusOptions = NO_OPTIONS) -> TextSource:
    """Open the corpus that `spec` names in one of the forms ACCEPTED_SPECS, but for presets.

    Errors as of `open_corpus`.
    """
    scheme, _, rest = spec.partition(":")
    if spec in NAMED or (scheme in PUBLISHED_DICTIONARIES and rest):
        refuse_options(spec, options, accepted=())
        return open_builtin(spec)
    if scheme in TEXTS and rest:
        refuse_options(spec, options, accepted=())
        return open_keyed_lines(scheme, Path(rest).expanduser())
    if scheme == "hf" and _HUB_NAME.fullmatch(rest):
        return hub.open_hub_dataset(rest, options)
    address = as_local(spec)
    path = Path(address).expanduser()
    remote = is_remote(address)
    if spec and not remote and path.is_dir():
        _refuse_too_wide(spec, path)
        refuse_options(spec, options, accepted=("column", "config", "split"))
        return hub.open_dataset_folder(path, options)
    several = not path.exists() and any(sign in address for sign in "{*?[")
    if remote or several or path.is_file():
        files = expand(address if remote else str(path))
        suffix = _only_suffix(spec, files)
        refuse_options(spec, options, ("column",) if suffix in COLUMN_SUFFIXES else ())
        return open_text_files(base_name(address), files, options.column)
    raise UsageError(
        f"{spec!r} is not a text corpus" + _reason(scheme, rest),
        ACCEPTED_SPECS,
        "Check the spelling and the path",
    )


def refuse_options(spec: str, options: CorpusOptions, accepted: Sequence[str]) -> None:
    """UsageError naming every option that is set although `spec` has no use for it."""
    unused = [
        name for name, value in vars(options).items() if value is not None and name not in accepted
    ]
    if unused:
        raise UsageError(
            f"{' and '.join(unused)} given for {spec!r}",
            f"only {' or '.join(accepted)} there" if accepted else "no such option there",
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
    kinds = sorted({suffix_of(file) for file in files})
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
        return ": a dataset repository is named hf:owner/name"
    if scheme in PUBLISHED_DICTIONARIES and not rest:
        return ": the dictionary's path is missing"
    if scheme in TEXTS and not rest:
        return ": the file's path is missing"
    return ": there is no such file or folder"
