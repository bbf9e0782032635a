"""Scores of image-caption pairs: against loops, and the known answers on real pairs."""

import math

import numpy as np
import pytest
from blissaudit import UsageError
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.questions import pairs as module
from blissaudit.scorer.questions.pairs import Pairs, PairSettings, full_sums, score_pairs
from helpers.small_worlds import unit


def world(seed=0, n=12, m=15, count=20, d=6):
    """Pairs in which images have several captions and captions several images."""
    rng = np.random.default_rng(seed)
    image = np.concatenate([np.arange(n), rng.integers(0, n, count - n)])
    text = np.concatenate([np.arange(m), rng.integers(0, m, count - m)])
    images = unit(rng.standard_normal((n, d)))
    texts = unit(images[rng.integers(0, n, m)] + 0.5 * rng.standard_normal((m, d)))
    return Pairs(images, texts, image, text)


def looped(pairs, tau):
    """(scores, mismatch scores) with loops, from the formula alone."""
    s = pairs.images.astype(float) @ pairs.texts.T.astype(float)
    own = set(zip(pairs.image.tolist(), pairs.text.tolist(), strict=True))
    sums, scores = [], []
    for i, t in zip(pairs.image, pairs.text, strict=True):
        rivals = [u for u in range(s.shape[1]) if (i, u) not in own or u == t]
        others = [y for y in range(s.shape[0]) if (y, t) not in own or y == i]
        one = math.log(sum(math.exp(s[i, u] / tau) for u in rivals))
        other = math.log(sum(math.exp(s[y, t] / tau) for y in others))
        sums.append((one, other))
        scores.append(tau / 2 * (one + other) - s[i, t])
    null = [
        tau / 2 * (sums[a][0] + sums[b][1]) - s[pairs.image[a], pairs.text[b]]
        for a in range(len(scores))
        for b in range(len(scores))
        if (pairs.image[a], pairs.text[b]) not in own
    ]
    return np.array(scores), np.array(null)


@pytest.mark.parametrize("tau", [0.01, 0.2])
@pytest.mark.parametrize("full", [True, False])
def test_scores_and_p_values_are_those_of_the_formula(tau, full):
    pairs = world()
    scores, null = looped(pairs, tau)
    found = score_pairs(pairs, PairSettings(temperature=tau, k=30, full=full))
    np.testing.assert_allclose(found.score, np.maximum(scores, 0), atol=1e-6)
    p = [(1 + (null <= each + 1e-9).sum()) / (1 + len(null)) for each in scores]
    np.testing.assert_allclose(found.p, p, atol=1.5 / len(null))
    assert (found.order == np.argsort(-found.score, kind="stable")).all()


