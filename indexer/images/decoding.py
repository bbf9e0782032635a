"""Decode one image file to the pixels that the image encoder sees, or give the reason why not.

Colour: everything becomes 8-bit RGB before it is resized. Transparency is composited onto white.
16-bit grey keeps its high byte, as 16-bit colour does. Integer grey outside 0..65535 is stretched
from its minimum and maximum to 0..255; floating-point grey is taken as 0..1 or 0..255 if it lies
in that range and stretched otherwise, with NaN as 0. Colour profiles are ignored, as in open_clip.

For RGB files, resizing and cropping are bit for bit what `open_clip.transform.image_transform`
does at inference, without importing torch.

The memory that Pillow needs to decode an image is estimated from its header alone: it counts the
bytes of the file, the decoder's own buffers and the pixels as Pillow stores them. Later steps work
on bands of rows and need little more.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...corpora import HEAD_BYTES, MAX_FILE_BYTES, image_format
from ...errors import UsageError
from ..encode.encoder import (
    Preprocessing,
    UnreadableImage,
    resize_and_crop,
    resized_shape,
    shape_of,
)
from .measures import Measures, measure

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


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""What Pillow may decode; HEIF too where the package pillow-heif is installed."""
_LONGEST_TEXT = 1 << 20
"""Bytes of a text in a PNG, unpacked, that Pillow takes."""

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*": "TIFF",
    b"MM\x00": "TIFF",
}
"""The first bytes of the files of each format."""
OUT_OF_MEMORY = "there is not enough memory to decode the image"
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_INVERSE = {6: 8, 8: 6}
_BAND_PIXELS = 1 << 19
"""Pixels that are converted, rotated and narrowed at a time."""


@dataclass(frozen=True)
class DecodingLimits:
    """When an image is given up."""

    max_pixels: int = 250_000_000
    """As stored or resized."""
    seconds: float = 30.0
    max_bytes: int = MAX_FILE_BYTES
    """Of the file."""
    max_memory: int = 440 << 20
    """Bytes that its file, its decoder and its pixels take together."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UsageError(
                f"a time limit of {self.seconds} seconds was given",
                "a number above 0",
                "Correct --time-limit",
            )


@dataclass(frozen=True)
class Decoded:
    """A decoded image: `pixels` uint8 [H, W, 3], `sha256` of the file, whether EXIF rotated it."""

    row: int
    pixels: np.ndarray
    sha256: str
    exif_rotated: bool
    measures: Measures | None = None


@dataclass(frozen=True)
class Undecodable:
    """An image that could not be decoded, and why, in one short sentence."""

    row: int
    reason: str


class DecodedFile(NamedTuple):
    """What `decode_image` found in a file."""

    pixels: np.ndarray
    """uint8 [height, width, 3] of `Preprocessing.size`."""
    sha256: str
    """Of the file's bytes, hexadecimal."""
    exif_rotated: bool
    """Whether an EXIF orientation other than upright was applied."""
    measures: Measures


def decode_image(path: str, preprocessing: Preprocessing, limits: DecodingLimits) -> DecodedFile:
    """Read, check, decode, measure, rotate, resize and crop one file.

    Raises UnreadableImage(reason). `limits.seconds` is enforced by `decode_images`, not here.
    Pillow's own pixel limit is off meanwhile for the whole process: do not call this from several
    threads.
    """
    return decode_bytes(read_file(path, limits), preprocessing, limits)


def decode_bytes(data: bytes, preprocessing: Preprocessing, limits: DecodingLimits) -> DecodedFile:
    """`decode_image` for the content of a file."""
    if len(data) > limits.max_bytes:
        raise UnreadableImage(_too_large(limits.max_bytes))
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        with opened_image(data, limits) as image:
            new_height, new_width = resized_shape(image.height, image.width, preprocessing)
            resized = new_width * (image.height + new_height)
            too_long = new_height * new_width > limits.max_pixels  # refused by resize_and_crop
            check_memory(image, data, limits, 0 if too_long else 4 * resized)
            upright = _load(image, preprocessing.apply_exif)
            pixels = np.array(resize_and_crop(upright, preprocessing, limits.max_pixels))
            measures = measure(upright)
    except MemoryError:
        raise UnreadableImage(OUT_OF_MEMORY) from None
    return DecodedFile(pixels, hashlib.sha256(data).hexdigest(), upright.rotated, measures)


