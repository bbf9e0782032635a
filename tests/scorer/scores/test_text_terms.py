"""Sums over all texts in one pass, against plain float64 sums and against each score alone."""

from dataclasses import replace

import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.indexer.vectors.nearest import (
    exact_search,
)
from blissaudit.scorer.scores import text_terms as module
from blissaudit.scorer.scores import text_terms as text_sums
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.scorer.scores.text_terms import (
    MAXIMUM,
    TextSum,
    TextTerm,
    WithTerms,
    search_with_terms,
    text_terms,
)
from hypothesis import given, settings
from hypothesis import strategies as st

MANY = 6000
OVER_TEXTS = ("csp", "debiased_negatives", "eoe", "neglabel", "neglabel_one_group")


def unit(rows):
    rows = np.asarray(rows, float)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def like_clip(rng, count, d=32):
    """Rows that share a large part, as the embeddings of one modality do."""
    return unit(rng.standard_normal((count, d)) / np.sqrt(d) + 0.8 * np.eye(d)[0])


def raw(texts, asked):
    """A term that hands back the log-sum of its only group."""
    return TextTerm(texts, (asked,), lambda images, found: found[0])


def plain(images, texts, tau):
    cosines = images.astype(float) @ texts.T.astype(float)
    if tau == MAXIMUM:
        return cosines.max(axis=1)
    top = cosines.max(axis=1, keepdims=True)
    return top[:, 0] / tau + np.log(np.exp((cosines - top) / tau).sum(axis=1))


