"""Images in tar archives as webdataset lays them out, read in one pass without unpacking.

Members that share a name up to the first dot of its last part, one after the other, are a sample:
`0001.jpg` with `0001.cls`, `0001.json` or `0001.txt`. Each image of a sample is a row.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from ...artefacts import digest
from ...errors import BlissError
from ..addresses import base_name, is_remote, open_file, reachable, stamp, suffix_of
from ..sources import JSON
from .labels import LABEL_COLUMNS, LABEL_TOO_LONG, LONGEST_LABEL, choose_named, label_text
from .source import (
    HEAD_BYTES,
    MAX_IMAGE_BYTES,
    NO_IMAGE_OPTIONS,
    SIDECAR_SUFFIXES,
    TOO_LARGE,
    ImageItem,
    ImageOptions,
    Skip,
    display_path,
    has_image_suffix,
    image_format,
)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
CLASS_SUFFIXES = ("cls", "class", "label")
LABEL_SUFFIXES = (*CLASS_SUFFIXES, "json", "txt")

DAMAGE = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a cut or damaged archive raises."""

_LONGEST_LABEL = 1 << 20
_LABEL_WORDS = 5
"""A .txt with more words is a caption."""
_LARGEST_SPARSE = 16 << 20
_KEYS_KEPT = 100_000
"""Names of samples that are remembered to notice labels apart from their images."""
_LONGEST_HEADER = 256 << 10
"""All that is read to learn of one member: pax and GNU headers, whose names may be long."""
_CUT_SHORT = "the archive ends early or is damaged from here on"
_SECOND_ARCHIVE = "the file goes on behind the end of the archive, which is not read"
_HEADER_TOO_LARGE = (
    f"the archive is not read from here on: a header is larger than {_LONGEST_HEADER >> 10} KiB"
)


@dataclass(frozen=True)
class ImageTars:
    """The images of one or more archives, one after the other."""

    spec: str
    addresses: tuple[str, ...]
    options: ImageOptions = NO_IMAGE_OPTIONS
    labels: Sequence[str | None] | None = None
    count: int | None = None

    def facts(self) -> dict[str, JSON]:
        """The fingerprint is over name, size and time of change of every archive, and options."""
        content = {f"{n} {base_name(a)}": stamp(a) for n, a in enumerate(self.addresses)}
        return {
            "kind": "image-tars",
            "spec": self.spec,
            **self.options.facts(),
            "fingerprint": digest({**content, **self.options.given()}),
        }

    def items(self, skip: Skip) -> Iterator[ImageItem]:
        """Every image; links, devices and damage are rows with a problem."""
        row = 0
        for address in self.addresses:
            with closing(self._items_of(address, row, skip)) as items:
                for item in items:
                    yield item
                    row = item.row + 1
        if row == 0:
            raise BlissError(
                f"{self.spec} holds no images",
                "members named like images: .jpg, .png, .webp …",
                "Choose the archives that hold the images"
                + (", or correct --image-column" if self.options.image_column else ""),
            )

    def check(self) -> None:
        """BlissError where an archive has gone."""
        for address in self.addresses:
            if not is_remote(address):
                with reachable(address), open(address, "rb"):
                    pass

    def _items_of(self, address: str, first: int, skip: Skip) -> Generator[ImageItem, None, None]:
        shard, row = display_path(base_name(address)), first
        sample, apart = _Sample(""), _Apart(address)
        with reachable(address), open_file(address) as opened:
            file = _unpacked(opened, address)
            with closing(_members(file)) as members:
                for member in members:
                    if isinstance(member, _Lost):
                        sample.images.append(_Image(member.reason, None, ""))
                        continue
                    key, suffix = _key_and_suffix(member.name)
                    if key != sample.key:
                        apart.check(sample, self.options.label_column)
                        yield from self._rows_of(sample, shard, row)
                        row += len(sample.images)
                        sample = _Sample(key)
                    self._add(sample, member, suffix, file, skip(row + len(sample.images)))
            apart.check(sample, self.options.label_column)
            yield from self._rows_of(sample, shard, row)

    def _add(
        self, sample: _Sample, member: tarfile.TarInfo, suffix: str, file: IO[bytes], skipped: bool
    ) -> None:
        """Add a member to its sample, if it is an image or may be a label."""
        wanted = self.options.image_column
        is_image = suffix == wanted if wanted else _holds_image(member, file)
        if is_image:
            held = sum(len(image.data or b"") for image in sample.images)
            if held + member.size > MAX_IMAGE_BYTES and sample.images:
                problem = f"the images of its name are larger than {MAX_IMAGE_BYTES >> 20} MiB"
                sample.images.append(_Image(problem, None, member.name))
                return
            sample.images.append(_read_image(member, file, skipped))
        elif member.isfile() and _last(suffix, (*LABEL_SUFFIXES, self.options.label_column)):
            if member.size <= _LONGEST_LABEL:
                sample.others[suffix] = _read_member(member, file)

    def _rows_of(self, sample: _Sample, shard: str, row: int) -> Iterator[ImageItem]:
        for n, image in enumerate(sample.images):
            label = sample_label(sample.beside(image), self.options.label_column)
            too_long = label is not None and len(label.encode()) > LONGEST_LABEL
            name = f"{shard}/{display_path(image.name)}" if image.name else shard
            if too_long and not image.problem:
                yield ImageItem(row + n, name, problem=LABEL_TOO_LONG)
            else:
                yield ImageItem(row + n, name, label, data=image.data, problem=image.problem)