def picture_pixels(
    image: Image.Image, preprocessing: Preprocessing, limits: DecodingLimits
) -> np.ndarray:
    """uint8 [height, width, 3] of an opened image, as `decode_image` makes them of its file.

    Raises UnreadableImage(reason).
    """
    upright = _load(image, preprocessing.apply_exif)
    return np.array(resize_and_crop(upright, preprocessing, limits.max_pixels))


def thumbnail(data: bytes, side: int, limits: DecodingLimits) -> Image.Image:
    """An image file's bytes as RGB, rotated upright, no larger than `side` x `side`.

    Raises UnreadableImage; see `decode_image` on threads.
    """
    try:
        with opened_image(data, limits) as image:
            image.draft("RGB", (side, side))
            check_memory(image, data, limits)
            upright = _load(image, apply_exif=True)
            scale = min(1.0, side / max(upright.width, upright.height))
            size = tuple(max(1, round(scale * n)) for n in (upright.width, upright.height))
            return upright.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    except MemoryError:
        raise UnreadableImage(OUT_OF_MEMORY) from None


@contextmanager
def opened_image(data: bytes, limits: DecodingLimits) -> Iterator[Image.Image]:
    """The image in a file's bytes, with only its header read.

    Raises UnreadableImage where it is not an image or has too many pixels.
    """
    with _pixel_limit(limits.max_pixels if data.startswith(b"GIF8") else None):
        size = stored_pixels(data)
        if size is not None and size[0] * size[1] > limits.max_pixels:
            raise UnreadableImage(_too_many_pixels(limits, f"{size[0]} x {size[1]} pixels"))
        with _open(data, limits) as image:
            if 0 in image.size:
                raise UnreadableImage(f"the image has no pixels ({shape_of(image)})")
            if image.width * image.height > limits.max_pixels:
                raise UnreadableImage(_too_many_pixels(limits, shape_of(image)))
            yield image


def check_memory(image: Image.Image, data: bytes, limits: DecodingLimits, more: int = 0) -> None:
    """Raise UnreadableImage where decoding an opened image needs more memory than allowed.

    `more` bytes are added for the caller.
    """
    needed = bytes_needed(image, data) + more
    if needed > limits.max_memory:
        raise UnreadableImage(
            f"decoding the image needs {needed >> 20} MiB, more than the limit of "
            f"{limits.max_memory >> 20} MiB ({image.format} {image.mode}, {shape_of(image)})"
        )


