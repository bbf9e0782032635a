"""Known points of the scores with reference images on real CLIP embeddings.

The protocol is in README.md beside the data: 30 normal Caltech classes, 10 draws.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.scorer.scores.wrappers import with_rscin

DATA = os.environ.get("BLISS_TEST_DATA")
Draw = tuple[Normals, Query, np.ndarray]


@pytest.fixture(scope="module")
def caltech() -> list[Draw]:
    """10 draws of 30 normal classes: val of them as reference, all test images to score."""
    if DATA is None:
        pytest.skip("the real embeddings are not here: BLISS_TEST_DATA is not set")
    real = Path(DATA, "real")

    def split(name: str) -> tuple[np.ndarray, np.ndarray]:
        table = pq.read_table(real / f"caltech101/{name}/metadata/metadata_0.parquet")
        images = np.load(real / f"caltech101/{name}/img_emb/img_emb_0.npy")
        return images, np.array(table["label"].to_pylist())

    def plain(name: str) -> str:
        return name.lower().replace("_", " ").replace("-", " ")

    (val, val_labels), (test, test_labels) = split("val"), split("test")
    texts = np.load(real / "texts/photo-of-a/text_emb/text_emb_0.npy")
    names = pq.read_table(real / "texts/photo-of-a/metadata/metadata_0.parquet")["name"]
    row_of = {plain(name): row for row, name in reversed(list(enumerate(names.to_pylist())))}
    classes = json.loads((real / "caltech101/classes.json").read_text())
    usable = [name.replace("_", " ") for name in classes if plain(name) in row_of]
    assert len(usable) == 44
    found = exact_search(test, texts[:1000], 10)
    query = Query(test, gather_texts(found, texts))
    state, draws = np.random.RandomState(0), []
    for _ in range(10):
        chosen = state.choice(usable, 30, replace=False).tolist()
        own = np.isin(val_labels, chosen)
        labels = np.array([chosen.index(label) for label in val_labels[own]])
        prompts = texts[[row_of[plain(name)] for name in chosen]]
        normals = Normals(tuple(chosen), prompts, val[own], labels)
        draws.append((normals, query, ~np.isin(test_labels, chosen)))
    return draws


def auroc(scores: np.ndarray, odd: np.ndarray) -> float:
    normal = np.sort(scores[~odd])
    below = np.searchsorted(normal, scores[odd], "left") + np.searchsorted(
        normal, scores[odd], "right"
    )
    return float(50 * below.mean() / len(normal))


def mean_auroc(draws: list[Draw], name: str, **changed: float) -> float:
    score = with_rscin(SCORES[name[:-6]]) if name.endswith("+rscin") else SCORES[name]
    found = []
    for normals, query, odd in draws:
        fitting = Fitting(normals, np.zeros((0, normals.prompts.shape[1]), np.float32))
        found.append(auroc(fit_score(score, fitting, **changed)(query), odd))
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("name", "changed", "known"),
    [
        # Measured here: 96.455, 93.528 and 92.430.
        ("bliss", {}, 96.45),
        ("mahalanobis", {}, 93.5),
        ("knn", {"k": 1}, 92.4),
    ],
)
def test_known_points(
    caltech: list[Draw], name: str, changed: dict[str, float], known: float
) -> None:
    assert mean_auroc(caltech, name, **changed) == pytest.approx(known, abs=0.15)


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("bliss+rscin", 97.18),
        ("costarr", 88.77),
        ("gaussian_ad", 90.24),
        ("knn", 72.91),
        ("relative_mahalanobis", 94.67),
        ("smmp", 94.93),
        ("sparse_lookup", 92.45),
        ("vim", 91.62),
    ],
)
def test_points_first_measured_here(caltech: list[Draw], name: str, measured: float) -> None:
    """No outside number is known for these; they should not move unnoticed."""
    assert mean_auroc(caltech, name) == pytest.approx(measured, abs=0.1)
