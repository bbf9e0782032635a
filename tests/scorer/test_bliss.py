"""BLISS scores and all their parts against loops written from the formula."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.vectors.nearest import Hits, exact_search
from blissaudit.scorer import bliss as class_blocks
from blissaudit.scorer.bliss import bliss_matrices, bliss_scores, filed_terms, gather_texts
from blissaudit.scorer.leave_one_out import NOTHING_LEFT_OUT, LeftOut
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.questions.explain import class_terms
from blissaudit.scorer.reference import Reference
from blissaudit.scorer.statistics import VariancePrior
from helpers import bliss_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class World:
    """Reference images, prompts, texts and scored images, the last of them reference images."""

    reference_images: np.ndarray
    labels: np.ndarray
    prompts: np.ndarray
    texts: np.ndarray
    images: np.ndarray
    left_out: LeftOut
    given: np.ndarray

    @property
    def reference(self) -> Reference:
        names = [f"class {number}" for number in range(len(self.prompts))]
        return Reference(fit_moments(names, self.reference_images, self.labels), self.prompts)


def make_world(seed: int, counts: list[int], d: int, texts: int) -> World:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    rng.shuffle(labels)
    centres = rng.normal(size=(len(counts), d))
    reference = oracle.unit_rows(centres[labels] + 0.7 * rng.normal(size=(len(labels), d)))
    for number, count in enumerate(counts):
        if count >= 4:  # a copy among the references of a class
            first, second = np.flatnonzero(labels == number)[:2]
            reference[second] = reference[first]
    prompts = oracle.unit_rows(centres + rng.normal(size=centres.shape))
    corpus = oracle.unit_rows(rng.normal(size=(texts, d)))
    corpus[0] = prompts[0]
    corpus[-1] = corpus[texts // 2]
    strangers = oracle.unit_rows(rng.normal(size=(4, d)))
    members = [i for i in range(len(labels)) if counts[labels[i]] >= 3][:6]
    images = np.concatenate([strangers, reference[members]])
    left_out = LeftOut(4 + np.arange(len(members)), labels[members])
    filed = rng.integers(-1, len(counts), len(images))
    filed[4:] = labels[members]
    return World(reference, labels, prompts, corpus, images, left_out, filed)


def close(found, expected, tolerance=1e-5):
    assert np.shape(found) == np.shape(expected)
    expected = np.asarray(expected)
    error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    assert np.nanmax(error, initial=0) <= tolerance
    assert np.array_equal(np.isnan(found), np.isnan(expected))


def check_world(world: World, hits, left_out: LeftOut, weight: float) -> None:
    """Every number of `bliss_matrices` and `bliss_scores` against the oracle's."""
    similarity, rows = hits
    retrieved = gather_texts(Hits(similarity, rows), world.texts)
    reference = world.reference
    classes = [
        oracle.class_rows(world.reference_images, world.labels, number)
        for number in range(len(world.prompts))
    ]
    pairs = set(zip(left_out.images.tolist(), left_out.classes.tolist(), strict=True))
    ics, pull = oracle.terms(world.images, hits, world.texts, classes, world.prompts, pairs)
    ets = pull.mean(axis=2)
    total = ics + weight * ets

    matrices = bliss_matrices(world.images, retrieved, reference, weight, left_out)
    close(matrices.ics, ics)
    close(matrices.ets, ets)
    close(matrices.total, total)

    kept = bliss_scores(world.images, retrieved, reference, weight, world.given, left_out)
    here, best = np.arange(len(world.images)), min(3, len(classes))
    # Which class is best may differ where two totals differ by rounding only; its number may not.
    close(kept.score, total.min(axis=1))
    close(kept.best_scores, np.sort(total, axis=1)[:, :best])
    close(np.take_along_axis(total, kept.best_classes, axis=1), kept.best_scores)
    assert all(len(set(row)) == best for row in kept.best_classes.tolist())
    assert np.array_equal(kept.nearest, kept.best_classes[:, 0])
    assert np.array_equal(kept.score, kept.best_scores[:, 0])
    close(kept.ics, ics[here, kept.nearest])
    close(kept.ets, ets[here, kept.nearest])
    close(kept.pull, pull[here, kept.nearest])
    filed = world.given >= 0
    own = np.where(filed, world.given, kept.nearest)
    close(kept.given_pull, pull[here, own])
    close(kept.given_ics, np.where(filed, ics[here, world.given], np.nan))
    close(kept.given_ets, np.where(filed, ets[here, world.given], np.nan))

    explained = class_terms(world.images, retrieved, reference, kept.nearest, left_out)
    label = np.arange(explained.mean.shape[1]) == 0
    parts = [label, ~label, True]
    linear = [
        (explained.directions(weight, part) * world.images).sum(1)
        + explained.constants(weight, part)
        for part in parts
    ]
    for found, expected in zip(linear, (kept.ics, weight * kept.ets, kept.score), strict=True):
        close(found, expected, 1e-4)
    pulls = np.column_stack([-kept.ics, kept.pull])
    close(explained.standardised(world.images), pulls, 1e-4)


