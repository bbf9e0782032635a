"""Means and standard deviations from moments against numpy's on lists of similarities."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.scorer import statistics as module
from blissaudit.scorer.moments import ClassMoments, Moments, fit_moments, scatter_of
from blissaudit.scorer.statistics import (
    VariancePrior,
    check_counts,
    class_std,
    factor_rows,
    moderated,
    text_statistics,
    variance_prior,
)
from helpers import bliss_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st


def one_class(rows: np.ndarray) -> Moments:
    return fit_moments(["cup"], rows, np.zeros(len(rows), int))


def as_scatter(moments: Moments) -> Moments:
    """The same moments, with scatters for centred rows as after removing images."""
    parts = [ClassMoments(p.count, p.mean, None, scatter_of(p)) for p in moments.parts]
    return Moments(moments.classes, tuple(parts))


def direct(rows: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similarity = rows.astype(np.float64) @ texts.T.astype(np.float64)
    return similarity.mean(axis=0), similarity.std(axis=0)


def worst_error(moments: Moments, rows: np.ndarray, texts: np.ndarray) -> float:
    """Largest relative error of σ; the mean is checked on the way."""
    mean, std = text_statistics(moments, texts)
    expected_mean, expected_std = direct(rows, texts)
    assert mean[0] == pytest.approx(expected_mean, rel=1e-5, abs=1e-12)
    return float(np.abs(std[0] / expected_std - 1).max())


def stretched(rng, n: int, d: int, decades: float) -> np.ndarray:
    """Rows whose spread falls by that many powers of ten from the first axis to the last."""
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    spread = 10.0 ** -np.linspace(0, decades, d)
    return oracle.unit_rows((2 * np.eye(d)[0] + rng.normal(size=(n, d)) * spread) @ axes)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 60),
    d=st.integers(2, 30),
    decades=st.sampled_from([0.0, 2.0, 4.0]),
)
def test_equals_numpy_on_random_rows(seed, n, d, decades):
    rng = np.random.default_rng(seed)
    rows = stretched(rng, n, d, decades)
    # Besides random texts, those along the class's own axes: σ from the largest to the smallest.
    axes = np.linalg.svd(rows.astype(np.float64) - rows.mean(axis=0))[2][: min(n - 1, d)]
    texts = np.concatenate([oracle.unit_rows(rng.normal(size=(20, d))), axes.astype(np.float32)])
    _, std = direct(rows, texts)
    texts = texts[std > 1e-6]  # below that float32 rows decide
    if len(texts):
        assert worst_error(one_class(rows), rows, texts) < 1e-5


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 18, 300])
def test_equals_numpy_on_either_side_of_the_dimension(n):
    rng = np.random.default_rng(n)
    rows, texts = stretched(rng, n, 16, 3), oracle.unit_rows(rng.normal(size=(200, 16)))
    moments = one_class(rows)
    assert (moments.parts[0].scatter is not None) == (n > 16)
    assert worst_error(moments, rows, texts) < 1e-5


@pytest.mark.parametrize("distinct", [2, 5, 15])
def test_repeated_images_leave_a_singular_scatter(distinct):
    rng = np.random.default_rng(distinct)
    rows = np.repeat(oracle.unit_rows(rng.normal(size=(distinct, 16))), 9, axis=0)
    texts = oracle.unit_rows(rng.normal(size=(200, 16)))
    moments = one_class(rows)
    assert len(rows) > 16 and moments.parts[0].scatter is not None
    assert len(factor_rows(moments.parts[0])[0]) == distinct - 1  # and none of rounding
    assert worst_error(moments, rows, texts) < 1e-5


def test_singular_scatters_are_factored_by_eigenvectors():
    # Variance along the first axis alone: Cholesky fails on the exact zeros of the others.
    rows = np.eye(3)[[0, 1, 0, 1, 0, 0]][:, [0, 2, 2]]
    part = one_class(rows).parts[0]
    with pytest.raises(np.linalg.LinAlgError, match=r"not positive definite"):
        np.linalg.cholesky(part.scatter / part.count)
    found = np.multiply(*factor_rows(part))
    assert found.shape == (1, 3)
    assert found.T @ found == pytest.approx(part.scatter / part.count, abs=1e-15)
    assert class_std(part, np.eye(3, dtype=np.float32)) == pytest.approx(rows.std(axis=0))


@pytest.mark.parametrize("n", [2, 20])
def test_identical_images_have_no_spread(n):
    rows = np.repeat(oracle.unit_rows(np.ones((1, 4)) + np.arange(4)), n, axis=0)
    mean, std = text_statistics(one_class(rows), np.eye(4, dtype=np.float32))
    assert mean[0] == pytest.approx(rows[0])
    assert std[0] == pytest.approx(np.zeros(4), abs=1e-12)


def test_scatter_and_centred_rows_give_the_same_numbers():
    rng = np.random.default_rng(0)
    rows, texts = (
        oracle.unit_rows(rng.normal(size=(12, 16))),
        oracle.unit_rows(rng.normal(size=(50, 16))),
    )
    centred, scatter = one_class(rows), as_scatter(one_class(rows))
    assert text_statistics(scatter, texts)[1] == pytest.approx(
        text_statistics(centred, texts)[1], rel=1e-5
    )


def test_texts_in_many_blocks_give_the_same_numbers(monkeypatch):
    rng = np.random.default_rng(1)
    rows, texts = stretched(rng, 30, 8, 5), oracle.unit_rows(rng.normal(size=(41, 8)))
    whole = text_statistics(one_class(rows), texts)[1]
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 7)
    assert text_statistics(one_class(rows), texts)[1] == pytest.approx(whole, rel=1e-5)


def test_tiny_spreads_do_not_underflow():
    rng = np.random.default_rng(2)
    rows = np.eye(6)[0] + 1e-22 * np.eye(6)[1:].repeat(2, axis=0) * rng.normal(size=(10, 1))
    texts = np.eye(6, dtype=np.float32)[1:]
    assert worst_error(one_class(rows), rows, texts) < 1e-5


def test_a_class_of_one_image_is_refused_by_name():
    moments = fit_moments(["cup", "mug"], np.eye(3), np.array([0, 0, 1]))
    message = r"class 'mug' has 1 reference image\. Needed: at least 2 in every class\."
    with pytest.raises(BlissError, match=message):
        text_statistics(moments, np.eye(3, dtype=np.float32))
    with pytest.raises(BlissError, match=r"class 'cup' has 2 reference images\."):
        check_counts(moments, 3)


def cancelling(rng, n: int, d: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The worst layout for float32 sums: large terms at both ends of a row that cancel."""
    ends, apart = np.eye(d)[0] + np.eye(d)[-1], np.eye(d)[0] - np.eye(d)[-1]
    rows = 3 * np.eye(d)[1] + noise * rng.normal(size=(n, d))
    rows[0] += 3 * apart
    return rows, 2 * ends + 0.05 * rng.normal(size=(500, d))


