"""The picture behind a row of a run: today a file below the collection's folder."""

from __future__ import annotations

import os
import re

from ..indexer.decoding import DecodingLimits, read_file
from ..indexer.preprocessing import UnreadableImage

LIMITS = DecodingLimits()


def picture_bytes(source: str, path: str) -> bytes:
    """The file of the image that a run lists as `path` of the collection `source`.

    Raises UnreadableImage(reason) for a missing or unreadable file, and for a path or link that
    leads out of the collection.
    """
    return read_file(picture_file(source, path), LIMITS)


def picture_file(source: str, path: str) -> str:
    r"""Where that file is; bytes shown as \xNN are bytes again where no file has that very name."""
    parts = path.split("/")
    if os.path.isabs(path) or ".." in re.split(r"[/\\]", path) or "\0" in path:
        raise UnreadableImage("the path leaves the collection's folder")
    found = os.path.join(source, *parts)
    if not os.path.lexists(found):
        found = os.path.join(source, *(_as_on_disk(part) for part in parts))
    root = os.path.realpath(source)
    if os.path.commonpath([root, os.path.realpath(found)]) != root:
        raise UnreadableImage("the path leaves the collection's folder")
    return found


def _as_on_disk(name: str) -> str:
    r"""A name with every \xNN above 7f as the byte it shows (see `display_path`)."""
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), name)
