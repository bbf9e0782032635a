"""The interface of image collections, and what counts as an image file.

Also: the encoded images of selected rows, and checks that a path stays inside its folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ...arguments import checked, checked_fields
from ...errors import BlissError, UsageError

if TYPE_CHECKING:  # decoding processes do without pyarrow
    from ..sources import JSON

MAX_IMAGE_BYTES = 128 << 20
"""An encoded image of an archive, a table or an address that is larger is not read into memory."""
MAX_FILE_BYTES = 256 << 20
"""An image file that is larger is not read into memory."""
TOO_LARGE = f"the image is larger than {MAX_IMAGE_BYTES >> 20} MiB"

Skip = Callable[[int], bool]
"""Whether the content of a row is not wanted."""


class ImageItem(NamedTuple):
    """One row of a collection, and where its content is: in one of the last three fields.

    A row that was skipped has none of them, and its path and label may be missing.
    """

    row: int
    path: str
    """For people: valid text, unique only together with the row."""
    label: str | None = None
    file: str | None = None
    """A local file, as the system names it."""
    data: bytes | Callable[[], bytes] | None = None
    """The encoded image, or a call that fetches it and may raise OSError or BlissError."""
    problem: str = ""
    """Why there is no content."""


class ImageSource(Protocol):
    """A collection that can be read from the start as often as needed.

    An image is its source row, 0, 1, …, never its name: the same name in two archives is two
    images. What cannot be read is a row with a problem, so that it is counted.
    """

    @property
    def spec(self) -> str:
        """What was opened, for messages."""

    @property
    def count(self) -> int | None:
        """How many rows there are, where that is known without reading them all."""

    @property
    def labels(self) -> Sequence[str | None] | None:
        """The class of every row, where that is known without reading them all."""

    def facts(self) -> dict[str, JSON]:
        """Kind, spec, options and a fingerprint.

        The fingerprint is of names, sizes, times of change and labels, or of all options that say
        where these are.
        """

    def items(self, skip: Skip) -> Iterator[ImageItem]:
        """Every row in order, with bounded memory; the content of skipped rows is not read.

        Raises BlissError where the collection itself cannot be read on.
        """

    def check(self) -> None:
        """BlissError where the collection as a whole is no longer there."""


@checked_fields
@dataclass(frozen=True)
class ImageOptions:
    """Which part of a collection to read, and where its labels are; None leaves the choice."""

    image_column: str | None = None
    """The column with image bytes or paths; the extension of images in tar archives."""
    label_column: str | None = None
    """The column with labels; the extension or JSON field of labels in tar archives."""
    labels: str | None = None
    """A csv, tsv or parquet file with a path and a label column, for a folder of images."""
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    follow_links: bool | None = None
    """Whether links that leave a folder of image files are followed."""

    def facts(self) -> dict[str, JSON]:
        """What changes the rows of archives and tables, which follow no links."""
        return {name: value for name, value in vars(self).items() if name != "follow_links"}

    def given(self) -> dict[str, JSON]:
        """Those of `facts` that were given, which belong to what a collection is known by."""
        return {name: value for name, value in self.facts().items() if value is not None}


NO_IMAGE_OPTIONS = ImageOptions()


def read_nothing(row: int) -> bool:
    """A `skip` that skips every row."""
    return True


def read_everything(row: int) -> bool:
    """A `skip` that skips no row."""
    return False


@checked
def read_image_bytes(source: ImageSource, rows: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """(row, encoded image) of each of `rows` that can be read, in source order.

    Makes one pass over the source, which ends at the last of `rows`. Rows with a problem and files
    that no longer exist are left out.
    """
    wanted = frozenset(rows)
    if not wanted:
        return
    last = max(wanted)
    with closing(source.items(lambda row: row not in wanted)) as items:  # type: ignore[type-var]
        for item in items:
            if item.row in wanted:
                data = _content(item)
                if data is not None:
                    yield item.row, data
            if item.row >= last:
                return


def _content(item: ImageItem) -> bytes | None:
    """The bytes of one item; None where there are none, or not any more."""
    try:
        if callable(item.data):
            return item.data()
        if item.file is None:
            return item.data
        with open(item.file, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
                return None
            return file.read(MAX_FILE_BYTES)
    except (OSError, ValueError, BlissError):
        return None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe without a writer is opened too, and refused by its kind."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def refuse_image_options(spec: str, options: ImageOptions, accepted: Sequence[str]) -> None:
    """UsageError naming every option that is set although `spec` has no use for it."""
    unused = [
        OPTION_NAMES[name]
        for name, value in vars(options).items()
        if value is not None and name not in accepted
    ]
    if unused:
        useful = " or ".join(OPTION_NAMES[name] for name in accepted)
        raise UsageError(
            f"{' and '.join(unused)} given for {spec!r}",
            f"only {useful} there" if accepted else "no such option there",
            f"Leave out {' and '.join(unused)}",
        )


OPTION_NAMES = {
    "image_column": "--image-column",
    "label_column": "--label-column",
    "labels": "--labels",
    "config": "a config",
    "split": "a split",
    "revision": "a revision",
    "follow_links": "--follow-links",
}


IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "mpo", "png", "apng", "webp", "gif", "bmp"),
    *("dib", "tif", "tiff", "avif", "heic", "heif"),
)
"""Files named like this are images; others are where their content is."""
SIDECAR_SUFFIXES = ("txt", "json", "jsonl", "csv", "tsv", "xml", "cls")
"""What lies beside images by the thousand; such files are not looked into."""
_SUFFIXES_SHOWN = 6
HEAD_BYTES = 32
"""How much of a file `image_format` needs."""
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"hevc": "HEIF",
           b"heim": "HEIF", b"heis": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF"}  # fmt: skip
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)

LONGEST_PATH, SHOWN_OF_LONG = 4096, 48
"""Bytes of the longest path that Linux opens, and how many characters of a longer one are shown."""
PATH_TOO_LONG = (
    f"its path is longer than {LONGEST_PATH:,} bytes: does the column hold images as base64?"
)
LEAVES_FOLDER = "its path leaves the folder of the collection"
LINK_OUT = "a link that leaves the folder of the collection is not followed"


def image_format(head: bytes) -> str | None:
    """The format of an image file by its first HEAD_BYTES bytes; None for anything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None


