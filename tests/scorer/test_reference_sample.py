"""Reference images found again in a fitted reference, on which scores are calibrated."""

from dataclasses import replace

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.reference import Reference
from blissaudit.scorer.reference_file import (
    images_to_keep,
    load_reference,
    sample_of,
    save_reference,
    spaced_rows,
)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def world(sizes, d=8):
    """Class 'large' has more images than dimensions, so that its moments are a scatter."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = unit(rng.standard_normal((len(labels), d)))
    moments = fit_moments(("small", "large")[: len(sizes)], images, labels)
    kept = images_to_keep(moments, images, labels)
    return images, labels, Reference(moments, images[: len(sizes)], sample=kept)


def test_the_same_share_of_every_class_and_all_of_small_ones():
    labels = np.repeat([0, 1, 2], [4, 50, 100])
    rows = spaced_rows(labels, 44)
    assert np.bincount(labels[rows]).tolist() == [4, 20, 20]
    # Evenly spaced from the first to the last.
    assert (rows[4], rows[23], rows[24], rows[-1]) == (4, 53, 54, 153)
    assert spaced_rows(labels, 1000).tolist() == list(range(154))
    # Two a class, however few are asked for.
    assert np.bincount(labels[spaced_rows(labels, 3)]).tolist() == [2, 2, 2]


def test_rows_of_small_classes_come_from_the_moments_and_of_large_ones_from_the_sample(tmp_path):
    images, labels, reference = world((5, 30))
    assert np.unique(reference.sample.labels).tolist() == [1]
    save_reference(reference, tmp_path)
    found = sample_of(load_reference(tmp_path))
    assert found.labels.tolist() == [0] * 5 + [1] * 30
    np.testing.assert_allclose(found.images[:5], images[labels == 0], atol=1e-7)
    np.testing.assert_array_equal(found.images[5:], images[labels == 1])


def test_each_of_several_large_classes_has_its_own_images():
    images, labels, reference = world((20, 30))
    for number in (0, 1):
        kept = reference.kept_images(number)
        np.testing.assert_array_equal(kept, images[labels == number])


def test_nothing_is_kept_where_the_moments_hold_every_row(tmp_path):
    _, _, reference = world((5, 8))
    assert reference.sample is None
    save_reference(reference, tmp_path)
    assert sample_of(load_reference(tmp_path)).images.shape == (13, 8)


def test_a_reference_of_moments_alone_is_named():
    _, _, reference = world((5, 30))
    with pytest.raises(
        BlissError, match=r"of the 30 images of class 'large' only moments .* again"
    ):
        sample_of(replace(reference, sample=None))
