"""What hiding external texts near the normal labels does to BLISS and to softmax scores.

The protocol of benchmarks/known_answer.py: Caltech-101, 6 of the usable classes normal in each of
20 draws (30 in each of 10), their validation images the reference, all test images scored, the
first 1,000 "a photo of a ..." texts the external ones, k = 10. A normal class's own prompt is among
those texts where ImageNet has the class. In each draw the texts within a cosine of one of its
labels' prompts, or with a label's words, are hidden from retrieval and from every score; printed is
the mean AUROC in percent, normal against the rest, and how many texts are hidden in the mean.

"softmax" is the share of all external texts in one softmax with the labels (NegLabel with one group
and no mining); NegLabel is the published one, which leaves texts near labels out by itself.

Run as: BLISS_TEST_DATA=../shared python benchmarks/label_filter.py [--draws N]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from blissaudit.indexer.build.build import index_embeddings
from blissaudit.indexer.search.captions import CaptionIndex, search
from blissaudit.indexer.search.index import join_indexes
from blissaudit.indexer.vectors.rows import remaining
from blissaudit.indexer.vectors.unit_rows import blocks_of
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.label_filter import LabelFilter, label_texts
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from known_answer import EXTERNAL_TEXTS, SETTINGS, K, auroc, normalise_name, read_images

UNMINED = {"keep": 1.0, "drop": 1.0}
RANKED: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "BLISS": ("bliss", {}),
    "softmax": ("neglabel_one_group", UNMINED),
    "EOE": ("eoe", {}),
}
FILTERS: Mapping[str, LabelFilter] = {
    "none": LabelFilter(),
    "cosine 0.95": LabelFilter(0.95),
    "cosine 0.90": LabelFilter(0.9),
    "cosine 0.85": LabelFilter(0.85),
    "label words": LabelFilter(words=True),
}


def index_texts(real: Path, folder: Path) -> dict[str, CaptionIndex]:
    """An index of the first texts, and one of all texts there are."""
    indexes = []
    for bank in ("photo-of-a", "a"):
        source = real / "texts" / bank
        indexes.append(index_embeddings(source, folder / bank, "caption"))
    table = pq.read_table(real / "texts/photo-of-a/metadata/metadata_0.parquet")
    first = len(set(table["caption"].to_pylist()[:EXTERNAL_TEXTS]))
    few = indexes[0].without(np.arange(first, indexes[0].count))
    return {
        f"{few.count:,} texts": few,
        f"{sum(i.count for i in indexes):,} texts": join_indexes(indexes),
    }


def measure(
    real: Path, index: CaptionIndex, normal_classes: int, draws: int
) -> dict[str, tuple[float, dict[str, float]]]:
    """For each filter how many texts it hides in the mean, and each score's mean AUROC."""
    names = json.loads((real / "caltech101/classes.json").read_text())
    numbers = {normalise_name(name): number for number, name in enumerate(names)}
    reference = read_images(real / "caltech101/val", numbers)
    test = read_images(real / "caltech101/test", numbers)
    texts = np.load(real / "texts/photo-of-a/text_emb/text_emb_0.npy")
    table = pq.read_table(real / "texts/photo-of-a/metadata/metadata_0.parquet")
    text_rows: dict[str, int] = {}
    for row, name in enumerate(table["name"].to_pylist()):
        text_rows.setdefault(normalise_name(name), row)
    usable = [number for name, number in numbers.items() if name in text_rows]
    prompt_rows = {number: text_rows[name] for name, number in numbers.items() if name in text_rows}
    random = np.random.RandomState(0)
    hidden: dict[str, list[int]] = {name: [] for name in FILTERS}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in FILTERS}
    for _ in range(draws):
        chosen = random.choice(usable, normal_classes, replace=False).tolist()
        used = np.isin(reference.labels, chosen)
        place = {number: i for i, number in enumerate(chosen)}
        labels = np.array([place[number] for number in reference.labels[used].tolist()])
        prompts = texts[[prompt_rows[number] for number in chosen]]
        classes = tuple(names[i] for i in chosen)
        normals = Normals(classes, prompts, reference.vectors[used], labels)
        normal = np.isin(test.labels, chosen)
        for name, rule in FILTERS.items():
            left = index
            if rule:
                kept = label_texts(index, index.vectors, classes, prompts, rule).kept
                left = index.without(remaining(index.count, kept))
            hidden[name].append(index.count - left.count)
            scores = score_all(normals, left, test.vectors)
            found[name].append({s: auroc(v[~normal], v[normal]) for s, v in scores.items()})
    return {
        name: (
            float(np.mean(hidden[name])),
            {s: 100 * float(np.mean([each[s] for each in found[name]])) for s in RANKED},
        )
        for name in FILTERS
    }


def score_all(normals: Normals, index: CaptionIndex, images: np.ndarray) -> dict[str, np.ndarray]:
    """Each score of the images, with the texts of `index` alone."""
    every = np.concatenate([block for _, block in blocks_of(index.vectors)])
    query = Query(images, gather_texts(search(index, images, K), index.vectors))
    fitting = Fitting(normals, every)
    fit: Callable = lambda name, changed: fit_score(SCORES[name], fitting, **changed)  # noqa: E731
    return {shown: fit(name, changed)(query) for shown, (name, changed) in RANKED.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, help="At most so many of each setting.")
    chosen = parser.parse_args()
    real = Path(os.environ["BLISS_TEST_DATA"]) / "real"
    with tempfile.TemporaryDirectory() as folder:
        for texts, index in index_texts(real, Path(folder)).items():
            for normal_classes, draws in SETTINGS:
                draws = min(draws, chosen.draws or draws)
                print(f"{normal_classes} normal classes, {draws} draws, {texts}: mean AUROC")
                print(f"  {'hidden':<14} {'texts':>6}  " + "".join(f"{n:>10}" for n in RANKED))
                for name, (count, scores) in measure(real, index, normal_classes, draws).items():
                    values = "".join(f"{value:10.2f}" for value in scores.values())
                    print(f"  {name:<14} {count:6.1f}  {values}", flush=True)


if __name__ == "__main__":
    main()
