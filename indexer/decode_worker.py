"""The process that decodes images, `python -m blissaudit.indexer.decode_worker`, and talking to it.

A frame is two big-endian 32-bit lengths, a JSON header and a payload of raw bytes; nothing is
pickled. Requests come on stdin (payload: the image itself, or the path of its file), responses go
to stdout (payload: the pixels). The first response, sent unasked, says that the process is ready.
It ends when stdin does.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

from ..errors import BlissError
from .decoding import (
    DecodingLimits,
    Preprocessing,
    UnreadableImage,
    decode_bytes,
    decode_image,
    read_file,
)

_LENGTHS = struct.Struct(">II")
_ORPHAN_SECONDS = 10.0
END_SECONDS = 5.0

Frame = tuple[dict[str, Any], bytearray]


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
    if len(text) < header_size or _fill(stream, payload) < payload_size:
        return None
    return json.loads(text), payload


def _fill(stream: IO[bytes], buffer: bytearray) -> int:
    """Read into `buffer` until it is full or the stream ends; the number of bytes read."""
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled


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


def launch(command: Sequence[str], stderr: int) -> subprocess.Popen[bytes]:
    """Start a decoding process with pipes; it imports from where this process does.

    Raises BlissError where the system refuses.
    """
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(),
        )
    except OSError as error:
        raise BlissError(
            f"the image decoder process could not be started ({error.strerror or error})",
            f"permission and memory to run {command[0] or 'Python'}",
            "Use fewer workers, or raise the limit on processes",
        ) from error


def _environment() -> dict[str, str]:
    """Ours, plus the import path of this process and one thread for each numerical library."""
    folders = [os.path.abspath(entry) for entry in sys.path if os.path.exists(entry or os.curdir)]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **single}


def exchange(process: subprocess.Popen[bytes], request: bytes) -> Frame | None:
    """Write `request` and read one frame; None if the process died or sent something else."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()
        return read_frame(process.stdout)
    except (OSError, ValueError):
        return None


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap a process and close its pipes."""
    process.kill()
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:  # stuck in the kernel, on a network drive that is gone
        pass
    for stream in (process.stdin, process.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:  # bytes that could not be delivered any more
            pass


def cause_of_death(process: subprocess.Popen[bytes]) -> str:
    """How a process that sent no answer ended: its signal or its exit status."""
    try:
        code = process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        return "it sent something that is no answer"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


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