class _Lost(NamedTuple):
    """The rest of an archive that is not read, and why."""

    reason: str


class _Image(NamedTuple):
    problem: str
    data: bytes | None
    name: str


@dataclass
class _Sample:
    """The members of one name so far."""

    key: str
    images: list[_Image] = field(default_factory=list)
    others: dict[str, bytes] = field(default_factory=dict)

    def beside(self, image: _Image) -> dict[str, bytes]:
        """The others by suffix: of `a.left.jpg`, those of `a.left`, else those of `a`."""
        stem, dot, _ = _key_and_suffix(image.name)[1].rpartition(".")
        own = {
            suffix.removeprefix(stem + dot): data
            for suffix, data in self.others.items()
            if dot and suffix.startswith(stem + dot)
        }
        return own or self.others


class _Apart:
    """Notices an archive whose labels do not follow their images."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._halves: dict[int, bool] = {}

    def check(self, sample: _Sample, wanted: str | None) -> None:
        """BlissError where this sample is the label of an earlier image, or the other way round."""
        is_image = bool(sample.images)
        if is_image == bool(sample.others):
            return
        key = hash(sample.key)
        if self._halves.get(key, is_image) != is_image:
            raise BlissError(
                f"in {self._address} the image and the label of "
                f"{display_path(sample.key)} do not follow each other",
                "archives sorted by name, so that an image and its label are neighbours",
                "Pack the archive again with tar --sort=name",
            )
        if len(self._halves) < _KEYS_KEPT:
            self._halves[key] = is_image


def sample_label(others: dict[str, bytes], wanted: str | None) -> str | None:
    """The label among the files beside an image; None where there is none.

    `wanted` is an extension or a field of the JSON file; otherwise .cls (.class, .label) is taken,
    the field of the JSON that is named like a label, or .txt where it is no caption, whichever is
    there first.
    """
    if wanted is not None and wanted in others:
        return _text(others[wanted])
    for suffix in CLASS_SUFFIXES:
        if wanted is None and suffix in others:
            return _text(others[suffix])
    record: object = None
    try:
        record = json.loads(others.get("json", b"null"))
    except (ValueError, RecursionError):
        pass  # no label, as where there is no file
    if isinstance(record, dict):
        usual = LABEL_COLUMNS if wanted is None else (wanted,)
        for name in (choose_named("", list(record), None, (each,)) for each in usual):
            if name is not None and isinstance(record[name], str | int | float):
                return label_text(record[name])
    if wanted is not None or "txt" not in others:
        return None
    text = _text(others["txt"])
    return None if _is_caption(text, record) else text


def _is_caption(text: str | None, record: object) -> bool:
    """Whether the .txt beside an image is its caption, as img2dataset writes it, and no class."""
    if isinstance(record, dict) and "caption" in record:
        return True
    return text is not None and ("\n" in text or len(text.split()) > _LABEL_WORDS)


def _text(data: bytes) -> str | None:
    return label_text(data.decode("utf-8", "replace"))


def _key_and_suffix(name: str) -> tuple[str, str]:
    """A member's name up to the first dot of its last part, and what follows the dot."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix.lower()


def _last(suffix: str, wanted: Sequence[str | None]) -> bool:
    """Whether a suffix, or the last part of one with dots, is wanted."""
    return suffix in wanted or suffix.rpartition(".")[2] in wanted


