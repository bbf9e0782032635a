"""Scores that need no reference image: cases by hand, parameters, errors, memory."""

import math
import tracemalloc

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.scorer.scores.contract import Query, fit_score
from blissaudit.scorer.scores.negatives import (
    average_templates,
    draw,
    log_mean_positive,
    random_groups,
)
from blissaudit.scorer.scores.registry import SCORES
from helpers import small_worlds as small

NAMES = (
    "clip_ad",
    "csp",
    "debiased_negatives",
    "energy",
    "eoe",
    "external_gap",
    "logit_gap",
    "maximum_cosine",
    "mcm",
    "msp",
    "neglabel",
    "neglabel_one_group",
    "neglabel_retrieved",
)

fitting_of, retrieve, run, unit = small.fitting_of, small.retrieve, small.run, small.unit


# Cases by hand: e1 is the label, e2 something else, and x lies between or on one of them.

BOTH = np.eye(2, dtype=np.float32)
E1, E2 = BOTH
FOUR = np.stack([E2] * 4)
BETWEEN = unit([[1.0, 1.0]])


@pytest.mark.parametrize(
    ("name", "fitting", "image", "changed", "expected"),
    [
        ("maximum_cosine", fitting_of(E1[None]), E1[None], {}, -1),
        ("maximum_cosine", fitting_of(E1[None]), E2[None], {}, 0),
        ("logit_gap", fitting_of(BOTH), E1[None], {}, -1),
        ("logit_gap", fitting_of(E1[None]), BETWEEN, {}, 0),
        # Of four other labels at 0 and 1 the better half counts, or all of them.
        ("logit_gap", fitting_of(np.stack([E1, E1, E1, E2, E2])), E1[None], {"share": 0.5}, 0),
        ("logit_gap", fitting_of(np.stack([E1, E1, E1, E2, E2])), E1[None], {"share": 1}, -0.5),
        ("external_gap", fitting_of(E1[None], FOUR), BETWEEN, {}, 0),
        ("external_gap", fitting_of(E1[None], FOUR), E1[None], {}, -1),
        ("mcm", fitting_of(BOTH), E1[None], {}, 1 / (1 + math.e)),
        ("mcm", fitting_of(E1[None]), BETWEEN, {}, 0),
        ("msp", fitting_of(BOTH), BETWEEN, {}, 0.5),
        ("msp", fitting_of(BOTH), E1[None], {"tau": 1}, 1 / (1 + math.e)),
        ("energy", fitting_of(E1[None]), BETWEEN, {}, -math.sqrt(0.5)),
        ("energy", fitting_of(BOTH), E1[None], {"tau": 1}, -math.log(1 + math.e)),
        ("clip_ad", fitting_of(E1[None], something=E2), BETWEEN, {}, 0.5),
        ("clip_ad", fitting_of(E1[None], something=E2), E1[None], {"tau": 1}, 1 / (1 + math.e)),
        ("eoe", fitting_of(E1[None], E2[None]), E1[None], {}, (0.25 - math.e) / (1 + math.e)),
        ("eoe", fitting_of(E1[None], E2[None]), BETWEEN, {"beta": 1}, 0),
        ("neglabel", fitting_of(E1[None], E2[None]), BETWEEN, {}, 0.5),
        # 4 negatives: one group of 4, two of 2, three of 1 with one dropped, four of 1.
        ("neglabel", fitting_of(E1[None], FOUR), BETWEEN, {"groups": 1, "keep": 1}, 0.8),
        ("neglabel", fitting_of(E1[None], FOUR), BETWEEN, {"groups": 2, "keep": 1}, 2 / 3),
        ("neglabel", fitting_of(E1[None], FOUR), BETWEEN, {"groups": 3, "keep": 1}, 0.5),
        ("neglabel", fitting_of(E1[None], FOUR), BETWEEN, {"keep": 1}, 0.5),
        # The label among the texts is dropped, and counts where nothing is dropped.
        ("neglabel_one_group", fitting_of(E1[None], BOTH), BETWEEN, {"keep": 1}, 0.5),
        ("neglabel_one_group", fitting_of(E1[None], BOTH), BETWEEN, {"keep": 1, "drop": 1}, 2 / 3),
        # The more distant half of two texts is -e1: r = -√½ against s = √½.
        (
            "neglabel_one_group",
            fitting_of(E1[None], np.stack([E2, -E1])),
            BETWEEN,
            {"keep": 0.5, "tau": 1},
            1 / (1 + math.exp(math.sqrt(2))),
        ),
        ("csp", fitting_of(E1[None], E2[None]), BETWEEN, {}, 0.5),
        # e^h is the same for wild and positive texts: Ê = (1 - π)/(1 - π) of it.
        ("debiased_negatives", fitting_of(E1[None], E2[None]), BETWEEN, {"noise": 0}, 0.5),
        # The wild texts are half labels: with π = ½ only e2 is left, so Ê = 1.
        (
            "debiased_negatives",
            fitting_of(E1[None], BOTH),
            E1[None],
            {"noise": 0, "tau": 1, "groups": 1},
            2 / (2 + math.e),
        ),
        # More labels are claimed than are there: the floor is left, 1/1000 of the mean over 0.1.
        (
            "debiased_negatives",
            fitting_of(np.stack([E1, E1]), BOTH),
            E1[None],
            {"noise": 0, "tau": 1, "groups": 1, "pi": 0.9},
            0.01 * (1 + math.e) / (0.01 * (1 + math.e) + 2 * math.e),
        ),
    ],
)  # fmt: skip
def test_by_hand(name, fitting, image, changed, expected):
    assert run(name, fitting, image, **changed)[0] == pytest.approx(expected, abs=1e-6)


