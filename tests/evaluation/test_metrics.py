"""Metrics by hand, against pairwise float64 counting, with ties, and intervals."""

import math

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.evaluation.metrics import (
    METRICS,
    all_metrics,
    aupr_in,
    aupr_out,
    auroc,
    fpr95_id,
    fpr95_ood,
    mean_interval,
    paired_interval,
    precision_recall_at,
    realised_fdp,
)


def bools(text):
    return np.array([letter == "a" for letter in text])


def pairwise_auroc(scores, anomalous):
    a, n = scores[anomalous][:, None], scores[~anomalous][None]
    return float((a > n).mean() + 0.5 * (a == n).mean())


def threshold_counts(scores, anomalous):
    """(threshold, share of normals at or above, share of anomalies at or above), all of them."""
    return [
        (t, (scores[~anomalous] >= t).mean(), (scores[anomalous] >= t).mean())
        for t in np.unique(scores)
    ]


def swept_precision(scores, positive):
    total, before = 0.0, 0.0
    for t in np.unique(scores)[::-1]:
        recall = positive[scores >= t].sum() / positive.sum()
        total += (recall - before) * positive[scores >= t].mean()
        before = recall
    return float(total)


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([1, 2, 3, 4], "nnaa", 1.0),
        ([4, 3, 2, 1], "nnaa", 0.0),
        ([5, 5, 5, 5], "nana", 0.5),
        ([1, 2, 2, 3], "nnaa", 0.875),
        ([1, 3, 2, 4], "nnaa", 0.75),
    ],
)
def test_auroc_by_hand(scores, truth, expected):
    assert auroc(np.array(scores, float), bools(truth)) == expected


def test_the_two_fpr95_are_different_questions():
    # 20 normals 1..20 and anomalies 19, 25, 26, 27: 95 % of 20 normals are 19, accepted up to 19.
    scores = np.array([*range(1, 21), 19, 25, 26, 27], float)
    truth = bools("n" * 20 + "aaaa")
    assert fpr95_id(scores, truth) == 1 / 4
    # 95 % of 4 anomalies are all 4: the threshold is 19, which flags normals 19 and 20.
    assert fpr95_ood(scores, truth) == 2 / 20


def test_average_precisions_by_hand():
    scores, truth = np.array([4.0, 3, 2, 1]), bools("anan")
    assert aupr_out(scores, truth) == pytest.approx((1 + 2 / 3) / 2)
    assert aupr_in(scores, truth) == pytest.approx((1 + 2 / 3) / 2)
    # All equal: precision is the ratio, whatever the order.
    assert aupr_out(np.ones(8), bools("annnnnna")) == 0.25
    assert aupr_in(np.ones(8), bools("annnnnna")) == 0.75


def test_precision_at_the_planted_count_by_hand():
    scores = np.array([9.0, 8, 7, 1, 1, 1])
    assert precision_recall_at(scores, bools("aannna")) == (2 / 3, 2 / 3)
    assert precision_recall_at(scores, bools("aannna"), 1) == (1.0, 1 / 3)
    # Five wanted: of the three that share score 1, two are taken; one of the three is anomalous.
    precision, recall = precision_recall_at(scores, bools("aannna"), 5)
    assert precision == pytest.approx((2 + 2 / 3) / 5)
    assert recall == pytest.approx((2 + 2 / 3) / 3)
    assert precision_recall_at(scores, bools("aannna"), 6) == (1 / 2, 1.0)
    for count in (0, 7):
        with pytest.raises(UsageError, match=f"precision at {count} of 6"):
            precision_recall_at(scores, bools("aannna"), count)


def test_realised_fdp():
    truth = bools("aannn")
    assert realised_fdp(np.array([True, True, True, False, False]), truth) == 1 / 3
    assert realised_fdp(np.zeros(5, bool), truth) == 0


@pytest.mark.parametrize("levels", [3, 12, 10_000])
def test_against_counting_every_pair_and_threshold(levels):
    rng = np.random.default_rng(levels)
    for size in (5, 40, 333):
        scores = rng.integers(levels, size=size) / 7
        truth = rng.random(size) < 0.3
        truth[:2] = True, False
        assert auroc(scores, truth) == pytest.approx(pairwise_auroc(scores, truth), abs=1e-12)
        swept = threshold_counts(scores, truth)
        caught = min(normal for _, normal, hit in swept if hit >= 0.95 - 1e-12)
        assert fpr95_ood(scores, truth) == pytest.approx(caught)
        turned = threshold_counts(-scores, truth)
        accepted = min(anomaly for _, normal, anomaly in turned if normal >= 0.95 - 1e-12)
        assert fpr95_id(scores, truth) == pytest.approx(accepted)
        assert aupr_out(scores, truth) == pytest.approx(swept_precision(scores, truth))
        assert aupr_in(scores, truth) == pytest.approx(swept_precision(-scores, ~truth))


def test_order_never_matters_and_every_metric_is_there():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(4, size=50).astype(float), rng.random(50) < 0.5
    order = rng.permutation(50)
    np.testing.assert_allclose(
        all_metrics(scores, truth), all_metrics(scores[order], truth[order]), rtol=1e-12
    )
    named = dict(zip(METRICS, all_metrics(scores, truth), strict=True))
    assert named["auroc"] == auroc(scores, truth)
    assert named["precision"] == pytest.approx(named["recall"])
    assert named["fdp"] == pytest.approx(1 - named["precision"])


@pytest.mark.parametrize(
    ("scores", "truth", "match"),
    [
        ([1.0, 2], "aa", "2 of 2 test images are anomalous"),
        ([1.0, 2], "nn", "0 of 2 test images are anomalous"),
        ([1.0, math.nan], "an", "1 of 2 scores are not finite"),
        ([1.0, 2, 3], "an", r"shape \(3,\) came with truth of shape \(2,\)"),
    ],
)
def test_what_cannot_be_measured(scores, truth, match):
    with pytest.raises(BlissError, match=match):
        auroc(np.array(scores), bools(truth))


def test_a_paired_interval_is_narrower_than_two_apart():
    rng = np.random.default_rng(1)
    hard = rng.normal(0.9, 0.05, 20)
    base, better = hard, hard + rng.normal(0.01, 0.001, 20)
    gain = paired_interval(better, base)
    assert gain.low < gain.mean < gain.high
    assert 0.009 < gain.low and gain.high < 0.011
    assert mean_interval(better).high - mean_interval(better).low > 10 * (gain.high - gain.low)
    assert paired_interval(better, base) == gain
    # The bootstrap spread of a mean is its standard error: within 15 % for 20 draws.
    width = (mean_interval(hard).high - mean_interval(hard).low) / (2 * 1.96)
    assert width == pytest.approx(hard.std() / math.sqrt(20), rel=0.15)


def test_one_draw_has_no_interval_and_unequal_draws_no_difference():
    found = mean_interval(np.array([0.5]))
    assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.high)
    with pytest.raises(BlissError, match="3 draws were to be compared with 2"):
        paired_interval(np.zeros(3), np.zeros(2))
