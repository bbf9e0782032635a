"""Collections whose images carry captions: sidecar files, tar shards, tables, COCO annotations.

An image may have several captions. Where they are found:

- a folder of images: in FILE of `captions`, a csv, tsv, jsonl, parquet or COCO json file, or lines
  `image#n<TAB>caption`; else in `metadata.csv`, `.jsonl` or `.parquet` of the folder; else beside
  each image: the `caption` of its .json, or every line of its .txt;
- tar shards: the `caption` of a sample's .json, or its .txt;
- parquet and Arrow files and dataset repositories with images: a column of texts or lists of them;
- a csv, tsv, jsonl, parquet or COCO json file by itself: its paths, relative to `image_root`.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...errors import BlissError, UsageError
from ...safe_text import counted
from ..addresses import open_file, reachable
from ..captions import CaptionRules, clean_texts
from ..files import readable
from ..sources import CAPTION_COLUMNS, JSON, UNDECODABLE, TextBatch, make_batch
from .folders import ImageList, list_paths
from .labels import choose_named, read_label_file
from .opening import LABEL_FILE_SUFFIXES, open_images
from .source import (
    NO_IMAGE_OPTIONS,
    ImageItem,
    ImageOptions,
    ImageSource,
    display_path,
    read_everything,
    read_nothing,
    why_outside,
)
from .tables import (
    ImageTables,
    NotRead,
    choose_image_column,
    read_schema,
    table_rows,
)
from .tars import ImageTars

COLUMNS = (*CAPTION_COLUMNS, "captions", "sentences", "raw", "escaped_caption")
"""Names of caption columns that are recognised, in this order."""
UIDS = ("uid", "key")
"""Fields and columns that name a sample: DataComp's and img2dataset's."""
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "captions.csv", "captions.tsv",
            "captions.jsonl", "captions.parquet", "captions.txt", "captions.json")  # fmt: skip
TABLES = (*LABEL_FILE_SUFFIXES, ".parquet", ".json", ".txt")
LONGEST_SIDECAR = 1 << 20
LONGEST_CAPTION = 100_000
RULES = CaptionRules(max_characters=LONGEST_CAPTION, deduplicate=False)
_TOKEN = re.compile(r"#\d+$")


class ImageCaption(NamedTuple):
    """A caption of the image at a source row, and what its sample is called, if anything."""

    row: int
    text: str
    uid: str | None = None


@dataclass(frozen=True)
class CaptionedImages:
    """A collection of images, and where its captions are."""

    source: ImageSource
    column: str | None
    """The caption column, extension or field; None: the usual ones."""
    listed: Mapping[int, tuple[str, ...]] | None = None
    """The captions of each row, where a file lists them."""
    notices: tuple[str, ...] = ()

    def captions(self) -> Iterator[ImageCaption]:
        """Every caption in the order of the images, cleaned; an empty one is text "".

        A row without any caption is not there.
        """
        for row, texts, uid in self._rows():
            for text in texts:
                clean, _ = clean_texts([text], RULES, dict.fromkeys(_COUNTS, 0))
                yield ImageCaption(row, clean[0] if clean else "", uid)

    def _rows(self) -> Iterator[tuple[int, Sequence[str], str | None]]:
        if self.listed is not None:
            for row in sorted(self.listed):
                yield row, self.listed[row], None
        elif isinstance(self.source, ImageTars):
            shards = _CaptionTars(**{**vars(self.source), "column": self.column})
            with closing(shards.items(read_nothing)) as items:  # type: ignore[type-var]
                for item in items:
                    if item.label is not None:
                        yield item.row, (item.label,), item.path
        elif isinstance(self.source, ImageTables):
            yield from _table_captions(self.source, self.column)
        elif isinstance(self.source, ImageList):
            for row, path in enumerate(self.source.paths):
                if row not in self.source.problems:
                    texts, uid = _sidecar(self.source.root, path, self.column)
                    if texts:
                        yield row, texts, uid


_COUNTS = ("read", "empty", "too_short", "too_long")


def open_captioned(
    spec: str,
    captions: str | None = None,
    column: str | None = None,
    image_root: str | None = None,
    options: ImageOptions = NO_IMAGE_OPTIONS,
) -> CaptionedImages:
    """Open a collection whose images carry captions; see the module for its forms.

    UsageError where nothing fits, a file of `captions` names no image of the collection, or an
    option does not apply; BlissError where data cannot be read.
    """
    if captions is None and os.path.isfile(spec) and _is_table_of_paths(spec):
        records = _records(spec, column, options)
        paths = list(dict.fromkeys(path for path, _ in records))
        root = image_root or os.path.dirname(os.path.abspath(spec))
        if not os.path.isdir(root):
            raise UsageError(
                f"--image-root {root} is no folder", "the folder of the images", "Correct it"
            )
        listed = list_paths(root, paths, [None] * len(paths), bool(options.follow_links))
        if len(listed.problems) == len(paths):
            raise UsageError(
                f"{display_path(spec)} names no file in {display_path(root)} (the first: "
                f"{display_path(paths[0]) if paths else 'none'})",
                "paths relative to the folder of the file, or to --image-root",
                "Add --image-root DIR",
            )
        return CaptionedImages(listed, column, _by_row(listed, records)[0])
    if image_root is not None:
        raise UsageError(
            f"--image-root was given with {spec}", "it with a file of paths and captions",
            "Leave it out",
        )  # fmt: skip
    source = open_images(spec, options)
    if not isinstance(source, ImageList):
        if captions is not None:
            raise UsageError(
                f"--captions was given with {spec}", "it with a folder of image files",
                "Name the column, extension or field with --caption-column",
            )  # fmt: skip
        if not isinstance(source, ImageTars | ImageTables):
            raise UsageError(
                f"{spec} is a folder at an address, beside whose images no captions are looked for",
                "tar shards, tables, or a local folder",
                "Copy it here, or pack it into tar shards",
            )
        if isinstance(source, ImageTables):
            _caption_column(source, column)
        return CaptionedImages(source, column)
    if captions is None:
        found = (os.path.join(spec, name) for name in METADATA)
        for file in filter(os.path.isfile, found):
            try:
                records = _records(file, column, options)
            except UsageError:
                continue  # a file of labels
            captions = file
            break
    else:
        records = _records(captions, column, options)
    if captions is None:
        return CaptionedImages(source, column)
    rows, lost = _by_row(source, records)
    if not rows:
        raise UsageError(
            f"{display_path(captions)} names {counted(len(records), 'image')}"
            f"{f', {display_path(records[0][0])} first' if records else ''}, none of which is in "
            f"{display_path(spec)}",
            "the captions of these images, by path or by file name",
            "Correct --captions or the folder",
        )
    note = f"captions are those of {display_path(captions)}"
    if lost:
        note += (
            f"; {lost:,} of its {counted(len(records), 'caption')} for images that are not there"
        )
    return CaptionedImages(source, column, rows, (note,))


def _is_table_of_paths(file: str) -> bool:
    """Whether a file lists paths; a parquet file with encoded images does not."""
    lower = file.lower()
    if not lower.endswith(TABLES):
        return False
    if not lower.endswith(".parquet"):
        return True
    schema = read_schema(file)
    return choose_image_column(file, schema, None) is None


Records = list[tuple[str, str]]
"""Paths and captions."""


def _records(file: str, column: str | None, options: ImageOptions) -> Records:
    """The paths and captions of a file, by its suffix; UsageError where it has no captions."""
    suffix = os.path.splitext(file)[1].lower()
    if not os.path.isfile(file) or suffix not in TABLES:
        state = "is no table of captions" if os.path.exists(file) else "does not exist"
        raise UsageError(
            f"{display_path(file)} {state}",
            f"a {', '.join(TABLES[:-1])} or {TABLES[-1]} file with paths and captions",
            "Correct --captions",
        )
    if suffix == ".json":
        return _coco_records(file)
    if suffix == ".txt":
        return _token_records(file)
    problem: UsageError | None = None
    for name in COLUMNS if column is None else (column,):
        try:
            read = read_label_file(file, replace(options, label_column=name, labels=None), True)
        except UsageError as error:
            problem = problem or error
        else:
            return [(path, text or "") for path, text in zip(read.paths, read.labels, strict=True)]
    assert problem is not None
    raise UsageError(
        problem.given, f"a column called {', '.join(CAPTION_COLUMNS)}", "Name it: --caption-column"
    )


def _coco_records(file: str) -> Records:
    content = _json(file)
    images = content.get("images") if isinstance(content, dict) else None
    notes = content.get("annotations") if isinstance(content, dict) else None
    try:
        names = {each["id"]: str(each["file_name"]) for each in images or ()}
        records = [(names[each["image_id"]], str(each["caption"])) for each in notes or ()
                   if each["image_id"] in names]  # fmt: skip
    except (TypeError, KeyError, AttributeError) as error:
        raise BlissError(
            f"{display_path(file)} is not a COCO caption file ({type(error).__name__}: {error})",
            "images with id and file_name, annotations with image_id and caption",
            "Give the captions_*.json of COCO, or another format",
        ) from error
    if not records:
        raise UsageError(
            f"{display_path(file)} has no captions of images",
            "a COCO caption file: images, and annotations with captions",
            "Give the captions_*.json of COCO",
        )
    return records


def _json(file: str) -> Any:
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as text:
            return json.load(text)
    except (OSError, ValueError, RecursionError) as error:
        raise BlissError(
            f"{display_path(file)} could not be read ({error})", "a JSON file", "Check the file"
        ) from error


def _token_records(file: str) -> Records:
    records: Records = []
    with readable(file), open(file, encoding="utf-8-sig", errors=UNDECODABLE) as lines:
        for number, line in enumerate(lines, 1):
            path, tab, text = line.rstrip("\n").partition("\t")
            if not line.strip():
                continue
            if not tab:
                raise UsageError(
                    f"line {number} of {display_path(file)} has no tab",
                    "lines of an image's path, a tab and a caption",
                    "Give a csv, tsv or jsonl file otherwise",
                )
            records.append((_TOKEN.sub("", path), text))
    return records


def _by_row(listed: ImageList, records: Records) -> tuple[dict[int, tuple[str, ...]], int]:
    """The captions of each row, and how many are of images that are not listed.

    A path counts as it is, relative to the folder, or by a file name that only one image has.
    """
    rows = {_plain(path): row for row, path in enumerate(listed.paths)}
    names: dict[str, int | None] = {}
    for row, path in enumerate(listed.paths):
        name = _plain(os.path.basename(path))
        names[name] = None if name in names else row
    found: dict[int, list[str]] = {}
    lost = 0
    for path, text in records:
        at = rows.get(_plain(path))
        if at is None:
            at = names.get(_plain(os.path.basename(path.replace("\\", "/"))))
        if at is None:
            lost += 1
        else:
            found.setdefault(at, []).append(text)
    return {row: tuple(texts) for row, texts in found.items()}, lost


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", os.path.normpath(path.replace("\\", "/")))


def _sidecar(root: str, path: str, column: str | None) -> tuple[tuple[str, ...], str | None]:
    """The captions beside an image, and its uid."""
    stem = os.path.splitext(path)[0]
    record = None
    data = _small_file(root, f"{stem}.json")
    if data is not None:
        record = _record(data)
    text = _caption_of(record, column)
    uid = _uid_of(record)
    if text is not None:
        return (text,), uid
    data = _small_file(root, f"{stem}.{column or 'txt'}")
    lines = [] if data is None else data.decode("utf-8", "replace").splitlines()
    return tuple(line for line in lines if line.strip()), uid


def _small_file(root: str, path: str) -> bytes | None:
    file = os.path.join(root, path)
    try:
        if os.path.isfile(file) and not why_outside(root, path):
            with open(file, "rb") as opened:
                data = opened.read(LONGEST_SIDECAR + 1)
                return data if len(data) <= LONGEST_SIDECAR else None
    except (OSError, ValueError):
        pass
    return None


def _record(data: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _caption_of(record: Mapping[str, Any] | None, column: str | None) -> str | None:
    for name in CAPTION_COLUMNS if column is None else (column,):
        if record is not None and isinstance(record.get(name), str) and record[name].strip():
            return str(record[name])
    return None


def _uid_of(record: Mapping[str, Any] | None) -> str | None:
    named = (record[name] for name in UIDS if record is not None and record.get(name) is not None)
    found = next(named, None)
    return str(found) if isinstance(found, str | int) else None


@dataclass(frozen=True)
class _CaptionTars(ImageTars):
    """Tar shards read for captions: an item's label is its caption, its path its uid."""

    column: str | None = None

    def _rows_of(self, sample: Any, shard: str, row: int) -> Iterator[ImageItem]:
        record = _record(sample.others.get("json", b""))
        text = _caption_of(record, self.column)
        data = sample.others.get(self.column or "txt")
        if text is None and data is not None:
            text = data.decode("utf-8", "replace")
        for n in range(len(sample.images)):
            yield ImageItem(row + n, _uid_of(record) or display_path(sample.key), text)


