"""Which images a refit leaves out, that it is a refit, and that no class loses too many."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.audit.fitting.robust import rank_correlation
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import bliss_matrices, gather_texts
from blissaudit.scorer.leave_one_out import LeftOut
from blissaudit.scorer.moments import fit_moments, remove_images
from blissaudit.scorer.reference import Reference
from blissaudit.scorer.robust import (
    FiledImages,
    _copies_together,
    agreeing_neighbours,
    balanced_weight,
    explained_images,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def left_out(filed):
    return explained_images(filed)[0]


def circle(degrees) -> np.ndarray:
    angle = np.deg2rad(np.asarray(degrees, float))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def two_classes(each: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Two tight classes at 0 and 90 degrees; the last image of the first sits in the second."""
    rows = circle([*np.arange(each - 1), 95.5, *(90 + np.arange(each))])
    return rows, np.repeat([0, 1], each)


def filed(rows, labels, margin, cosine=None, own=None, hashes=None) -> FiledImages:
    n = len(labels)
    margin = np.asarray(margin, float)
    return FiledImages(
        rows,
        labels,
        hashes or [f"{i:03d}" for i in range(n)],
        np.arange(n, dtype=float) if own is None else own,
        margin,
        np.full(n, -1.0) if cosine is None else np.asarray(cosine, float),
    )


def test_neighbours_by_hand():
    rows = circle([0, 1, 2, 40, 41, 90])
    labels = np.array([0, 0, 1, 1, 1, 0])
    # Fewer than eleven images: all the others count.
    assert agreeing_neighbours(rows, labels, np.arange(6)).tolist() == [2, 2, 2, 2, 2, 2]
    rows, labels = two_classes()
    # The misfiled one's ten nearest are all of the other class, and it is among theirs.
    assert agreeing_neighbours(rows, labels, np.array([11, 0, 12])).tolist() == [0, 10, 9]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 60))
def test_neighbours_equal_a_sort_of_all_pairs(seed, n):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    labels = rng.integers(0, 3, n)
    found = agreeing_neighbours(rows, labels, np.arange(n))
    similar = rows.astype(np.float64) @ rows.T.astype(np.float64)
    for i in range(n):
        others = [j for j in np.argsort(-similar[i]) if j != i][:10]
        assert found[i] == sum(labels[j] == labels[i] for j in others)


def test_an_image_is_not_its_own_neighbour_among_many_copies():
    rows = np.repeat(circle([0, 90]), [15, 3], axis=0)
    labels = np.arange(18)  # nobody agrees with anybody
    assert agreeing_neighbours(rows, labels, np.arange(18)).tolist() == [0] * 18
    labels = np.repeat([0, 1], [15, 3])  # the last copies are not among the first eleven
    assert agreeing_neighbours(rows, labels, np.arange(18)).tolist() == [10] * 15 + [2] * 3


@pytest.mark.parametrize(("margin", "cosine"), [(0.1, -1), (-1, 0.1), (0.1, 0.1)])
def test_either_evidence_and_no_neighbour_leaves_an_image_out(margin, cosine):
    rows, labels = two_classes()
    at = np.eye(24)[11]
    found = left_out(filed(rows, labels, np.where(at, margin, -1), np.where(at, cosine, -1)))
    assert np.flatnonzero(found).tolist() == [11]


def test_neither_alone_does():
    rows, labels = two_classes()
    assert not left_out(filed(rows, labels, np.full(24, -0.1))).any()
    hard = np.where(np.arange(24) == 0, 0.5, -1)  # doubtful, but among its own
    assert not left_out(filed(rows, labels, hard)).any()


def test_two_neighbours_of_its_class_keep_an_image_and_one_does_not():
    labels = np.repeat([0, 1], 12)
    for friends, kept in ((1, False), (2, True)):
        degrees = [*np.arange(11 - friends), *(96 + 0.1 * np.arange(friends)), 95.5]
        rows = circle([*degrees, *(90 + np.arange(12))])
        found = left_out(filed(rows, labels, np.where(np.arange(24) == 11, 1, -1)))
        assert found[11] != kept


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), min_size=1))
def test_an_image_stays_where_a_copy_in_its_class_does(images):
    hashes, labels, out = map(list, zip(*images, strict=True))
    n = len(images)
    world = filed(np.ones((n, 2), np.float32), np.array(labels), np.ones(n), hashes=hashes)
    kept = {(h, c) for h, c, gone in images if not gone}
    expected = [gone and (h, c) not in kept for h, c, gone in images]
    found = _copies_together(np.array(out), world) & np.array(out)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("each", "wrong", "gone"), [(20, 8, 8), (20, 14, 10), (8, 5, 3), (5, 4, 0)]
)
def test_a_class_keeps_half_and_five(each, wrong, gone):
    # `wrong` images of class 0 lie far out, each alone among the thirty of class 1.
    rows = circle([*np.linspace(0, 5, each - wrong), *(120 + np.arange(wrong) * 5),
                   *np.linspace(118, 122 + wrong * 5, 300)])  # fmt: skip
    labels = np.repeat([0, 1], [each, 300])
    margin = np.full(len(labels), -1.0)
    margin[each - wrong : each] = 1
    own = np.arange(len(labels), dtype=float)
    found, stay = explained_images(filed(rows, labels, margin, own=own))
    out = np.flatnonzero(found)
    assert stay == wrong - gone
    assert out.tolist() == list(range(each - gone, each)), "those of lowest own score come back"


