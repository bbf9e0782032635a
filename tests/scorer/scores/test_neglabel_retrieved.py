"""NegLabel from the retrieved texts alone: its bounds, its estimate, and the full sum."""

import math

import numpy as np
import pytest
from blissaudit.scorer.scores.negatives import (
    fit_negatives,
    is_negative,
    log_normal_cdf,
    truncated_log_sums,
)
from blissaudit.scorer.scores.similarity import similarity
from helpers import small_worlds as small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import log_ndtr
from scipy.stats import norm

fitting_of, retrieve, run, unit, worlds = (
    small.fitting_of,
    small.retrieve,
    small.run,
    small.unit,
    small.worlds,
)


@settings(max_examples=25, deadline=None)
@given(world=worlds(), tau=st.sampled_from([0.01, 0.1]))
def test_with_every_text_retrieved_nothing_is_estimated(world, tau):
    fitting, images = world
    changed = {"tau": tau, "drop": 1, "keep": 0.6}
    # Texts that tie with the last negative count in the one and not in the other: none may.
    distinct = fitting_of(fitting.normals.prompts, np.unique(fitting.texts, axis=0))
    full = run("neglabel_one_group", distinct, images, **changed)
    found = run("neglabel_retrieved", distinct, images, k=len(distinct.texts), **changed)
    np.testing.assert_allclose(found, full, rtol=1e-4, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(world=worlds(), k=st.integers(1, 5))
def test_the_estimate_and_the_full_sum_lie_between_the_bounds(world, k):
    fitting, images = world
    negatives = fit_negatives(fitting, {"quantile": 0.95, "keep": 0.9, "drop": 1})
    retrieved = retrieve(images, fitting.texts, min(k, len(fitting.texts)))
    known = is_negative(negatives.mining, retrieved.vectors, fitting.normals.prompts)
    found = truncated_log_sums(images, retrieved, known, negatives, 0.05)
    full = similarity(images, fitting.texts[negatives.mining.meeting], 0.05).log_sum
    for inside in (full, found.estimate):
        assert (found.lowest <= inside + 1e-5).all()
        assert (inside <= found.highest + 1e-5).all()


def test_the_rest_is_the_mean_of_a_normal_law_cut_at_the_last_similarity():
    rng = np.random.default_rng(0)
    texts = unit(rng.standard_normal((400, 6)))
    fitting, images = fitting_of(texts[:2], texts), texts[10:13]
    negatives = fit_negatives(fitting, {"quantile": 0.95, "keep": 1, "drop": 1})
    retrieved = retrieve(images, texts, 7)
    tau = 0.2
    found = truncated_log_sums(
        images, retrieved, np.ones(len(retrieved.vectors), bool), negatives, tau
    )
    for i in range(3):
        r = texts.astype(float) @ images[i]
        mean, deviation, last = r.mean(), r.std(), np.sort(r)[-7]
        top, _ = quad(
            lambda v, m=mean, s=deviation: math.exp(v / tau) * norm.pdf(v, m, s), -6, last
        )
        rest = 393 * top / norm.cdf(last, mean, deviation)
        expected = math.log(np.exp(np.sort(r)[-7:] / tau).sum() + rest)
        assert found.estimate[i] == pytest.approx(expected, abs=1e-5)


def test_the_normal_law_far_out():
    values = np.array([-200.0, -31, -30, -29, -5, 0, 3, 50])
    np.testing.assert_allclose(log_normal_cdf(values), log_ndtr(values), rtol=1e-8, atol=1e-12)