def _caption_column(source: ImageTables, column: str | None) -> tuple[str, str | None]:
    """The caption column and the uid column of tables; UsageError without captions."""
    names = read_schema(source.addresses[0]).names
    found = choose_named(source.spec, names, column, COLUMNS, "--caption-column")
    if found is None:
        raise UsageError(
            f"{source.spec} has no column with captions among {', '.join(names)}",
            f"one called {', '.join(CAPTION_COLUMNS)}",
            "Name it with --caption-column",
        )
    return found, next((name for name in UIDS if name in names and name != found), None)


def _table_captions(
    source: ImageTables, column: str | None
) -> Iterator[tuple[int, Sequence[str], str | None]]:
    named, uid = _caption_column(source, column)
    columns = [named, *([uid] if uid else [])]
    row = 0
    for address in source.addresses:
        with reachable(address), open_file(address) as file:
            for part in table_rows(file, address, columns, read_everything):
                if isinstance(part, NotRead):
                    row += part.rows
                    continue
                texts = part.column(named).to_pylist()
                uids = part.column(uid).to_pylist() if uid else [None] * len(part)
                for value, name in zip(texts, uids, strict=True):
                    yield row, _texts(value), None if name is None else str(name)
                    row += 1


def _texts(value: Any) -> tuple[str, ...]:
    """The captions of a cell: a text, or a list of texts or of structs with a text (`raw`)."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in COLUMNS if name in value), None)
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(text for each in value for text in _texts(each))
    return ()


@dataclass(frozen=True)
class CaptionList:
    """Distinct clean captions as a corpus to be indexed: row j is caption j."""

    texts: Sequence[str]
    fingerprint: str
    spec: str = "captions"
    default_prompt: str = "{}"
    keeps_spaces: bool = True
    licence: str | None = None
    preset: str | None = None

    def facts(self) -> dict[str, JSON]:
        """Kind, spec and fingerprint."""
        return {"kind": "captions", "spec": self.spec, "fingerprint": self.fingerprint}

    def batches(self, size: int) -> Iterator[TextBatch]:
        """Every text in order."""
        for start in range(0, len(self.texts), size):
            some = [*self.texts[start : start + size]]
            yield make_batch(some, np.arange(start, start + len(some)))
