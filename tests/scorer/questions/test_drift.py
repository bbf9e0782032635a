"""What is new: exact counts against enumeration, ties, classes, and the known power."""

import itertools

import numpy as np
import pytest
from blissaudit import UsageError, exact_search, gather_texts
from blissaudit.scorer.questions.drift import (
    count_captions,
    hypergeometric,
    images_needed,
    largest_captions,
    shifted_shares,
    smallest_p,
)
from helpers.small_worlds import unit
from scipy.stats import hypergeom


def test_the_hypergeometric_distribution_is_scipys():
    for count, marked, drawn in ((50, 12, 20), (9, 9, 4), (7, 0, 3), (30, 25, 28)):
        expected = hypergeom.pmf(np.arange(marked + 1), count, marked, drawn)
        np.testing.assert_allclose(hypergeometric(count, marked, drawn), expected, atol=1e-12)


def enumerated(captions, is_new, groups, least):
    """p_gained and p_lost of each caption, and of all, over every membership there is."""
    n = len(captions)
    texts = np.unique(captions)
    has = np.array([[c in row for row in captions] for c in texts])
    every = []
    for chosen in itertools.combinations(range(n), int(is_new.sum())):
        new = np.isin(np.arange(n), chosen)
        if all((new & (groups == g)).sum() == (is_new & (groups == g)).sum() for g in set(groups)):
            every.append((has & new).sum(axis=1))
    counts, own = np.array(every), (has & is_new).sum(axis=1)
    gained, lost = (counts >= own).mean(axis=0), (counts <= own).mean(axis=0)
    two = np.array(
        [np.minimum((counts >= row).mean(axis=0), (counts <= row).mean(axis=0)) for row in counts]
    )
    tested = has.sum(axis=1) >= least
    smallest = np.minimum(gained, lost)[tested].min()
    return gained, lost, (two[:, tested].min(axis=1) <= smallest + 1e-12).mean()


@pytest.mark.parametrize("grouped", [False, True])
def test_p_values_are_those_of_every_membership(grouped):
    rng = np.random.default_rng(1)
    captions = np.array([rng.choice(6, 2, replace=False) for _ in range(11)])
    is_new = np.arange(11) >= 6
    groups = np.arange(11) % 3 if grouped else np.zeros(11, int)
    gained, lost, p = enumerated(captions, is_new, groups, 3)
    found = count_captions(captions, is_new, groups if grouped else None, 4000, least=3)
    np.testing.assert_allclose(found.p_gained, gained, atol=1e-9)
    np.testing.assert_allclose(found.p_lost, lost, atol=1e-9)
    assert found.p == pytest.approx(p, abs=0.03)
    assert ((found.old + found.new >= 3) == found.tested).all()
    assert (np.isnan(found.q) == ~found.tested).all()


def test_what_was_planted_gains_and_the_other_way_round():
    rng = np.random.default_rng(2)
    captions = np.array([rng.choice(40, 3, replace=False) for _ in range(80)])
    captions[60:72, 0] = 99
    found = count_captions(captions, np.arange(80) >= 40, permutations=99)
    assert found.text[found.order(gained=True)[0]] == 99
    assert found.p == 0.01
    back = count_captions(captions, np.arange(80) < 40, permutations=99)
    assert back.text[back.order(gained=False)[0]] == 99
    np.testing.assert_allclose(found.two_sided, back.two_sided)
    again = count_captions(captions, np.arange(80) >= 40, permutations=99)
    np.testing.assert_array_equal(found.q, again.q)
    other = count_captions(captions, np.arange(80) >= 40, permutations=49, least=30)
    assert not other.tested.any()
    assert other.p == 1.0


def test_a_shifted_class_is_no_new_caption_within_classes():
    groups = np.repeat([0, 1], [50, 50])
    captions = np.where(groups == 0, 7, 8)[:, None]  # every image of a class has its caption
    is_new = np.concatenate([np.arange(50) >= 40, np.arange(50) >= 10])
    assert count_captions(captions, is_new, permutations=99).p == 0.01
    within = count_captions(captions, is_new, groups, permutations=99)
    assert within.p == 1.0
    assert within.expected.tolist() == [10, 40]
    shares = shifted_shares(groups, is_new)
    assert (shares.q < 1e-6).all()
    assert shares.new.tolist() == [10, 40]


def test_so_few_images_reach_only_so_much():
    assert smallest_p(1000, 100, 3) == pytest.approx(
        hypergeom.pmf(3, 1100, 3, 100), rel=1e-9
    ) and images_needed(1000, 100, 1e-4) == 4  # fmt: skip
    assert images_needed(1000, 2, 1e-9) is None
    assert np.isnan(smallest_p(10, 2, 3))


def test_captions_do_not_change_when_images_change_sides():
    rng = np.random.default_rng(3)
    images, texts = unit(rng.standard_normal((30, 8))), unit(rng.standard_normal((50, 8)))
    hits = exact_search(images, texts, 10)
    rows, z = largest_captions(images, gather_texts(hits, texts))
    mean, spread = images.astype(float) @ texts.T.astype(float), None
    spread = mean.std(axis=0)
    expected = (mean - mean.mean(axis=0)) / spread
    for i in range(30):
        near = sorted(hits.rows[i], key=lambda t: -expected[i, t])[:5]
        assert rows[i].tolist() == near
        np.testing.assert_allclose(z[i], expected[i, near], atol=1e-4)


def test_one_empty_set_is_refused():
    with pytest.raises(UsageError, match=r"3 old and 0 new images.*at least one of each"):
        count_captions(np.zeros((3, 1), int), np.zeros(3, bool))
