"""Views of image files: decoded once, cut and coloured at random, embedded once, cached.

An encoder of views is an Encoder like any other, whose vector of an image is that of all its views
one after the other. `embed_images` therefore caches views as it does images: in parts, resumable,
with a manifest and checksums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ..indexer import INTERPOLATIONS, Encoder

AREA = (0.3, 1.0)
"""Share of the picture that a crop keeps."""
SHAPE = (3 / 4, 4 / 3)
"""Width over height of a crop, relative to the picture's."""
STRENGTH = 0.4
"""Brightness, contrast and saturation are each multiplied by 1 ± up to this."""
ENLARGED = 2
"""Pictures are decoded at this multiple of the model's size, so that crops keep their detail."""


def views_encoder(
    encoder: Encoder, count: int, seed: int = 0, quarters: Sequence[int] = (0,)
) -> Encoder:
    """An Encoder whose image vector is len(quarters)·count views of `encoder`, scaled to length 1.

    For each number of quarter turns, the picture turned so comes first, then `count` - 1 random
    views of that. They depend on the seed and the picture's pixels alone, so order and batches do
    not matter and the same picture has the same views. `views_of` takes the vector apart.
    """
    plain = encoder.preprocessing
    height, width = plain.size
    facts = {
        "views": count,
        "quarter_turns": list(quarters),
        "seed": seed,
        "area": list(AREA),
        "shape": list(SHAPE),
        "strength": STRENGTH,
        "enlarged": ENLARGED,
    }
    interpolation = INTERPOLATIONS[plain.interpolation]

    def encode_images(pixels: np.ndarray) -> np.ndarray:
        made = [
            view
            for picture in pixels
            for turns in quarters
            for view in picture_views(
                np.rot90(picture, turns), count, seed, plain.size, interpolation
            )
        ]
        rows = [
            encoder.encode_images(np.stack(made[start : start + encoder.batch_size]))
            for start in range(0, len(made), encoder.batch_size)
        ]
        return np.concatenate(rows).reshape(len(pixels), -1) / np.float32(
            np.sqrt(len(quarters) * count)
        )

    return replace(
        encoder,
        facts={
            **encoder.facts,
            "dimension": len(quarters) * count * encoder.facts["dimension"],
            "preprocessing": {**encoder.facts["preprocessing"], "views": facts},
        },
        preprocessing=replace(plain, size=(ENLARGED * height, ENLARGED * width)),
        batch_size=max(4, encoder.batch_size // (len(quarters) * count)),
        encode_images=encode_images,
    )


def views_of(vectors: np.ndarray, quarters: int, count: int) -> np.ndarray:
    """float32 [n, quarters, count, d] unit rows of what a `views_encoder` made [n, …]."""
    n, width = vectors.shape
    rows = vectors.reshape(n, quarters, count, width // (quarters * count))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def picture_views(
    picture: np.ndarray,
    count: int,
    seed: int,
    size: tuple[int, int],
    interpolation: Image.Resampling,
) -> list[np.ndarray]:
    """The picture uint8 [H, W, 3] resized to `size` (height, width), then count - 1 random views.

    A random view is a crop of 30 to 100 % of the area and of a shape within 3:4 and 4:3 of the
    picture's, resized; mirrored half of the time; brightness, contrast and saturation changed.
    """
    content = hashlib.blake2b(np.ascontiguousarray(picture).tobytes(), digest_size=8)
    rng = np.random.default_rng([seed, int.from_bytes(content.digest(), "little")])
    image, target = Image.fromarray(picture), (size[1], size[0])
    views = [np.asarray(image.resize(target, interpolation))]
    for _ in range(count - 1):
        cut = np.asarray(image.resize(target, interpolation, box=_crop(image.size, rng)))
        mirrored = cut[:, ::-1] if rng.random() < 0.5 else cut
        views.append(_coloured(mirrored, rng.uniform(1 - STRENGTH, 1 + STRENGTH, 3)))
    return views


def _crop(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random box (left, top, right, bottom) inside a picture of `size` (width, height)."""
    area, shape = rng.uniform(*AREA), np.exp(rng.uniform(*np.log(SHAPE)))
    wide = min(1.0, np.sqrt(area * shape))
    high = min(1.0, area / wide)
    left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - high)
    width, height = size
    return left * width, top * height, (left + wide) * width, (top + high) * height


def _coloured(picture: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """A uint8 picture with brightness, then contrast, then saturation multiplied by `factors`."""
    brightness, contrast, saturation = factors.astype(np.float32)
    values = picture.astype(np.float32) * brightness
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    values = (values - grey.mean()) * contrast + grey.mean()
    grey = (values @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]
    values = (values - grey) * saturation + grey
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
