"""The preprocessing of an image encoder: resizing and cropping.

For RGB pictures the result is bit for bit that of `open_clip.transform.image_transform` at
inference, before ToTensor and Normalize, without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image, ImageOps

from ...errors import UsageError

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")


class UnreadableImage(Exception):
    """An image that cannot be decoded; its text is the reason, one short sentence."""


@dataclass(frozen=True)
class Preprocessing:
    """The input of an image encoder: `size` is (height, width), `mean` and `std` are per channel.

    Raises UsageError for a size, interpolation or resize mode that open_clip does not have.
    """

    size: tuple[int, int]
    interpolation: str
    resize_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill_color: int = 0
    apply_exif: bool = True

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            wrong, needed = f"image size {self.size}", "a height and a width of at least 1"
        elif self.interpolation not in INTERPOLATIONS:
            wrong, needed = f"interpolation {self.interpolation!r}", " or ".join(INTERPOLATIONS)
        elif self.resize_mode not in RESIZE_MODES:
            wrong, needed = f"resize mode {self.resize_mode!r}", " or ".join(RESIZE_MODES)
        else:
            return
        remedy = "Correct the model's preprocess config"
        raise UsageError(f"the encoder needs {wrong}", needed, remedy)


class Resizable(Protocol):
    """An RGB image that need not be in memory as a whole."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def resize(self, size: tuple[int, int], interpolation: Image.Resampling, /) -> Image.Image:
        """As `PIL.Image.Image.resize`."""


def resize_and_crop(
    source: Resizable, preprocessing: Preprocessing, max_pixels: int
) -> Image.Image:
    """open_clip's inference transform of an RGB image, before ToTensor."""
    height, width = preprocessing.size
    mode = preprocessing.resize_mode
    new_height, new_width = resized_shape(source.height, source.width, preprocessing)
    if min(new_height, new_width) < 1 or new_height * new_width > max_pixels:
        raise UnreadableImage(
            f"the image is too long and thin to resize to {height} x {width} ({shape_of(source)})"
        )
    interpolation = INTERPOLATIONS[preprocessing.interpolation]
    if mode == "shortest" and height != width:  # open_clip ignores the interpolation here
        interpolation = Image.Resampling.BICUBIC
    image = source.resize((new_width, new_height), interpolation)
    missing_x, missing_y = max(width - new_width, 0), max(height - new_height, 0)
    if missing_x or missing_y:
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        fill = preprocessing.fill_color if mode == "longest" else 0
        image = ImageOps.expand(image, border, (fill, fill, fill))
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def resized_shape(height: int, width: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) before cropping, rounded as in torchvision and open_clip."""
    target_height, target_width = preprocessing.size
    if preprocessing.resize_mode == "squash":
        return target_height, target_width
    if preprocessing.resize_mode == "shortest" and target_height == target_width:
        if width <= height:
            return int(target_width * height / width), target_width
        return target_height, int(target_height * width / height)
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if preprocessing.resize_mode == "longest" else min(ratios)
    return round(height / ratio), round(width / ratio)


def visible_box(
    height: int, width: int, preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what the model sees, in widths and heights of the image.

    Below 0 or above 1 where the model sees a border that is not in the image.
    """
    sides = zip((width, height), preprocessing.size[::-1], strict=True)
    resized = resized_shape(height, width, preprocessing)[::-1]
    spans = [
        ((new - seen) / 2 / new, (new + seen) / 2 / new)
        for (_, seen), new in zip(sides, resized, strict=True)
    ]
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def shape_of(image: Resizable) -> str:
    """Width and height, for messages."""
    return f"{image.width} x {image.height} pixels"
