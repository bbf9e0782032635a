"""Score embeddings and labels that are already numpy arrays. No model, no files, no command.

Run as: python examples/numpy_embeddings.py

`score_arrays` is the part to copy. The script calls it on a synthetic collection in which some
images are filed under the wrong class, because it needs something to find.
"""

from __future__ import annotations

from typing import NamedTuple

import blissaudit as ba
import numpy as np


class Collection(NamedTuple):
    """Embeddings of a CLIP-like model: rows of length 1, all of the same dimension d."""

    images: np.ndarray
    """float32 [n, d]"""
    labels: np.ndarray
    """str [n], the class each image is filed under."""
    prompts: np.ndarray
    """float32 [C, d], the text embedding of each class name, in sorted order of the names."""
    texts: np.ndarray
    """float32 [M, d], text embeddings of a corpus of captions."""


def score_arrays(
    collection: Collection, k: int = 10
) -> tuple[ba.BlissScores, ba.Retrieved, tuple[str, ...]]:
    """BLISS scores of a collection that is its own reference, each image left out of its class."""
    images, texts = collection.images, collection.texts
    names, labels = np.unique(collection.labels, return_inverse=True)
    classes = tuple(str(name) for name in names)

    # What normal means: count, mean and covariance of each class, and the class's prompt.
    reference = ba.Reference(ba.fit_moments(classes, images, labels), collection.prompts)

    # The k captions most similar to each image, and their embeddings.
    hits = ba.exact_search(images, texts, k)
    retrieved = ba.gather_texts(hits, texts)

    # Every image is in the reference, so each is compared with its class without itself.
    itself = ba.LeftOut(images=np.arange(len(images)), classes=labels)
    return ba.bliss_scores(images, retrieved, reference, left_out=itself), retrieved, classes


def text_spread(collection: Collection, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [C] of each class's similarity to the caption `row`."""
    names, labels = np.unique(collection.labels, return_inverse=True)
    moments = ba.fit_moments(tuple(names), collection.images, labels)
    mean, std = ba.text_statistics(moments, collection.texts[[row]])
    return mean[:, 0], std[:, 0]


def make_collection(seed: int = 0) -> tuple[Collection, np.ndarray]:
    """A synthetic collection, and bool [n]: which of its images are strays."""
    rng = np.random.default_rng(seed)
    dimension, each = 64, 40
    texts = unit(rng.standard_normal((300, dimension)))
    classes = ("cup", "key", "shoe")
    centres = unit(rng.standard_normal((3, dimension)))
    prompts = unit(centres + 0.5 * unit(rng.standard_normal((3, dimension))))
    shown = np.repeat(centres, each, axis=0)
    stray = rng.permutation(len(shown)) < 6
    shown[stray] = texts[rng.integers(0, len(texts), 6)]  # something that no class is
    images = unit(shown + 0.8 * unit(rng.standard_normal(shown.shape)))
    return Collection(images, np.repeat(classes, each), prompts, texts), stray


def unit(rows: np.ndarray) -> np.ndarray:
    """float32 rows of length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def main() -> None:
    collection, stray = make_collection()
    scores, retrieved, classes = score_arrays(collection)
    order, labels = np.argsort(-scores.score), collection.labels
    for image in order[:8]:
        caption = scores.pull[image].argmax()
        print(
            f"{scores.score[image]:6.2f}  image {image:>3} filed under {labels[image]:<5}"
            f" nearest class {classes[scores.nearest[image]]:<5}"
            f" caption {retrieved.rows[image, caption]:>3} ({scores.pull[image, caption]:+.1f})"
            f"{'  stray' if stray[image] else ''}"
        )
    found = int(stray[order[: stray.sum()]].sum())
    print(f"{found} of {stray.sum()} strays are the {stray.sum()} most anomalous images")

    row = int(retrieved.rows[order[0], 0])
    mean, std = text_spread(collection, row)
    for name, centre, spread in zip(classes, mean, std, strict=True):
        print(f"images of {name:<5} have similarity {centre:+.2f} ± {spread:.2f} to caption {row}")


if __name__ == "__main__":
    main()
