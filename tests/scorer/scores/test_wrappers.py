"""Smoothing over the query (RsCIN), and reference images found by label prompts."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.scorer.scores.contract import Fitting, Need, Normals, Query, fit_score
from blissaudit.scorer.scores.distances import KNN
from blissaudit.scorer.scores.wrappers import bootstrap_normals, bootstrap_rows, smooth, with_rscin
from hypothesis import given, settings
from hypothesis import strategies as st


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def smoothed(scores: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The matrices written out: keep the k largest of each row, divide by their sum."""
    graph = np.maximum(images.astype(float) @ images.T.astype(float), 0)
    results = []
    for k in (1, 2, 3):
        kept = np.zeros_like(graph)
        for i, row in enumerate(graph):
            for j in sorted(range(len(row)), key=lambda j: -row[j])[:k]:
                kept[i, j] = row[j]
        results.append(kept / kept.sum(axis=1, keepdims=True) @ scores)
    return sum(results) / 3


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), d=st.integers(2, 6))
def test_rscin_equals_its_matrices(seed: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    images, scores = unit(rng.normal(size=(n, d))), rng.normal(size=n)
    found = smooth(scores, Query(images))
    np.testing.assert_allclose(found, smoothed(scores, images), rtol=1e-6, atol=1e-6)
    # MuSc scales the scores to 0..1 first, which changes the result only by the same scaling.
    scaled = smooth(3 * scores - 7, Query(images))
    np.testing.assert_allclose(scaled, 3 * found - 7, rtol=1e-9, atol=1e-9)


def test_rscin_by_hand() -> None:
    images = np.array([[1, 0], [0.6, 0.8], [-1, 0]], np.float32)
    # x0: itself, then x1 at 0.6, then x2, opposite, at weight 0.
    found = smooth(np.array([8.0, 0.0, 4.0]), Query(images))
    np.testing.assert_allclose(found, [(8 + 5 + 5) / 3, (0 + 3 + 3) / 3, 4], rtol=1e-6)


def test_rscin_of_few_images() -> None:
    one = np.array([[1, 0]], np.float32)
    assert smooth(np.array([5.0]), Query(one)).tolist() == [5]
    assert smooth(np.zeros(0), Query(one[:0])).shape == (0,)


def test_with_rscin_keeps_what_the_score_needs_and_is_stateful() -> None:
    score = with_rscin(KNN)
    assert score.stateful and Need.NORMALS in score.needs and score.name == "knn+rscin"
    assert score.defaults == KNN.defaults and KNN.source in score.source
    rng = np.random.default_rng(3)
    images, prompts = unit(rng.normal(size=(6, 4))), unit(rng.normal(size=(1, 4)))
    fitting = Fitting(Normals(("a",), prompts, images, np.zeros(6, np.int64)), images[:0])
    query = Query(unit(rng.normal(size=(7, 4))))
    plain = fit_score(KNN, fitting, k=2)(query)
    found = fit_score(score, fitting, k=2)(query)
    np.testing.assert_allclose(found, smoothed(plain, query.images), rtol=1e-6)
    alone = fit_score(score, fitting, k=2)(Query(query.images[:1]))
    assert alone[0] == plain[0] != found[0]


PROMPTS = np.eye(4, dtype=np.float32)[:2]


def near(prompt: int, side: list[float]) -> np.ndarray:
    """Images near a prompt, the first nearest, leaning towards the third axis or away from it."""
    return unit(np.eye(4)[prompt] + np.outer(side, np.eye(4)[2]))


def test_bootstrap_takes_the_nearest_of_each_label() -> None:
    images = np.concatenate([near(1, [0.3, 0.1, 0.2]), near(0, [0.5, 0.4])])
    rows, labels = bootstrap_rows(PROMPTS, images, count=2)
    assert rows.tolist() == [4, 3, 1, 2] and labels.tolist() == [0, 0, 1, 1]
    normals = bootstrap_normals(("a", "b"), PROMPTS, images, count=2)
    assert np.array_equal(normals.images, images[rows])
    assert normals.classes == ("a", "b") and normals.labels.tolist() == [0, 0, 1, 1]


def test_bootstrap_drops_the_outlier_among_the_nearest() -> None:
    images = np.concatenate([near(0, [0.5, 0.52, 0.54, 0.56, 0.58, 0.6, -0.4]), near(1, [0.1])])
    assert sorted(bootstrap_rows(PROMPTS, images, cut=3)[0]) == [0, 1, 2, 3, 4, 5, 7]
    assert sorted(bootstrap_rows(PROMPTS, images, cut=1000)[0]) == list(range(8))


def test_bootstrap_keeps_equal_images_and_single_ones() -> None:
    images = np.concatenate([np.repeat(near(0, [0.5]), 5, axis=0), near(1, [0.1])])
    assert sorted(bootstrap_rows(PROMPTS, images)[0]) == list(range(6))


def test_bootstrap_refuses() -> None:
    images = near(0, [0.1, 0.2])
    with pytest.raises(BlissError, match="no image is nearest to the prompt of class 'b'"):
        bootstrap_normals(("a", "b"), PROMPTS, images)
    with pytest.raises(UsageError, match="count = 0 and cut = 3"):
        bootstrap_rows(PROMPTS, images, count=0)
    with pytest.raises(UsageError, match="a cut above 0"):
        bootstrap_rows(PROMPTS, images, cut=0)
