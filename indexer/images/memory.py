"""How much memory Pillow needs to decode an image, from its header alone.

It counts the bytes of the file, the decoder's own buffers and the pixels as Pillow stores them.
Later steps work on bands of rows and need little more.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

_ONE_BYTE = ("1", "L", "P")
_GIF_COPIES = 3
"""The frame, the canvas of the next frame, and the frame with its palette applied."""
_WEBP_BYTES = 20
"""Two canvases of libwebp, its decoder's own pixels, the bytes it gives out, Pillow's pixels.

libavif and libheif need less: planes of up to 16 bits, the bytes they give out, Pillow's pixels.
"""
_TILE_OFFSETS, _TILE_WIDTH, _TILE_LENGTH, _STRIP_ROWS = 324, 322, 323, 278
_BITS, _SAMPLES = 258, 277


def stored_pixels(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a WebP's canvas, which Pillow allocates while it opens the file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        width, height = data[24:27], data[27:30]
        return 1 + int.from_bytes(width, "little"), 1 + int.from_bytes(height, "little")
    if data[12:16] == b"VP8L":
        both = int.from_bytes(data[21:25], "little")
        return 1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)
    width, height = data[26:28], data[28:30]
    return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF


def bytes_needed(image: Image.Image, data: bytes) -> int:
    """Bytes that decoding an opened image needs, including its file with the content `data`."""
    pixels = image.width * image.height
    stored = pixels * pixel_bytes(image.mode)
    match image.format:
        case "JPEG" | "MPO":
            return len(data) + stored + _coefficient_bytes(data)
        case "TIFF":
            return 2 * len(data) + stored + _block_bytes(image)
        case "WEBP" | "AVIF" | "HEIF":
            return len(data) + _WEBP_BYTES * pixels
        case "GIF":
            return len(data) + _GIF_COPIES * 4 * pixels
        case "BMP":
            return len(data) + stored + 2 * pixels  # buffers of the run-length decoder
    return len(data) + stored


def pixel_bytes(mode: str) -> int:
    """Bytes per pixel of a Pillow mode in memory: three bands take the space of four."""
    if mode in _ONE_BYTE:
        return 1
    return 2 if mode.startswith("I;16") else 4


def _coefficient_bytes(data: bytes) -> int:
    """Bytes of coefficients that libjpeg keeps until the last scan of a multi-scan JPEG.

    They have the size of the stored image, whatever size is decoded.
    """
    position, parts, size, progressive = 2, [1], 0, False
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            position += 1
            continue
        marker = data[position + 1]
        if marker == 0xFF or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            size = int.from_bytes(body[1:3], "big") * int.from_bytes(body[3:5], "big")
            factors = [body[n] for n in range(7, len(body), 3)]
            parts = [(factor >> 4) * (factor & 15) for factor in factors] or [1]
        if marker == 0xDA:
            several = progressive or not body or body[0] < len(parts)
            return 2 * size * sum(parts) // max(1, *parts, 1) if several else 0
        position += 2 + length
    return 0


def _block_bytes(image: Image.Image) -> int:
    """Bytes of one strip or tile in libtiff and its codec: packed samples and pixels."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    width, rows = image.width, min(_number(tags, _STRIP_ROWS, image.height), image.height)
    if _TILE_OFFSETS in tags or _TILE_WIDTH in tags:
        width = _number(tags, _TILE_WIDTH, image.width)
        rows = _number(tags, _TILE_LENGTH, image.height)
    bits, samples = tags.get(_BITS, (1,)), _number(tags, _SAMPLES, 1)
    widest = max(bits) if isinstance(bits, tuple) else bits
    return 2 * width * rows * max(1, samples * int(widest) // 8, 4 if samples > 1 else 1)


def _number(tags: Any, tag: int, otherwise: int) -> int:
    value = tags.get(tag, otherwise)
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int) and value > 0 else otherwise
