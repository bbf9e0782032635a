"""Seeded worlds to measure in: classes of images, texts partly near them, and their hits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from blissaudit.indexer.vectors.nearest import Hits, exact_search
from measuring import unit

K = 10
DIMENSION = 512
TEXTS = 100_000
QUERIES_AT_ONCE = 500
FEW_DISTINCT, MORE_DISTINCT, MANY_DISTINCT = 0.35, 0.6, 40.0
"""Noise of an image, in lengths of its class centre: the hits of 2,000 images repeat, or not."""


@dataclass(frozen=True)
class World:
    """Unit rows of references (sorted by class), prompts, texts and images, with the hits."""

    references: np.ndarray
    labels: np.ndarray
    prompts: np.ndarray
    texts: np.ndarray
    images: np.ndarray
    hits: Hits

    @property
    def distinct(self) -> int:
        """How many different texts the images retrieved."""
        return len(np.unique(self.hits.rows))

    @property
    def size(self) -> str:
        """One phrase with every size that matters."""
        return (
            f"C = {len(self.prompts)}, n_ref = {len(self.references):,}, "
            f"M = {len(self.texts):,}, n = {len(self.images):,}, k = {K}, "
            f"d = {self.texts.shape[1]}, {self.distinct:,} distinct texts"
        )


def clustered_world(noise: float, classes: int = 10, images: int = 2000, seed: int = 0) -> World:
    """Images around class centres; each text pulled to one centre by 0 to 1 of its own length."""
    rng = np.random.default_rng(seed)
    centres, texts = cluster_texts(rng, classes)
    labels = np.repeat(np.arange(classes), 5000 // classes)
    references = around(rng, centres, labels, noise)
    queries = around(rng, centres, rng.integers(0, classes, images), noise)
    prompts = unit(centres + 0.5 * _gaussian(rng, classes))
    return World(references, labels, prompts, texts, queries, hits_of(queries, texts))


def cluster_texts(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Class centres [classes, d] and texts [TEXTS, d], each pulled to one of the centres."""
    centres = unit(_gaussian(rng, classes))
    pulled = rng.uniform(0, 1, (TEXTS, 1)).astype(np.float32)
    return centres, unit(pulled * centres[rng.integers(0, classes, TEXTS)] + _gaussian(rng, TEXTS))


def around(
    rng: np.random.Generator, centres: np.ndarray, labels: np.ndarray, noise: float
) -> np.ndarray:
    """Unit rows around the centre of each label."""
    return unit(centres[labels] + noise * _gaussian(rng, len(labels)))


def caltech_world(data: Path, classes: int = 10, seed: int = 0) -> World:
    """Real Caltech images: val of the classes with most images as reference, test to score.

    The texts are the real ones and, up to 100,000, random convex mixtures of pairs of them.
    """
    words = _metadata(data / "texts" / "photo-of-a", "name")
    photo = _embeddings(data / "texts" / "photo-of-a", "text")
    rows: dict[str, int] = {}
    for row, word in enumerate(words):
        rows.setdefault(_plain(word), row)
    val = data / "caltech101" / "val"
    names = np.array([_plain(label) for label in _metadata(val, "label")])
    counts = {name: int((names == name).sum()) for name in dict.fromkeys(names) if name in rows}
    chosen = sorted(counts, key=lambda name: (-counts[name], name))[:classes]
    members = np.concatenate([np.flatnonzero(names == name) for name in chosen])
    labels = np.repeat(np.arange(len(chosen)), [counts[name] for name in chosen])
    texts = mixed_texts(np.concatenate([photo, _embeddings(data / "texts" / "a", "text")]), seed)
    images = _embeddings(data / "caltech101" / "test", "img")
    prompts = photo[[rows[name] for name in chosen]]
    references = _embeddings(val, "img")[members]
    return World(references, labels, prompts, texts, images, hits_of(images, texts))


def mixed_texts(real: np.ndarray, seed: int, count: int = TEXTS) -> np.ndarray:
    """The real texts, then seeded convex mixtures of pairs of them, as unit rows [count, d]."""
    rng = np.random.default_rng(seed)
    missing = count - len(real)
    share = rng.uniform(0, 1, (missing, 1)).astype(np.float32)
    first, second = rng.integers(0, len(real), (2, missing))
    return unit(np.concatenate([real, share * real[first] + (1 - share) * real[second]]))


def hits_of(images: np.ndarray, texts: np.ndarray) -> Hits:
    """The K nearest texts of every image."""
    found = [
        exact_search(images[start : start + QUERIES_AT_ONCE], texts, K)
        for start in range(0, len(images), QUERIES_AT_ONCE)
    ]
    return Hits(
        np.concatenate([hits.similarity for hits in found]),
        np.concatenate([hits.rows for hits in found]),
    )


def _gaussian(rng: np.random.Generator, rows: int) -> np.ndarray:
    """float32 rows of expected length 1."""
    return rng.standard_normal((rows, DIMENSION), np.float32) / np.float32(np.sqrt(DIMENSION))


def _embeddings(folder: Path, kind: str) -> np.ndarray:
    return unit(np.load(folder / f"{kind}_emb" / f"{kind}_emb_0.npy"))


def _metadata(folder: Path, column: str) -> list[str]:
    table = pq.read_table(folder / "metadata" / "metadata_0.parquet", columns=[column])
    return table.column(0).to_pylist()


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
