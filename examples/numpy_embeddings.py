"""Score embeddings and labels that are already numpy arrays. No model, no files, no command.

Run as: python examples/numpy_embeddings.py

`audit_collection` is the part to copy. The script calls it on a synthetic collection with strays
and wrong labels, because it needs something to find. `text_spread` shows the functions underneath.
"""

from __future__ import annotations

from typing import NamedTuple

import blissaudit as ba
import numpy as np
import pyarrow as pa


class Collection(NamedTuple):
    """Embeddings of a CLIP-like model: rows of length 1, all of the same dimension d."""

    images: np.ndarray
    """float32 [n, d]"""
    labels: np.ndarray
    """str [n], the class each image is filed under."""
    prompts: np.ndarray
    """float32 [C, d], the text embedding of each class name, in sorted order of the names."""
    captions: list[str]
    """M texts."""
    texts: np.ndarray
    """float32 [M, d], their embeddings."""


def audit_collection(collection: Collection, k: int = 10, score: str = "auto") -> ba.AuditResult:
    """The audit of a collection that is its own reference, each image left out of its class."""
    return ba.audit_arrays(
        collection.images,
        collection.labels,
        texts=collection.captions,
        text_vectors=collection.texts,
        prompts=collection.prompts,
        score=score,
        settings=ba.AuditSettings(k=k),
        question=ba.AuditQuestion(rule=ba.DecisionRule(top=6)),
    )


def text_spread(collection: Collection, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [C] of each class's similarity to the caption `row`."""
    names, labels = np.unique(collection.labels, return_inverse=True)
    moments = ba.fit_moments(tuple(names), collection.images, labels)
    mean, std = ba.text_statistics(moments, collection.texts[[row]])
    return mean[:, 0], std[:, 0]


def make_collection(seed: int = 0) -> tuple[Collection, np.ndarray, np.ndarray]:
    """A synthetic collection, and bool [n] each: which images are strays, which are misfiled."""
    rng = np.random.default_rng(seed)
    dimension, each = 64, 40
    texts = unit(rng.standard_normal((300, dimension)))
    classes = np.array(["cup", "key", "shoe"])
    centres = unit(rng.standard_normal((3, dimension)))
    prompts = unit(centres + 0.5 * unit(rng.standard_normal((3, dimension))))
    filed = np.repeat(np.arange(3), each)
    shown = centres[filed]
    order = rng.permutation(len(shown))
    stray, wrong = np.isin(np.arange(len(shown)), order[:6]), np.isin(filed, [])
    shown[stray] = texts[rng.integers(0, len(texts), 6)]  # something that no class is
    images = unit(shown + 0.8 * unit(rng.standard_normal(shown.shape)))
    wrong[order[6:10]] = True
    filed[wrong] = (filed[wrong] + 1) % 3
    captions = [f"caption {i}" for i in range(len(texts))]
    return Collection(images, classes[filed], prompts, captions, texts), stray, wrong


def unit(rows: np.ndarray) -> np.ndarray:
    """float32 rows of length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def main() -> None:
    collection, stray, wrong = make_collection()
    result = audit_collection(collection)
    print(result)
    for i in result.first_order[:10]:
        image = result.image(i)
        kind = "stray" if stray[i] else "wrong label" if wrong[i] else ""
        print(
            f"{image.score:6.2f}  {image.path:>7} filed under {image.label:<5}"
            f" nearest class {image.nearest:<5} {image.captions[0].text:>11}"
            f" ({image.captions[0].pull:+.1f})  {kind}"
        )
    for kind, worst in worst_of_each(result.issues).items():
        print(f"worst {kind}: {worst['image']}: {worst['evidence']}; {worst['suggestion']}")
    order = result.order[: stray.sum()]
    print(
        f"{stray[order].sum()} of {stray.sum()} strays are the {stray.sum()} most anomalous images"
    )
    planted, first = stray | wrong, result.first_order[: (stray | wrong).sum()]
    print(f"{planted[first].sum()} of {planted.sum()} errors are the {planted.sum()} to read first")

    mean, std = text_spread(collection, 0)
    for name, centre, spread in zip(result.reference.classes, mean, std, strict=True):
        print(f"images of {name:<5} have similarity {centre:+.2f} ± {spread:.2f} to caption 0")


def worst_of_each(issues: pa.Table) -> dict[str, dict]:
    """The most severe issue of each kind."""
    rows = sorted(issues.to_pylist(), key=lambda row: row["severity"])
    return {row["kind"]: row for row in rows}


if __name__ == "__main__":
    main()
