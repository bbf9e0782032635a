"""Hexadecimal SHA-256 digests, all with the same text before them, in 32 bytes each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

DIGEST, HEX = 32, 64
ROWS_AT_ONCE = 16_384
DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
PAIRS = np.stack([np.repeat(DIGITS, 16), np.tile(DIGITS, 16)], axis=1)
"""uint8 [256, 2], the two digits of each byte."""
VALUES = np.full(256, 255, np.uint8)
VALUES[DIGITS] = np.arange(16)
"""uint8 [256], what a digit is worth, 255 for any other character."""


def packed(texts: pa.Array) -> tuple[bytes, pa.Array] | None:
    """What comes before each digest of large_binary [n], and fixed_size_binary(32) [n]; None where
    the texts are anything else."""
    n = len(texts)
    if not n or texts.null_count:
        return None
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64, n + 1, 8 * texts.offset)
    length = int(bounds[1] - bounds[0])
    if length < HEX or (np.diff(bounds) != length).any():
        return None
    rows = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]].reshape(n, length)
    before = rows[0, : length - HEX]
    made = np.empty((n, DIGEST), np.uint8)
    for start in range(0, n, ROWS_AT_ONCE):
        few = rows[start : start + ROWS_AT_ONCE]
        digits = VALUES[few[:, length - HEX :]]
        if digits.max() > 15 or (few[:, : length - HEX] != before).any():
            return None
        made[start : start + ROWS_AT_ONCE] = digits[:, ::2] << 4 | digits[:, 1::2]
    return before.tobytes(), _array(pa.binary(DIGEST), [made], n)


def unpacked(before: bytes, digests: pa.Array) -> pa.Array:
    """large_binary [n]: the texts that were packed."""
    n, length = len(digests), len(before) + HEX
    made = np.empty((n, length), np.uint8)
    if n:
        first = DIGEST * digests.offset
        raw = np.frombuffer(digests.buffers()[1], np.uint8, n * DIGEST, first)
        made[:, : len(before)] = np.frombuffer(before, np.uint8)
        made[:, len(before) :] = PAIRS[raw].reshape(n, HEX)
    return _array(pa.large_binary(), [np.arange(n + 1) * length, made], n)


def _array(kind: pa.DataType, parts: list[np.ndarray], n: int) -> pa.Array:
    return pa.Array.from_buffers(kind, n, [None, *(pa.py_buffer(part) for part in parts)])