def test_groups_are_equal_disjoint_and_as_many_as_asked_or_possible():
    rows = np.arange(5, 28)
    groups = random_groups(rows, 4, 0)
    assert groups.shape == (4, 5)
    assert len(np.unique(groups)) == 20
    assert set(groups.ravel()) <= set(rows)
    assert random_groups(rows, 100, 0).shape == (23, 1)


def test_simulated_positives_have_the_law_of_noisy_labels():
    rng = np.random.default_rng(1)
    prompts, image = unit(rng.standard_normal((2, 6))), unit(rng.standard_normal((1, 6)))
    noise, tau, many = 0.7, 0.3, 200_000
    found = log_mean_positive(image, prompts, draw(20_000, noise, 6, 0), tau)[0]
    noisy = prompts[:, None] + noise / math.sqrt(6) * rng.standard_normal((2, many, 6))
    noisy /= np.linalg.norm(noisy, axis=2, keepdims=True)
    assert found == pytest.approx(math.log(np.exp(noisy @ image[0] / tau).mean()), abs=0.02)


def test_without_normal_share_debiased_negatives_are_all_texts():
    rng = np.random.default_rng(2)
    fitting = fitting_of(unit(rng.standard_normal((3, 5))), unit(rng.standard_normal((40, 5))))
    images = unit(rng.standard_normal((7, 5)))
    found = run("debiased_negatives", fitting, images, pi=0, groups=7)
    expected = run("neglabel", fitting, images, groups=7, keep=1, drop=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_templates_are_averaged_and_made_unit_again():
    found = average_templates(np.stack([BOTH, np.stack([E2, E2])]))
    np.testing.assert_allclose(found, [BETWEEN[0], E2], atol=1e-6)


# Parameters, errors, memory.

OTHER = {
    "tau": 0.05,
    "groups": 5,
    "seed": 1,
    "keep": 0.5,
    "quantile": 0.2,
    "drop": 0.3,
    "beta": 1,
    "pi": 0.2,
    "noise": 1,
    "samples": 7,
    "floor": 0.9,
    "share": 1,
}


def some_world():
    rng = np.random.default_rng(3)
    prompts, texts = unit(rng.standard_normal((3, 8))), unit(rng.standard_normal((90, 8)))
    fitting = fitting_of(prompts, texts, unit(rng.standard_normal(8)))
    return fitting, unit(rng.standard_normal((12, 8)))


@pytest.mark.parametrize(
    ("name", "parameter"), [(name, p) for name in NAMES for p in SCORES[name].defaults]
)
def test_every_parameter_changes_the_result(name, parameter):
    fitting, images = some_world()
    # The seed needs groups, and mining and noise show best where the softmax is not too sharp.
    common = {"tau": 0.2} if parameter != "tau" and "tau" in SCORES[name].defaults else {}
    common |= {"groups": 4} if "groups" in SCORES[name].defaults else {}
    common |= {"pi": 0.8} if "pi" in SCORES[name].defaults else {}
    before = run(name, fitting, images, **common)
    after = run(name, fitting, images, **{**common, parameter: OTHER[parameter]})
    assert np.abs(after - before).max() > 1e-6


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("mcm", {"tau": 0}, "tau = 0 was given. Needed: a number above 0"),
        ("energy", {"tau": math.nan}, "tau = nan was given"),
        ("clip_ad", {"tau": -1}, "tau = -1 was given"),
        ("eoe", {"beta": -1}, "beta = -1 was given"),
        ("neglabel", {"keep": 1.5}, "keep = 1.5 was given. Needed: a number from 0 to 1"),
        ("neglabel", {"groups": 0}, "groups = 0 was given. Needed: a whole number, 1 or more"),
        ("neglabel", {"groups": 2.5}, "groups = 2.5 was given"),
        ("neglabel", {"seed": -1}, "seed = -1 was given"),
        ("neglabel", {"quantile": 2}, "quantile = 2 was given"),
        ("debiased_negatives", {"pi": 1}, "pi = 1 was given"),
        ("debiased_negatives", {"floor": 0}, "floor = 0 was given"),
        ("debiased_negatives", {"samples": 0}, "samples = 0 was given"),
        ("msp", {"temperature": 1}, "msp was given temperature. Needed: only tau"),
        ("maximum_cosine", {"tau": 1}, "maximum_cosine was given tau. Needed: only no parameter"),
    ],
)
def test_wrong_parameters_are_named(name, changed, message):
    fitting, images = some_world()
    with pytest.raises(UsageError, match=message):
        run(name, fitting, images, **changed)


def test_clip_ad_names_the_text_it_lacks():
    with pytest.raises(UsageError, match="a photo of something"):
        run("clip_ad", fitting_of(E1[None]), BETWEEN)


def test_a_corpus_of_labels_alone_is_refused():
    with pytest.raises(BlissError, match=r"all 1 external texts are within cosine 0\.95"):
        run("neglabel", fitting_of(E1[None], E1[None]), BETWEEN)


@pytest.mark.parametrize("name", [n for n in NAMES if "tau" in SCORES[n].defaults])
def test_tiny_temperatures_do_not_overflow(name):
    fitting, images = some_world()
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(run(name, fitting, images, tau=1e-6)).all()


def test_memory_is_that_of_a_block_not_of_all_pairs():
    rng = np.random.default_rng(4)
    images, texts = unit(rng.standard_normal((2500, 8))), unit(rng.standard_normal((20_000, 8)))
    tracemalloc.start()
    run_once = fit_score(SCORES["neglabel_one_group"], fitting_of(texts[:3], texts))
    run_once(Query(images))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 < 2500 * 20_000 * 8 / 3
