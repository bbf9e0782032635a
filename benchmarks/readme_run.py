"""The run that README.md shows: eight Caltech-101 classes, eight photographs in wrong folders.

Reads BLISS_TEST_DATA. No weights can be downloaded where this is made, so that the photographs come
with their OpenAI ViT-B-32 embeddings, and the captions too.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blissaudit.cli import run

CLASSES = ("butterfly", "camera", "chair", "dolphin", "elephant", "lamp", "laptop", "scissors")
STRAYS = ("leopard", "emu", "face", "airplane", "pizza", "saxophone", "strawberry", "stop sign")
EACH = 20
"""Photographs of a class, at most; one more of each is filed there and is of another class."""


def write_rows(folder: Path, kind: str, vectors: np.ndarray, columns: dict[str, list[str]]) -> Path:
    """Embeddings in clip-retrieval's layout; `kind` is "img" or "text"."""
    (folder / f"{kind}_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    np.save(folder / f"{kind}_emb" / f"{kind}_emb_0.npy", vectors)
    pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0.parquet")
    return folder


def read_rows(folder: Path, kind: str) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Embeddings and the columns of what they are of."""
    table = pq.read_table(folder / "metadata" / "metadata_0.parquet")
    return np.load(folder / f"{kind}_emb" / f"{kind}_emb_0.npy"), table.to_pydict()


def make(real: Path, folder: Path) -> tuple[Path, Path]:
    """The embeddings of the photographs and of the captions: those of no class."""
    vectors, images = read_rows(real / "caltech101" / "val", "img")
    labels = np.array(images["label"])
    rows: list[int] = []
    filed: list[str] = []
    for name, stray in zip(CLASSES, STRAYS, strict=True):
        chosen = [*np.flatnonzero(labels == name)[:EACH], np.flatnonzero(labels == stray)[0]]
        rows += chosen
        filed += [name] * len(chosen)
    paths = [
        f"{name}/{Path(images['image_path'][row]).name}"
        for row, name in zip(rows, filed, strict=True)
    ]
    photographs = write_rows(
        folder / "photographs", "img", vectors[rows], {"image_path": paths, "label": filed}
    )
    texts, captions = read_rows(real / "texts" / "photo-of-a", "text")
    places = {name: row for row, name in reversed(list(enumerate(captions["name"])))}
    others = sorted(row for name, row in places.items() if name not in CLASSES)
    index = write_rows(
        folder / "captions", "text", texts[others],
        {"caption": [captions["caption"][row] for row in others]},
    )  # fmt: skip
    prompts = [texts[places[name]] for name in CLASSES]
    table = pa.table({"class": list(CLASSES), "vector": [each.tolist() for each in prompts]})
    pq.write_table(table, folder / "prompts.parquet")
    return photographs, index


def main() -> int:
    real = Path(os.environ["BLISS_TEST_DATA"]) / "real"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BLISS_CACHE"] = str(folder / "cache")
        photographs, captions = make(real, folder)
        build = ("index", "build", "--embeddings", captions, "-o", folder / "index")
        audit = (
            "audit", "--embeddings", photographs, "--index", folder / "index",
            "--prompts", folder / "prompts.parquet", "--report", "none", "-o", folder / "first",
        )  # fmt: skip
        return run([*map(str, build), "--quiet"]) or run([*map(str, audit), "--quiet"])


if __name__ == "__main__":
    sys.exit(main())
