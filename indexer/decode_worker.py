"""The process that decodes images, `python -m blissaudit.indexer.decode_worker`, and asking it.

Requests come on stdin (payload: the image itself, or the path of its file), responses go
to stdout (payload: the pixels). The first response, sent unasked, says that the process is ready.
It ends when stdin does.
"""

from __future__ import annotations

import hashlib
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
)
from .worker_frames import frame_bytes, read_frame

_ORPHAN_SECONDS = 10.0


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


def answer(header: dict[str, Any], content: bytes) -> bytes:
    """Decode the image a request names; the response frame, with a reason where it cannot be."""
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
    while (request := read_frame(requests)) is not None:
        header, content = request
        _alarm(header["limits"]["seconds"] + _ORPHAN_SECONDS)
        responses.write(answer(header, bytes(content)))
        responses.flush()
        _alarm(0)


def _alarm(seconds: float) -> None:
    """End this process after `seconds` unless called again; 0 calls it off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, min(seconds, 1e6))


if __name__ == "__main__":
    main()
