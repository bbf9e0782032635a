"""Reference images to calibrate a score on, found again in a reference that kept no folder.

The moments of a class of at most d images hold its centred rows, which are its images less their
mean. Of larger classes some images are kept beside the moments when the reference is fitted.
"""

from __future__ import annotations

import numpy as np

from ..errors import BlissError
from ..indexer.stored_rows import Rows
from .moments import Moments
from .reference import Reference, Sample

SAMPLE_IMAGES = 2000
"""About how many images a score is calibrated on; two a class are kept in any case."""


def spaced_rows(labels: np.ndarray, most: int = SAMPLE_IMAGES) -> np.ndarray:
    """int64 [s], ascending rows of `labels` [m]: the same share of every class, about `most`.

    A class gives all its images or as many as the others, evenly spaced, and never fewer than two
    of those it has.
    """
    numbers, counts = np.unique(labels, return_counts=True)
    quota = max(2, _quota(counts, most))
    kept = [np.zeros(0, np.int64)]
    for number, count in zip(numbers, counts, strict=True):
        members = np.flatnonzero(labels == number)
        spaced = np.linspace(0, count - 1, min(count, quota)).round().astype(np.int64)
        kept.append(members[spaced])
    return np.sort(np.concatenate(kept))


def images_to_keep(moments: Moments, images: Rows, labels: np.ndarray) -> Sample | None:
    """What must be kept of reference images [m, d] so that `sample_of` finds some of each class.

    None where the moments hold every row, which is so while no class has more than d images.
    """
    gone = np.array([part.centred is None for part in moments.parts], bool)
    rows = spaced_rows(labels)
    rows = rows[gone[labels[rows]]]
    if not len(rows):
        return None
    rows = rows[np.argsort(labels[rows], kind="stable")]
    return Sample(images[rows], labels[rows])


def sample_of(reference: Reference) -> Sample:
    """About SAMPLE_IMAGES of the reference's images, by class.

    Raises BlissError naming a class of which only moments were kept.
    """
    images, labels = [], []
    for number, part in enumerate(reference.moments.parts):
        rows = np.zeros((0, part.mean.size), np.float32)
        if part.centred is not None:
            rows = (part.centred + part.mean).astype(np.float32)
        elif reference.sample is not None:
            rows = reference.sample.images[reference.sample.labels == number]
        if part.count and not len(rows):
            raise BlissError(
                f"of the {part.count:,} images of class '{reference.classes[number]}' only "
                "moments were kept",
                "some of its images, to calibrate this score on",
                "Fit the reference again with this version",
            )
        images.append(rows)
        labels.append(np.full(len(rows), number))
    together = np.concatenate(labels)
    rows = spaced_rows(together)
    return Sample(np.concatenate(images)[rows], together[rows])


def _quota(counts: np.ndarray, most: int) -> int:
    """The largest number q for which Σ min(count, q) is at most `most`."""
    left, classes = most, len(counts)
    for count in np.sort(counts):
        if count * classes >= left:
            return left // classes
        left -= int(count)
        classes -= 1
    return int(counts.max(initial=0))
