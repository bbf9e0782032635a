"""The published protocol on real embeddings gives the numbers others found for it."""

from __future__ import annotations

import runpy
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import BENCHMARKS
from helpers import bliss_oracle as oracle

script = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "known_answer.py")))


@pytest.mark.parametrize(
    ("normal_classes", "draws", "bliss", "plain"), [(6, 20, 99.04, 98.28), (30, 10, 96.45, 90.43)]
)
def test_bliss_and_plain_cosine(normal_classes, draws, bliss, plain):
    assert (normal_classes, draws) in script.SETTINGS
    found = script.mean_auroc(oracle.real_data(), normal_classes, draws)
    assert found == pytest.approx((bliss, plain), abs=0.02)


@pytest.mark.parametrize(
    ("anomalous", "normal", "expected"),
    [
        ([2.0, 3.0], [0.0, 1.0], 1.0),
        ([0.0, 1.0], [2.0, 3.0], 0.0),
        ([1.0, 1.0], [1.0], 0.5),
        ([1.0, 2.0], [1.0, 0.0], (0.5 + 1 + 1 + 1) / 4),
    ],
)
def test_auroc_by_hand(anomalous, normal, expected):
    assert script.auroc(np.array(anomalous), np.array(normal)) == pytest.approx(expected)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    anomalous, normal = rng.integers(0, 8, 40), rng.integers(0, 6, 30)
    pairs = [(a > b) + (a == b) / 2 for a in anomalous for b in normal]
    assert script.auroc(anomalous, normal) == pytest.approx(np.mean(pairs))
