"""Images in tables: parquet and Arrow files with a column of encoded images.

Files are read batch by batch; damaged groups of rows are reported and skipped.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ...artefacts import digest
from ...errors import BlissError, UsageError
from ...tables import open_table
from ...tables import read_schema as parquet_schema
from ..addresses import base_name, is_remote, open_file, reachable, stamp, unreachable
from ..datasets import merged_configurations
from ..parquet_pages import (
    PageTooLarge,
    arrow_batches,
    check_rows,
    open_arrow_stream,
    parquet_batches,
)
from ..sources import JSON
from .labels import (
    LABEL_TOO_LONG,
    choose_named,
    image_features,
    is_too_long,
    label_values,
    no_labels,
)
from .source import (
    MAX_IMAGE_BYTES,
    NO_IMAGE_OPTIONS,
    TOO_LARGE,
    ImageItem,
    ImageOptions,
    Skip,
    display_path,
    why_outside,
)


@dataclass(frozen=True)
class ImageTables:
    """The rows of one or more files, one after the other."""

    spec: str
    addresses: tuple[str, ...]
    image_column: str
    label_column: str | None
    names: tuple[str, ...] | None = None
    """The classes that label numbers stand for, where the files do not say."""
    options: ImageOptions = NO_IMAGE_OPTIONS
    labels: Sequence[str | None] | None = None
    count: int | None = None
    others: tuple[str, ...] = ()
    """The columns that hold no images."""

    @property
    def notices(self) -> tuple[str, ...]:
        """That the hub's own copy of a repository has no configurations; that there are no labels.

        Where images are the only column, nobody misses labels.
        """
        merged = merged_configurations(self.spec, self.options.revision, len(self.addresses))
        lost = self.label_column is None and self.others
        return (*merged, no_labels(self.spec)) if lost else merged

    def facts(self) -> dict[str, JSON]:
        """The fingerprint is over name, size and time of change of every file, and options."""
        content = {f"{n} {base_name(a)}": stamp(a) for n, a in enumerate(self.addresses)}
        return {
            "kind": "image-tables",
            "spec": self.spec,
            **self.options.facts(),
            "image_column": self.image_column,
            "label_column": self.label_column,
            "fingerprint": digest(
                {**content, "names": list(self.names or ()), **self.options.given()}
            ),
        }

    def items(self, skip: Skip) -> Iterator[ImageItem]:
        """Every row; a file or a group of rows that cannot be read fails by itself."""
        row = 0
        for address in self.addresses:
            with closing(self._items_of(address, row, skip)) as items:
                for item in items:
                    yield item
                    row = item.row + 1

    def _items_of(self, address: str, first: int, skip: Skip) -> Generator[ImageItem, None, None]:
        shard, inner = display_path(base_name(address)), 0
        columns = [name for name in (self.image_column, self.label_column) if name is not None]
        with reachable(address), open_file(address) as file:
            with closing(table_rows(file, address, columns, lambda n: skip(first + n))) as found:
                for part in found:
                    if isinstance(part, NotRead):
                        for n in range(inner, inner + part.rows):
                            yield ImageItem(first + n, f"{shard}/{n}", problem=part.reason)
                        inner += part.rows
                    else:
                        for item in self._batch_items(part, address, first + inner, inner):
                            yield item._replace(data=None) if skip(item.row) else item
                        inner += len(part)

    def _batch_items(
        self, batch: pa.RecordBatch, address: str, row: int, inner: int
    ) -> Iterator[ImageItem]:
        labels: list[str | None] = [None] * len(batch)
        too_long = [False] * len(batch)
        if self.label_column is not None:
            values = batch.column(self.label_column)
            too_long = [is_too_long(value) for value in values]
            short = [n for n, is_long in enumerate(too_long) if not is_long]
            values = values.take(pa.array(short, pa.int64())) if any(too_long) else values
            found = label_values(values, batch.schema, self.label_column, self.names)
            for n, label in zip(short, found, strict=True):
                labels[n] = label
        images = batch.column(self.image_column)
        shard = display_path(base_name(address))
        for n, label in enumerate(labels):
            data, name = _content(images[n])
            shown = f"{shard}/{inner + n}" + (f"/{display_path(base_name(name))}" if name else "")
            item = ImageItem(row + n, shown, label)
            if too_long[n]:
                yield item._replace(problem=LABEL_TOO_LONG)
            elif data is not None and len(data) > MAX_IMAGE_BYTES:
                yield item._replace(problem=TOO_LARGE)
            elif data is not None:
                yield item._replace(data=data)
            elif not name or is_remote(address):
                yield item._replace(problem="the row holds no image")
            else:
                folder = os.path.dirname(address)
                problem = why_outside(folder, name)
                file = os.path.join(folder, name)
                if not problem and not os.path.lexists(file):
                    problem = "the row holds no image, and no file is where its path leads"
                yield item._replace(file=None if problem else file, problem=problem)

    def check(self) -> None:
        """BlissError where a file has gone."""
        for address in self.addresses:
            if not is_remote(address):
                with reachable(address):
                    os.stat(address)


def open_image_tables(
    spec: str,
    addresses: Sequence[str],
    options: ImageOptions,
    names_of: Any = None,
) -> ImageTables:
    """Choose the columns by the first file that can be read.

    `names_of(column)` may know a label column's class names. UsageError where no column holds
    images, or none of the name given; BlissError where no file can be read.
    """
    schema = _first_schema(spec, addresses)
    image = choose_image_column(spec, schema, options.image_column)
    if image is None:
        raise UsageError(
            f"{spec} has no column with encoded images among {', '.join(schema.names)}",
            "a binary column, or one of structs with bytes, as `datasets` writes them",
            "Name the column with --image-column, or give the file that holds the images",
        )
    label = choose_named(spec, schema.names, options.label_column)
    if label is not None:
        label_values(pa.array([], schema.field(label).type), schema, label, None)
    names = names_of(label) if names_of is not None and label is not None else None
    others = tuple(name for name in schema.names if name != image)
    return ImageTables(spec, tuple(addresses), image, label, names, options, others=others)


def choose_image_column(spec: str, schema: pa.Schema, given: str | None) -> str | None:
    """The column with encoded images: the one given, or the only one that can be; else None."""
    fitting = [field.name for field in schema if _holds_images(field.type)]
    if given is not None:
        choose_named(spec, schema.names, given, (), "--image-column")
        return given if given in fitting else None
    declared = [name for name in image_features(schema) if name in fitting]
    candidates = declared or fitting
    if len(candidates) > 1:
        usual = [name for name in ("image", "img", "jpg", "png") if name in candidates]
        if len(usual) != 1:
            raise UsageError(
                f"{spec} has several columns of images ({', '.join(candidates)})",
                "one of them",
                "Name it with --image-column",
            )
        return usual[0]
    return candidates[0] if candidates else None


def _first_schema(spec: str, addresses: Sequence[str]) -> pa.Schema:
    first: BlissError | None = None
    for address in addresses:
        try:
            return read_schema(address)
        except UsageError:
            raise
        except BlissError as error:
            first = first or error
    raise first or unreachable(spec, ValueError("it has no files"))


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds_images(kind.field(i).type)
                   for i in range(kind.num_fields))  # fmt: skip
    return (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _content(value: pa.Scalar) -> tuple[bytes | None, str]:
    """The bytes of one cell, and the name beside them, where there is one."""
    if not isinstance(value, pa.StructScalar):
        return value.as_py(), ""
    if not value.is_valid:
        return None, ""
    named = value["path"] if "path" in value else None
    try:
        name = str(named.as_py() or "") if named is not None else ""
    except UnicodeDecodeError:
        name = ""
    return value["bytes"].as_py(), name


ROWS_AT_ONCE = 32


class NotRead(NamedTuple):
    """Rows that were skipped, or at least so many that cannot be read, and why."""

    rows: int
    reason: str = ""


Rows = Generator[pa.RecordBatch | NotRead, None, None]


def read_schema(address: str) -> pa.Schema:
    """The schema of a parquet or Arrow file; BlissError where it cannot be read."""
    with reachable(address), open_file(address) as file:
        if is_parquet(address):
            return parquet_schema(file)
        with open_arrow_stream(file) as reader:
            return reader.schema


def is_parquet(address: str) -> bool:
    """Whether a file is parquet by its name; it is Arrow otherwise."""
    return address.lower().endswith(".parquet")


def table_rows(file: IO[bytes], address: str, columns: list[str], skip: Skip) -> Rows:
    """Some columns of every row of a file; `skip` counts rows from 0 in this file.

    Raises BlissError where a column is missing; errors of the system are passed on.
    """
    try:
        if is_parquet(address):
            with open_table(file) as table:
                _check_columns(address, table.schema_arrow, columns)
                check_rows(table, file)
                yield from _parquet_rows(table, file, columns, skip)
        else:
            with open_arrow_stream(file) as reader:
                _check_columns(address, reader.schema, columns)
                for batch in arrow_batches(file, reader, columns):
                    for start in range(0, len(batch), ROWS_AT_ONCE):
                        yield batch.slice(start, ROWS_AT_ONCE)
    except (pa.ArrowException, OSError) as error:
        yield NotRead(1, _damage(error))


def _parquet_rows(table: pq.ParquetFile, file: IO[bytes], columns: list[str], skip: Skip) -> Rows:
    first = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if all(skip(first + n) for n in range(size)):
            yield NotRead(size)
        else:
            yield from _group_rows(table, file, columns, group)
        first += size


def _group_rows(table: pq.ParquetFile, file: IO[bytes], columns: list[str], group: int) -> Rows:
    """The rows of one group; everything is read by the calling thread."""
    done, size = 0, table.metadata.row_group(group).num_rows
    try:
        for batch in parquet_batches(table, file, columns, ROWS_AT_ONCE, group):
            yield batch
            done += len(batch)
    except (pa.ArrowException, OSError) as error:
        yield NotRead(size - done, _damage(error))


def _check_columns(address: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in schema.names:
            raise BlissError(
                f"{address} has no column {column!r}",
                "the same columns in every file of a collection",
                "Correct that file or leave it out",
            )


def _damage(error: pa.ArrowException | OSError) -> str:
    """What Arrow complains of in the content; an error that comes from elsewhere is raised.

    Arrow raises OSError for damaged content too, without a number and from its own code.
    """
    if isinstance(error, OSError):
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = last.tb_frame.f_code.co_filename if last is not None else ""
        if error.errno is not None or not where.startswith("pyarrow"):
            raise error
    if isinstance(error, PageTooLarge):
        return f"the table is not read: {error}"
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"the table is damaged ({text[0][:100]})"
