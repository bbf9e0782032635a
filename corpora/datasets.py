"""Dataset repositories and local dataset folders, streamed through the `datasets` library.

A data set is self-contained: neither the card of a folder or repository nor the links of a folder
may lead outside it.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..artefacts import digest, sha256_of
from ..errors import BlissError, UsageError
from ..safe_text import counted
from .addresses import check_unchanged, is_remote, marks_of, read_file
from .captions import CAPTION_PROMPT
from .files import Values, file_values, joined_columns, read_parquet, readable
from .images.source import LINK_OUT, display_path, why_outside
from .sources import (
    JSON,
    CorpusOptions,
    TextBatch,
    batch_values,
    choose_arrow_column,
    split_columns,
)

# Builders that read tables of text. Others run decoders this package has no use for.
TEXT_BUILDERS = ("parquet", "csv", "json", "text", "arrow")
DEFAULT_SPLIT = "train"
CONVERTED = "refs/convert/"
"""Branches of the hub's own copies."""
_FACTS = ("column", "config", "split", "revision")


@dataclass(frozen=True)
class DatasetTexts:
    """One text column of one split; `folder` is None for a repository of the hub."""

    spec: str
    options: CorpusOptions
    folder: Path | None
    builder: Any = field(repr=False)
    marks: tuple[str, ...] = field(default=(), repr=False)
    """What the system said of the change of a folder's files when it was opened."""
    notices: tuple[str, ...] = ()
    """What a user should know of how it was opened."""
    default_prompt: str = CAPTION_PROMPT
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None

    def facts(self) -> dict[str, JSON]:
        """Facts for manifests.

        The fingerprint is over the content of a folder's data files, or over the addresses of a
        repository's, which name the commit.
        """
        files = self._files()
        if self.folder is None:
            content: dict[str, str] = {file: "" for file in sorted(files)}
        else:
            content = dict(_file_digest(self.folder, Path(file)) for file in sorted(files))
        return {
            "kind": "hub-dataset" if self.folder is None else "dataset-folder",
            "spec": self.spec,
            **{name: getattr(self.options, name) for name in _FACTS},
            "fingerprint": f"datasets:{digest(content)}",
        }

    def batches(self, size: int) -> Iterator[TextBatch]:
        """The texts in order, `size` at a time; BlissError where the data stops being readable."""
        with closing(self._values(size)) as values:
            yield from batch_values(values, size)

    def _values(self, size: int) -> Values:
        read = self._parquet_values() if self.builder.name == "parquet" else self._streamed(size)
        row = 0
        try:
            with closing(read) as values:
                for value in values:
                    yield row, value
                    row += 1
        except BlissError:
            raise
        except Exception as error:
            raise _unreadable(self.spec, error, f"read beyond row {row}") from error
        check_unchanged(self._files()[: len(self.marks)], self.marks)

    def _parquet_values(self) -> Generator[object, None, None]:
        """Parquet files without the library's reader, whose threads can outlive an iterator."""
        for address in self._files():
            with closing(file_values(address, read_parquet, self.options.column)) as values:
                for _, value in values:
                    yield value

    def _streamed(self, size: int) -> Generator[object, None, None]:
        dataset = self.builder.as_streaming_dataset(split=self.options.split)
        columns = list(split_columns(self.options.column or "", dataset.column_names or ()))
        tables = dataset.select_columns(columns).with_format("arrow")
        with _closed_by_exit(tables.iter(batch_size=size)) as stream:
            for table in stream:
                yield from joined_columns([table.column(each) for each in columns])

    def _files(self) -> list[str]:
        return [str(file) for file in self.builder.config.data_files[self.options.split]]


def open_hub_dataset(name: str, options: CorpusOptions) -> DatasetTexts:
    """The repository `owner/name` of the hub, which has to be reachable.

    UsageError where the config, split or column is not there; BlissError with the reason where
    the repository cannot be found, reached or read.
    """
    return _open(f"hf:{name}", f"hf://datasets/{name}", None, options)


def open_dataset_folder(folder: Path, options: CorpusOptions) -> DatasetTexts:
    """A folder laid out as a dataset repository, or holding data files; errors as for the hub."""
    folder = folder.resolve()
    return _open(folder.name, str(folder), folder, options)