def read_file(path: str, limits: DecodingLimits) -> bytes:
    """The bytes of a regular file; what could block, such as a pipe, is not opened.

    Raises UnreadableImage(reason).
    """
    max_bytes = limits.max_bytes
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage("it is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("it is a pipe, socket or device, not a file")
        if status.st_size <= max_bytes:
            with open(path, "rb") as file:
                data = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableImage("the file does not exist") from None
    except PermissionError:
        raise UnreadableImage("there is no permission to read the file") from None
    except OSError as error:
        raise UnreadableImage(f"the file could not be read ({error.strerror})") from None
    except ValueError:  # a null byte, or text that no file name can hold
        raise UnreadableImage("the file name is not valid on this system") from None
    if status.st_size > max_bytes or len(data) > max_bytes:
        raise UnreadableImage(_too_large(max_bytes))
    return data


def _too_large(max_bytes: int) -> str:
    return f"the file is larger than the limit of {max_bytes} bytes"


def _too_many_pixels(limits: DecodingLimits, shape: str) -> str:
    return f"the image has more pixels than the limit of {limits.max_pixels} ({shape})"


@contextmanager
def _pixel_limit(max_pixels: int | None) -> Iterator[None]:
    """Set Pillow's own pixel limit, which raises an error above twice its value.

    It is off, since ours is exact and gives a reason, except for GIF: Pillow allocates a frame
    while it reads the header, before ours can be checked.
    """
    half = None if max_pixels is None else (max_pixels + 1) // 2
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, half
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _open(data: bytes, limits: DecodingLimits) -> Image.Image:
    """Read the header only; the content decides the format, not the file's name."""
    try:
        return Image.open(io.BytesIO(_without_long_text(data)), formats=_formats())
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        shape = re.search(r"[(](\d+ pixels)[)]", str(error))
        raise UnreadableImage(_too_many_pixels(limits, shape[1] if shape else "GIF")) from None
    except Exception:  # Pillow's readers raise many kinds on broken headers
        names = [name for start, name in SIGNATURES.items() if data.startswith(start)]
    if names:
        raise UnreadableImage(f"the {names[0]} file is damaged or cut off")
    found = image_format(data[:HEAD_BYTES])
    if found == "HEIF" and "HEIF" not in _formats():
        raise UnreadableImage("HEIF images need the package pillow-heif, which is not installed")
    if found is not None:
        raise UnreadableImage(f"the {found} file is damaged or cut off")
    raise UnreadableImage("the content is not a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image")


@functools.cache
def _formats() -> tuple[str, ...]:
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def _without_long_text(data: bytes) -> bytes:
    """A PNG without texts and colour profiles of more than a megabyte, any other file as it is.

    Pillow refuses a whole file because of one of them.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    kept, start, place = [], 0, 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if _is_long_text(data[place + 4 : place + 8], data, place + 8, end - 4):
            kept.append(data[start:place])
            start = end
        place = end
    return b"".join([*kept, data[start:]]) if kept else data


def _is_long_text(name: bytes, data: bytes, start: int, end: int) -> bool:
    """Whether the PNG chunk of this name, whose content is data[start:end], is a long text."""
    if name not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
        return False
    if end - start > _LONGEST_TEXT:
        return True
    keyword = data.find(b"\0", start, end)
    packed = keyword + 2
    if name == b"iTXt" and data[keyword + 1 : keyword + 2] == b"\1":
        language = data.find(b"\0", keyword + 3, end)
        packed = data.find(b"\0", language + 1, end) + 1
    elif name in (b"tEXt", b"iTXt"):
        return False
    try:
        unpacked = zlib.decompressobj().decompress(data[packed:end], _LONGEST_TEXT + 1)
    except zlib.error:
        return False
    return len(unpacked) > _LONGEST_TEXT


@dataclass(frozen=True)
class _Upright:
    """A decoded image as upright RGB, converted band by band so that it is never held twice."""

    stored: Image.Image
    orientation: int
    """The EXIF orientation that is still to be applied."""
    rotated: bool

    @property
    def width(self) -> int:
        return self.stored.height if self.orientation >= 5 else self.stored.width

    @property
    def height(self) -> int:
        return self.stored.width if self.orientation >= 5 else self.stored.height

    def resize(self, size: tuple[int, int], interpolation: Image.Resampling) -> Image.Image:
        """The result of `Image.resize` on the whole image, bit for bit.

        Pillow resizes horizontally first and then vertically, with 8 bits in between, so that
        bands of rows can be narrowed one after the other.
        """
        if self.width * self.height <= _BAND_PIXELS:
            return next(self.bands()).resize(size, interpolation)
        narrow, top = Image.new("RGB", (size[0], self.height)), 0
        for band in self.bands():
            narrow.paste(band.resize((size[0], band.height), interpolation), (0, top))
            top += band.height
        return narrow.resize(size, interpolation)

    def bands(self, multiple: int = 1) -> Iterator[Image.Image]:
        """The upright image in bands from the top, each but the last of a `multiple` of rows."""
        rows = max(1, _BAND_PIXELS // self.width // multiple) * multiple
        extremes = _extremes(self.stored)
        for top in range(0, self.height, rows):
            yield self._band(top, min(top + rows, self.height), extremes)

    def _band(self, top: int, bottom: int, extremes: tuple[float, float, bool]) -> Image.Image:
        """Rows of the upright image."""
        width, height = self.stored.size
        if self.orientation in (3, 4):
            box = (0, height - bottom, width, height - top)
        elif self.orientation in (5, 6):
            box = (top, 0, bottom, height)
        elif self.orientation in (7, 8):
            box = (width - bottom, 0, width - top, height)
        else:
            box = (0, top, width, bottom)
        band = self.stored if box == (0, 0, width, height) else self.stored.crop(box)
        rgb = _to_rgb(band, self.stored.has_transparency_data, extremes)
        return rgb.transpose(_TRANSPOSE[self.orientation]) if self.orientation != 1 else rgb


def _load(image: Image.Image, apply_exif: bool) -> _Upright:
    """The first frame, and how it must be rotated."""
    try:
        # Pillow rotates TIFF files itself while loading and then drops their orientation; PNG
        # files may store theirs after the pixels.
        before = _orientation(image) if image.format == "TIFF" else 1
        image.load()
        pending = _orientation(image)
        done = before if pending == 1 else 1
        if image.mode not in _PLAIN_MODES:
            image.crop((0, 0, 1, 1)).convert("RGB")  # fails for modes that cannot be converted
    except MemoryError:
        raise
    except Exception as error:
        if "truncated" in str(error).lower():
            raise UnreadableImage("the image data ends early: the file is truncated") from None
        if "memory" in str(error).lower():
            raise UnreadableImage(OUT_OF_MEMORY) from None
        raise UnreadableImage(f"the image data is damaged ({_plain(error)})") from None
    orientation = pending if apply_exif else _INVERSE.get(done, done)
    return _Upright(image, orientation, apply_exif and (pending, done) != (1, 1))


_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I", "F")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where it is missing or invalid."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _to_rgb(
    image: Image.Image, transparent: bool, extremes: tuple[float, float, bool]
) -> Image.Image:
    """8-bit RGB, by the rules in the module docstring."""
    if _is_deep_grey(image):
        return Image.fromarray(_to_eight_bits(np.asarray(image), *extremes)).convert("RGB")
    if transparent:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _extremes(image: Image.Image) -> tuple[float, float, bool]:
    """Minimum and maximum of the finite values of grey over 8 bits, and whether NaN occurs."""
    low, high, has_nan = np.inf, -np.inf, False
    if _is_deep_grey(image):
        rows = max(1, _BAND_PIXELS // image.width)
        for top in range(0, image.height, rows):
            box = (0, top, image.width, min(top + rows, image.height))
            values = np.asarray(image.crop(box))
            if np.issubdtype(values.dtype, np.floating):
                has_nan = has_nan or bool(np.isnan(values).any())
                values = values[np.isfinite(values)]
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high, has_nan) if low <= high else (0.0, 0.0, has_nan)


def _to_eight_bits(values: np.ndarray, low: float, high: float, has_nan: bool) -> np.ndarray:
    """Grey values [H, W] of any integer or floating type as uint8 [H, W]."""
    is_float = np.issubdtype(values.dtype, np.floating)
    if is_float:
        values = np.nan_to_num(values, nan=0.0, posinf=high, neginf=low)
        if has_nan:
            low, high = min(low, 0.0), max(high, 0.0)
    if low >= 0 and high <= 65535 and not is_float:
        return (values >> 8).astype(np.uint8)
    if low < 0 or high > 255:
        scaled = (values.astype(np.float64) - low) * (255 / (high - low) if high > low else 0.0)
    else:
        scaled = values * 255.0 if high <= 1 else values
    return np.rint(scaled).astype(np.uint8)


def _plain(error: Exception) -> str:
    """One short line of an error message without memory addresses, which differ between runs."""
    text = re.sub(r"<[^>]*>|0x[0-9a-fA-F]+", "", str(error)).strip() or type(error).__name__
    return " ".join(text.split())[:100]
