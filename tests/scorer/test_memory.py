"""What takes images in blocks takes no more of them at once where there are few classes."""

import tracemalloc

import numpy as np
import pytest
from blissaudit.indexer.vectors.unit_rows import normalise_rows
from blissaudit.scorer.bliss import Retrieved, bliss_scores
from blissaudit.scorer.leave_one_out import NOTHING_LEFT_OUT
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.questions.mislabel import label_margins
from blissaudit.scorer.reference import Reference
from blissaudit.scorer.scores.negatives import label_nearness
from blissaudit.scorer.scores.similarity import in_batches

N, D, TEXTS = 40_000, 512, 3
"""The images are 78 MiB as float32; twice that as float64."""


@pytest.fixture(scope="module")
def images():
    return normalise_rows(np.random.default_rng(0).standard_normal((N, D), np.float32)).unit


def bliss(images, reference):
    """With one retrieved text, few of whose pulls would fill a block."""
    rows = np.tile(np.arange(TEXTS), -(-N // TEXTS))[:N, None]
    texts = images[:TEXTS]
    similarity = np.einsum("nd,nd->n", images, texts[rows[:, 0]])[:, None]
    return bliss_scores(
        images, Retrieved(similarity, rows, rows.astype(np.int32), texts), reference
    )


@pytest.mark.parametrize(
    "run",
    [
        lambda images, reference: label_margins(
            images, reference, np.arange(N) % 2, NOTHING_LEFT_OUT
        ),
        lambda images, reference: label_nearness(images, reference.prompt_vectors, 0.5),
        lambda images, reference: in_batches(images, 2, lambda some: some @ np.ones(D)),
        bliss,
    ],
    ids=["label_margins", "label_nearness", "in_batches", "bliss_scores"],
)
def test_memory_is_bounded_by_dimensions_as_well(images, run):
    some = images[:200]
    moments = fit_moments(("a", "b"), some, np.arange(200) % 2)
    reference = Reference(moments, images[-2:])
    tracemalloc.start()
    try:
        run(images, reference)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 120 << 20


def test_vectors_are_normalised_in_the_array_that_is_returned():
    vectors = np.random.default_rng(1).standard_normal((N // 4, D)).astype(np.float16)
    tracemalloc.start()
    try:
        found = normalise_rows(vectors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * found.unit.nbytes
