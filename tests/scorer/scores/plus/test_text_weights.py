"""Weights of external texts, and the softmax over them: by hand, by refitting, and truncated."""

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.indexer.vectors.unit_rows import normalise_rows
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.plus.text_weights import (
    Own,
    fit_tail,
    fit_text_weights,
    label_weights,
    log_sums,
    log_sums_without_classes,
    own_cosines,
    truncated_log_sums,
)
from blissaudit.scorer.scores.registry import SCORES
from hypothesis import given, settings
from hypothesis import strategies as st


def unit(rows):
    rows = np.asarray(rows, float)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def retrieve(images, texts, k):
    vectors = texts
    return gather_texts(exact_search(images, vectors, k), vectors)


@st.composite
def worlds(draw):
    """Texts, prompts, reference images with labels, and images of which some are references."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d, classes = draw(st.integers(3, 8)), draw(st.integers(1, 4))
    texts = unit(rng.standard_normal((draw(st.integers(4, 40)), d)))
    prompts = unit(rng.standard_normal((classes, d)))
    labels = np.sort(rng.integers(0, classes, draw(st.integers(2, 12))))
    images = unit(prompts[labels] + 0.7 * rng.standard_normal((len(labels), d)))
    return texts, prompts, images, labels, draw(st.sampled_from([0.05, 0.2]))


def fitted(world, strength=10.0):
    texts, prompts, images, labels, tau = world
    try:
        return fit_text_weights(texts, prompts, (images, labels), strength, tau)
    except BlissError:
        return None


def test_a_weight_by_hand():
    # One label e1 and one image on it: s = 1. The text at cosine 0.6 has odds e^{-0.4/0.1}, a mean
    # over this image and 50 without odds.
    e = np.eye(2, dtype=np.float32)
    texts = np.array([[0.6, 0.8], [0.0, 1.0]], np.float32)
    found = fit_text_weights(texts, e[:1], (e[:1], np.zeros(1, int)), 10.0, 0.1)
    expected = 1 / (1 + 10 / 51 * np.exp([-4.0, -10.0]))
    np.testing.assert_allclose(found.weights, expected, rtol=1e-5)
    np.testing.assert_allclose(found.mean, [0.3, 0.9])
    total = np.log(expected @ np.exp([8.0, 10.0]))  # the image e2 has cosines 0.8 and 1
    np.testing.assert_allclose(log_sums(found, e[1:]), [total], rtol=1e-6)
    # An image that is nearer to a text than to its label by far counts 30 and no more.
    stray = fit_text_weights(texts, e[:1], (e[1:], np.zeros(1, int)), 10.0, 0.1)
    np.testing.assert_allclose(stray.weights, 1 / (1 + 300 / 51), rtol=1e-5)


def test_hubness_by_hand():
    # Two images at cosines 1 and 0.6 to the label and 0 and 0.8 to the text: h = 0.8 and 0.4.
    e = np.eye(2, dtype=np.float32)
    images = np.array([[1, 0], [0.6, 0.8]], np.float32)
    found = fit_text_weights(e[1:], e[:1], (images, np.zeros(2, int)), 0.0, 0.1, 0.25)
    np.testing.assert_allclose(found.weights, np.exp([-0.25 * 0.4 / 0.1]), rtol=1e-6)
    np.testing.assert_allclose(found.labels, [0.25 * 0.8 / 0.1], rtol=1e-6)
    # Of more than 16 images the nearest 16 count.
    many = np.concatenate([np.repeat(images[1:], 16, axis=0), images[:1]])
    found = fit_text_weights(e[1:], e[:1], (many, np.zeros(17, int)), 0.0, 0.1, 0.25)
    np.testing.assert_allclose(found.weights, np.exp([-0.25 * 0.8 / 0.1]), rtol=1e-6)
    np.testing.assert_allclose(found.labels, [0.25 * (15 * 0.6 + 1) / 16 / 0.1], rtol=1e-6)


def test_a_text_that_is_a_label_has_no_part():
    e = np.eye(3, dtype=np.float32)
    images, labels = e[[0, 1]], np.array([0, 1])
    with_it = fit_text_weights(e, e[:2], (images, labels), 10.0, 0.1)
    without = fit_text_weights(e[2:], e[:2], (images, labels), 10.0, 0.1)
    assert with_it.weights[:2].tolist() == [0, 0]
    np.testing.assert_allclose(log_sums(with_it, images), log_sums(without, images), atol=1e-12)
    cold = fit_text_weights(e, e[:2], (images, labels), 10.0, 0.001)
    assert np.isfinite(log_sums(cold, images)).all()
    np.testing.assert_array_equal(with_it.mean, without.mean)


@settings(max_examples=40, deadline=None)
@given(world=worlds())
def test_leaving_an_image_out_equals_fitting_without_it(world):
    texts, prompts, images, labels, tau = world
    weights = fitted(world)
    if weights is None:
        return
    found = log_sums(
        weights, images, Own(np.arange(len(images)), own_cosines(images, labels, prompts))
    )
    for i in range(len(images)):
        rest = np.delete(images, i, axis=0), np.delete(labels, i)
        expected = log_sums(fit_text_weights(texts, prompts, rest, 10.0, tau), images[i : i + 1])
        np.testing.assert_allclose(found[i], expected[0], rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(world=worlds())
def test_images_without_their_class_meet_the_weights_of_the_others(world):
    texts, prompts, images, labels, tau = world
    weights = fitted(world)
    if weights is None or len(np.unique(labels)) == 1:
        return
    cosines = own_cosines(images, labels, prompts)
    found = log_sums_without_classes(weights, images, labels, cosines)
    as_texts = label_weights(weights, images, labels, prompts)
    for c in np.unique(labels):
        others = labels != c
        rest = fit_text_weights(texts, prompts, (images[others], labels[others]), 10.0, tau)
        expected = log_sums(rest, images[~others])
        np.testing.assert_allclose(found[~others], expected, rtol=1e-4, atol=1e-4)
        odds = np.exp((images[others] @ prompts[c] - cosines[others]) / tau)
        expected = 1 / (1 + 10 * np.minimum(30, odds).sum() / (others.sum() + 50))
        np.testing.assert_allclose(as_texts[c], expected, rtol=1e-4)


def test_an_image_filed_twice_is_left_out_twice():
    rng = np.random.default_rng(1)
    texts, prompts = unit(rng.standard_normal((20, 5))), unit(rng.standard_normal((2, 5)))
    images = unit(rng.standard_normal((6, 5)))
    both = np.concatenate([images, images[:1]])
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    weights = fit_text_weights(texts, prompts, (both, labels), 10.0, 0.1)
    cosines = (images[0].astype(float) @ prompts.T.astype(float)).astype(float)
    found = log_sums(weights, images[:2], Own(np.array([0, 0]), cosines))
    rest = fit_text_weights(texts, prompts, (both[1:6], labels[1:6]), 10.0, 0.1)
    np.testing.assert_allclose(found[0], log_sums(rest, images[:1])[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], log_sums(weights, images[1:2])[0], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(world=worlds(), k=st.integers(1, 4))
def test_the_full_sum_lies_within_the_bounds_of_the_truncated_one(world, k):
    weights = fitted(world)
    if weights is None:
        return
    texts, _, images, _, _ = world
    full = log_sums(weights, images)
    found = truncated_log_sums(weights, fit_tail(weights), images, retrieve(images, texts, k))
    assert (found.lowest <= full + 2e-5).all()
    assert (full <= found.highest + 2e-5).all()
    assert (found.lowest <= found.estimate).all()
    assert (found.estimate <= found.highest + 1e-9).all()
    everything = truncated_log_sums(
        weights, fit_tail(weights), images, retrieve(images, texts, len(texts))
    )
    np.testing.assert_allclose(everything.lowest, full, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(everything.estimate, full, rtol=1e-4, atol=1e-4)


def test_retrieved_texts_lose_an_images_own_part_too():
    rng = np.random.default_rng(2)
    texts, prompts = unit(rng.standard_normal((15, 4))), unit(rng.standard_normal((2, 4)))
    labels = np.array([0, 0, 1, 1])
    images = unit(prompts[labels] + rng.standard_normal((4, 4)))
    weights = fit_text_weights(texts, prompts, (images, labels), 10.0, 0.1)
    own = Own(np.arange(4), own_cosines(images, labels, prompts))
    found = truncated_log_sums(weights, fit_tail(weights), images, retrieve(images, texts, 15), own)
    np.testing.assert_allclose(found.lowest, log_sums(weights, images, own), rtol=1e-4)


@pytest.mark.parametrize(("k", "median", "most"), [(10, 0.07, 0.8), (100, 0.01, 0.2)])
def test_the_truncation_error_on_real_embeddings(real_data, k, median, most):
    """All 2,283 texts and 400 images against 20 labels: the bounds hold, the estimate is near."""
    texts = normalise_rows(np.load(real_data / "texts/photo-of-a/text_emb/text_emb_0.npy")).unit
    images = normalise_rows(np.load(real_data / "caltech101/val/img_emb/img_emb_0.npy")).unit
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(images))
    reference, asked = images[chosen[:300]], images[chosen[300:700]]
    prompts = texts[rng.choice(1000, 20, replace=False)]
    labels = (reference @ prompts.T).argmax(axis=1)
    weights = fit_text_weights(texts, prompts, (reference, labels), 10.0, 0.01)
    found = truncated_log_sums(weights, fit_tail(weights), asked, retrieve(asked, texts, k))
    full = log_sums(weights, asked)
    error = np.abs(found.estimate - full)
    assert np.median(error) < median
    assert error.max() < most
    assert (found.lowest <= full + 2e-5).all()
    assert (full <= found.highest + 2e-5).all()


def test_full_decides_whether_bliss_plus_sums_over_all_texts():
    rng = np.random.default_rng(3)
    prompts = unit(rng.standard_normal((3, 16)) + 1)
    labels = np.repeat(np.arange(3), 6)
    images = unit(prompts[labels] + 0.2 * rng.standard_normal((18, 16)))
    texts = unit(rng.standard_normal((50, 16)) + 1)
    fitting = Fitting(Normals(("a", "b", "c"), prompts, images, labels), texts)
    asked = Query(unit(rng.standard_normal((9, 16)) + 1))
    asked = Query(asked.images, retrieve(asked.images, texts, 5))
    found = {
        full: fit_score(SCORES["bliss+"], fitting, full=full)(asked) for full in (0, 49, 50, 1000)
    }
    np.testing.assert_array_equal(found[50], found[1000])
    np.testing.assert_array_equal(found[0], found[49])
    assert 1e-6 < np.abs(found[0] - found[50]).max() < 1