def test_sums_are_right_in_blocks_and_where_terms_are_tiny(monkeypatch):
    pairs = world(1)
    whole = full_sums(pairs, 0.01)
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 5)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 4)
    for one, other in zip(full_sums(pairs, 0.01), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    far = Pairs(  # a caption whose cosines are 1.9 below the largest of every image
        unit([[1, 0], [1, 0.01], [0.999, 0.0447]]),
        unit([[1, 0], [0.95, 0.05], [-0.95, -0.1]]),
        np.arange(3), np.arange(3),
    )  # fmt: skip
    similarity = far.images.astype(float) @ far.texts.T.astype(float)
    expected = similarity[:2, 2].max() / 0.01
    expected += np.log(np.exp(similarity[:2, 2] / 0.01 - expected).sum())
    assert full_sums(far, 0.01)[1][2] == pytest.approx(expected, abs=1e-3)


def test_own_captions_and_equal_ones_are_no_rivals():
    rows = np.eye(3, dtype=np.float32)
    rows[2] = unit([0.6, 0.7, 0.1])
    alone = score_pairs(Pairs(rows, rows, np.arange(3), np.arange(3)))
    near = unit([[0.0, 0.999, 0.01]])  # a second caption of image 1, as near as its first
    both = Pairs(rows, np.concatenate([rows, near]), np.array([0, 1, 2, 1]), np.arange(4))
    assert score_pairs(both).score[1] == pytest.approx(alone.score[1], abs=1e-6)
    repeated = Pairs(rows, rows, np.array([0, 1, 2, 1]), np.array([0, 1, 2, 1]))
    np.testing.assert_allclose(score_pairs(repeated).score[:3], alone.score, atol=1e-6)


def test_what_was_swapped_is_named():
    rng = np.random.default_rng(5)
    images = unit(rng.standard_normal((30, 24)))
    texts = unit(images + 0.1 * rng.standard_normal((30, 24)))
    text = np.arange(30)
    text[[3, 8]] = 8, 3
    for full in (True, False):
        found = score_pairs(Pairs(images, texts, np.arange(30), text), PairSettings(full=full))
        assert set(found.order[:2]) == {3, 8} == set(np.flatnonzero(~found.kept))
        assert found.better_text[[3, 8]].tolist() == [3, 8]
        assert found.better_image[[3, 8]].tolist() == [8, 3]
        assert (found.better_text_gain[[3, 8]] > 0).all()


def test_the_settings_change_the_result():
    pairs = world(2)
    first = score_pairs(pairs, PairSettings(full=False, k=1, temperature=0.1))
    wide = score_pairs(pairs, PairSettings(full=False, k=9, temperature=0.1))
    assert not np.allclose(first.score, wide.score)
    assert not np.allclose(score_pairs(pairs).score, wide.score)
    rows = unit(np.random.default_rng(0).standard_normal((20, 4)))
    noisy = unit(rows + 0.7 * np.random.default_rng(1).standard_normal((20, 4)))
    loose = Pairs(rows, noisy, np.arange(20), np.arange(20))
    kept = [score_pairs(loose, PairSettings(level=level)).kept.sum() for level in (0.05, 0.9)]
    assert kept[0] < kept[1]


def test_given_searches_are_used():
    pairs = world(3)
    asked = []

    def search(rows):
        def nearest(queries, k):
            asked.append(k)
            return exact_search(queries, rows, k)

        return nearest

    found = score_pairs(pairs, PairSettings(k=30), search(pairs.texts), search(pairs.images))
    assert asked
    np.testing.assert_allclose(found.score, score_pairs(pairs).score, atol=1e-6)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Pairs(unit(np.eye(2)), unit(np.eye(2))[:1], np.arange(2), np.zeros(2, int)),
         "2 different images and 1 different captions.*at least two pairs"),
        (lambda: Pairs(unit(np.eye(2)), unit(np.eye(2)), np.arange(2), np.array([0, 2])),
         "a row that is not there.*from 0 to 1"),
        (lambda: PairSettings(level=1), "level of 1"),
        (lambda: PairSettings(temperature=0), "temperature of 0"),
        (lambda: PairSettings(k=0), "k = 0"),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused(made, message):
    with pytest.raises(UsageError, match=message):
        made()


def test_known_answers_on_real_pairs(real_data):
    images = np.load(real_data / "coco-pairs/img_emb/img_emb_0.npy")
    texts = np.load(real_data / "coco-pairs/text_emb/text_emb_0.npy")
    precision = {True: [], False: []}
    wrong_kept, shares = [], []
    for seed in range(20):
        rows = np.random.RandomState(seed).choice(500, 25, replace=False)
        text = np.arange(500)
        text[rows] = np.roll(rows, 1)
        wrong = text != np.arange(500)
        for full, each in precision.items():
            pairs = Pairs(images, texts, np.arange(500), text)
            found = score_pairs(pairs, PairSettings(full=full), suggest=0)
            hit = wrong[found.order]
            each.append((np.cumsum(hit) / np.arange(1, 501))[hit].mean())
        wrong_kept.append(wrong[found.kept].mean())
        shares.append(found.random_share)
    assert 100 * np.mean(precision[True]) == pytest.approx(97.45, abs=0.02)
    assert 100 * np.mean(precision[False]) >= 97.4
    assert np.mean(wrong_kept) <= 0.004
    assert np.mean(shares) == pytest.approx(0.05, abs=0.005)