def _open(spec: str, address: str, folder: Path | None, options: CorpusOptions) -> DatasetTexts:
    with quiet():
        builder = open_builder(spec, address, options, TEXT_BUILDERS, "tables of text")
        splits = _checked(spec, builder.as_streaming_dataset)
        split = choose_split(spec, options.split, list(splits))
        schema = _schema(spec, splits[split])
        column = choose_arrow_column(spec, options.column, schema)
    chosen = CorpusOptions(column, builder.config.name, split, options.revision)
    files = [str(file) for file in builder.config.data_files[split]]
    marks = () if folder is None else marks_of(files)
    licence = builder.info.license or card_licence(address, options.revision)
    notices = merged_configurations(spec, options.revision, len(files))
    return DatasetTexts(spec, chosen, folder, builder, marks, notices, licence=licence)


def merged_configurations(spec: str, revision: str | None, files: int) -> tuple[str, ...]:
    """What to say of a branch with the hub's own copies, which merges all configurations."""
    if not (revision or "").startswith(CONVERTED):
        return ()
    return (
        f"{spec}: {revision} has no card, so its configurations are read as one, "
        f"{counted(files, 'file')}: rows repeat where these overlap",
    )


def open_builder(
    spec: str, address: str, options: CorpusOptions, readable_kinds: tuple[str, ...], needed: str
) -> Any:
    """The library's plan of one configuration: `config.data_files` lists files by split.

    The card is checked before the library looks at what it names, and the files that the library
    lists after. UsageError where the config is not there; BlissError where the folder or
    repository leads out of itself, cannot be found or reached, or holds a kind of data other than
    `readable_kinds`, which `needed` words.
    """
    import datasets

    folder = None if is_remote(address) else address
    if folder is not None:
        check_dataset_folder(folder)
    else:
        _check_repository_card(address, options.revision)
    try:
        builder = datasets.load_dataset_builder(
            address, name=options.config, revision=options.revision
        )
    except ValueError as error:
        configs = _checked(
            spec,
            lambda: datasets.get_dataset_config_names(address, revision=options.revision),
        )
        if options.config in configs or (len(configs) < 2 and options.config is None):
            raise _unreadable(spec, error) from error
        given = f"no config {options.config!r}" if options.config else "several configs"
        raise UsageError(
            f"{spec} has {given}", f"one of {', '.join(configs)}", "Name the config"
        ) from error
    except Exception as error:
        raise _unreadable(spec, error) from error
    if builder.name not in readable_kinds:
        raise BlissError(
            f"{spec} holds {builder.name} data",
            f"{needed} ({', '.join(readable_kinds)})",
            "Export it to one of these, or give the file that holds what is wanted by itself",
        )
    files = builder.config.data_files or {}
    listed = [str(file) for split in files.values() for file in split]
    if folder is not None:
        check_inside(folder, listed, "its card")
    else:
        for file in listed:
            if not _is_of_repository(address, file):
                raise _leaves(address, "its card", file)
    return builder


def choose_split(spec: str, given: str | None, splits: list[str]) -> str:
    """`given`, or else train, or else the only split; UsageError that lists them otherwise."""
    if given in splits:
        return given
    if given is None and DEFAULT_SPLIT in splits:
        return DEFAULT_SPLIT
    if given is None and len(splits) == 1:
        return splits[0]
    problem = f"no split {given!r}" if given is not None else "several splits"
    raise UsageError(f"{spec} has {problem}", f"one of {', '.join(splits)}", "Name the split")


def _schema(spec: str, dataset: Any) -> pa.Schema:
    """The declared schema, or that of the first row for formats that declare none."""
    if dataset.features is not None:
        return dataset.features.arrow_schema

    def first() -> pa.Schema:
        with _closed_by_exit(dataset.with_format("arrow").iter(batch_size=1)) as stream:
            return next(stream, pa.table({})).schema

    return _checked(spec, first)


def _file_digest(folder: Path, file: Path) -> tuple[str, str]:
    """A data file's name inside the folder, and the SHA-256 of its bytes."""
    with readable(file):
        name = file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)
        return name.as_posix(), sha256_of(file)


def _checked(spec: str, call: Any) -> Any:
    """`call()`, whose errors, of many kinds in this library, become one BlissError."""
    try:
        return call()
    except Exception as error:
        raise _unreadable(spec, error) from error


