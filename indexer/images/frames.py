"""Frames between this process and its worker processes, and starting, asking and ending them.

A frame is two big-endian 32-bit lengths, a JSON header and a payload of raw bytes; nothing is
pickled. Workers are commands, not multiprocessing: scripts need no `__main__` guard and nothing is
forked from a process that has loaded torch. A worker reads requests from stdin and ends when that
does, so that none outlives its parent.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

from ...errors import BlissError

_LENGTHS = struct.Struct(">II")
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


def launch(
    command: Sequence[str], stderr: int, what: str = "image decoder"
) -> subprocess.Popen[bytes]:
    """Start a worker process, a `what`, with pipes; it imports from where this process does.

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
            f"the {what} process could not be started ({error.strerror or error})",
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
