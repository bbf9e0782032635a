"""Image-caption pairs to train CLIPN on: from a table with a column of each, or drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..corpora import COLUMN_SUFFIXES, ImageList, open_text_file
from ..demo import KINDS, Scene, caption, sample_scene
from ..errors import BlissError, UsageError
from ..indexer import Encoder, Preprocessing, caption_lengths, resize_and_crop
from .clipn_training import Pairs

IMAGE_COLUMNS = ("image", "image_path", "path", "file_name", "filename", "filepath", "file")
DEMO = "demo"
DEMO_PAIRS = 4800
"""Pairs of `demo`, evenly over its kinds; `demo:N` draws N."""
_CHUNK = 200


@dataclass(frozen=True)
class CaptionTable:
    """n pairs as a file names them; the i-th caption is of the i-th image path."""

    paths: tuple[str, ...]
    captions: tuple[str, ...]
    dropped: int
    """Records without a caption or without a path."""


def read_table(path: str, image_column: str | None, column: str | None) -> CaptionTable:
    """The pairs of a csv, tsv, jsonl or parquet file.

    The captions' column is the obvious one, the images' the first of IMAGE_COLUMNS, where none is
    named. UsageError where a column is missing or the file is of another kind; BlissError where
    fewer than two pairs are in it.
    """
    file = Path(path)
    if not file.is_file() or file.suffix.lower() not in COLUMN_SUFFIXES:
        raise UsageError(
            f"--captions {path} was given",
            f"demo, or a {', '.join(COLUMN_SUFFIXES)} file of image paths and captions",
            "Correct --captions",
        )
    image_column = image_column or _image_column(file)
    images: dict[int, str] = {}
    for batch in open_text_file(file, image_column).batches(4096):
        images.update(zip(batch.rows.tolist(), batch.texts, strict=True))
    paths: list[str] = []
    captions: list[str] = []
    dropped = 0
    for batch in open_text_file(file, column).batches(4096):
        for row, text in zip(batch.rows.tolist(), batch.texts, strict=True):
            text, image = " ".join(text.split()), images.get(row, "")
            if text and image:
                paths.append(image)
                captions.append(text)
            else:
                dropped += 1
    if len(paths) < 2:
        raise BlissError(
            f"{path} holds {len(paths)} pairs of an image and a caption",
            "two at least, and better thousands",
            "Check its columns",
        )
    return CaptionTable(tuple(paths), tuple(captions), dropped)


def listed_images(table: CaptionTable, root: str) -> ImageList:
    """Each image of the table once, under `root`; UsageError where the first is not there."""
    different = tuple(dict.fromkeys(table.paths))
    if not os.path.exists(os.path.join(root, different[0])):
        raise UsageError(
            f"there is no {different[0]} in {root}",
            "the folder the image paths start from",
            "Add --image-root DIR",
        )
    return ImageList(root, different, (None,) * len(different))


def make_pairs(
    images: np.ndarray,
    image: np.ndarray,
    captions: Sequence[str],
    encoder: Encoder,
    tokenizer: Any,
    group: np.ndarray | None = None,
) -> Pairs:
    """Pairs of unit rows `images` [m, d] by their rows `image` [n], and n captions.

    Pairs with the same caption are of one group, unless groups int64 [n] are given. Each different
    caption is tokenised and embedded once.
    """
    texts, caption_rows = np.unique(np.array(captions, object), return_inverse=True)
    tokens = tokenizer(list(texts)).numpy().astype(np.int32)
    pad = int(tokenizer(["a"])[0, -1])
    lengths = np.full(len(tokens), tokens.shape[1])
    if encoder.facts["short_captions_exact"]:
        lengths = caption_lengths(tokens, pad)
    yes = encoder.encode_texts(list(texts))
    group = caption_rows if group is None else group
    return Pairs(images, yes, tokens, lengths, np.asarray(image), caption_rows, group)


def demo_pairs(count: int, seed: int, encoder: Encoder, tokenizer: Any) -> Pairs:
    """Drawn scenes with a right caption each; pairs of a kind are of one group."""
    rng = np.random.default_rng([seed, 11])
    scenes = [sample_scene(rng, KINDS[number % len(KINDS)]) for number in range(count)]
    captions = [caption(scene, rng) for scene in scenes]
    render = partial(_rendered, preprocessing=encoder.preprocessing)
    chunks = [scenes[at : at + _CHUNK] for at in range(0, count, _CHUNK)]
    if len(chunks) == 1:
        pixels = render(chunks[0])
    else:
        with ProcessPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as pool:
            pixels = np.concatenate(list(pool.map(render, chunks)))
    size = encoder.batch_size
    rows = [encoder.encode_images(pixels[at : at + size]) for at in range(0, count, size)]
    kinds = np.arange(count) % len(KINDS)
    return make_pairs(
        np.concatenate(rows), np.arange(count), captions, encoder, tokenizer, group=kinds
    )


def demo_count(spec: str) -> int | None:
    """How many pairs `demo` or `demo:N` asks for; None for anything else."""
    name, colon, count = spec.partition(":")
    if name != DEMO:
        return None
    if not colon:
        return DEMO_PAIRS
    if not count.isascii() or not count.isdigit() or int(count) < 2:
        raise UsageError(f"--captions {spec} was given", "demo:N with N 2 or more", "Correct it")
    return int(count)


def _rendered(scenes: list[Scene], preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [b, height, width, 3], what a reader of the scenes' files gives the model."""
    from .rendered_batches import FILE_SIZE, picture_as_file

    pictures = [picture_as_file(scene, 80 + scene.seed % 16) for scene in scenes]
    most = FILE_SIZE**2 * 64
    return np.stack([np.asarray(resize_and_crop(one, preprocessing, most)) for one in pictures])


def _image_column(file: Path) -> str:
    for name in IMAGE_COLUMNS:
        try:
            return open_text_file(file, name).column or name
        except UsageError:
            continue
    raise UsageError(
        f"{file} has no column {', '.join(IMAGE_COLUMNS[:-1])} or {IMAGE_COLUMNS[-1]}",
        "one with the path of each image",
        "Name it with --image-column",
    )
