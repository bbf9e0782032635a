"""Scores with reference images equal oracles that are written as their formulas are."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.scores import distances as knn
from blissaudit.scorer.scores import distances as sparse_lookup
from blissaudit.scorer.scores import similarity as image_chunks
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from hypothesis import given, settings
from hypothesis import strategies as st

WITH_IMAGES = sorted(
    name for name, score in SCORES.items() if score.uses_references and name != "bliss+"
)
"""bliss+ has its own oracle, in tests/scorer/scores/plus/test_score.py."""


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def world(seed: int, counts: list[int], d: int, n: int) -> tuple[Fitting, Query]:
    """Classes of `counts` images around random centres, 5 texts, and n images."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(counts), d))
    labels = np.repeat(np.arange(len(counts)), counts)
    images = unit(centres[labels] + 0.7 * rng.normal(size=(len(labels), d)))
    prompts, texts = unit(centres + rng.normal(size=centres.shape)), unit(rng.normal(size=(5, d)))
    names = tuple("abcdef"[: len(counts)])
    fitting = Fitting(Normals(names, prompts, images, labels.astype(np.int64)), texts)
    return fitting, ask(unit(rng.normal(size=(n, d))), texts)


def ask(images: np.ndarray, texts: np.ndarray, k: int = 3) -> Query:
    found = exact_search(images, texts, k)
    return Query(images, gather_texts(found, texts))


# Oracles: one image at a time, as the formula is written.


def covariance(rows: list[np.ndarray], rho: float | None = None) -> tuple[np.ndarray, float]:
    n, d = len(rows), len(rows[0])
    plain = sum(np.outer(x, x) for x in rows) / n
    mu = np.trace(plain) / d
    delta = np.sum((plain - mu * np.eye(d)) ** 2) / d
    beta = sum(np.sum((np.outer(x, x) - plain) ** 2) / d for x in rows) / n**2
    rho = max(1 / n, min(beta, delta) / delta) if rho is None else rho
    return rho * mu * np.eye(d) + (1 - rho) * plain, rho


def softmax(logits: list[float]) -> list[float]:
    powers = [np.exp(v - max(logits)) for v in logits]
    return [p / sum(powers) for p in powers]