@pytest.mark.parametrize("noise", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("n", [2, 50, 500, 513])
def test_rounding_stays_accepted_on_data_laid_out_to_cancel(n, noise):
    # One far image holds most of the spread, so the mean length of a row says nothing about it.
    rows, texts = map(oracle.unit_rows, cancelling(np.random.default_rng(n), n, 512, noise))
    assert worst_error(one_class(rows), rows, texts) < 1e-5


def test_float64_is_what_keeps_hard_texts_right():
    rows, texts = map(oracle.unit_rows, cancelling(np.random.default_rng(0), 50, 512, 1e-3))
    with patch.object(module, "ACCEPTED_ERROR", np.inf):
        assert worst_error(one_class(rows), rows, texts) > 1e-5
    assert worst_error(one_class(rows), rows, texts) < 1e-5


def test_real_classes_and_texts():
    real = oracle.real_data()
    images, labels = oracle.caltech(real, "val")
    numbers, labels = np.unique(labels, return_inverse=True)
    texts = oracle.real_texts(real)
    again = []
    exact = module.class_std_float64

    def counted(matrix, some):
        again.append(len(some))
        return exact(matrix, some)

    with patch.object(module, "class_std_float64", counted):
        mean, std = text_statistics(fit_moments(map(str, numbers), images, labels), texts)
    similarity = images.astype(np.float64) @ texts.T.astype(np.float64)
    for number in range(len(numbers)):
        expected = similarity[labels == number]
        assert mean[number] == pytest.approx(expected.mean(axis=0), rel=1e-9)
        assert np.abs(std[number] / expected.std(axis=0) - 1).max() < 2e-6  # 9.5e-7 measured
    # The estimate must also be sharp enough to be of use: 16 % measured.
    assert sum(again) < 0.3 * std.size


@pytest.mark.parametrize("n", [2, 4, 512, 513, 1500])
def test_real_images_of_many_classes_as_one(n):
    real = oracle.real_data()
    images, _ = oracle.real_images(real / "sun397" / "val")
    texts = oracle.real_texts(real)[::2]
    for first in range(0, 1501 - n, 500):
        rows = images[first : first + n]
        assert worst_error(one_class(rows), rows, texts) < 2e-6  # 1.2e-6 measured, for pairs


def test_the_variance_prior_is_the_mean_sample_variance_of_each_class():
    rng = np.random.default_rng(3)
    texts, rows = (oracle.unit_rows(rng.normal(size=(n, 4))) for n in (9, 7))
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    moments = fit_moments(["a", "b", "c", "none"], rows, labels)
    similarity = rows.astype(float) @ texts.T.astype(float)
    known = [similarity[labels == c].var(axis=0, ddof=1).mean() for c in (0, 1)]
    prior = variance_prior(moments, texts, 10.0)
    assert prior.images == 10.0
    np.testing.assert_allclose(prior.std**2, [*known, np.mean(known), np.mean(known)], rtol=1e-5)
    single = fit_moments(["a", "b"], rows[:2], np.array([0, 1]))
    assert variance_prior(single, texts, 10.0) is None
    same = fit_moments(["a"], rows[[0, 0, 0]], np.zeros(3, int))
    assert variance_prior(same, texts, 10.0) is None


def test_moderated_deviations_by_hand():
    prior = VariancePrior(np.array([0.2, 0.5]), 10.0)
    count, std = np.array([[3], [1]]), np.array([[0.1, 0.3], [0.0, 0.0]])
    # (10·0.04 + 3·0.01)/12, (10·0.04 + 3·0.09)/12 and, of one image, the prior itself.
    expected = np.sqrt([[0.43 / 12, 0.67 / 12], [0.25, 0.25]])
    found = moderated(std, count, np.array([[0.2], [0.5]]), prior)
    np.testing.assert_allclose(found, expected)


def test_a_singular_scatter_has_as_many_factor_rows_as_its_rank():
    rows = np.repeat(np.eye(6, dtype=np.float32)[:3], 4, axis=0)
    part = as_scatter(one_class(rows)).parts[0]
    made, scale = factor_rows(part)
    assert (made.shape, scale) == ((2, 6), 1.0)
    np.testing.assert_allclose(made.T @ made, part.scatter / part.count, atol=1e-12)