def test_copies_stay_or_go_together():
    rows = circle([*np.arange(10), 95.5, 95.5, *(90 + np.arange(12))])
    labels = np.repeat([0, 1], 12)
    hashes = [f"{i:03d}" for i in range(24)]
    hashes[11] = hashes[10]
    both = np.isin(np.arange(24), (10, 11))
    found = left_out(filed(rows, labels, np.where(both, 1, -1), hashes=hashes))
    assert np.flatnonzero(found).tolist() == [10, 11]
    one = np.where(np.arange(24) == 10, 1, -1)
    assert not left_out(filed(rows, labels, one, hashes=hashes)).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), each=st.sampled_from([9, 30]))
def test_removal_is_a_refit_and_a_removed_image_scores_as_one_left_out(seed, each):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2 * each, 16))  # thirty rows of 16 dimensions keep a scatter
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    labels, prompts = np.repeat([0, 1], each), rows[[0, -1]]
    retrieved = gather_texts(exact_search(rows, rows, 4), rows)
    out = np.zeros(2 * each, bool)
    out[rng.choice(2 * each, 3, replace=False)] = True
    whole = fit_moments(("a", "b"), rows, labels)
    removed = Reference(remove_images(whole, rows[out], labels[out]), prompts)
    refit = Reference(fit_moments(("a", "b"), rows[~out], labels[~out]), prompts)
    found, expected = (bliss_matrices(rows, retrieved, r).total for r in (removed, refit))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    alone = np.flatnonzero(out)[:1]
    without = Reference(remove_images(whole, rows[alone], labels[alone]), prompts)
    plain = bliss_matrices(rows[alone], _only(retrieved, alone), without).total
    left = LeftOut(np.zeros(1, int), labels[alone])
    loo = bliss_matrices(
        rows[alone], _only(retrieved, alone), Reference(whole, prompts), left_out=left
    ).total
    np.testing.assert_allclose(plain, loo, rtol=1e-6, atol=1e-6)


def _only(retrieved, rows):
    return type(retrieved)(
        retrieved.similarity[rows],
        retrieved.rows[rows],
        retrieved.position[rows],
        retrieved.vectors,
    )


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_rank_correlation_is_that_of_the_mean_ranks(pairs):
    first, second = np.array(pairs, float).T
    if first.std() and second.std():
        ranks = [
            [(each < value).sum() + ((each == value).sum() - 1) / 2 for value in each]
            for each in (first, second)
        ]
        expected = np.corrcoef(ranks)[0, 1]
        assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-12)
    else:
        assert rank_correlation(first, second) == 1


def reference_rows(cosines: dict[str, list[float]]) -> np.ndarray:
    """Images with these cosines to the prompt of their class, the first two axes in turn."""
    rows = np.zeros((sum(map(len, cosines.values())), 3))
    where = np.repeat(np.arange(len(cosines)), [len(values) for values in cosines.values()])
    every = np.concatenate([np.array(values) for values in cosines.values()])
    rows[np.arange(len(rows)), where], rows[:, 2] = every, np.sqrt(1 - np.square(every))
    return rows.astype(np.float32)


def reference_of(cosines: dict[str, list[float]]) -> Reference:
    """The reference that these images make."""
    labels = np.repeat(np.arange(len(cosines)), [len(values) for values in cosines.values()])
    moments = fit_moments(tuple(cosines), reference_rows(cosines), labels)
    return Reference(moments, np.eye(3, dtype=np.float32)[: len(cosines)])


def unit_rows(two: np.ndarray) -> np.ndarray:
    """float32 [n, 3] unit rows with these first two coordinates."""
    return np.column_stack([two, np.sqrt(1 - np.square(two).sum(axis=1))]).astype(np.float32)


