"""CLIPN's two scores: by hand, against a float64 oracle with loops, ties and one class."""

import math
from dataclasses import replace

import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.scorer.scores.contract import Fitting, Need, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES

NAMES = ("clipn_ctw", "clipn_atd")
both = pytest.mark.parametrize("name", NAMES)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fitting(prompts, no):
    d = prompts.shape[1]
    normals = Normals(
        tuple(f"class {c}" for c in range(len(prompts))),
        prompts,
        np.zeros((0, d), np.float32),
        np.zeros(0, np.int64),
    )
    return Fitting(normals, np.zeros((0, d), np.float32), {Need.NO_PROMPTS: no})


def scored(name, prompts, no, images, **changed):
    return fit_score(SCORES[name], fitting(prompts, no), **changed)(Query(images))


def oracle(name, prompts, no, images, tau=0.01):
    """From the published definitions, one image and one class at a time."""
    found = []
    for x in images.astype(float):
        s = [math.fsum(x * t) for t in prompts.astype(float)]
        n = [math.fsum(x * t) for t in no.astype(float)]
        yes = [
            math.exp(a / tau) / (math.exp(a / tau) + math.exp(b / tau))
            for a, b in zip(s, n, strict=True)
        ]
        if name == "clipn_ctw":
            found.append(1 - yes[max(range(len(s)), key=lambda i: s[i])])
        else:
            whole = math.fsum(math.exp(a / tau) for a in s)
            found.append(
                1 - math.fsum(math.exp(a / tau) / whole * p for a, p in zip(s, yes, strict=True))
            )
    return np.array(found)


@both
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_as_the_oracle_says(name, classes):
    rng = np.random.default_rng(classes)
    prompts, images = unit(rng.standard_normal((classes, 12))), unit(rng.standard_normal((40, 12)))
    no = unit(prompts + 0.03 * rng.standard_normal((classes, 12)))
    found = scored(name, prompts, no, images)
    np.testing.assert_allclose(found, oracle(name, prompts, no, images), rtol=1e-9, atol=1e-12)
    assert np.ptp(found) > 0.5
    other = scored(name, prompts, no, images, tau=0.1)
    np.testing.assert_allclose(other, oracle(name, prompts, no, images, 0.1), rtol=1e-9)


def test_two_classes_by_hand():
    """Cosines 0.8 and 0.6 with margins 0.6 and 0, at τ = 0.2: weights e and 1, doubts
    1/(1 + e³) and 1/2."""
    images = unit([[0.8, 0.6, 0.0]])
    prompts, no = unit(np.eye(3)[:2]), unit([[0.25, 0.0, math.sqrt(1 - 0.0625)], [0, 1, 0]])
    first, half = 1 / (1 + math.exp(3)), 0.5
    found = scored("clipn_ctw", prompts, no, images, tau=0.2)
    np.testing.assert_allclose(found, [first], rtol=1e-6)
    found = scored("clipn_atd", prompts, no, images, tau=0.2)
    e = math.e
    np.testing.assert_allclose(found, [(e * first + half) / (e + 1)], rtol=1e-6)


def test_one_class_makes_both_the_same():
    rng = np.random.default_rng(5)
    arrays = [unit(rng.standard_normal((rows, 6))) for rows in (1, 1, 20)]
    np.testing.assert_allclose(*[scored(name, *arrays) for name in NAMES], rtol=1e-12)


def test_equal_labels_win_by_the_surer_yes_in_any_order():
    image, prompts = unit([[1, 1, 0]]), unit(np.eye(3)[:2])
    no = unit([[0, 0, 1], [1, 1, 0]])
    for order in ([0, 1], [1, 0]):
        found = scored("clipn_ctw", prompts[order], no[order], image)
        np.testing.assert_allclose(found, 1 / (1 + math.exp(100 / math.sqrt(2))), rtol=1e-4)


@both
def test_an_equal_no_is_a_doubt_of_one_half(name):
    rng = np.random.default_rng(6)
    prompts, images = unit(rng.standard_normal((3, 6))), unit(rng.standard_normal((9, 6)))
    found = scored(name, prompts, prompts, images)
    np.testing.assert_allclose(found, np.full(9, 0.5), rtol=1e-15)


@both
def test_extreme_cosines_do_not_overflow(name):
    prompts = unit([[1, 0], [0, 1]])
    with np.errstate(all="raise", under="ignore"):
        found = scored(name, prompts, -prompts, unit([[1, 0], [-1, 0]]), tau=1e-4)
    np.testing.assert_array_equal(found, [0, 0.5])


@both
def test_a_no_for_every_label_is_needed(name):
    prompts = unit(np.eye(3))
    with pytest.raises(UsageError, match=rf"{name} was given \"no\" vectors of shape \(2, 3\)"):
        scored(name, prompts, prompts[:2], prompts)
    bare = replace(fitting(prompts, prompts), extras={})
    with pytest.raises(UsageError, match=r'without the labels\' "no" vectors.*--trained'):
        fit_score(SCORES[name], bare)


@both
def test_they_say_that_they_are_trained(name):
    assert SCORES[name].trained and Need.NO_PROMPTS in SCORES[name].needs
