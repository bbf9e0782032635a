"""What the page says of captions, which images it shows, and where they are on its map."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from blissaudit.audit.report.groups_and_map import _plane, principal_plane
from blissaudit.audit.report.page_data import choose_images, merged, plain_caption


@pytest.mark.parametrize(
    "caption, plain",
    [
        ("a photo of a bow_(decorative_ribbons)", "bow (decorative ribbons)"),
        ("This is a photo of a leopard.", "leopard"),
        ("a bad photo of the ostrich", "ostrich"),
        ("an image showing three white balloons", "three white balloons"),
        ("itap of my necktie.", "necktie"),
        ("two cats on a sofa", "two cats on a sofa"),
        ("photo of", "photo of"),
        ("", ""),
    ],
)
def test_captions_are_stripped_of_their_template(caption, plain):
    assert plain_caption(caption) == plain


def test_captions_that_say_the_same_are_one():
    captions = [
        "a photo of a bolo_tie",
        "a red clock",
        "a picture of bolo ties",
        "a drawing of two red clocks on a wall",
        "a necktie",
        "clock",
    ]
    assert merged(captions) == [[0, 2], [1, 3, 5], [4]]
    assert merged(["", "the", "the", "of"]) == [[0], [1, 2], [3]]


def test_the_worst_of_every_list_are_shown():
    rows, rank = np.arange(10) + 100, np.arange(10) + 1
    issues = [
        {"row": 109, "kind": "quality", "severity": 99.0},
        {"row": 108, "kind": "quality", "severity": 98.0},
        {"row": 107, "kind": "label", "severity": 97.0},
    ]
    copies = [
        {"row": 105, "kind": "exact", "other": False},
        {"row": 106, "kind": "exact", "other": False},
        {"row": 0, "kind": "near", "other": True},
        {"row": 104, "kind": "look-alike", "other": False},
    ]
    assert choose_images(rows, rank, [], [], 3).tolist() == [0, 1, 2]
    assert choose_images(rows, rank, issues, copies, 4).tolist() == [0, 5, 7, 9]
    assert choose_images(rows, rank, issues, copies, 7).tolist() == [0, 1, 5, 6, 7, 8, 9]
    assert choose_images(rows, rank, issues, copies, 99).tolist() == [*range(10)]


def test_the_map_is_of_principal_components_and_of_umap_where_it_is(monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 6)) * [9, 5, 1, 1, 1, 1] + 3
    plane = principal_plane(rows)
    left, size, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(plane), np.abs((left * size)[:, :2]), atol=1e-9)
    np.testing.assert_allclose(principal_plane(rows[::-1]), plane[::-1], atol=1e-9)
    assert (plane.T @ plane)[0, 1] == pytest.approx(0, abs=1e-6)
    assert principal_plane(rows[:, :1]).shape == (50, 2)
    monkeypatch.setitem(sys.modules, "umap", None)
    assert _plane(rows)[0] == "PCA"

    class Umap:
        def __init__(self, **options):
            assert options["metric"] == "cosine"

        def fit_transform(self, rows):
            return rows[:, 2:4]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Umap))
    method, found = _plane(rows)
    assert method == "UMAP" and np.array_equal(found, rows[:, 2:4])
