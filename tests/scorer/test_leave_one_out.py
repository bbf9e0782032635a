"""The closed form for leaving an image out against refitting without it."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.indexer.vectors.nearest import Hits
from blissaudit.scorer.bliss import bliss_matrices, bliss_scores, gather_texts
from blissaudit.scorer.leave_one_out import LeftOut, class_texts, left_out_statistics
from blissaudit.scorer.moments import ClassMoments, fit_moments, scatter_of
from blissaudit.scorer.reference import Reference
from helpers import bliss_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

D, K = 12, 3


def part_of(rows: np.ndarray, stored: str) -> ClassMoments:
    part = fit_moments("a", rows, np.zeros(len(rows), int)).parts[0]
    if stored == "centred":
        return ClassMoments(part.count, part.mean, rows.astype(np.float64) - part.mean, None)
    return ClassMoments(part.count, part.mean, None, scatter_of(part))


def texts_of(seed: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight texts, and K of them for each row."""
    rng = np.random.default_rng(seed)
    texts = oracle.unit_rows(rng.normal(size=(8, rows.shape[1])))
    return texts, rng.integers(0, 8, (len(rows), K))


def refitted(rows: np.ndarray, texts: np.ndarray, position: np.ndarray):
    mean, std = np.empty(position.shape), np.empty(position.shape)
    for i in range(len(rows)):
        for j in range(K):
            rest = list(np.delete(rows, i, axis=0))
            mean[i, j], std[i, j] = oracle.statistics(rest, texts[position[i, j]])
    return mean, std


def check(rows: np.ndarray, stored: str, spread_error: float = 0.0) -> None:
    """Every row left out in turn; `spread_error` is an absolute error of σ that is accepted."""
    texts, position = texts_of(len(rows), rows)
    mean, std = left_out_statistics(class_texts(part_of(rows, stored), texts), rows, position)
    expected_mean, expected_std = refitted(rows, texts, position)
    assert mean == pytest.approx(expected_mean, rel=1e-6, abs=1e-12)
    assert std == pytest.approx(expected_std, rel=1e-6, abs=max(1e-12, spread_error))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 30))
def test_closed_form_equals_refitting_centred_rows(seed, n):
    check(oracle.unit_rows(np.random.default_rng(seed).normal(size=(n, D))), "centred")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(5, 30))
def test_closed_form_equals_refitting_a_scatter(seed, n):
    # From five on; with three, chance can leave two images that a text hardly tells apart.
    check(oracle.unit_rows(np.random.default_rng(seed).normal(size=(n, D))), "scatter", 1e-9)


