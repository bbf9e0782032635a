"""Small pictures as a report shows them."""

import atexit
import functools

from blissaudit.indexer import Decoder, DecodingLimits

_DECODER = Decoder()
atexit.register(_DECODER.close)


@functools.cache
def thumbnail(data: bytes, side: int) -> bytes:
    """The WebP that a report has of an image file's bytes, made by one worker for all tests."""
    return _DECODER.thumbnail(data, side, DecodingLimits())
