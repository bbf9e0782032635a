"""Mahalanobis distances with an image left out, against refitting without it."""

import numpy as np
import pytest
from blissaudit.scorer.leave_one_out import NOTHING_LEFT_OUT, LeftOut
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.reference import Sample
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.plus.evidence import pairs_of
from blissaudit.scorer.scores.plus.pooled_distance import (
    fit_pooled,
    relative,
    squared_distances,
)
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.scorer.scores.similarity import fit_covariance


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def world(sizes=(5, 2, 9), d=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    images = unit(
        rng.standard_normal((len(sizes), d))[labels] + 0.4 * rng.standard_normal((len(labels), d))
    )
    moments = fit_moments([str(c) for c in range(len(sizes))], images, labels)
    return moments, Sample(images, labels), unit(rng.standard_normal((7, d)))


def distances(pooled, images, left_out=NOTHING_LEFT_OUT, inside=()):
    inside = np.array(inside, bool)
    return np.concatenate([d for _, d in squared_distances(pooled, images, left_out, inside)])


def refitted(sample, i, shrinkage, mu):
    """d² of image i to every class, fitted again without it; ρ, μ and N as with it."""
    x, keep = sample.images[i].astype(float), np.arange(len(sample.labels)) != i
    images, labels = sample.images[keep].astype(float), sample.labels[keep]
    means = np.array([images[labels == c].mean(axis=0) for c in np.unique(sample.labels)])
    apart = images - means[labels]
    covariance = shrinkage * mu * np.eye(len(x))
    covariance += (1 - shrinkage) * apart.T @ apart / len(sample.labels)
    return [(x - m) @ np.linalg.inv(covariance) @ (x - m) for m in means]


@pytest.mark.parametrize("sizes", [(5, 2, 9), (40, 3), (4,)])
def test_leaving_out_equals_refitting(sizes):
    moments, sample, _ = world(sizes)
    pooled = fit_pooled(moments, sample)
    means = np.array([part.mean for part in moments.parts])
    apart = sample.images.astype(float) - means[sample.labels]
    mu = np.square(apart).sum() / apart.size
    everyone = np.arange(len(sample.labels))
    pairs = pairs_of(sample, sample.images, LeftOut(everyone[::-1], sample.labels[::-1]))
    assert pairs.inside.all()
    found = distances(pooled, sample.images, pairs.left_out, pairs.inside)
    expected = [refitted(sample, i, pooled.shrinkage, mu) for i in everyone]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_anyone_left_out_it_is_the_score_mahalanobis():
    moments, sample, images = world()
    normals = Normals(moments.classes, images[:3], sample.images, sample.labels)
    expected = fit_score(SCORES["mahalanobis"], Fitting(normals, images[:0]))(Query(images))
    found = distances(fit_pooled(moments, sample), images).min(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_relative_distance_is_the_score_relative_mahalanobis():
    moments, sample, images = world()
    normals = Normals(moments.classes, images[:3], sample.images, sample.labels)
    fitting = Fitting(normals, images[:0])
    expected = fit_score(SCORES["relative_mahalanobis"], fitting)(Query(images))
    pooled = fit_pooled(moments, sample)
    found = relative(pooled, distances(pooled, images), images, np.zeros(len(images), bool))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_an_image_that_the_sample_lacks_leaves_its_mean_alone():
    moments, sample, _ = world()
    part = Sample(sample.images[1:], sample.labels[1:])
    pooled = fit_pooled(moments, part)
    pairs = pairs_of(part, sample.images[:2], LeftOut(np.arange(2), sample.labels[:2]))
    assert pairs.inside.tolist() == [False, True]
    before = distances(pooled, sample.images[:1])[0]
    found = distances(pooled, sample.images[:2], pairs.left_out, pairs.inside)[0]
    np.testing.assert_allclose(found[1:], before[1:])
    # Class 0 has 5 images: x is 5/4 as far from the mean of the others.
    assert found[0] == pytest.approx((5 / 4) ** 2 * before[0])
    # Its class is not whole in the sample, so S loses u uᵀ/N for the second image.
    x = sample.images[1].astype(float)
    u = x - moments.parts[0].mean
    means = np.array([m.mean for m in moments.parts])
    apart = part.images.astype(float) - means[part.labels]
    covariance = fit_covariance(apart, "it")
    s = apart.T @ apart / len(apart) - np.outer(u, u) / len(apart)
    rho = covariance.shrinkage
    inverse = np.linalg.inv(covariance.outside * np.eye(len(x)) + (1 - rho) * s)
    second = distances(pooled, sample.images[:2], pairs.left_out, pairs.inside)[1]
    assert second[2] == pytest.approx((x - means[2]) @ inverse @ (x - means[2]))


def test_images_that_do_not_differ_have_no_spread():
    e = np.eye(3, dtype=np.float32)
    labels = np.array([0, 0, 1])
    moments = fit_moments(("a", "b"), e[labels], labels)
    assert fit_pooled(moments, Sample(e[labels], labels)) is None


def test_of_an_image_in_two_classes_the_first_alone_leaves_the_covariance():
    moments, sample, _ = world()
    x = sample.images[0]
    both = Sample(
        np.concatenate([sample.images, x[None]]), np.append(sample.labels, 2).astype(np.int64)
    )
    moments = fit_moments(moments.classes, both.images, both.labels)
    pooled = fit_pooled(moments, both)
    once = pairs_of(both, x[None], LeftOut(np.array([0]), np.array([0])))
    twice = pairs_of(both, x[None], LeftOut(np.array([0, 0]), np.array([0, 2])))
    assert twice.inside.tolist() == [True, True]
    first = distances(pooled, x[None], once.left_out, once.inside)[0]
    found = distances(pooled, x[None], twice.left_out, twice.inside)[0]
    np.testing.assert_allclose(found[:2], first[:2])
    # Class 2 has 10 images with it: nine remain, and x is 10/9 as far from their mean.
    plain = distances(pooled, x[None])[0]
    assert found[2] == pytest.approx((10 / 9) ** 2 * plain[2])