def test_the_balanced_weight_by_hand():
    # σ of 0.8, 0.8, 0.6, 0.6 is 0.1; with a stray at 0.2 (mean 0.6) it is √(0.24/5) = 0.219.
    # The second class keeps its σ of 0.1: λ' = 0.5·(0.219 + 0.1)/(0.1 + 0.1) = 0.798.
    dirty = reference_of({"a": [0.8, 0.8, 0.6, 0.6, 0.2], "b": [0.5, 0.7]})
    clean = reference_of({"a": [0.8, 0.8, 0.6, 0.6], "b": [0.5, 0.7]})
    expected = 0.5 * (np.sqrt(0.24 / 5) + 0.1) / 0.2
    none = np.zeros((0, dirty.moments.dimension), np.float32)
    assert balanced_weight(0.5, dirty, clean, none) == pytest.approx(expected, rel=1e-5)
    assert balanced_weight(0.5, dirty, dirty, none) == 0.5
    assert balanced_weight(0.5, dirty, reference_of({"a": [0.8], "b": [0.5]}), none) == 0.5
    # Along a text that the stray widens as much as the prompt, λ grows by a quarter; along one that
    # it widens by less than that, as if there were none: its σ is 0.1 and with the stray 0.110.
    dirty, clean = (reference_of({"a": [0.8, 0.8, 0.6, 0.6, 0.2][:n]}) for n in (5, 4))
    prompts = dirty.prompt_vectors
    assert balanced_weight(0.5, dirty, clean, prompts) == pytest.approx(0.625, rel=1e-5)
    rows = np.array([[0.8, 0.3], [0.8, 0.1], [0.6, 0.3], [0.6, 0.1], [0.2, 0.36]])
    dirty, clean = (
        Reference(fit_moments(("a",), unit_rows(rows[:n]), np.zeros(n, int)), prompts)
        for n in (5, 4)
    )
    caption = np.eye(3, dtype=np.float32)[1:2]
    assert balanced_weight(0.5, dirty, clean, caption) == balanced_weight(
        0.5, dirty, clean, caption[:0]
    )


def test_why_removing_strays_can_lower_auroc_by_hand():
    """docs/decisions.md: a stray widens a class along its prompt, and hardly along captions."""
    # Cosines to the prompt and to a caption; the stray is as close to the caption as the others.
    rows = unit_rows(np.array([[0.8, 0.3], [0.8, 0.1], [0.6, 0.3], [0.6, 0.1], [0.2, 0.2]]))
    axes = np.eye(3, dtype=np.float32)
    dirty, clean = (
        Reference(fit_moments(("a",), rows[:n], np.zeros(n, int)), axes[:1]) for n in (5, 4)
    )
    image = np.array([[0.5, 0.4, np.sqrt(0.59)]], np.float32)
    retrieved = gather_texts(exact_search(image, axes[1:2], 1), axes[1:2])
    with_it, without = (bliss_matrices(image, retrieved, each) for each in (dirty, clean))
    # σ along the prompt is √0.048 = 0.219 and then 0.1, along the caption √0.008 = 0.0894 and 0.1.
    assert with_it.ics[0, 0] == pytest.approx((0.6 - 0.5) / np.sqrt(0.048), rel=1e-4)
    assert without.ics[0, 0] == pytest.approx((0.7 - 0.5) / 0.1, rel=1e-4)
    assert with_it.ets[0, 0] == pytest.approx((0.4 - 0.2) / np.sqrt(0.008), rel=1e-4)
    assert without.ets[0, 0] == pytest.approx((0.4 - 0.2) / 0.1, rel=1e-4)
    # A caption's cosine counts 0.5/0.0894 against 1/0.219 for the prompt's, then 0.5/0.1 against
    # 1/0.1: λ falls from an effective 1.22 to 0.5. The balanced λ is that 1.22 again.
    effective = 0.5 * np.sqrt(0.048) / np.sqrt(0.008)
    assert effective == pytest.approx(1.22, abs=0.01)
    assert balanced_weight(0.5, dirty, clean, axes[1:2]) == pytest.approx(effective, rel=1e-4)


@pytest.mark.parametrize(("filed_under", "alone", "left_in"), [(0, 5.0, 5.0), (1, 5.0, 1.826)])
def test_why_leaving_images_in_looks_better_by_hand(filed_under, alone, left_in):
    """docs/decisions.md: being left in is a discount in the class an image is filed under only.

    A stray at cosine 0.2 to the second prompt has its minimum there. Filed under the first class it
    gets no discount; filed under the nearest it gets most of its distance off. A normal image gets
    one in either case, since it is filed where its minimum is.
    """
    classes = {"a": [0.8, 0.8, 0.6, 0.6], "b": [0.8, 0.8, 0.6, 0.6]}
    stray = np.array([[0.0, 0.2, np.sqrt(0.96)]], np.float32)
    normal = np.array([[0.6, 0.0, 0.8]], np.float32)
    rows = np.concatenate([reference_rows(classes), stray])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, filed_under])
    axes = np.eye(3, dtype=np.float32)
    reference = Reference(fit_moments(("a", "b"), rows, labels), axes[:2])

    def score(image, label, out):
        near = gather_texts(exact_search(image, axes[2:], 1), axes[2:])
        itself = LeftOut(np.zeros(int(out), int), np.full(int(out), label))
        return bliss_matrices(image, near, reference, 0.0, itself).total[0]

    assert score(stray, filed_under, True)[1] == pytest.approx(alone, rel=1e-3)
    assert score(stray, filed_under, False)[1] == pytest.approx(left_in, rel=1e-3)
    if filed_under == 1:
        # The normal image, alone: mean 0.733, σ 0.0943; left in: mean 0.7, σ 0.1.
        assert score(normal, 0, True).min() == pytest.approx(0.1333 / 0.0943, rel=1e-3)
        assert score(normal, 0, False).min() == pytest.approx(1.0, rel=1e-3)
