"""Scenes rendered ahead of training into one array, and batches cut from it."""

import io
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..demo import Scene, render_scene, sample_scene

IMAGE_SIZE = 64
FILE_SIZE = 128
MEAN = 0.5
STD = 0.5

Pixels = NDArray[np.uint8]


def sample_scenes(seed: int, stream: int, count: int) -> list[Scene]:
    """Scenes of one of several independent streams of a seed."""
    rng = np.random.default_rng([seed, stream])
    return [sample_scene(rng) for _ in range(count)]


def picture_as_file(scene: Scene, quality: int) -> Image.Image:
    """The scene as a reader of its 128 pixel JPEG file sees it."""
    buffer = io.BytesIO()
    render_scene(scene, FILE_SIZE).save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def model_view(scene: Scene) -> Pixels:
    """The 64 x 64 x 3 bytes that the model's own preprocessing makes of the scene's file."""
    picture = picture_as_file(scene, 80 + scene.seed % 16)
    small = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(small, dtype=np.uint8)


def _render_chunk(scenes: list[Scene]) -> Pixels:
    return np.stack([model_view(scene) for scene in scenes])


def render_all(scenes: list[Scene], workers: int = 2) -> Pixels:
    """Pictures of shape (scenes, 64, 64, 3), rendered by several processes."""
    chunks = [scenes[start : start + 200] for start in range(0, len(scenes), 200)]
    with ProcessPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(_render_chunk, chunks)))


def rendered(scenes: list[Scene], cache: Path) -> Pixels:
    """As `render_all`, kept in the .npy file `cache`; the file must belong to these scenes."""
    if cache.exists():
        pixels: Pixels = np.load(cache, allow_pickle=False)
        if len(pixels) >= len(scenes) and np.array_equal(pixels[0], model_view(scenes[0])):
            return pixels[: len(scenes)]
    pixels = render_all(scenes)
    np.save(cache, pixels, allow_pickle=False)
    return pixels


def to_input(pixels: Pixels) -> torch.Tensor:
    """Float input of shape (n, 3, 64, 64), normalised as the shipped preprocessing does."""
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    return batch.div_(255 * STD).sub_(MEAN / STD)


def augmented(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Pictures flipped, shifted by up to 4 pixels and changed in brightness, each on its own."""
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    moved = np.empty_like(pixels)
    shifts = rng.integers(0, 9, size=(len(pixels), 2))
    for index, (top, left) in enumerate(shifts):
        moved[index] = padded[index, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    flips = rng.random(len(pixels)) < 0.5
    moved[flips] = moved[flips][:, :, ::-1]
    gains = rng.uniform(0.92, 1.06, size=(len(pixels), 1, 1, 1))
    return np.clip(moved * gains, 0, 255).astype(np.uint8)
