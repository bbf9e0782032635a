"""One image file to the pixels that the image encoder sees, or a plain reason why not.

Colour: everything becomes 8-bit RGB before it is resized. Transparency is composited onto white.
16-bit grey keeps its high byte, as 16-bit colour does. Integer grey beyond 0..65535 is stretched
from its minimum and maximum to 0..255; floating-point grey is taken as 0..1 or 0..255 if it lies
there and stretched otherwise, NaN counting as 0. Colour profiles are ignored, as open_clip does.

For RGB files, resizing and cropping are bit for bit what `open_clip.transform.image_transform`
does at inference, without importing torch.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL import TiffImagePlugin as _tiff  # noqa: F401  # both register themselves, so that
from PIL import WebPImagePlugin as _webp  # noqa: F401  # Pillow need not load every plugin

from .preprocessing import Preprocessing, UnreadableImage, resize_and_crop, shape_of

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*": "TIFF",
    b"MM\x00": "TIFF",
}
"""How the files of each format begin."""
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


@dataclass(frozen=True)
class DecodingLimits:
    """When to give up on an image: pixels (as stored or resized), seconds, bytes of the file."""

    max_pixels: int = 250_000_000
    seconds: float = 30.0
    max_bytes: int = 1 << 30


@dataclass(frozen=True)
class Decoded:
    """A decoded image: `pixels` uint8 [H, W, 3], `sha256` of the file, whether EXIF turned it."""

    row: int
    pixels: np.ndarray
    sha256: str
    exif_rotated: bool


@dataclass(frozen=True)
class Undecodable:
    """An image that was given up on, and why, as one short sentence."""

    row: int
    reason: str


def decode_image(
    path: str, preprocessing: Preprocessing, limits: DecodingLimits
) -> tuple[np.ndarray, str, bool]:
    """Read, check, decode, turn upright, resize and crop one file.

    Returns pixels (uint8 [height, width, 3] of `preprocessing.size`), the hexadecimal SHA-256 of
    the file's bytes, and whether an EXIF orientation other than upright was applied. Raises
    UnreadableImage(reason). `limits.seconds` is not kept here but by `decode_images`; Pillow's own
    pixel limit is off meanwhile, for the whole process, so do not call this from several threads.
    """
    return decode_bytes(read_file(path, limits), preprocessing, limits)


def decode_bytes(
    data: bytes, preprocessing: Preprocessing, limits: DecodingLimits
) -> tuple[np.ndarray, str, bool]:
    """`decode_image` for the content of a file that was read elsewhere."""
    if len(data) > limits.max_bytes:
        raise UnreadableImage(_too_large(limits.max_bytes))
    if not data:
        raise UnreadableImage("the file is empty")
    try:
        upright, rotated = upright_rgb(data, limits, preprocessing.apply_exif)
        pixels = np.array(resize_and_crop(upright, preprocessing, limits.max_pixels))
    except MemoryError:
        raise UnreadableImage("there is not enough memory to decode the image") from None
    return pixels, hashlib.sha256(data).hexdigest(), rotated


def upright_rgb(
    data: bytes, limits: DecodingLimits, apply_exif: bool = True, near: int | None = None
) -> tuple[Image.Image, bool]:
    """The first frame of an image file's bytes as RGB, and whether EXIF turned it upright.

    With `near` a JPEG may come smaller than stored, though never below `near` pixels on its
    shorter side: much faster for thumbnails. Raises UnreadableImage; see `decode_image` on threads.
    """
    with _own_pixel_limit(), _open(data) as image:
        if 0 in image.size:
            raise UnreadableImage(f"the image has no pixels ({shape_of(image)})")
        if image.width * image.height > limits.max_pixels:
            raise UnreadableImage(
                f"the image has more pixels than the limit of {limits.max_pixels} "
                f"({shape_of(image)})"
            )
        if near is not None:
            image.draft("RGB", (near, near))
        return _load(image, apply_exif)


def read_file(path: str, limits: DecodingLimits) -> bytes:
    """The bytes of a regular file; anything that could block is refused before it is opened.

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


@contextmanager
def _own_pixel_limit() -> Iterator[None]:
    """Switch Pillow's pixel limit off while ours, which is exact and has a reason, applies."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _open(data: bytes) -> Image.Image:
    """Read the header only; the format is known by content, never by the file's name."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise many kinds on broken headers
        names = [name for start, name in SIGNATURES.items() if data.startswith(start)]
    if names:
        raise UnreadableImage(f"the {names[0]} file is damaged or cut off")
    raise UnreadableImage("the content is not a JPEG, PNG, WebP, BMP, GIF or TIFF image")


def _load(image: Image.Image, apply_exif: bool) -> tuple[Image.Image, bool]:
    """The first frame as RGB, turned upright if asked, and whether it was turned."""
    try:
        # Pillow turns TIFF files itself while loading and then forgets their orientation; PNG
        # files may hold theirs behind the pixels.
        before = _orientation(image) if image.format == "TIFF" else 1
        image.load()
        pending = _orientation(image)
        done = before if pending == 1 else 1
        rgb = _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:
        if "truncated" in str(error).lower():
            raise UnreadableImage("the image data ends early: the file is truncated") from None
        raise UnreadableImage(f"the image data is damaged ({_plain(error)})") from None
    step = pending if apply_exif else _INVERSE.get(done, done)
    turned = rgb.transpose(_TRANSPOSE[step]) if step != 1 else rgb
    return turned, apply_exif and (pending, done) != (1, 1)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or it makes no sense."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB by the rules at the top of this file."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values [H, W] of any integer or floating type as uint8 [H, W]."""
    is_float = np.issubdtype(values.dtype, np.floating)
    if is_float:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        values = np.nan_to_num(values, nan=0.0, posinf=high, neginf=low)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535 and not is_float:
        return (values >> 8).astype(np.uint8)
    if low < 0 or high > 255:
        scaled = (values.astype(np.float64) - low) * (255 / (high - low) if high > low else 0.0)
    else:
        scaled = values * 255.0 if high <= 1 else values
    return np.rint(scaled).astype(np.uint8)


def _plain(error: Exception) -> str:
    """One short line of an error message, the same on every run: no memory addresses."""
    text = re.sub(r"<[^>]*>|0x[0-9a-fA-F]+", "", str(error)).strip() or type(error).__name__
    return " ".join(text.split())[:100]