def simplex(logits: np.ndarray) -> np.ndarray:
    """Sparsemax by bisection on its threshold."""
    low, high = logits.min() - 1, logits.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(logits - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(logits - high, 0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return a @ b / np.sqrt((a @ a) * (b @ b))


def oracle(name: str, fitting: Fitting, query: Query, p: dict[str, float]) -> list[float]:
    normals = fitting.normals
    prompts, images = normals.prompts.astype(float), normals.images.astype(float)
    m, d = images.shape
    members = [images[normals.labels == c] for c in range(len(prompts))]
    means = [sum(rows) / len(rows) for rows in members]
    centred = [x - means[c] for c in range(len(members)) for x in members[c]]
    middle = sum(images) / m

    def squared(x: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> float:
        return (x - mean) @ np.linalg.solve(spread, x - mean)

    def bliss(i: int, x: np.ndarray) -> float:
        totals = []
        for c, rows in enumerate(members):
            own = [r @ prompts[c] for r in rows]
            ics = -(x @ prompts[c] - np.mean(own)) / (np.std(own) + 1e-8)
            near = sorted(fitting.texts.astype(float), key=lambda t: -(x @ t))[:3]
            pulls = [(x @ t - np.mean(rows @ t)) / (np.std(rows @ t) + 1e-8) for t in near]
            totals.append(ics + p["weight"] * np.mean(pulls))
        return min(totals)

    def relative(i: int, x: np.ndarray) -> float:
        spread, rho = covariance(centred)
        overall, _ = covariance([x - middle for x in images], rho)
        return min(squared(x, c, spread) for c in means) - squared(x, middle, overall)

    def vim(i: int, x: np.ndarray) -> float:
        rank = np.linalg.matrix_rank(images)
        basis = np.linalg.svd(images)[2][: min(int(p["share"] * min(d, m)), rank - 1)]
        residual = [np.linalg.norm(y - basis.T @ (basis @ y)) for y in [*images, x]]
        logits = [[p["scale"] * (y @ t) for t in prompts] for y in [*images, x]]
        alpha = np.mean([max(row) for row in logits[:-1]]) / np.mean(residual[:-1])
        return alpha * residual[-1] - np.logaddexp.reduce(logits[-1])

    def smmp(i: int, x: np.ndarray) -> float:
        to_texts = softmax([x @ t / p["tau"] for t in prompts])
        to_means = softmax([x @ c / np.linalg.norm(c) / p["tau"] for c in means])
        return 1 - (max(to_texts) + max(to_means)) / 2

    def costarr(i: int, x: np.ndarray) -> float:
        def both(y: np.ndarray, c: int) -> np.ndarray:
            return np.concatenate([y, p["weight"] * np.sqrt(d) * prompts[c] * y])

        return 1 - max(
            cosine(both(x, c), np.mean([both(y, c) for y in rows], axis=0))
            for c, rows in enumerate(members)
        )

    def lookup(i: int, x: np.ndarray) -> float:
        weights = simplex(p["sharpness"] * np.sqrt(d) * np.array([x @ y for y in images]))
        return 1 - cosine(x, sum(w * y for w, y in zip(weights, images, strict=True)))

    def hub_softmax(i: int, x: np.ndarray) -> float:
        def power(t: np.ndarray) -> float:
            near = sorted(y @ t for y in images)[-int(p["nearest"]) :]
            return np.exp((x @ t - p["alpha"] * np.mean(near)) / p["tau"])

        texts = [t for t in fitting.texts.astype(float) if max(prompts @ t) <= p["drop"]]
        outside = sum(power(t) for t in texts)
        return outside / (outside + sum(power(t) for t in prompts))

    of = {
        "bliss": bliss,
        "hub_softmax": hub_softmax,
        "costarr": costarr,
        "gaussian_ad": lambda i, x: min(
            np.sqrt(squared(x, means[c], covariance([y - means[c] for y in rows])[0]))
            for c, rows in enumerate(members)
        ),
        "knn": lambda i, x: sorted(np.linalg.norm(x - y) for y in images)[min(int(p["k"]), m) - 1],
        "mahalanobis": lambda i, x: min(squared(x, c, covariance(centred)[0]) for c in means),
        "relative_mahalanobis": relative,
        "smmp": smmp,
        "sparse_lookup": lookup,
        "vim": vim,
    }
    return [of[name](i, x) for i, x in enumerate(query.images.astype(float))]


@pytest.mark.parametrize("name", WITH_IMAGES)
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(2, 6), min_size=1, max_size=4),
    d=st.integers(2, 12),
    n=st.integers(1, 5),
    k=st.integers(1, 9),
)
def test_equals_the_oracle(name: str, seed: int, counts: list[int], d: int, n: int, k: int) -> None:
    fitting, query = world(seed, counts, d, n)
    changed = {"k": k} if name == "knn" else {}
    nearest = (fitting.texts.astype(float) @ fitting.normals.prompts.T).max(axis=1)
    if name == "hub_softmax" and (nearest > 0.95).all():
        with pytest.raises(BlissError, match="all 5 external texts are within cosine"):
            fit_score(SCORES[name], fitting)
        return
    found = fit_score(SCORES[name], fitting, **changed)(query)
    expected = oracle(name, fitting, query, {**SCORES[name].defaults, **changed})
    assert found.dtype == np.float64 and found.shape == (n,)
    # BLISS takes σ of texts from float32 products, good to 2e-6.
    tolerance = 1e-4 if name == "bliss" else 1e-8
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


CHANGED = {
    ("bliss", "weight"): 0.9,
    ("costarr", "weight"): 2.0,
    ("hub_softmax", "alpha"): 0.5,
    ("hub_softmax", "drop"): 0.1,
    ("hub_softmax", "nearest"): 2,
    ("hub_softmax", "tau"): 0.1,
    ("knn", "k"): 2,
    ("smmp", "tau"): 0.1,
    ("sparse_lookup", "sharpness"): 3.0,
    ("vim", "scale"): 50.0,
    ("vim", "share"): 0.25,
}


@pytest.mark.parametrize(
    ("name", "parameter"), [(name, p) for name in WITH_IMAGES for p in SCORES[name].defaults]
)
def test_every_parameter_changes_the_result_as_the_oracle_says(name: str, parameter: str) -> None:
    fitting, query = world(5, [6, 5, 4], 8, 6)
    # Hubness shows where the softmax is not too sharp.
    usually = {"tau": 0.3} if name == "hub_softmax" else {}
    changed = {**usually, parameter: CHANGED[name, parameter]}
    usual, other = (fit_score(SCORES[name], fitting, **c)(query) for c in (usually, changed))
    assert np.mean(usual != other) > 0.5  # a lookup may find one reference alone either way
    expected = oracle(name, fitting, query, {**SCORES[name].defaults, **changed})
    np.testing.assert_allclose(other, expected, rtol=1e-4 if name == "bliss" else 1e-8)


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_chunks_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fitting, query = world(6, [9, 9], 6, 11)
    whole = fit_score(SCORES[name], fitting)(query)
    monkeypatch.setattr(image_chunks, "ENTRIES", 20)
    monkeypatch.setattr(knn, "ENTRIES", 20)
    monkeypatch.setattr(sparse_lookup, "IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(sparse_lookup, "PAIRS_AT_ONCE", 3)
    np.testing.assert_allclose(fit_score(SCORES[name], fitting)(query), whole, rtol=1e-10)
    if name != "bliss":
        assert fit_score(SCORES[name], fitting)(Query(query.images[:0])).shape == (0,)


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_no_reference_images(name: str) -> None:
    fitting, _ = world(0, [2], 3, 1)
    nothing = Normals(("a",), fitting.normals.prompts, fitting.texts[:0], np.zeros(0, np.int64))
    with pytest.raises(UsageError, match=f"{name} was used without reference images"):
        fit_score(SCORES[name], Fitting(nothing, fitting.texts))
