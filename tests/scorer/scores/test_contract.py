"""What every score in the registry keeps, whoever adds it.

The world has three label directions, external texts elsewhere, and outliers in a direction that a
few of the texts name. Nothing here knows a score by name, but for those that are not of angles.
"""

import importlib
import pkgutil
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.scorer import scores
from blissaudit.scorer.bliss import Retrieved
from blissaudit.scorer.scores.contract import (
    NEEDS,
    Fitting,
    Need,
    Normals,
    Query,
    Score,
    fit_score,
    for_classes,
)
from blissaudit.scorer.scores.registry import MODULES, SCORES
from blissaudit.scorer.scores.wrappers import with_rscin

C, K, D, M = 3, 5, 24, 200
PER_CLASS, NORMAL, ODD = 80, 24, 6

OF_COORDINATES = {"costarr"}
"""Scores that look at single coordinates, and say so in their module: turning changes them."""

every = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())


def those(chosen):
    picked = {name: score for name, score in SCORES.items() if chosen(score)}
    return pytest.mark.parametrize("score", picked.values(), ids=picked.keys())


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def near(direction, spread, n, rng):
    return direction + spread * rng.standard_normal((n, D)) / np.sqrt(D)


@cache
def world():
    """(fitting, images [30, d]); the last 6 images are the outliers."""
    rng = np.random.default_rng(0)
    axes = np.eye(D)
    text, image = axes[0] + 0.5 * axes[1], axes[0] + 0.5 * axes[2]
    classes, odd = axes[3 : 3 + C], axes[3 + C]
    elsewhere = rng.standard_normal((M, D))
    elsewhere[:, :3] = 0
    elsewhere[:, 3 : 3 + C] *= 0.3
    texts = text + elsewhere / np.linalg.norm(elsewhere, axis=1, keepdims=True)
    texts[:20] = near(text + odd, 0.3, 20, rng)
    labels = np.repeat(np.arange(C), PER_CLASS)
    members = np.concatenate([near(image + c, 0.5, PER_CLASS, rng) for c in classes])
    shown = [near(image + c, 0.5, NORMAL // C, rng) for c in classes]
    normals = Normals(("ant", "bee", "cat"), unit(text + classes), unit(members), labels)
    images = unit(np.concatenate([*shown, near(image + odd, 0.5, ODD, rng)]))
    head = {
        "first": classes, "first_bias": np.zeros(C), "second": np.ones((1, C)),
        "second_bias": np.zeros(1), "logistic": odd - classes.sum(axis=0),
        "logistic_bias": np.zeros(1), "normals": normals.images,
        "outliers": unit(near(image + odd, 0.5, PER_CLASS, rng)),
    }  # fmt: skip
    extras = {
        Need.HEAD: head,
        Need.NO_PROMPTS: unit(2 * text - classes),
        Need.SOMETHING: unit(text),
    }
    return Fitting(normals, unit(texts), extras), images


def retrieve(images, texts):
    cosines = images.astype(float) @ texts.T.astype(float)
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :K]
    distinct, position = np.unique(rows, return_inverse=True)
    similarity = np.take_along_axis(cosines, rows, axis=1).astype(np.float32)
    return Retrieved(
        similarity, rows, position.reshape(rows.shape).astype(np.int32), texts[distinct]
    )


def query_of(images, texts):
    return Query(images, retrieve(images, texts))


@cache
def fitted(name):
    return fit_score(SCORES[name], world()[0])


@cache
def scored(name):
    fitting, images = world()
    return fitted(name)(query_of(images, fitting.texts))


def close(found, expected, share):
    """Equal to a share of how far the scores of the toy world lie apart."""
    np.testing.assert_allclose(found, expected, rtol=share, atol=share * np.ptp(expected) + 1e-12)


def lacking(fitting, need):
    return replace(fitting, extras={**fitting.extras, need: None})


def without_images(fitting):
    nothing = np.zeros((0, D), np.float32)
    normals = replace(fitting.normals, images=nothing, labels=np.zeros(0, np.int64))
    return replace(fitting, normals=normals)


def test_the_registry_holds_every_score_of_every_module_once():
    found = [
        value
        for module in pkgutil.walk_packages(scores.__path__, f"{scores.__name__}.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, Score)
    ]
    assert {score.name for score in found} == set(SCORES)
    assert len({id(score) for score in found}) == len(SCORES)
    names = [module.__name__ for module in MODULES]
    assert names == sorted(names)


@every
def test_facts_are_complete(score):
    assert SCORES[score.name] is score
    assert score.name == score.name.lower()
    assert score.name.replace("+", "").isidentifier()
    for fact in (score.formula, score.source):
        assert fact.strip() == fact != ""
        assert "\n" not in fact
    assert all(isinstance(value, int | float) for value in score.defaults.values())


@every
def test_one_finite_float64_an_image(score):
    found = scored(score.name)
    assert found.shape == (NORMAL + ODD,)
    assert found.dtype == np.float64
    assert np.isfinite(found).all()


@every
def test_an_obvious_outlier_scores_higher(score):
    found = scored(score.name)
    assert (found[NORMAL:, None] > found[:NORMAL]).mean() > 0.95


@every
def test_images_in_another_order_get_the_same_scores(score):
    fitting, images = world()
    order = np.random.default_rng(1).permutation(len(images))
    found = fitted(score.name)(query_of(images[order], fitting.texts))
    close(found, scored(score.name)[order], 1e-6)


@those(lambda score: not score.stateful)
def test_no_image_matters_to_another(score):
    fitting, images = world()
    for few in (slice(0, 1), slice(20, 27)):
        found = fitted(score.name)(query_of(images[few], fitting.texts))
        close(found, scored(score.name)[few], 1e-6 if len(found) > 1 else 1e-5)


@those(lambda score: score.stateful)
def test_stateful_scores_say_so_truly(score):
    fitting, images = world()
    alone = fitted(score.name)(query_of(images[18:27], fitting.texts))
    assert np.abs(alone - scored(score.name)[18:27]).max() > 1e-9


@every
def test_only_angles_matter(score):
    """Turning all vectors together moves no score; the tolerance is float32 over τ = 0.01.

    One of coordinates must move, or it need not be named as such.
    """
    fitting, images = world()
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((D, D)))[0]

    def turned(rows):
        return unit(rows.astype(float) @ turn)

    normals = fitting.normals
    normals = replace(normals, prompts=turned(normals.prompts), images=turned(normals.images))
    texts = turned(fitting.texts)
    head = {
        name: array.astype(float) @ turn if array.shape[-1] == D else array
        for name, array in fitting.extras[Need.HEAD].items()
    }
    others = {need: turned(fitting.extras[need]) for need in (Need.SOMETHING, Need.NO_PROMPTS)}
    extras = {Need.HEAD: head, **others}
    fitting = replace(fitting, normals=normals, texts=texts, extras=extras)
    found = fit_score(score, fitting)(query_of(turned(images), texts))
    if score.name in OF_COORDINATES:
        assert np.abs(found - scored(score.name)).max() > 1e-3
    else:
        close(found, scored(score.name), 1e-3)


@every
def test_block_sizes_do_not_matter(score, monkeypatch):
    """Every module constant ..._AT_ONCE is set to 7 and every ...ENTRIES to 50."""
    fitting, images = world()
    changed = 0
    for module in pkgutil.walk_packages(scores.__path__, f"{scores.__name__}."):
        loaded = importlib.import_module(module.name)
        for name, value in list(vars(loaded).items()):
            if isinstance(value, int) and name.endswith(("_AT_ONCE", "ENTRIES")):
                monkeypatch.setattr(loaded, name, 7 if name.endswith("_AT_ONCE") else 50)
                changed += 1
    assert changed
    found = fit_score(score, fitting)(query_of(images, fitting.texts))
    close(found, scored(score.name), 1e-6)


@every
def test_fitting_again_gives_the_same_scores_and_changes_nothing(score):
    fitting, images = world()
    normals = fitting.normals
    arrays = [normals.prompts, normals.images, normals.labels, fitting.texts, images]
    before = [array.copy() for array in arrays]
    found = fit_score(score, fitting)(query_of(images, fitting.texts))
    np.testing.assert_array_equal(found, scored(score.name))
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@every
def test_one_class_is_enough(score):
    fitting, images = world()
    own = fitting.normals.labels == 0
    normals = Normals(
        ("ant",), fitting.normals.prompts[:1], fitting.normals.images[own], 0 * own[own]
    )
    extras = for_classes(fitting.extras, np.array([0]))
    assert extras[Need.NO_PROMPTS].shape == (1, D)
    fitting = replace(fitting, normals=normals, extras=extras)
    found = fit_score(score, fitting)(query_of(images, fitting.texts))
    assert found.shape == (len(images),)
    assert np.isfinite(found).all()


@every
def test_no_images_no_scores(score):
    fitting, images = world()
    nothing = query_of(images[:1], fitting.texts)
    retrieved = replace(
        nothing.retrieved, similarity=np.zeros((0, K), np.float32),
        rows=np.zeros((0, K), np.int64), position=np.zeros((0, K), np.int32),
    )  # fmt: skip
    assert fitted(score.name)(Query(images[:0], retrieved)).shape == (0,)


@every
def test_an_unknown_parameter_is_named(score):
    with pytest.raises(UsageError, match=rf"{re.escape(score.name)} was given no_such_parameter"):
        fit_score(score, world()[0], no_such_parameter=1)


@those(lambda score: score.uses_references)
def test_missing_reference_images_are_named(score):
    message = rf"{re.escape(score.name)} was used without reference images"
    with pytest.raises(UsageError, match=message):
        fit_score(score, without_images(world()[0]))


@those(lambda score: not score.uses_references)
def test_reference_images_are_not_needed_where_that_is_said(score):
    fitting, images = world()
    found = fit_score(score, without_images(fitting))(query_of(images, fitting.texts))
    close(found, scored(score.name), 1e-9)


@those(lambda score: Need.TEXTS in score.needs)
def test_missing_texts_are_named(score):
    fitting = replace(world()[0], texts=np.zeros((0, D), np.float32))
    message = rf"{re.escape(score.name)} was used without external texts"
    with pytest.raises(UsageError, match=message):
        fit_score(score, fitting)


@those(lambda score: Need.TEXTS not in score.needs)
def test_texts_are_not_needed_where_that_is_said(score):
    fitting, images = world()
    bare = replace(fitting, texts=np.zeros((0, D), np.float32))
    found = fit_score(score, bare)(query_of(images, fitting.texts))
    close(found, scored(score.name), 1e-9)


@those(lambda score: Need.NO_PROMPTS in score.needs)
def test_missing_no_vectors_are_named(score):
    message = rf"{re.escape(score.name)} was used without the labels' \"no\" vectors"
    with pytest.raises(UsageError, match=message):
        fit_score(score, lacking(world()[0], Need.NO_PROMPTS))


@those(lambda score: Need.NO_PROMPTS not in score.needs)
def test_no_vectors_are_not_needed_where_that_is_said(score):
    fitting, images = world()
    found = fit_score(score, lacking(fitting, Need.NO_PROMPTS))(query_of(images, fitting.texts))
    close(found, scored(score.name), 1e-9)


@those(lambda score: Need.RETRIEVED in score.needs)
def test_missing_retrieved_texts_are_named(score):
    message = rf"{re.escape(score.name)} was used without the retrieved texts of each image"
    with pytest.raises(UsageError, match=message):
        fitted(score.name)(Query(world()[1]))


@those(lambda score: Need.HEAD in score.needs)
def test_a_missing_head_is_named(score):
    with pytest.raises(UsageError, match=f"{score.name} was used without a trained head"):
        fit_score(score, lacking(world()[0], Need.HEAD))


@those(lambda score: Need.HEAD not in score.needs)
def test_a_head_is_not_needed_where_that_is_said(score):
    fitting, images = world()
    found = fit_score(score, lacking(fitting, Need.HEAD))(query_of(images, fitting.texts))
    np.testing.assert_array_equal(found, scored(score.name))


@those(lambda score: Need.SOMETHING in score.needs)
def test_a_missing_additional_text_is_named(score):
    message = f"{score.name} was used without its additional text.*a photo of something"
    with pytest.raises(UsageError, match=message):
        fit_score(score, lacking(world()[0], Need.SOMETHING))


@those(lambda score: Need.SOMETHING not in score.needs)
def test_an_additional_text_is_not_needed_where_that_is_said(score):
    fitting, images = world()
    found = fit_score(score, lacking(fitting, Need.SOMETHING))(query_of(images, fitting.texts))
    np.testing.assert_array_equal(found, scored(score.name))


def test_every_need_has_a_provider_and_a_score():
    assert set(NEEDS) == set(Need)
    used = {need for score in SCORES.values() for need in with_rscin(score).needs | score.needs}
    assert used == set(Need)


@those(lambda score: Need.RETRIEVED not in score.needs)
def test_retrieved_texts_are_not_needed_where_that_is_said(score):
    close(fitted(score.name)(Query(world()[1])), scored(score.name), 1e-9)
