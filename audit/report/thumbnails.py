"""Small pictures for the page, made of pixels alone: no EXIF, GPS, colour profile or comment."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...indexer import Decoder, UnreadableImage
from ..review.photographs import LIMITS, Photograph, Photographs, Wanted, read_photographs

LARGE, SMALL = 320, 128
"""Pixels of the longer side: images to judge, and reference images."""
MOST_BYTES = 64 * 2**20
"""All pictures of one page together; further ones are left out, and the page says so."""

Key = tuple[str, int]
"""A collection, as the page calls it, and a source row of it."""


@dataclass
class PictureShelf:
    """The pictures of one page: first all are requested, then they are made and numbered.

    Where not all fit, those requested first stay.
    """

    most_bytes: int = MOST_BYTES
    encoded: list[str] = field(default_factory=list)
    """Base64 of each picture's WebP; its place is its number on the page."""
    requested: dict[Key, tuple[Wanted, int]] = field(default_factory=dict)
    """Which image, and how large; small ones are not made larger."""
    numbers: dict[Key, int] = field(default_factory=dict)
    reasons: dict[Key, str] = field(default_factory=dict)
    left_out: int = 0
    """How many would not fit into `most_bytes`."""

    def request(self, collection: str, image: Wanted, side: int) -> None:
        """Request the picture of an image; `collection` is a key of what `fill` is given."""
        self.requested.setdefault((collection, image.row), (image, side))

    def number(self, collection: str, row: int) -> int | None:
        """The number of a picture after `fill`, None where there is none to show."""
        return self.numbers.get((collection, row))

    def reason(self, collection: str, row: int) -> str | None:
        """Why a requested picture is not shown, if there is a reason."""
        return self.reasons.get((collection, row))

    def fill(self, collections: Mapping[str, Photographs]) -> None:
        """Make every requested picture, in one pass over each collection that is not a folder.

        Pictures are made as their images arrive, so no more than `most_bytes` of them and one
        image are held; a worker process decodes them.
        """
        keys = list(self.requested)
        with Decoder() as maker:
            kept = self._pictures(collections, maker)
        for number, (place, picture) in enumerate(sorted(kept, reverse=True)):
            self.numbers[keys[-place]] = number
            self.encoded.append(base64.b64encode(picture).decode("ascii"))

    def _pictures(
        self, collections: Mapping[str, Photographs], maker: Decoder
    ) -> list[tuple[int, bytes]]:
        """(minus the place in `requested`, picture) of every one that fits."""
        keys = list(self.requested)
        kept: list[tuple[int, bytes]] = []  # a heap of (minus the place in `keys`, picture)
        size = 0
        for collection, where in collections.items():
            mine = [place for place, key in enumerate(keys) if key[0] == collection]
            for batch in [[place] for place in mine] if where.folder is not None else [mine]:
                if kept and size >= self.most_bytes and batch[0] > -kept[0][0]:
                    self._leave_out(keys[place] for place in batch)
                    continue
                wanted = [self.requested[keys[place]][0] for place in batch]
                for found in read_photographs(where, wanted):
                    place = batch[found.place]
                    picture = self._made(keys[place], found, maker)
                    if picture is None:
                        continue
                    heapq.heappush(kept, (-place, picture))
                    size += len(picture)
                    while kept and size - len(kept[0][1]) >= self.most_bytes:
                        last, picture = heapq.heappop(kept)
                        size -= len(picture)
                        self._leave_out([keys[-last]])
        return kept

    def _made(self, key: Key, found: Photograph, maker: Decoder) -> bytes | None:
        """The picture of an image, or None with a reason kept."""
        if found.data is None:
            self.reasons[key] = found.problem
            return None
        try:
            return maker.thumbnail(found.data, self.requested[key][1], LIMITS)
        except UnreadableImage as error:
            self.reasons[key] = str(error)
            return None

    def _leave_out(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.left_out += 1
            self.reasons[key] = "left out: the page holds no more pictures"
