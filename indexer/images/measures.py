"""What is measured of the pixels of an image: its quality, a sketch, and a digest.

The quality measures are those of cleanvision, from at most SIDE x SIDE of its pixels:

    brightness  sqrt(0.241 r² + 0.691 g² + 0.068 b²) / 255 of a pixel: mean, 5th, 99th percentile
    entropy     of the histograms of the three channels together, of one for grey pictures, in bits
    blurriness  standard deviation of Pillow's FIND_EDGES on grey of at most 64 x 64 pixels, and the
                standard deviation of that picture's histogram

and two more: `colour`, the 99th percentile of (largest - smallest channel) / 255, and `range`, the
largest difference within a channel of the 64 x 64 picture / 255. Larger images
are represented by every second or third pixel, and so on: averages would lose dark and bright ones.

The sketch is the whole picture as SKETCH x SKETCH grey pixels, squeezed to a square; copies are
confirmed on it. The digest is of all upright RGB pixels: equal ones are the same picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageChops, ImageFilter

MEASURES = (
    "width", "height", "brightness", "brightness_perc_5", "brightness_perc_99", "entropy", "colour",
    "blurriness", "blurriness_grayscale_std", "range",
)  # fmt: skip
"""The quality measures, in the order of their columns."""
SKETCH = 64
"""Pixels of a side of a sketch."""
DIGEST_BYTES = 16
SIDE, SMALL = 256, 64


class Upright(Protocol):
    """An RGB image that need not be in memory as a whole."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def bands(self, multiple: int) -> Iterator[Image.Image]:
        """The image in bands from the top, each but the last of a `multiple` of rows."""


@dataclass(frozen=True)
class Measures:
    """What was measured of one image."""

    quality: tuple[float, ...]
    """In the order of MEASURES."""
    digest: str
    """DIGEST_BYTES as hexadecimal digits."""
    sketch: bytes
    """uint8 [SKETCH, SKETCH]."""


def measure(image: Upright) -> Measures:
    """The measures of a decoded image, from one pass over its bands."""
    factor = -(-max(image.width, image.height) // SIDE)
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    size = -(-image.width // factor), -(-image.height // factor)
    sample, middle, top = Image.new("RGB", size), Image.new("RGB", size), 0
    for band in image.bands(factor):
        digest.update(band.tobytes())
        reduced = band.reduce(factor)
        middle.paste(reduced, (0, top))
        sample.paste(band.resize(reduced.size, Image.Resampling.NEAREST), (0, top))
        top += reduced.height
    scale = max(1.0, max(image.width, image.height) / SMALL)
    small = middle.resize(
        (max(1, int(image.width // scale)), max(1, int(image.height // scale))),
        Image.Resampling.BICUBIC,
    )
    found = image.width, image.height, *_of_sample(sample), *_of_small(small)
    return Measures(
        tuple(float(value) for value in found),
        digest.digest()[:DIGEST_BYTES].hex(),
        _squeezed(middle).tobytes(),
    )


def sketch_of(picture: np.ndarray | Image.Image) -> np.ndarray:
    """uint8 [SKETCH, SKETCH], the sketch of a Pillow image or an array [h, w] or [h, w, 3]."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    factor = -(-max(image.size) // SIDE)
    return np.asarray(_squeezed(image.convert("RGB").reduce(factor)))


def _squeezed(picture: Image.Image) -> Image.Image:
    return picture.convert("L").resize((SKETCH, SKETCH), Image.Resampling.BILINEAR)


def _of_sample(sample: Image.Image) -> tuple[float, ...]:
    """Mean, 5th and 99th percentile of the brightness; entropy; colour."""
    red, green, blue = sample.split()
    squares = sum(
        weight * np.square(np.asarray(channel, np.float32).ravel())
        for weight, channel in zip(_LUMA, (red, green, blue), strict=True)
    )
    ranks = (len(squares) - 1) * 5 // 100, (len(squares) - 1) * 99 // 100
    low, high = np.sqrt(np.partition(squares, ranks)[list(ranks)]) / 255
    mean = np.sqrt(np.square(_moments(sample)[0]) @ _LUMA) / 255
    lightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    counts = np.cumsum(ImageChops.difference(lightest, darkest).histogram())
    entropy = (red if counts[0] == counts[-1] else sample).entropy()
    colour = np.searchsorted(counts, 0.99 * counts[-1]) / 255
    return float(mean), float(low), float(high), entropy, float(colour)


def _of_small(small: Image.Image) -> tuple[float, ...]:
    """Blurriness, its second measure, and the range of values."""
    grey = small.convert("L")
    edges = _moments(grey.filter(ImageFilter.FIND_EDGES))[1][0]
    spread = max(ceiling - floor for floor, ceiling in np.reshape(small.getextrema(), (3, 2)))
    return float(np.sqrt(edges)), float(np.std(grey.histogram())), float(spread / 255)


def _moments(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel, as Pillow's ImageStat has them, without its loops."""
    counts = np.reshape(picture.histogram(), (-1, 256)).astype(np.float64)
    values = np.arange(256.0)
    n, total, squares = counts.sum(axis=1), counts @ values, counts @ np.square(values)
    return total / n, (squares - total**2 / n) / n


_LUMA = np.array([0.241, 0.691, 0.068], np.float32)
