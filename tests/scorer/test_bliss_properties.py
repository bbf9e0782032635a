"""What must hold of BLISS scores whatever the data: invariances, and options that matter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import (
    BlissScores,
    Retrieved,
    bliss_matrices,
    bliss_scores,
    gather_texts,
)
from blissaudit.scorer.moments import fit_moments, merge
from blissaudit.scorer.reference import Reference
from helpers import bliss_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class World:
    references: np.ndarray
    labels: np.ndarray
    prompts: np.ndarray
    texts: np.ndarray
    images: np.ndarray
    k: int = 4

    @property
    def reference(self) -> Reference:
        names = map(str, range(len(self.prompts)))
        return Reference(fit_moments(names, self.references, self.labels), self.prompts)

    @property
    def retrieved(self) -> Retrieved:
        texts = self.texts
        return gather_texts(exact_search(self.images, texts, self.k), texts)

    def scores(self, weight: float = 0.5) -> BlissScores:
        return bliss_scores(self.images, self.retrieved, self.reference, weight)


def make_world(seed: int, classes: int, d: int) -> World:
    """Classes of 4 images and more: with fewer, chance can leave a text hardly any spread."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), rng.integers(4, 2 * d, classes))
    centres = rng.normal(size=(classes, d))
    return World(
        oracle.unit_rows(centres[labels] + rng.normal(size=(len(labels), d))),
        labels,
        oracle.unit_rows(centres + rng.normal(size=(classes, d))),
        oracle.unit_rows(rng.normal(size=(25, d))),
        oracle.unit_rows(rng.normal(size=(6, d))),
    )


WORLDS = st.builds(make_world, st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(6, 16))
FEW = settings(max_examples=25, deadline=None)


def same(found: BlissScores, expected: BlissScores, tolerance: float) -> None:
    for name in ("score", "ics", "ets", "best_scores", "pull"):
        assert getattr(found, name) == pytest.approx(
            getattr(expected, name), rel=tolerance, abs=tolerance
        )
    assert np.array_equal(found.best_classes, expected.best_classes)


@FEW
@given(world=WORLDS, seed=st.integers(0, 100))
def test_rotating_all_vectors_changes_nothing(world, seed):
    d = world.texts.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    names = ("references", "prompts", "texts", "images")
    turned = replace(
        world, **{name: (getattr(world, name) @ rotation).astype(np.float32) for name in names}
    )
    # Rounded to float32 again, a similarity moves by about 1e-7; a spread may be 1e-3 and less.
    assert turned.scores().score == pytest.approx(world.scores().score, rel=1e-3, abs=1e-3)


@FEW
@given(world=WORLDS, data=st.data())
def test_the_order_of_texts_changes_nothing(world, data):
    order = np.array(data.draw(st.permutations(range(len(world.texts)))))
    same(replace(world, texts=world.texts[order]).scores(), world.scores(), 1e-5)


@FEW
@given(world=WORLDS, data=st.data())
def test_the_order_of_scored_images_only_orders_the_scores(world, data):
    order = np.array(data.draw(st.permutations(range(len(world.images)))))
    found, expected = replace(world, images=world.images[order]).scores(), world.scores()
    assert found.score == pytest.approx(expected.score[order], rel=1e-5, abs=1e-5)
    assert np.array_equal(found.nearest, expected.nearest[order])
    assert found.pull == pytest.approx(expected.pull[order], rel=1e-5, abs=1e-5)


@FEW
@given(world=WORLDS, data=st.data())
def test_the_order_of_reference_images_changes_nothing(world, data):
    order = np.array(data.draw(st.permutations(range(len(world.labels)))))
    found = replace(world, references=world.references[order], labels=world.labels[order])
    same(found.scores(), world.scores(), 1e-5)


@FEW
@given(world=WORLDS)
def test_every_reference_image_twice_changes_nothing(world):
    twice = replace(
        world,
        references=np.repeat(world.references, 2, axis=0),
        labels=np.repeat(world.labels, 2),
    )
    same(twice.scores(), world.scores(), 1e-5)
    moments = world.reference.moments
    merged = replace(world.reference, moments=merge(moments, moments))
    same(bliss_scores(world.images, world.retrieved, merged), world.scores(), 1e-5)


@FEW
@given(world=WORLDS)
def test_a_text_outside_every_top_k_changes_nothing(world):
    similarity = world.images.astype(float) @ world.texts.T.astype(float)
    used = np.zeros(len(world.texts), bool)
    used[np.argsort(-similarity, axis=1)[:, : world.k]] = True
    same(replace(world, texts=world.texts[used]).scores(), world.scores(), 1e-5)


@FEW
@given(world=WORLDS.filter(lambda world: len(world.prompts) > 1))
def test_another_class_never_raises_a_score(world):
    few = len(world.prompts) - 1
    used = world.labels < few
    fewer = replace(
        world,
        references=world.references[used],
        labels=world.labels[used],
        prompts=world.prompts[:few],
    )
    before, after = fewer.scores(), world.scores()
    assert np.all(after.score <= before.score + 1e-5 * np.maximum(1, np.abs(before.score)))
    # Where it stays, the class stays too; where it falls, the new class is why.
    assert np.array_equal(after.nearest[after.nearest < few], before.nearest[after.nearest < few])


@FEW
@given(world=WORLDS)
def test_weight_zero_is_the_least_internal_score(world):
    ics = bliss_matrices(world.images, world.retrieved, world.reference, weight=0).ics
    found = world.scores(weight=0)
    assert np.array_equal(found.score, ics.min(axis=1))
    assert np.array_equal(found.nearest, ics.argmin(axis=1))
    assert np.array_equal(found.ics, found.score)


@FEW
@given(world=WORLDS, weight=st.floats(0.1, 5))
def test_the_score_is_its_parts(world, weight):
    found = world.scores(weight)
    assert found.score == pytest.approx(found.ics + weight * found.ets, rel=1e-12)
    assert found.ets == pytest.approx(found.pull.mean(axis=1), rel=1e-9, abs=1e-12)


@FEW
@given(world=WORLDS)
def test_k_and_weight_change_the_result(world):
    base = world.scores()
    assert np.all(replace(world, k=5).scores().ets != base.ets)
    assert np.all(world.scores(weight=0.75).score != base.score)
    default = bliss_scores(world.images, world.retrieved, world.reference)
    assert np.array_equal(default.score, base.score)


def test_an_odd_image_scores_higher_than_a_usual_one():
    rng = np.random.default_rng(0)
    usual = np.eye(16)[0] + 0.3 * np.eye(16)[1] + 0.02 * rng.normal(size=(60, 16))
    odd = np.eye(16)[0] + 0.3 * np.eye(16)[5] + 0.02 * rng.normal(size=(20, 16))
    texts = np.eye(16)[1:11] + 0.05 * rng.normal(size=(10, 16))
    images = oracle.unit_rows(np.concatenate([usual[40:], odd]))
    world = World(
        oracle.unit_rows(usual[:40]),
        np.zeros(40, int),
        np.eye(16, dtype=np.float32)[:1],
        oracle.unit_rows(texts),
        images,
        k=1,
    )
    found = world.scores()
    assert found.score[20:].min() > found.score[:20].max()
    assert found.ets[20:].min() > 5  # the caption of axis 5, which fits no reference image
    assert np.abs(found.ics).max() < 5  # the label's own prompt tells less
