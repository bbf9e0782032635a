"""Small pictures for the page, made of pixels alone: no EXIF, GPS, colour profile or comment."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from ...indexer.decoding import upright_rgb
from ...indexer.preprocessing import UnreadableImage
from ..pictures import LIMITS, picture_bytes

LARGE, SMALL = 320, 128
"""Pixels of the longer side: images to judge, and the reference images beside them."""
QUALITY, EFFORT = 72, 2
"""Effort 2 takes less than half the time of Pillow's default for 3 % more bytes."""
MOST_BYTES = 64 * 2**20
"""All pictures of one page together; what comes after that is left out, and the page says so."""


def thumbnail(data: bytes, side: int) -> bytes:
    """A WebP no larger than `side` x `side` of an image file's bytes, turned upright.

    Raises UnreadableImage. The pixels are copied into a new image, so nothing else comes along.
    """
    try:
        upright, _ = upright_rgb(data, LIMITS, near=side)
    except MemoryError:
        raise UnreadableImage("there is not enough memory to decode the image") from None
    upright.thumbnail((side, side), reducing_gap=2.0)
    clean = Image.new("RGB", upright.size)
    clean.paste(upright)
    file = io.BytesIO()
    clean.save(file, "WEBP", quality=QUALITY, method=EFFORT)
    return file.getvalue()


@dataclass
class PictureShelf:
    """The pictures of one page by number, each kept once; small ones are not made larger."""

    most_bytes: int = MOST_BYTES
    encoded: list[str] = field(default_factory=list)
    """Base64 of each picture's WebP; its place is its number on the page."""
    numbers: dict[tuple[str, str], int | None] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    size: int = 0
    left_out: int = 0
    """How many would not fit into `most_bytes`."""

    def add(self, source: str, path: str, side: int) -> int | None:
        """The number of the picture of `path` in `source`, None where there is none to show."""
        key = (source, path)
        if key not in self.numbers:
            self.numbers[key] = self._make(key, side)
        return self.numbers[key]

    def reason(self, source: str, path: str) -> str | None:
        """Why a picture that was asked for is not shown, if there is a reason to tell."""
        return self.reasons.get((source, path))

    def _make(self, key: tuple[str, str], side: int) -> int | None:
        if self.size >= self.most_bytes:
            self.left_out += 1
            self.reasons[key] = "left out: the page holds no more pictures"
            return None
        try:
            picture = thumbnail(picture_bytes(*key), side)
        except UnreadableImage as error:
            self.reasons[key] = str(error)
            return None
        self.size += len(picture)
        self.encoded.append(base64.b64encode(picture).decode("ascii"))
        return len(self.encoded) - 1

    def missing(self) -> Mapping[str, int]:
        """How many pictures are not shown, by reason."""
        counts: dict[str, int] = {}
        for reason in self.reasons.values():
            counts[reason] = counts.get(reason, 0) + 1
        return counts