def _unreadable(spec: str, error: Exception, what: str = "opened") -> BlissError:
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return BlissError(
        f"{spec} could not be {what} ({type(error).__name__}: {reason})",
        "a dataset that can be found, reached and read",
        "Check its name; log in or set a token if it is private; without a network, copy the "
        "repository to this machine and give its folder",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines from `datasets`; the settings are put back after."""
    import datasets

    had_bars = not datasets.utils.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


@contextmanager
def _closed_by_exit(stream: Generator[pa.Table, None, None]) -> Iterator[Iterator[pa.Table]]:
    """Close `stream` on leaving, or at exit if it is still open then.

    A stream left to the end of the interpreter prints a traceback, since the modules it cleans
    up with are gone by then.
    """

    def close() -> None:
        with suppress(ValueError):  # still running in another thread
            stream.close()

    atexit.register(close)
    try:
        yield stream
    finally:
        atexit.unregister(close)
        close()


CARD = "README.md"
_MOST = 1 << 20  # bytes; the licence is in the card's head
_LARGEST_CARD = 16 << 20


def card_licence(address: str, revision: str | None = None) -> str | None:
    """The licence that the card in a dataset folder or repository states; None where none is.

    `address` is a path or hf://datasets/owner/name. A card that is missing, unreachable or spoilt
    says nothing: the texts can be read without it.
    """
    from huggingface_hub import DatasetCard

    try:
        data = read_file(f"{_at_revision(address, revision)}/{CARD}", _MOST)
        text = data.decode("utf-8-sig", "replace")
        facts = DatasetCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # of many kinds: no card, no network, no YAML
        return None
    stated = facts.get("license")
    if stated == "other":
        stated = facts.get("license_name") or stated
    names = stated if isinstance(stated, list) else [stated]
    return ", ".join(str(name) for name in names if name) or None


def _at_revision(address: str, revision: str | None) -> str:
    """A repository's address at a revision; a folder's path as it is."""
    at = f"@{revision.replace('/', '%2F')}" if revision and is_remote(address) else ""
    return f"{address}{at}"


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
        if _is_elsewhere(place):
            raise _leaves(folder, name, place)
    for path in _links(folder):
        check_inside(folder, [path], "a link")


def _is_elsewhere(place: str) -> bool:
    """Whether a place that a card names is not below the card."""
    bare = re.sub(r"[\0-\x20]", "", place)  # which URL parsers drop
    return bool(_ELSEWHERE.match(bare)) or ".." in re.split(r"[\\/]", place)


def _check_repository_card(address: str, revision: str | None) -> None:
    """BlissError where the card of a repository names anything outside it.

    A card that cannot be fetched is left to `datasets`, which then says why.
    """
    for name in (CARD, STANDALONE_CARD):
        try:
            data = read_file(f"{_at_revision(address, revision)}/{name}", _LARGEST_CARD + 1)
        except (FileNotFoundError, PermissionError, BlissError):
            continue
        if len(data) > _LARGEST_CARD:
            raise BlissError(
                f"{name} of {address} is larger than {_LARGEST_CARD >> 20} MiB",
                "a data set card that people can read",
                "Do not use a data set that has such a card",
            )
        for place in _places_in_card(address, name, data):
            if _is_elsewhere(place) and not _is_of_repository(address, place):
                raise _leaves(address, name, place)


def _is_of_repository(address: str, file: str) -> bool:
    """Whether an address is that of a file in the repository at `address`."""
    inside = file.startswith((f"{address}@", f"{address}/"))
    return inside and "::" not in file and ".." not in file.split("/")


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
        with readable(Path(file)):
            data = Path(file).read_bytes()
        for place in _places_in_card(folder, name, data):
            yield name, place


def _places_in_card(where: str, name: str, data: bytes) -> list[str]:
    """Every place that a card, CARD or STANDALONE_CARD, names; read as `datasets` reads it."""
    import yaml
    from huggingface_hub import DatasetCard

    try:
        text = data.decode("utf-8-sig")
        facts = DatasetCard(text).data.to_dict() if name == CARD else yaml.safe_load(text)
        return _places(facts)
    except Exception as error:  # of many kinds: not UTF-8, no YAML, no mapping
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise BlissError(
            f"{name} in {display_path(where)} could not be read ({type(error).__name__}: {reason})",
            "a data set card with YAML at its head",
            "Correct it, or remove it if the files need no description",
        ) from error


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


def _leaves(where: str, who: str, name: str) -> BlissError:
    kind = "repository" if is_remote(where) else "folder"
    return BlissError(
        f"{who} in {display_path(where)} names {display_path(name)}, which leaves the {kind}",
        f"files inside the {kind}",
        "Do not use a data set that does this",
    )