WORLDS = st.builds(
    make_world,
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(2, 30), min_size=1, max_size=6),
    d=st.integers(3, 24),
    texts=st.just(16),
)


@settings(max_examples=60, deadline=None)
@given(
    world=WORLDS,
    k=st.integers(1, 12),
    weight=st.sampled_from([0.0, 0.5, 3.0]),
    entries=st.tuples(st.sampled_from([1, 40, 4_000_000]), st.sampled_from([1, 7, 500_000])),
    leave_out=st.booleans(),
)
def test_every_number_equals_the_oracle(world, k, weight, entries, leave_out):
    hits = oracle.brute_force(world.images, world.texts, k)
    with (
        patch.object(class_blocks, "TABLE_ENTRIES", entries[0]),
        patch.object(class_blocks, "PULL_ENTRIES", entries[1]),
    ):
        check_world(world, hits, world.left_out if leave_out else NOTHING_LEFT_OUT, weight)


@pytest.mark.parametrize("leave_out", [False, True])
def test_real_embeddings_equal_the_oracle(leave_out):
    real_data = oracle.real_data()
    reference, labels = oracle.caltech(real_data, "val")
    _, labels = np.unique(labels, return_inverse=True)
    test, _ = oracle.caltech(real_data, "test")
    texts = oracle.real_texts(real_data)
    members = np.arange(0, len(labels), 400)
    images = np.concatenate([test[::600], reference[members]])
    numbers = np.arange(len(images) - len(members), len(images))
    filed = np.full(len(images), -1)
    filed[numbers] = labels[members]
    left_out = LeftOut(numbers, labels[members]) if leave_out else NOTHING_LEFT_OUT
    prompts = texts[1000 : 1000 + labels.max() + 1]
    world = World(reference, labels, prompts, texts[:1000], images, left_out, filed)
    similarity = images.astype(np.float64) @ world.texts.T.astype(np.float64)
    rows = np.argsort(-similarity, axis=1)[:, :10]
    hits = np.take_along_axis(similarity, rows, axis=1).astype(np.float32), rows
    check_world(world, hits, left_out, 0.5)