def is_image_file(path: str) -> bool:
    """Whether a regular file holds an image; one that cannot be read does not."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return False
            return image_format(file.read(HEAD_BYTES)) is not None
    except (OSError, ValueError):
        return False


def suffix_counts(counts: Mapping[str, int]) -> str:
    """Numbers of files by suffix as text, the most frequent first: `.txt 12, .xml 3`."""
    ordered = sorted(
        (pair for pair in counts.items() if pair[1]), key=lambda pair: (-pair[1], pair[0])
    )
    shown = [f"{display_path(suffix)} {count:,}" for suffix, count in ordered[:_SUFFIXES_SHOWN]]
    rest = sum(count for _, count in ordered[_SUFFIXES_SHOWN:])
    return ", ".join([*shown, *([f"{rest:,} more"] if rest else [])])


def has_image_suffix(name: str) -> bool:
    """Whether a file is named like an image, in any case."""
    return os.path.splitext(name)[1][1:].lower() in IMAGE_SUFFIXES


def display_path(path: str) -> str:
    r"""Valid UTF-8 text for a path: bytes that are not UTF-8 are shown as \xNN.

    What is too long for a path, such as an image in base64, is cut.
    """
    if len(path) > LONGEST_PATH:
        return f"{valid_text(path[:SHOWN_OF_LONG])}… ({len(path):,} characters)"
    return valid_text(path)


def valid_text(text: str) -> str:
    r"""Valid UTF-8: bytes that are not, which stand as surrogates, become \xNN."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte (Windows)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_inside(path: str, folder: str) -> bool:
    """Whether an absolute, normal path is `folder` or below it, by its text alone."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def why_outside(root: str, path: str, follow_links: bool = False) -> str:
    """Why `path`, taken relative to `root`, is not inside it; "" where it is.

    A link on the way counts as what it leads to, unless links may be followed.
    """
    folder = os.path.abspath(root)
    if len(path.encode("utf-8", "surrogatepass")) > LONGEST_PATH:
        return PATH_TOO_LONG
    try:
        joined = os.path.normpath(os.path.join(folder, path))
        if not is_inside(joined, folder):
            return LEAVES_FOLDER
        if follow_links:
            return ""
        return "" if is_inside(os.path.realpath(joined), os.path.realpath(folder)) else LINK_OUT
    except ValueError:  # a null byte
        return "the file name is not valid on this system"
