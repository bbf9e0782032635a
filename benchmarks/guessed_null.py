"""How far `--flag empirical-null` can be trusted where a collection is its own reference.

Run as: python benchmarks/guessed_null.py [--data ../shared] [--draws 8]

Collections of known contamination are audited as their own reference and flagged at a nominal
false discovery rate of 0.1 against a null guessed from the scores. Reported are the share of
normal images among the flagged and the share of strays flagged, means over draws. Half as many
labels are swapped as strays are planted. Nothing here is a promise.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from planted_strays import Collection, command, embeddings, plain, usable_classes, write_embeddings
from planted_truth import index_of

SETS = (
    ("caltech101/test", 20, ("--no-robust",)),
    ("caltech101/test", 20, ("--robust",)),
    ("ucf101/test", 20, ("--no-robust",)),
    ("dtd/test", 20, ("--no-robust",)),
)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2)


def contaminate(real: Path, at: str, classes: int, share: float, seed: int) -> Collection:
    """Some classes, `share` of the whole strays filed under them, half as many labels swapped."""
    rng = np.random.default_rng(seed)
    vectors, names = embeddings(real / at)
    labels = np.array(names)
    own_names = usable_classes(real) if at.startswith("caltech") else sorted(set(names))
    normal = np.sort(rng.choice(own_names, classes, replace=False))
    inside, outside = (
        np.flatnonzero(np.isin(labels, normal) == wanted) for wanted in (True, False)
    )
    count = round(len(inside) * share / (1 - share))
    strays = rng.choice(outside, count, replace=False)
    filed = np.searchsorted(normal, labels[inside])
    wrong = rng.choice(len(inside), round(share / 2 * len(inside)), replace=False)
    filed[wrong] = (filed[wrong] + rng.integers(1, classes, len(wrong))) % classes
    rows = np.concatenate([inside, strays])
    given = [*normal[filed].tolist(), *rng.choice(normal, count).tolist()]
    return Collection(vectors[rows], given, np.arange(len(rows)) >= len(inside))


def texts_of(at: str) -> str:
    """The folder of texts whose captions name a set's classes, or come near them."""
    return "photo-of-a" if at.startswith("caltech") else "a"


def realised(
    real: Path, index: Path, at: str, collection: Collection, more: tuple[str, ...]
) -> tuple[float, float]:
    """The false share of the flagged (0 where none is) and the flagged share of the strays."""
    own_names = at.startswith("caltech")
    texts = texts_of(at)
    captions = pq.read_table(real / "texts" / texts / "metadata" / "metadata_0.parquet")
    written, known = captions["caption"].to_pylist(), [plain(str(n)) for n in captions["name"]]
    rows = np.load(real / "texts" / texts / "text_emb" / "text_emb_0.npy")
    words: list[str] = []
    for name in sorted(set(collection.labels)):
        mean = collection.vectors[[label == name for label in collection.labels]].mean(axis=0)
        row = known.index(plain(name)) if own_names else int((rows @ mean).argmax())
        words += ["--class-prompt", f"{name}={written[row]}"]
    with tempfile.TemporaryDirectory() as folder:
        images, output = write_embeddings(Path(folder) / "images", collection), Path(folder) / "out"
        command("audit", "--embeddings", images, "--index", index, "-o", output, *words,
                "--score", "bliss", "--flag", "empirical-null", *more)  # fmt: skip
        flagged = pq.read_table(output / "scores.parquet")["flagged"].to_numpy()
    stray = collection.stray
    power = flagged[stray].mean() if stray.any() else np.nan
    return float((flagged & ~stray).sum() / max(1, flagged.sum())), float(power)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("BLISS_TEST_DATA", "../shared"))
    parser.add_argument("--draws", type=int, default=8)
    chosen = parser.parse_args()
    real = Path(chosen.data) / "real"
    print("false share of the flagged / strays flagged, at a nominal 0.1")
    print(f"{'':<28}" + "".join(f"{share:>14.0%}" for share in SHARES) + "   strays")
    with tempfile.TemporaryDirectory() as folder:
        indexes = {texts: index_of(real, Path(folder), texts) for texts in ("photo-of-a", "a")}
        for at, classes, more in SETS:
            cells = []
            for share in SHARES:
                found = []
                for seed in range(chosen.draws):
                    collection = contaminate(real, at, classes, share, seed)
                    found.append(realised(real, indexes[texts_of(at)], at, collection, more))
                false, power = np.array(found).mean(axis=0)
                cells.append(f"{false:8.2f} / {power:.2f}" if share else f"{false:8.2f} /    -")
            name = f"{at} {classes} {' '.join(more)}"
            print(f"{name:<28}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
