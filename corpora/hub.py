"""Dataset repositories and local dataset folders, streamed through the `datasets` library."""

from __future__ import annotations

import atexit
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..artefacts import digest, sha256_of
from ..errors import BlissError, UsageError
from .addresses import is_remote
from .change_marks import check_unchanged, marks_of
from .columns import choose_arrow_column, split_columns
from .dataset_cards import card_licence
from .dataset_folders import check_dataset_folder, check_inside
from .prompts import CAPTION_PROMPT
from .sources import JSON, CorpusOptions, TextBatch, batch_values
from .text_files import file_values, readable
from .text_records import Values, joined_columns, read_parquet

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
    notices = ()
    if (options.revision or "").startswith(CONVERTED):
        notices = (
            f"{spec}: {options.revision} has no card, so its configurations are read as one, "
            f"{len(files):,} file{'s' * (len(files) != 1)}: texts repeat where these overlap",
        )
    return DatasetTexts(spec, chosen, folder, builder, marks, notices, licence=licence)


def open_builder(
    spec: str, address: str, options: CorpusOptions, readable_kinds: tuple[str, ...], needed: str
) -> Any:
    """The library's plan of one configuration: `config.data_files` lists files by split.

    A folder is checked before the library looks at what its card names, and the files that it
    lists after. UsageError where the config is not there; BlissError where the folder leads out of
    itself, the repository cannot be found or reached, or holds a kind of data other than
    `readable_kinds`, which `needed` words.
    """
    import datasets

    folder = None if is_remote(address) else address
    if folder is not None:
        check_dataset_folder(folder)
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
    if folder is not None:
        files = builder.config.data_files or {}
        listed = (str(file) for split in files.values() for file in split)
        check_inside(folder, listed, "its card")
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
