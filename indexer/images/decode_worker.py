"""The process that decodes images, `python -m blissaudit.indexer.images.decode_worker`.

It reads requests from stdin (payload: an image, or the path of its file) and writes responses to
stdout (payload: pixels); a first response says that it is ready. It ends when stdin does. Both are
frames: two big-endian 32-bit lengths, a JSON header and raw bytes. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any

from .decoding import (
    OUT_OF_MEMORY,
    DecodingLimits,
    Preprocessing,
    UnreadableImage,
    decode_bytes,
    decode_image,
    read_file,
    thumbnail,
)

_LENGTHS = struct.Struct(">II")
_ORPHAN_SECONDS = 10.0
_SPARE_BYTES = 32 << 20
"""Memory a worker may use beyond `DecodingLimits.max_memory` and what it has when it starts."""
THUMBNAIL_QUALITY, THUMBNAIL_METHOD = 72, 2
"""Of WebP. Method 2 takes less than half the time of Pillow's default for 3 % more bytes."""

Frame = tuple[dict[str, Any], bytearray]
"""A header and a payload."""


def frame_bytes(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """One frame, ready to be written."""
    text = json.dumps(header).encode("ascii")
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def read_frame(stream: IO[bytes]) -> Frame | None:
    """Read one frame; None where the stream ends, before or inside it.

    Raises ValueError where the header is not JSON. The payload is writable.
    """
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_size, payload_size = _LENGTHS.unpack(lengths)
    text = stream.read(header_size)
    payload = bytearray(payload_size)
    view, filled = memoryview(payload), 0
    while filled < payload_size:
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            return None
        filled += count
    return (json.loads(text), payload) if len(text) == header_size else None


def image_request(
    content: str | bytes,
    preprocessing: Preprocessing,
    limits: DecodingLimits,
    only_hash: bool = False,
) -> bytes:
    """The request for one image, given by the path of its file (str) or by its bytes.

    `only_hash` asks for its SHA-256 alone. Raises UnicodeEncodeError for a path that the system
    cannot have.
    """
    header = {
        "is_path": isinstance(content, str),
        "only_hash": only_hash,
        "preprocessing": asdict(preprocessing),
        "limits": asdict(limits),
    }
    if isinstance(content, str):  # a worker may have been started in another folder
        content = os.fsencode(os.path.join(os.getcwd(), content))
    return frame_bytes(header, content)


def thumbnail_request(content: bytes, side: int, limits: DecodingLimits) -> bytes:
    """The request for the thumbnail of an image, as WebP, given by its bytes."""
    return frame_bytes({"thumbnail": side, "limits": asdict(limits)}, content)


def answer(header: dict[str, Any], content: bytes) -> bytes:
    """The response to one request, with a reason where the image cannot be decoded."""
    limits = DecodingLimits(**header["limits"])
    make: Callable[..., bytes] = _thumbnail if "thumbnail" in header else _pixels
    try:
        return make(header, content, limits)
    except UnreadableImage as error:
        return frame_bytes({"reason": str(error)})
    except MemoryError:
        raise
    except Exception as error:
        return frame_bytes({"reason": f"decoding failed ({type(error).__name__})"})


def _pixels(header: dict[str, Any], content: bytes, limits: DecodingLimits) -> bytes:
    if header["only_hash"]:
        data = read_file(os.fsdecode(content), limits) if header["is_path"] else content
        return frame_bytes({"sha256": hashlib.sha256(data).hexdigest()})
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in header["preprocessing"].items()
    }
    preprocessing = Preprocessing(**settings)
    if header["is_path"]:
        found = decode_image(os.fsdecode(content), preprocessing, limits)
    else:
        found = decode_bytes(content, preprocessing, limits)
    facts = {
        "shape": found.pixels.shape,
        "sha256": found.sha256,
        "exif_rotated": found.exif_rotated,
        "quality": found.measures.quality,
        "digest": found.measures.digest,
    }
    return frame_bytes(facts, found.pixels.tobytes() + found.measures.sketch)


def _thumbnail(header: dict[str, Any], content: bytes, limits: DecodingLimits) -> bytes:
    """The pixels are copied into a new image, so that no metadata of the file is kept."""
    small = thumbnail(content, header["thumbnail"], limits)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=THUMBNAIL_QUALITY, method=THUMBNAIL_METHOD)
    return frame_bytes({"thumbnail": header["thumbnail"]}, file.getvalue())


def data_bytes() -> int | None:
    """The size of this process's data segment, where the system tells."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    except (OSError, StopIteration, ValueError):
        return None


def limit_memory(at_start: int | None, more: int) -> None:
    """Limit the data segment of this process to `at_start` + `more` bytes; Linux enforces it.

    A second line of defence behind the check of headers: a decoder that takes more than its header
    tells fails with MemoryError.
    """
    if at_start is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = at_start + more if hard == resource.RLIM_INFINITY else min(at_start + more, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def main() -> None:
    """Answer requests until stdin ends. Ctrl-C and its like are left to the parent.

    What codecs print goes to stderr, so that it cannot get between the frames. A process that hangs
    after its parent was killed ends by itself some seconds after its time limit.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")
    requests = sys.stdin.buffer
    responses = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    responses.write(frame_bytes({"ready": True}))
    responses.flush()
    at_start = data_bytes()
    while (request := read_frame(requests)) is not None:
        header = request[0]
        limit_memory(at_start, header["limits"]["max_memory"] + _SPARE_BYTES)
        _set_alarm(header["limits"]["seconds"] + _ORPHAN_SECONDS)
        try:
            content, request = bytes(request[1]), None
            response = answer(header, content)
        except MemoryError:
            response = frame_bytes({"reason": OUT_OF_MEMORY})
        content = b""
        responses.write(response)
        responses.flush()
        _set_alarm(0)


def _set_alarm(seconds: float) -> None:
    """End this process after `seconds` unless called again; 0 cancels it."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, min(seconds, 1e6))


if __name__ == "__main__":
    main()