def fitting_of(rng, texts):
    images, labels = np.zeros((0, texts.shape[1]), np.float32), np.zeros(0, np.int64)
    return Fitting(Normals(("ant", "bee"), like_clip(rng, 2), images, labels), texts)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(text_sums, "IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(text_sums, "TEXTS_AT_ONCE", 4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    tau=st.sampled_from([MAXIMUM, 0.003, 0.01, 0.2, 1.0]),
    many=st.booleans(),
)
def test_each_group_equals_its_plain_sum(seed, tau, many):
    rng = np.random.default_rng(seed)
    count = MANY if many else 50
    texts, images = like_clip(rng, count), like_clip(rng, 5)
    rows = rng.permutation(count)[: 3 * (count // 4)].reshape(3, -1)
    groups = rows if tau else rows[:1]
    for g, members in enumerate(groups):
        term = TextTerm(texts, (TextSum(groups, tau),), lambda x, found, g=g: found[g])
        found, expected = text_terms([term], images)[0], plain(images, texts[members], tau)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 if many else 1e-10)


def test_float32_is_left_to_many_texts_and_ordinary_temperatures():
    rng = np.random.default_rng(0)
    texts, images = like_clip(rng, MANY), like_clip(rng, 4)
    every = np.arange(MANY)[None]
    gap = {
        (len(rows[0]), tau): np.abs(
            text_terms([raw(texts, TextSum(rows, tau))], images)[0]
            - plain(images, texts[rows[0]], tau)
        ).max()
        for rows, tau in [(every, 0.01), (every, 0.004), (every[:, :4096], 0.01)]
    }
    assert 1e-9 < gap[MANY, 0.01] < 1e-5
    assert gap[MANY, 0.004] < 1e-11
    assert gap[4096, 0.01] < 1e-11


@pytest.mark.parametrize("tau", [0.01, 0.0005])
def test_a_group_far_below_the_rest_keeps_its_sum(tau):
    texts = unit([[1, 0.1], [-1, 0.1], [-1, 0.2], *[[1, 0.001 * i] for i in range(MANY)]])
    images = unit([[1, 0], [0.3, 1]])
    near, far = TextSum(np.arange(3, MANY + 3)[None], tau), TextSum(np.array([[1, 2]]), tau)
    found = text_terms([raw(texts, near), raw(texts, far)], images)
    np.testing.assert_allclose(found[1], plain(images, texts[1:3], tau), rtol=1e-6)
    np.testing.assert_allclose(found[0], plain(images, texts[3:], tau), rtol=1e-5)


@pytest.mark.parametrize("count", [40, MANY])
def test_scores_in_one_pass_are_what_each_is_alone(count):
    rng = np.random.default_rng(1)
    fitting, images = fitting_of(rng, like_clip(rng, count)), like_clip(rng, 7)
    fitted = {name: fit_score(SCORES[name], fitting) for name in OVER_TEXTS}
    other = fit_score(SCORES["neglabel"], fitting, tau=0.02, keep=0.5, seed=3)
    every = [*fitted.values(), other, fit_score(SCORES["mcm"], fitting)]
    query = search_with_terms(images, fitting.texts, 5, every)
    assert set(query.terms) == {*fitted.values(), other}
    for score in (*fitted.values(), other):
        np.testing.assert_allclose(score(query), score(Query(images)), rtol=1e-6)


def test_bliss_plus_takes_its_sum_from_the_pass():
    rng = np.random.default_rng(6)
    fitting, images = fitting_of(rng, like_clip(rng, MANY)), like_clip(rng, 7)
    normals = fitting.normals
    labels = np.arange(30) % len(normals.classes)
    members = unit(normals.prompts[labels] + 0.05 * rng.normal(size=(30, images.shape[1])))
    normals = replace(normals, images=members, labels=labels)
    fitted = fit_score(SCORES["bliss+"], replace(fitting, normals=normals))
    shared = search_with_terms(images, fitting.texts, 5, [fitted])
    assert set(shared.terms) == set(fitted.terms)
    np.testing.assert_allclose(
        fitted(shared), fitted(replace(shared, terms={})), rtol=1e-6, atol=1e-6
    )
    changed = {term: values + 1 for term, values in shared.terms.items()}
    assert np.abs(fitted(replace(shared, terms=changed)) - fitted(shared)).min() > 1e-3


def test_one_pass_makes_one_product(monkeypatch):
    rng = np.random.default_rng(2)
    fitting, images = fitting_of(rng, like_clip(rng, 40)), like_clip(rng, 7)
    fitted = [fit_score(SCORES[name], fitting) for name in OVER_TEXTS]
    passes = []
    real = module.log_sums
    monkeypatch.setattr(
        module,
        "log_sums",
        lambda x, work, *more: passes.append(len(work.sums)) or real(x, work, *more),
    )
    query = search_with_terms(images, fitting.texts, 5, fitted)
    for score in fitted:
        score(query)
    # csp asks for the same sum as neglabel; eoe for two.
    assert passes == [5]


def test_blocks_change_nothing(small_blocks):
    rng = np.random.default_rng(3)
    texts, images = like_clip(rng, 30), like_clip(rng, 8)
    rows = rng.permutation(30)[:20].reshape(2, 10)
    first, second = TextSum(rows[:1], 0.01), TextSum(rows[1:], MAXIMUM)
    found = text_terms([raw(texts, first), raw(texts, second)], images)
    np.testing.assert_allclose(found[0], plain(images, texts[rows[0]], 0.01), rtol=1e-12)
    np.testing.assert_allclose(found[1], plain(images, texts[rows[1]], MAXIMUM), rtol=1e-12)


def test_a_score_with_other_evidence_shares_its_terms_too():
    rng = np.random.default_rng(4)
    texts, images = like_clip(rng, 30), like_clip(rng, 8)
    term = raw(texts, TextSum(np.arange(30)[None], 0.01))
    fitted = WithTerms(lambda query: 2 * term(query), (term,))
    query = search_with_terms(images, texts, 5, [fitted])
    np.testing.assert_array_equal(query.terms[term], term(Query(images)))
    np.testing.assert_array_equal(fitted(query), 2 * query.terms[term])
    assert fitted(Query(images, terms={term: np.ones(8)})).tolist() == [2.0] * 8


def test_texts_of_two_corpora_are_not_mixed():
    rng = np.random.default_rng(5)
    images, one, other = like_clip(rng, 3), like_clip(rng, 10), like_clip(rng, 10)
    asked = TextSum(np.arange(10)[None], 0.1)
    terms = raw(one, asked), raw(other, asked)
    query = Query(images, terms={terms[0]: np.zeros(3)})
    assert terms[0](query).tolist() == [0.0] * 3
    np.testing.assert_allclose(terms[1](query), plain(images, other, 0.1), rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 12),
    count=st.sampled_from([12, 40, 5000]),
    twice=st.booleans(),
)
def test_the_search_of_the_pass_is_the_search_alone(seed, k, count, twice):
    rng = np.random.default_rng(seed)
    texts, images = like_clip(rng, count), like_clip(rng, 6)
    if twice:
        texts = np.concatenate([texts[: count // 2]] * 2)
    term = raw(texts, TextSum(np.arange(3)[None], 0.1))
    for asking in ([], [term]):
        query = search_with_terms(images, texts, k, asking)
        alone = exact_search(images, texts, k)
        assert np.array_equal(query.retrieved.rows, alone.rows)
        assert np.array_equal(query.retrieved.similarity, alone.similarity)
        assert np.array_equal(query.retrieved.vectors[query.retrieved.position], texts[alone.rows])
        assert set(query.terms) == set(asking)
    np.testing.assert_allclose(query.terms[term], plain(images, texts[:3], 0.1), rtol=1e-6)


def test_the_search_of_the_pass_refuses_a_k_beyond_the_texts():
    rng = np.random.default_rng(6)
    with pytest.raises(UsageError, match="k = 9 was asked of an index of M = 8 texts"):
        search_with_terms(like_clip(rng, 2), like_clip(rng, 8), 9, [])


@pytest.mark.parametrize("count", [40, MANY])
@pytest.mark.parametrize("tau", [0.01, 0.0005])
def test_texts_count_by_their_weights(count, tau):
    rng = np.random.default_rng(7)
    texts, images = like_clip(rng, count), like_clip(rng, 5)
    weights = rng.uniform(0, 1, count) * (rng.uniform(0, 1, count) > 0.3)
    every = np.arange(count)[None]
    found = text_terms(
        [raw(texts, TextSum(every, tau, weights)), raw(texts, TextSum(every, tau))], images
    )
    logits = images.astype(float) @ texts.T.astype(float) / tau
    top = logits.max(axis=1, keepdims=True)
    expected = top[:, 0] + np.log((weights * np.exp(logits - top)).sum(axis=1))
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    np.testing.assert_allclose(found[1], plain(images, texts, tau), rtol=1e-6)


def test_weighted_sums_far_below_the_rest_are_kept_and_none_is_minus_infinity():
    texts = unit([[1, 0.1], [-1, 0.1], [-1, 0.2]])
    images = unit([[1, 0], [0.3, 1]])
    weights = np.array([0.0, 0.5, 2.0])
    asked = [
        TextSum(np.arange(3)[None], 0.0005, weights),
        TextSum(np.arange(3)[None], 1.0, 0 * weights),
    ]
    kept, none = text_terms([raw(texts, one) for one in asked], images)
    logits = images.astype(float) @ texts[1:].T.astype(float) / 0.0005 + np.log(weights[1:])
    np.testing.assert_allclose(kept, np.logaddexp(*logits.T), rtol=1e-9)
    assert none.tolist() == [-np.inf] * 2
