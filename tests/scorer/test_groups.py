"""Groups among a few images, and their names."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.report.groups_and_map import name_groups
from blissaudit.scorer.groups import by_size, cosine_distances, group_images, silhouette
from hypothesis import given, settings
from hypothesis import strategies as st


def random_vectors(seed, n, d=6):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def same_partition(a, b):
    return np.array_equal(a[:, None] == a[None, :], b[:, None] == b[None, :])


def groups_by_loops(vectors, centre):
    """Average linkage from its definition: always merge the two clusters of least mean distance."""
    distance = cosine_distances(vectors, centre)
    clusters = [[i] for i in range(len(vectors))]
    cuts = {}
    while len(clusters) > 1:
        pairs = list(itertools.combinations(range(len(clusters)), 2))
        means = [distance[np.ix_(clusters[a], clusters[b])].mean() for a, b in pairs]
        a, b = pairs[int(np.argmin(means))]
        clusters[a] += clusters.pop(b)
        labels = np.empty(len(vectors), int)
        for number, members in enumerate(clusters):
            labels[members] = number
        cuts[len(clusters)] = labels
    best, chosen = 0.25, np.zeros(len(vectors), int)
    for count in range(2, min(60, len(vectors) - 1) + 1):
        value = silhouette(distance, cuts[count]).mean()
        if value > best + 1e-12:
            best, chosen = value, cuts[count]
    return chosen


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(3, 20), kinds=st.integers(1, 6), copies=st.booleans()
)
def test_groups_are_those_of_the_definition(seed, n, kinds, copies):
    rng = np.random.default_rng(seed)
    vectors = 3 * random_vectors(seed, kinds)[rng.integers(0, kinds, n)] + random_vectors(
        seed + 1, n
    )
    if copies:
        vectors = vectors[rng.integers(0, n, n)]
    centre = np.zeros(6)
    assert same_partition(group_images(vectors, centre), groups_by_loops(vectors, centre))


def test_three_images_by_hand():
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    distance = cosine_distances(vectors, np.zeros(2))
    np.testing.assert_allclose(distance, [[0, 0.2, 1], [0.2, 0, 0.4], [1, 0.4, 0]], atol=1e-7)
    # own 0.2, other 1 and 0.4; the third is alone
    labels = group_images(vectors, np.zeros(2))
    assert labels.tolist() == [0, 0, 1]
    np.testing.assert_allclose(silhouette(distance, labels), [0.8, 0.5, 0], atol=1e-6)


def test_the_silhouette_is_that_of_its_definition():
    rng = np.random.default_rng(2)
    distance = cosine_distances(random_vectors(1, 25), np.zeros(6))
    labels = by_size(rng.integers(0, 4, 25))
    expected = []
    for i in range(25):
        means = {
            group: np.mean([distance[i, j] for j in np.flatnonzero(labels == group) if j != i])
            for group in range(4)
        }
        own = means.pop(labels[i])
        other = min(means.values())
        expected.append((other - own) / max(own, other))
    np.testing.assert_allclose(silhouette(distance, labels), expected, atol=1e-12)


def planted(seed, sizes, common=3.0):
    """Unit rows of a few kinds that all share a large common part."""
    rng = np.random.default_rng(seed)
    kinds = np.linalg.qr(rng.standard_normal((64, len(sizes) + 1)))[0].T
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rows = common * kinds[-1] + kinds[truth] + 0.04 * rng.standard_normal((len(truth), 64))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), truth, kinds[-1]


@pytest.mark.parametrize("sizes", [(12, 7, 3), (5, 5), (9, 8, 7, 6, 5, 1)])
def test_planted_kinds_and_their_number_are_found_largest_first(sizes):
    vectors, truth, common = planted(3, sizes)
    labels = group_images(vectors, common)
    assert np.array_equal(labels, truth)


def test_the_order_of_the_images_changes_no_group():
    vectors, _, common = planted(4, (9, 6, 4, 2))
    order = np.random.default_rng(5).permutation(len(vectors))
    before, after = group_images(vectors, common), group_images(vectors[order], common)
    assert same_partition(before[order], after)


def test_images_without_kinds_make_one_group():
    rng = np.random.default_rng(6)
    assert set(group_images(rng.standard_normal((40, 200)), np.zeros(200))) == {0}
    for n in (1, 2):
        assert group_images(np.eye(3)[:n], np.zeros(3)).tolist() == [0] * n


def test_equal_rows_and_rows_at_the_centre_are_no_problem():
    vectors = np.repeat(np.eye(3)[:2], 4, axis=0)
    assert group_images(vectors, np.zeros(3)).tolist() == [0] * 4 + [1] * 4
    assert set(group_images(np.ones((5, 3)), np.ones(3))) == {0}


def test_groups_are_numbered_by_size_and_then_by_first_member():
    assert by_size(np.array([7, 3, 3, 5, 7, 3])).tolist() == [1, 0, 0, 2, 1, 0]
    assert by_size(np.array([4, 2, 2, 4])).tolist() == [0, 1, 1, 0]


def test_real_strays_fall_into_their_kinds(real_data):
    folder = real_data / "caltech101" / "test"
    vectors = np.load(folder / "img_emb" / "img_emb_0.npy")
    metadata = pq.read_table(folder / "metadata" / "metadata_0.parquet")
    labels = np.array(metadata["label"].to_pylist())
    classes, agreements, numbers = np.unique(labels), [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        chosen = rng.choice(classes, 25, replace=False)
        members = [
            rng.permutation(np.flatnonzero(labels == name))[:size]
            for name, size in zip(chosen[20:], (20, 15, 10, 8, 5), strict=True)
        ]
        truth = np.repeat(np.arange(5), [len(each) for each in members])
        centre = vectors[np.isin(labels, chosen[:20])].mean(axis=0)
        found = group_images(vectors[np.concatenate(members)], centre)
        pairs = list(itertools.combinations(range(len(truth)), 2))
        alike = [(truth[a] == truth[b]) == (found[a] == found[b]) for a, b in pairs]
        agreements.append(np.mean(alike))
        numbers.append(found.max() + 1)
    assert np.mean(agreements) > 0.95
    assert 4 <= np.median(numbers) <= 6


def test_a_group_is_named_by_the_captions_that_pull_on_it_and_not_on_others():
    pulls = [
        {"a picture": 5.0, "a drawing": 4.0, "a cat": 1.0},
        {"a picture": 5.0, "a drawing": 4.0},
        {"a picture": 6.0, "a car": 3.0, "a drawing": -2.0},
    ]
    named = name_groups(pulls, np.array([0, 0, 1]))
    # group 0: drawing 4, picture 5·10/16 = 3.1, cat 0.5; group 1: picture 6·6/16 = 2.25, car 3
    assert named == [["a drawing", "a picture", "a cat"], ["a car", "a picture"]]
    assert name_groups([{"b": 2.0, "a": 2.0}], np.array([0])) == [["a", "b"]]
    assert name_groups([{"a": -1.0}], np.array([0])) == [[]]
