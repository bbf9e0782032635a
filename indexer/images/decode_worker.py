"""The process that decodes images, `python -m blissaudit.indexer.images.decode_worker`, and asking
it.

Requests come on stdin (payload: the image itself, or the path of its file), responses go
to stdout (payload: the pixels). The first response, sent unasked, says that the process is ready.
It ends when stdin does.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sys
import warnings
from dataclasses import asdict
from typing import Any

from .decoding import (
    DecodingLimits,
    Preprocessing,
    UnreadableImage,
    decode_bytes,
    decode_image,
    read_file,
    thumbnail,
)
from .frames import frame_bytes, read_frame

_ORPHAN_SECONDS = 10.0
_SPARE_BYTES = 32 << 20
"""What a worker may use beside `DecodingLimits.max_memory` and what it has when it starts."""
QUALITY, EFFORT = 72, 2
"""Of thumbnails. Effort 2 takes less than half the time of Pillow's default for 3 % more bytes."""


def request_bytes(
    content: str | bytes,
    preprocessing: Preprocessing,
    limits: DecodingLimits,
    only_hash: bool = False,
) -> bytes:
    """The frame that asks for one image, by the path of its file (str) or by its bytes.

    `only_hash` asks for its SHA-256 alone.

    Raises UnicodeEncodeError for a path that the system cannot have.
    """
    header = {
        "is_path": isinstance(content, str),
        "only_hash": only_hash,
        "preprocessing": asdict(preprocessing),
        "limits": asdict(limits),
    }
    return frame_bytes(header, os.fsencode(content) if isinstance(content, str) else content)


def thumbnail_request(content: bytes, side: int, limits: DecodingLimits) -> bytes:
    """The frame that asks for the thumbnail of an image, as WebP, by its bytes."""
    return frame_bytes({"thumbnail": side, "limits": asdict(limits)}, content)


def answer(header: dict[str, Any], content: bytes) -> bytes:
    """Decode the image a request names; the response frame, with a reason where it cannot be."""
    if "thumbnail" in header:
        return _thumbnail(header["thumbnail"], content, DecodingLimits(**header["limits"]))
    wanted: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in header["preprocessing"].items()
    }
    limits, preprocessing = DecodingLimits(**header["limits"]), Preprocessing(**wanted)
    try:
        if header["only_hash"]:
            data = read_file(os.fsdecode(content), limits) if header["is_path"] else content
            return frame_bytes({"sha256": hashlib.sha256(data).hexdigest()})
        if header["is_path"]:
            pixels, sha256, rotated = decode_image(os.fsdecode(content), preprocessing, limits)
        else:
            pixels, sha256, rotated = decode_bytes(content, preprocessing, limits)
    except UnreadableImage as error:
        return frame_bytes({"reason": str(error)})
    except Exception as error:
        return frame_bytes({"reason": f"decoding failed ({type(error).__name__})"})
    facts = {"shape": pixels.shape, "sha256": sha256, "exif_rotated": rotated}
    return frame_bytes(facts, pixels.tobytes())


def _thumbnail(side: int, content: bytes, limits: DecodingLimits) -> bytes:
    """The pixels are copied into a new image, so nothing else of the file comes along."""
    try:
        small = thumbnail(content, side, limits)
    except UnreadableImage as error:
        return frame_bytes({"reason": str(error)})
    except Exception as error:
        return frame_bytes({"reason": f"decoding failed ({type(error).__name__})"})
    file = io.BytesIO()
    small.save(file, "WEBP", quality=QUALITY, method=EFFORT)
    return frame_bytes({"thumbnail": side}, file.getvalue())


def data_bytes() -> int | None:
    """The memory of its own that this process has, where the system tells."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    except (OSError, StopIteration, ValueError):
        return None


def limit_memory(at_start: int | None, more: int) -> None:
    """Let this process take `more` bytes of memory beside what it had; Linux keeps to it.

    The second line behind the check of headers: what a decoder takes that no header tells fails
    with MemoryError.
    """
    if at_start is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = at_start + more if hard == resource.RLIM_INFINITY else min(at_start + more, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def main() -> None:
    """Answer requests until stdin ends. Ctrl-C is left to the parent.

    Whatever codecs print goes to stderr, so that it cannot get between the frames. A process whose
    parent was killed while it hangs ends by itself some seconds after its time limit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
        _alarm(header["limits"]["seconds"] + _ORPHAN_SECONDS)
        try:
            content, request = bytes(request[1]), None
            response = answer(header, content)
        except MemoryError:
            response = frame_bytes({"reason": "there is not enough memory to decode the image"})
        content = b""
        responses.write(response)
        responses.flush()
        _alarm(0)


def _alarm(seconds: float) -> None:
    """End this process after `seconds` unless called again; 0 calls it off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, min(seconds, 1e6))


if __name__ == "__main__":
    main()