@pytest.mark.parametrize("table_entries", [1, 2, 4, 6, 4_000_000])
@pytest.mark.parametrize("chunk_entries", [1, 4, 500_000])
def test_equal_totals_go_to_the_lower_class(table_entries, chunk_entries, monkeypatch):
    # Axis rows keep every sum exact, so classes 1 and 4, and 0 and 3, tie bit for bit.
    monkeypatch.setattr(class_blocks, "TABLE_ENTRIES", table_entries)
    monkeypatch.setattr(class_blocks, "PULL_ENTRIES", chunk_entries)
    axes = np.eye(4, dtype=np.float32)
    kinds = {"x": axes[[0, 1]], "y": axes[[1, 2]]}
    order = ["x", "y", "x", "x", "y"]
    reference = Reference(
        fit_moments("abcde", np.concatenate([kinds[name] for name in order]), np.arange(10) // 2),
        np.stack([kinds[name][0] for name in order]),
    )
    hits = Hits(np.array([[1.0], [1.0]], np.float32), np.array([[0], [1]]))
    retrieved = gather_texts(hits, axes[[1, 0]])
    kept = bliss_scores(axes[[1, 0]], retrieved, reference, 0.5, np.array([4, -1]))
    # Image y = axis 1 with text axis 1. Class y: prompt mean 1/2, std 1/2, so ICS -1 and ETS +1;
    # class x: cosine 0, so ICS +1 and ETS +1. Image axis 0 with text axis 0. Class x: ICS -1 and
    # ETS +1; class y: cosine 0 to prompt axis 1, ICS +1, and text of mean and std 0, ETS 1e8.
    assert kept.best_classes.tolist() == [[1, 4, 0], [0, 2, 3]]
    assert kept.best_scores[0] == pytest.approx([-0.5, -0.5, 1.5], abs=1e-6)
    assert kept.best_scores[1] == pytest.approx([-0.5, -0.5, -0.5], abs=1e-6)
    assert kept.given_ics == pytest.approx([-1, np.nan], abs=1e-6, nan_ok=True)
    assert kept.given_ets == pytest.approx([1, np.nan], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("table_entries", [1, 4_000_000])
def test_all_parts_are_those_of_the_lower_of_two_equal_classes(table_entries, monkeypatch):
    # Both classes: spread 1/2 along either text, ICS 0. The image is 1/2 above the first's mean
    # similarity to one text and 1/2 below for the other: pulls +1 and -1; the second's: -1 and +1.
    monkeypatch.setattr(class_blocks, "TABLE_ENTRIES", table_entries)
    apart = np.array([[0.5, 0.5, 0], [-0.5, -0.5, 0]])
    rows = np.concatenate([apart + [0, 1, 0], apart + [1, 0, 0]])
    reference = Reference(fit_moments("pq", rows, np.array([0, 0, 1, 1])), np.eye(3)[[2, 2]])
    hits = Hits(np.array([[0.5, 0.5]], np.float32), np.array([[0, 1]]))
    retrieved = gather_texts(hits, np.eye(3, dtype=np.float32))
    kept = bliss_scores(np.array([[0.5, 0.5, 0]], np.float32), retrieved, reference)
    assert kept.best_scores.tolist() == [[0, 0]]
    assert kept.best_classes.tolist() == [[0, 1]]
    assert kept.pull[0] == pytest.approx([1, -1], abs=1e-6)


def test_no_images_give_no_scores():
    reference = Reference(fit_moments("a", np.eye(3)[:2], np.zeros(2, int)), np.eye(3)[:1])
    hits = Hits(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.int64))
    kept = bliss_scores(np.zeros((0, 3), np.float32), gather_texts(hits, np.eye(3)), reference)
    assert (kept.score.shape, kept.best_classes.shape, kept.pull.shape) == ((0,), (0, 1), (0, 4))


def test_a_class_of_one_image_is_refused_by_name():
    rows = np.eye(3, dtype=np.float32)
    reference = Reference(fit_moments(["cup", "mug"], rows, np.array([0, 0, 1])), rows[:2])
    retrieved = gather_texts(Hits(np.ones((1, 1), np.float32), np.zeros((1, 1), int)), rows)
    for score in (bliss_scores, bliss_matrices):
        with pytest.raises(BlissError, match=r"class 'mug' has 1 reference image\. Needed: at"):
            score(rows[:1], retrieved, reference)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_terms_of_the_class_an_image_is_filed_under_are_those_of_the_whole(seed):
    world = make_world(seed, [5, 8, 6, 12], 7, 20)
    hits = exact_search(world.images, world.texts, 4)
    retrieved, given = gather_texts(hits, world.texts), world.given.copy()
    given[4] = (given[4] + 1) % 4  # a reference image that is filed under another class
    whole = bliss_scores(
        world.images, retrieved, world.reference, given=given, left_out=world.left_out
    )
    ics, ets = filed_terms(world.images, retrieved, world.reference, given, world.left_out)
    np.testing.assert_allclose(ics, whole.given_ics, rtol=1e-12)
    np.testing.assert_allclose(ets, whole.given_ets, rtol=1e-12)
    assert np.isnan(ics[given < 0]).all() and np.isfinite(ics[given >= 0]).all()


def test_a_class_that_is_one_point_without_an_image_is_far_from_it():
    """σ is 0 once the image is left out, and its 1e-8 alone divides, with its sign."""
    one, other = np.eye(2, dtype=np.float32)
    images = np.stack([one, one, one, other])
    reference = Reference(fit_moments(["a"], images, np.zeros(4, np.int64)), np.stack([one]))
    found = bliss_scores(
        images[3:], gather_texts(exact_search(images[3:], images[3:], 1), images[3:]), reference,
        0.5, np.zeros(1, np.int64), LeftOut(np.zeros(1, np.int64), np.zeros(1, np.int64)),
    )  # fmt: skip
    assert found.given_ics == pytest.approx([1e8])
    assert found.given_ets == pytest.approx([1e8])


def test_a_class_of_one_image_cannot_leave_it_out_whatever_the_prior():
    rows = np.eye(3, dtype=np.float32)
    reference = Reference(fit_moments(["cup", "mug"], rows, np.array([0, 0, 1])), rows[:2])
    retrieved = gather_texts(Hits(np.ones((1, 1), np.float32), np.zeros((1, 1), int)), rows)
    left_out = LeftOut(np.zeros(1, np.int64), np.ones(1, np.int64))
    prior = VariancePrior(np.ones(2), 10.0)
    (block,) = class_blocks.class_blocks(rows[2:], retrieved, reference, NOTHING_LEFT_OUT, prior)
    assert block.classes == slice(0, 2)
    with pytest.raises(BlissError, match=r"class 'mug' has 1 reference image\. Needed: at least 2"):
        list(class_blocks.class_blocks(rows[2:], retrieved, reference, left_out, prior))


def test_arrays_that_do_not_belong_together_are_refused():
    rows = np.eye(3, dtype=np.float32)
    moments = fit_moments(["cup", "mug"], rows[[0, 0, 1, 1]], np.array([0, 0, 1, 1]))
    hits = exact_search(rows, rows, 1)
    retrieved = gather_texts(hits, rows)
    with pytest.raises(UsageError, match=r"rows 0 to 2 of 2 texts. Needed: the texts that were"):
        gather_texts(hits, rows[:2])
    for score in (bliss_scores, bliss_matrices):
        with pytest.raises(UsageError, match=r"prompt vectors of shape \(1, 3\). Needed: one row"):
            score(rows, retrieved, Reference(moments, rows[:1]))
        with pytest.raises(UsageError, match=r"2 images were given with the texts of 3"):
            score(rows[:2], retrieved, Reference(moments, rows[:2]))
        for weight in (float("nan"), float("inf")):
            with pytest.raises(UsageError, match=f"a weight of {weight} was given"):
                score(rows, retrieved, Reference(moments, rows[:2]), weight)
        for image, number, what in ((9, 0, "images from 9 to 9"), (0, -1, "classes from -1 to -1")):
            left_out = LeftOut(np.array([image]), np.array([number]))
            with pytest.raises(UsageError, match=f"left_out names {what}. Needed: .* from 0 to"):
                score(rows, retrieved, Reference(moments, rows[:2]), left_out=left_out)
    with pytest.raises(UsageError, match=r"1 classes were given for 3 images"):
        bliss_scores(rows, retrieved, Reference(moments, rows[:2]), given=np.zeros(1, np.int64))
