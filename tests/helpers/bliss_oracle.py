"""BLISS written from its formula with loops over pairs, to compare the package with.

Nothing here comes from the package: similarities are lists of dot products in float64, their
mean and standard deviation numpy's, and an image is left out by leaving its row out of the list.
Test files run it with runpy, since in importlib mode they cannot import one another.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The inner product of two vectors in float64."""
    return float(np.dot(a.astype(np.float64), b.astype(np.float64)))


def statistics(rows: list[np.ndarray], text: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation of the rows' similarities to a text."""
    similarities = [cosine(row, text) for row in rows]
    return float(np.mean(similarities)), float(np.std(similarities))


def standardised(similarity: float, rows: list[np.ndarray], text: np.ndarray) -> float:
    """(similarity - mean)/(std + 1e-8)."""
    mean, std = statistics(rows, text)
    return (similarity - mean) / (std + 1e-8)


def class_rows(images: np.ndarray, labels: np.ndarray, number: int) -> list[np.ndarray]:
    """The reference rows of one class."""
    return [image for image, label in zip(images, labels, strict=True) if label == number]


def without(rows: list[np.ndarray], image: np.ndarray) -> list[np.ndarray]:
    """The rows less one that equals `image`."""
    position = next(i for i, row in enumerate(rows) if np.array_equal(row, image))
    return rows[:position] + rows[position + 1 :]


def terms(
    images: np.ndarray,
    hits: tuple[np.ndarray, np.ndarray],
    texts: np.ndarray,
    classes: list[list[np.ndarray]],
    prompts: np.ndarray,
    left_out: set[tuple[int, int]] = frozenset(),
) -> tuple[np.ndarray, np.ndarray]:
    """ICS [n, C] and pull [n, C, k], whose mean over k is ETS.

    `hits` are similarities and rows of `texts`, both [n, k]; `left_out` (image, class) pairs.
    """
    similarities, found = hits
    ics = np.zeros((len(images), len(classes)))
    pull = np.zeros((len(images), len(classes), found.shape[1]))
    known: dict[tuple[int, int], tuple[float, float]] = {}
    for i, image in enumerate(images):
        for c, rows in enumerate(classes):
            alone = (i, c) in left_out
            used = without(rows, image) if alone else rows
            ics[i, c] = -standardised(cosine(image, prompts[c]), used, prompts[c])
            for j in range(found.shape[1]):
                text = int(found[i, j])
                if alone:
                    mean, std = statistics(used, texts[text])
                else:
                    if (c, text) not in known:
                        known[c, text] = statistics(used, texts[text])
                    mean, std = known[c, text]
                pull[i, c, j] = (float(similarities[i, j]) - mean) / (std + 1e-8)
    return ics, pull


def brute_force(queries: np.ndarray, texts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 similarities and rows [n, k], by similarity descending and then by row."""
    similarities = np.zeros((len(queries), k), np.float32)
    rows = np.zeros((len(queries), k), np.int64)
    for i, query in enumerate(queries):
        all_pairs = [(-np.float32(cosine(query, text)), row) for row, text in enumerate(texts)]
        for j, (negative, row) in enumerate(sorted(all_pairs)[:k]):
            similarities[i, j], rows[i, j] = -negative, row
    return similarities, rows


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float32 rows of length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def real_data() -> Path:
    """The folder of real CLIP embeddings; skips the test where there is none."""
    if "BLISS_TEST_DATA" not in os.environ:
        pytest.skip("the real embeddings are not here: BLISS_TEST_DATA is not set")
    return Path(os.environ["BLISS_TEST_DATA"]) / "real"


def real_images(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Embeddings and labels of one folder of real images."""
    table = pq.read_table(folder / "metadata" / "metadata_0.parquet", columns=["label"])
    return np.load(folder / "img_emb" / "img_emb_0.npy"), table["label"].to_pylist()


def real_texts(real: Path) -> np.ndarray:
    """The 2,283 "a photo of a ..." embeddings."""
    return np.load(real / "texts" / "photo-of-a" / "text_emb" / "text_emb_0.npy")


def caltech(real: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Caltech-101 embeddings and class numbers; classes without an image keep their number."""
    names = json.loads((real / "caltech101" / "classes.json").read_text())
    numbers = {name.replace("_", " "): number for number, name in enumerate(names)}
    images, labels = real_images(real / "caltech101" / part)
    return images, np.array([numbers[label.replace("_", " ")] for label in labels])