HARD = {
    "one far away": lambda rows: np.concatenate([rows[:1] + 1e-3 * rows[1:], -rows[:1]]),
    "one very far away": lambda rows: np.concatenate([rows[:1] + 1e-6 * rows[1:], -rows[:1]]),
    "copies": lambda rows: rows[[0, 0, 1, 1, 2, 3, 4]],
    "two in many copies": lambda rows: rows[[0, 1] * 4],
    "all identical but one": lambda rows: rows[[0, 0, 0, 0, 0, 1]],
    "all identical": lambda rows: rows[[0, 0, 0, 0]],
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("stored", ["centred", "scatter"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hard_classes(name, stored, seed):
    rows = np.random.default_rng(seed).normal(size=(7, D))
    rows = oracle.unit_rows(HARD[name](oracle.unit_rows(rows).astype(np.float64)))
    # A scatter keeps σ'² only to rounding of the σ² that x had its part in: 1e-16, so σ' to 1e-8.
    check(rows, stored, 1e-7 if stored == "scatter" else 0.0)


@pytest.mark.parametrize("name", ["one very far away", "all identical but one"])
def test_an_image_embedded_again_is_its_own_stored_row(name):
    # Another device or float16 on the way moves an image a little; its class stays as it was.
    rows = oracle.unit_rows(np.random.default_rng(3).normal(size=(6, D))).astype(np.float64)
    rows = oracle.unit_rows(HARD[name](rows))
    texts, position = texts_of(0, rows)
    again = rows + np.random.default_rng(4).normal(size=rows.shape) * 1e-5
    part = part_of(rows, "centred")
    mean, std = left_out_statistics(class_texts(part, texts), again[-1:], position[-1:])
    expected_mean, expected_std = refitted(rows, texts, position)
    assert mean == pytest.approx(expected_mean[-1:], rel=1e-6, abs=1e-12)
    assert std == pytest.approx(expected_std[-1:], rel=1e-6, abs=1e-12)


def small_world(seed: int, counts: list[int], stored: str | None = None):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = oracle.unit_rows(
        rng.normal(size=(len(counts), D))[labels] + rng.normal(size=(len(labels), D))
    )
    prompts = oracle.unit_rows(rng.normal(size=(len(counts), D)))
    texts = oracle.unit_rows(rng.normal(size=(20, D)))
    hits = oracle.brute_force(rows, texts, K)
    reference = Reference(fit_moments("abcd"[: len(counts)], rows, labels), prompts)
    retrieved = gather_texts(Hits(*hits), texts)
    return rows, labels, reference, retrieved


@pytest.mark.parametrize("counts", [[3, 4, 30], [12, 13, 14, 3]])
def test_scores_equal_those_of_a_reference_without_the_image(counts):
    rows, labels, reference, retrieved = small_world(0, counts)
    everyone = LeftOut(np.arange(len(rows)), labels)
    found = bliss_matrices(rows, retrieved, reference, left_out=everyone)
    for i in range(len(rows)):
        used = np.arange(len(rows)) != i
        moments = fit_moments(reference.classes, rows[used], labels[used])
        without = bliss_matrices(rows, retrieved, Reference(moments, reference.prompt_vectors))
        for name in ("ics", "ets", "total"):
            expected = getattr(without, name)[i]
            error = np.abs(getattr(found, name)[i] - expected) / np.maximum(1, np.abs(expected))
            # ICS and everything left out is float64; the rest went through float32.
            assert error.max() < (1e-6 if name == "ics" else 1e-5)


def test_an_image_left_out_of_several_classes():
    rows, labels, reference, retrieved = small_world(1, [6, 5, 20])
    # Image 0 of class 0 is also filed under class 2, whose reference it joins; pairs unordered.
    both, filed = np.concatenate([rows, rows[:1]]), np.append(labels, 2)
    reference = Reference(fit_moments("abc", both, filed), reference.prompt_vectors)
    left_out = LeftOut(np.array([7, 0, 0]), np.array([1, 2, 0]))
    found = bliss_matrices(rows, retrieved, reference, left_out=left_out)
    plain = bliss_matrices(rows, retrieved, reference)
    bare = Reference(fit_moments("abc", rows[1:], labels[1:]), reference.prompt_vectors)
    expected = bliss_matrices(rows, retrieved, bare)
    assert found.total[0] == pytest.approx(expected.total[0], rel=1e-5)
    changed = np.argwhere(found.total != plain.total)
    assert changed.tolist() == [[0, 0], [0, 2], [7, 1]]


def test_leaving_out_changes_the_score():
    rows, labels, reference, retrieved = small_world(2, [4, 5])
    left_out = LeftOut(np.arange(len(rows)), labels)
    plain = bliss_scores(rows, retrieved, reference, given=labels)
    found = bliss_scores(rows, retrieved, reference, given=labels, left_out=left_out)
    assert np.all(found.given_ics != plain.given_ics)
    assert np.all(found.given_ets != plain.given_ets)
    # x's own pull on its class hides it: without it, x is never better placed than with it.
    own = np.abs(found.given_ics) - np.abs(plain.given_ics)
    assert own.min() > 0


@pytest.mark.parametrize("score", [bliss_scores, bliss_matrices])
def test_a_class_of_two_images_cannot_lose_one(score):
    rows, labels, reference, retrieved = small_world(3, [4, 2])
    left_out = LeftOut(np.array([len(rows) - 1]), np.array([1]))
    with pytest.raises(BlissError, match=r"class 'b' has 2 reference images\. Needed: at least 3"):
        score(rows, retrieved, reference, left_out=left_out)
    # Where no image of that class is left out, two are enough.
    others = LeftOut(np.array([0]), np.array([0]))
    assert score(rows, retrieved, reference, left_out=others).ics.shape[0] == len(labels)
