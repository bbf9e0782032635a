"""Flagging by Benjamini–Hochberg in an evaluation, against SciPy and a refit by hand."""

from dataclasses import replace

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.evaluation.draws import EmbeddedSet, Protocol, make_draws, make_world
from blissaudit.evaluation.report import notes
from blissaudit.evaluation.run import Chosen, Words, choose_scores, evaluate
from blissaudit.indexer.vectors.unit_rows import normalise_rows
from blissaudit.scorer.scores.contract import Need, Score
from blissaudit.scorer.scores.registry import SCORES
from scipy.stats import false_discovery_control

NAMES = ("ant", "bee", "cat", "dog")


def unit(rows):
    return normalise_rows(np.asarray(rows, np.float32)).unit


def world_and_words(each=100, spread=0.4):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 8))
    sets = [
        EmbeddedSet(
            unit(np.repeat(centres, n, axis=0) + spread * rng.standard_normal((4 * n, 8))),
            tuple(np.repeat(NAMES, n).tolist()),
        )
        for n in (each, 40)
    ]
    far = EmbeddedSet(unit(rng.standard_normal((90, 8))), (None,) * 90)
    texts = unit(rng.standard_normal((50, 8)))
    words = Words(dict(zip(NAMES, unit(centres), strict=True)), texts, 3)
    return make_world(*sets, {"far": far}), words


PROTOCOL = Protocol("p", "random", size=2, draws=3)


def by_hand(world, draw, score):
    """[groups, 2] of `score(reference images, images)`, the lowest fifth of hashes held out."""
    held = np.zeros(len(draw.reference), bool)
    for number in range(len(draw.normal)):
        mine = np.flatnonzero(draw.labels == number)
        order = sorted(mine, key=lambda i: world.hashes[draw.reference[i]])
        held[order[: len(mine) // 5]] = True
    rest = world.images[draw.reference[~held]]
    clean = score(rest, world.images[draw.reference[held]])
    scores = score(rest, world.images[draw.test])
    p = np.array([(1 + (clean >= s).sum()) / (len(clean) + 1) for s in scores])
    found = []
    for group in (1, 2):
        some = (draw.group == 0) | (draw.group == group)
        flagged = false_discovery_control(p[some], method="bh") <= 0.1
        truth = draw.group[some] > 0
        found.append([(flagged & ~truth).sum() / max(1, flagged.sum()), flagged[truth].mean()])
    return held.sum(), np.array(found)


def nearest(rest, images):
    return -(images.astype(float) @ rest.T.astype(float)).max(axis=1)


def nearest_score(seen=None):
    def fit(fitting, parameters):
        if seen is not None:
            seen.append(len(fitting.normals.images))
        return lambda query: nearest(fitting.normals.images, query.images)

    return Score("nearest", "", "", fit, needs=frozenset({Need.NORMALS}))


def test_a_score_with_reference_images_is_fitted_without_the_held_out_ones():
    world, words = world_and_words()
    draws = make_draws(world, PROTOCOL)
    seen = []
    result = evaluate(world, draws, words, [Chosen("nearest", nearest_score(seen))])
    assert result.calibration == (40, 40, 40)
    assert seen == [200, 200, 200, 160, 160, 160]
    for draw, flags in zip(draws, result.scores[0].flags, strict=True):
        count, expected = by_hand(world, draw, nearest)
        assert count == 40
        np.testing.assert_allclose(flags, expected)
    assert 0.2 < result.scores[0].flags[:, :, 1].mean() < 1
    assert 0 < result.scores[0].flags[:, :, 0].mean() < 0.2
    assert "from 40 held-out reference images a draw (20 % of each class)" in notes(result)[0]


def test_a_score_without_reference_images_is_not_fitted_again():
    world, words = world_and_words()
    draws = make_draws(world, PROTOCOL)
    result = evaluate(world, draws, words, choose_scores(["maximum_cosine", "bliss"], SCORES))
    for draw, flags in zip(draws, result.scores[0].flags, strict=True):
        prompts = np.stack([words.prompts[name] for name in draw.normal])
        _, expected = by_hand(world, draw, lambda rest, images, t=prompts: nearest(t, images))
        np.testing.assert_allclose(flags, expected)
    # BLISS needs the retrieved texts of the held-out images too.
    assert result.scores[1].flags is not None


def test_realised_fdp_keeps_its_promise_on_the_mean():
    world, words = world_and_words()
    draws = make_draws(world, replace(PROTOCOL, shots=90, draws=40))
    result = evaluate(world, draws, words, choose_scores(["maximum_cosine"], SCORES))
    fdp, power = result.scores[0].flags[:, 0].mean(axis=0)
    assert fdp < 0.1 and power > 0.5


@pytest.mark.parametrize(
    ("name", "protocol", "each", "match"),
    [
        ("maximum_cosine+rscin", PROTOCOL, 60, "it looks at the other test images, so p-values"),
        (
            "bliss",
            replace(PROTOCOL, contamination=0.1),
            60,
            "the reference is contaminated, so p-values do not hold",
        ),
        ("bliss", PROTOCOL, 30, "12 reference images were held out in draw 1, and fewer than 19 c"),
        ("mcm", replace(PROTOCOL, shots=1), 60, "0 reference images were held out in draw 1"),
    ],
)
def test_where_nothing_is_flagged_the_reason_is_given(name, protocol, each, match):
    world, words = world_and_words(each)
    draws = make_draws(world, protocol)
    result = evaluate(world, draws, words, choose_scores([name], SCORES))
    found = result.scores[0]
    assert found.flags is None and match in found.not_flagged
    assert f"no fdp_bh of any score: {found.not_flagged}" in notes(result)


def test_a_score_that_cannot_be_fitted_on_the_rest_says_so():
    world, words = world_and_words()
    draws = make_draws(world, PROTOCOL)

    def fit(fitting, parameters):
        if len(fitting.normals.images) < 200:
            raise BlissError("160 images were given", "200", "Add some")
        return lambda query: nearest(fitting.normals.images, query.images)

    result = evaluate(
        world,
        draws,
        words,
        [Chosen("picky", Score("picky", "", "", fit, needs=frozenset({Need.NORMALS})))],
    )
    assert result.scores[0].flags is None
    assert result.scores[0].not_flagged.startswith("without the held-out images: 160 images were")


def test_a_trained_head_may_have_seen_the_held_out_images():
    world, words = world_and_words()
    draws = make_draws(world, PROTOCOL)
    known = Score(
        "known", "", "", lambda *_: lambda query: query.images[:, 0], needs=frozenset({Need.HEAD})
    )
    words = replace(words, extras={Need.HEAD: {}})
    result = evaluate(world, draws, words, [Chosen("known", known)])
    assert result.scores[0].flags is None
    assert result.scores[0].not_flagged == "its head may have been trained on the held-out images"
