"""How well strays are found that were filed under normal classes of real photographs.

Run as: python benchmarks/planted_strays.py [--data ../shared] [--draws 10]

Each draw takes 20 of the 44 Caltech-101 classes whose name is among the captions, all their test
images, and strays of the other classes, 5 % of the whole, filed under normal classes. They are
audited with the collection as its own reference, fitted without the images that another class
explains and with all of them, and with the clean validation images, by the commands a user would
give. Nothing but embeddings made beforehand is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.cli import run

CLASSES, SHARE = 20, 0.05
PROMPT = "a photo of a {label}"
OWN, WHOLE, CLEAN = "own reference", "the same, --no-robust", "clean reference"
REFERENCES = {OWN: (), WHOLE: ("--no-robust",), CLEAN: ("--reference",)}
SCORES = ("BLISS", "bliss+", "plain cosine")


class Collection(NamedTuple):
    """Images of one draw: unit rows [n, d], the class each is filed under, and whether wrongly."""

    vectors: np.ndarray
    labels: list[str]
    stray: np.ndarray


class Found(NamedTuple):
    """AUROC, and the share of strays among as many worst images as strays were planted."""

    auroc: float
    precision: float


def embeddings(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Vectors and labels of one split."""
    table = pq.read_table(folder / "metadata" / "metadata_0.parquet", columns=["label"])
    return np.load(folder / "img_emb" / "img_emb_0.npy"), table["label"].to_pylist()


def usable_classes(real: Path) -> list[str]:
    """The labels whose name, lower-cased and with spaces, is among the captions' names."""
    path = real / "texts" / "photo-of-a" / "metadata" / "metadata_0.parquet"
    names = {plain(name) for name in pq.read_table(path)["name"].to_pylist()}
    _, labels = embeddings(real / "caltech101" / "test")
    return sorted(label for label in set(labels) if plain(label) in names)


def plain(name: str) -> str:
    """Lower case, with underscores and hyphens as spaces."""
    return name.lower().replace("_", " ").replace("-", " ")


def draw(real: Path, seed: int) -> tuple[Collection, Collection]:
    """The collection with its strays, and the clean validation images of its classes."""
    rng = np.random.default_rng(seed)
    normal = sorted(rng.choice(usable_classes(real), CLASSES, replace=False).tolist())
    vectors, labels = embeddings(real / "caltech101" / "test")
    inside = np.flatnonzero([label in normal for label in labels])
    outside = np.flatnonzero([label not in normal for label in labels])
    count = round(len(inside) * SHARE / (1 - SHARE))
    strays = rng.choice(outside, count, replace=False)
    filed = [labels[i] for i in inside] + rng.choice(normal, count).tolist()
    rows = np.concatenate([inside, strays])
    collection = Collection(vectors[rows], filed, np.arange(len(rows)) >= len(inside))
    vectors, labels = embeddings(real / "caltech101" / "val")
    inside = np.flatnonzero([label in normal for label in labels])
    clean = Collection(vectors[inside], [labels[i] for i in inside], np.zeros(len(inside), bool))
    return collection, clean


def write_embeddings(folder: Path, images: Collection) -> Path:
    """The images in clip-retrieval's layout."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / "img_emb" / "img_emb_0.npy", images.vectors)
    paths = [f"{label}/{number}.jpg" for number, label in enumerate(images.labels)]
    table = pa.table({"image_path": paths, "label": images.labels})
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    return folder


def command(*arguments: object) -> None:
    """One run of bliss; RuntimeError with what it said where it fails."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run([str(argument) for argument in arguments])
    if code:
        raise RuntimeError(said.getvalue())


def planted_strays(
    real: Path, folder: Path, seeds: Sequence[int], names: Sequence[str] = tuple(REFERENCES)
) -> Iterator[dict[tuple[str, str], Found]]:
    """For each seed, what every score finds with each kind of reference."""
    index = folder / "index"
    command("index", "build", "--embeddings", real / "texts" / "photo-of-a",
            "--column", "caption", "-o", index)  # fmt: skip
    for seed in seeds:
        collection, clean = draw(real, seed)
        images = write_embeddings(folder / str(seed) / "images", collection)
        reference = write_embeddings(folder / str(seed) / "clean", clean)
        prompts, vectors = class_prompts(real, collection)
        worded = [part for prompt in prompts for part in ("--class-prompt", prompt)]
        cosine = judge(-(collection.vectors @ vectors.T).max(axis=1), collection.stray)
        found = {}
        for name in names:
            options = (*REFERENCES[name], *((reference,) if name == CLEAN else ()))
            for score in SCORES[:2]:
                output = folder / str(seed) / name / score
                command("audit", "--embeddings", images, "--index", index, "--prompt", PROMPT,
                        *worded, "--score", score.lower(), "-o", output, "--report", "none",
                        *options)  # fmt: skip
                values = np.array(pq.read_table(output / "scores.parquet")["score"])
                found[name, score] = judge(values, collection.stray)
            found[name, SCORES[2]] = cosine
        yield found


def class_prompts(real: Path, collection: Collection) -> tuple[list[str], np.ndarray]:
    """NAME=PROMPT of each class whose caption says "an", and the vectors of all their captions."""
    folder = real / "texts" / "photo-of-a"
    table = pq.read_table(folder / "metadata" / "metadata_0.parquet").to_pydict()
    known = [plain(name) for name in table["name"]]
    classes = sorted(set(collection.labels))
    rows = [known.index(plain(label)) for label in classes]
    captions = [table["caption"][row] for row in rows]
    worded = [
        f"{label}={caption}"
        for label, caption in zip(classes, captions, strict=True)
        if caption.startswith("a photo of an ")
    ]
    return worded, np.load(folder / "text_emb" / "text_emb_0.npy")[rows]


def judge(score: np.ndarray, stray: np.ndarray) -> Found:
    """AUROC (ties count half) and precision at the planted count."""
    above = (score[stray][:, None] > score[~stray]).mean()
    equal = (score[stray][:, None] == score[~stray]).mean()
    worst = np.argsort(-score, kind="stable")[: stray.sum()]
    return Found(float(above + equal / 2), float(stray[worst].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("BLISS_TEST_DATA", "../shared"))
    parser.add_argument("--draws", type=int, default=10)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        real = Path(chosen.data) / "real"
        draws = list(planted_strays(real, Path(folder), range(chosen.draws)))
    print(f"{chosen.draws} draws of {CLASSES} classes, {SHARE:.0%} strays: mean (lowest, highest)")
    for name in REFERENCES:
        for score in SCORES:
            line = f"{name:<22} {score:<13}"
            for fact in Found._fields:
                values = 100 * np.array([getattr(found[name, score], fact) for found in draws])
                line += f" {fact} {values.mean():5.1f} ({values.min():.1f}, {values.max():.1f})"
            print(line)


if __name__ == "__main__":
    main()