def _holds_image(member: tarfile.TarInfo, file: IO[bytes]) -> bool:
    """Whether a member is named like an image, or is one by its content."""
    if has_image_suffix(member.name):
        return True
    if not member.isfile() or suffix_of(member.name)[1:] in SIDECAR_SUFFIXES:
        return False
    try:
        file.seek(member.offset_data)
        return image_format(file.read(min(HEAD_BYTES, member.size))) is not None
    except DAMAGE:
        return False


def _read_image(member: tarfile.TarInfo, file: IO[bytes], skipped: bool) -> _Image:
    parts = member.name.split("/")
    if member.issym() or member.islnk():
        return _Image("it is a link inside an archive, which is not followed", None, member.name)
    if not member.isfile():
        return _Image("it is a folder, pipe or device, not a file", None, member.name)
    if ".." in parts or member.name.startswith("/"):
        return _Image("its name leaves the archive", None, member.name)
    if member.size > MAX_IMAGE_BYTES:
        return _Image(TOO_LARGE, None, member.name)
    if member.sparse is not None and member.size > _LARGEST_SPARSE:
        problem = f"it is a sparse file larger than {_LARGEST_SPARSE >> 20} MiB"
        return _Image(problem, None, member.name)
    if skipped:
        return _Image("", None, member.name)
    try:
        data = _read_member(member, file)
    except DAMAGE as error:
        return _Image(f"the archive is damaged inside this image ({error})", None, member.name)
    if len(data) < member.size:
        return _Image("the archive ends inside this image", None, member.name)
    return _Image("", data, member.name)


def _read_member(member: tarfile.TarInfo, file: IO[bytes]) -> bytes:
    """The content of a member; of a sparse one with the zeros that the archive leaves out."""
    file.seek(member.offset_data)
    if member.sparse is None:
        return file.read(member.size)
    content = bytearray(member.size)
    filled: Any = member.sparse  # pairs, which the standard library's types do not say
    for offset, size in filled:
        if not 0 <= offset <= offset + size <= member.size:
            raise tarfile.ReadError("its map of holes is damaged")
        part = file.read(size)
        if len(part) < size:
            return bytes(content[: offset + len(part)])
        content[offset : offset + size] = part
    return bytes(content)


class _LargeHeader(tarfile.TarError):
    """A header that is not read."""


class _Headers:
    """A file for `tarfile`, which reads headers alone from it, and may read so much of one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = _LONGEST_HEADER

    def read(self, size: int) -> bytes:
        """Some bytes; _LargeHeader where the header they belong to is too large."""
        self.left -= size
        if self.left < 0:
            raise _LargeHeader
        return self._file.read(size)

    def seek(self, position: int) -> int:
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


def _members(file: IO[bytes]) -> Generator[tarfile.TarInfo | _Lost, None, None]:
    """The members that are not hidden; at the end what is lost, if any is."""
    last = None
    headers = _Headers(file)
    try:
        with tarfile.open(fileobj=headers, mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members = []  # it would keep every one
                archive.pax_headers.clear()  # and what global headers say
                headers.left = _LONGEST_HEADER
                last = member
                if not member.name.rpartition("/")[2].startswith("."):
                    yield member
            file.seek(archive.offset)
            whole = file.read(512) == bytes(512)
            if whole and file.read(_LONGEST_HEADER).strip(b"\0"):
                yield _Lost(_SECOND_ARCHIVE)
    except _LargeHeader:
        yield _Lost(_HEADER_TOO_LARGE)
        return
    except DAMAGE:
        whole = False
    if not whole and not (last is not None and _ends_inside(file, last)):
        yield _Lost(_CUT_SHORT)


def _ends_inside(file: IO[bytes], last: tarfile.TarInfo) -> bool:
    """Whether the file ends within its last member, which then fails by itself."""
    if not (last.isfile() and has_image_suffix(last.name)):
        return False
    if last.sparse is not None and last.size > _LARGEST_SPARSE:
        return False
    try:
        if last.sparse is None:
            file.seek(last.offset_data)
            return len(file.read(min(last.size, MAX_IMAGE_BYTES))) < last.size
        return len(_read_member(last, file)) < last.size
    except DAMAGE:
        return True


def _unpacked(file: IO[bytes], address: str) -> IO[bytes]:
    if address.lower().endswith(("gz", ".tgz")):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    return file
