"""Scores with reference images: cases done by hand, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.scorer.scores.contract import Fitting, Need, Normals, Query, fit_score
from blissaudit.scorer.scores.distances import sparsemax
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.scorer.scores.similarity import fit_covariance

WITH_IMAGES = sorted(
    name
    for name, score in SCORES.items()
    if score.uses_references and Need.TEXTS not in score.needs
)

E1, E2 = np.eye(2, dtype=np.float32)


def by_hand(
    name: str, images: list[np.ndarray], labels: list[int], **changed: float
) -> list[float]:
    """Scores of e1, e2 and −e1 where class c's prompt is the c-th unit vector."""
    prompts = np.array([E1, E2][: max(labels) + 1])
    normals = Normals(("a", "b")[: len(prompts)], prompts, np.array(images), np.array(labels))
    fitted = fit_score(SCORES[name], Fitting(normals, prompts[:0]), **changed)
    return fitted(Query(np.array([E1, E2, -E1]))).tolist()


def test_ledoit_wolf_by_hand() -> None:
    # S = diag(2, 1/2): μ = 5/4, δ² = 9/16, β̄² = (1/16)·4·(17/4)/2 = 17/32, so β²/δ² = 17/18.
    found = fit_covariance(np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]]), "a")
    assert found.shrinkage == pytest.approx(17 / 18)
    assert sorted(found.variance) == pytest.approx([(17 * 1.25 + v) / 18 for v in (0.5, 2)])
    # Two images are ±v and the formula would not shrink: it is held at 1/2.
    assert fit_covariance(np.array([[1.0, 0], [-1, 0]]), "a").shrinkage == 0.5


def test_ledoit_wolf_equals_sklearn() -> None:
    covariances = pytest.importorskip("sklearn.covariance")
    rows = np.random.default_rng(0).normal(size=(9, 14)) * np.arange(1, 15)
    rows -= rows.mean(axis=0)
    _, shrinkage = covariances.ledoit_wolf(rows, assume_centered=True)
    assert fit_covariance(rows, "a").shrinkage == pytest.approx(shrinkage, rel=1e-10)


def test_gaussians_by_hand() -> None:
    cross = [E1, -E1, E2, -E2]  # S = I/2
    assert by_hand("mahalanobis", cross, [0] * 4) == pytest.approx([2, 2, 2])
    assert by_hand("gaussian_ad", cross, [0] * 4) == pytest.approx([np.sqrt(2)] * 3)
    assert by_hand("relative_mahalanobis", cross, [0] * 4) == pytest.approx([0, 0, 0])
    # Two images ±e1: Σ* = ½·½I + ½·diag(1, 0) = diag(3/4, 1/4).
    assert by_hand("mahalanobis", [E1, -E1], [0, 0]) == pytest.approx([4 / 3, 4, 4 / 3])


def test_knn_by_hand() -> None:
    root2 = np.sqrt(2)
    assert by_hand("knn", [E1, E2], [0, 1], k=1) == pytest.approx([0, 0, root2], abs=0)
    assert by_hand("knn", [E1, E2], [0, 1]) == pytest.approx([root2, root2, 2])  # 50 is held at 2


def test_vim_by_hand() -> None:
    # D = 1 direction, e1; mean residual 1/4; mean best logit 75: α = 300.
    assert by_hand("vim", [E1, E1, E1, E2], [0] * 4) == pytest.approx([-100, 300, 100])


def test_smmp_by_hand() -> None:
    assert by_hand("smmp", [E1, E2], [0, 1])[2] == pytest.approx(np.exp(-100) / (1 + np.exp(-100)))
    middle = by_hand("smmp", [E1, E1, E1, E2], [0, 0, 1, 1])[1]
    # e2: its text is surely b's; its means are at 0 and 1/√2.
    assert middle == pytest.approx(np.exp([-100, -100 / np.sqrt(2)]).sum() / 2, rel=1e-6)


def test_sparsemax_and_lookup_by_hand() -> None:
    logits = np.array([[0.0, 0, 0], [2, 0, 0], [0.5, 0, -9]])
    expected = [[1 / 3] * 3, [1, 0, 0], [0.75, 0.25, 0]]
    found = sparsemax(logits.ravel(), np.repeat([0, 1, 2], 3)).reshape(3, 3)
    np.testing.assert_allclose(found, expected, atol=1e-15)
    rows = np.array([0, 1, 1, 1, 1, 2])
    found = sparsemax(np.array([-7, 1.0, 0.9, 0.5, -4, 3]), rows)
    np.testing.assert_allclose(found, [1, 1.6 / 3, 1.3 / 3, 0.1 / 3, 0, 1], atol=1e-15)
    assert by_hand("sparse_lookup", [E1, E2], [0, 1]) == pytest.approx([0, 0, 1], abs=1e-7)
    assert by_hand("sparse_lookup", [E1], [0]) == pytest.approx([0, 1, 2])


def test_costarr_by_hand() -> None:
    # The metric of prompt e1 is diag(3, 1), that of e2 diag(1, 3); the means are 0.6, 0.8 and e2.
    slanted = (0.6 * E1 + 0.8 * E2).astype(np.float32)
    length = np.sqrt(3 * 0.36 + 0.64)
    assert by_hand("costarr", [slanted, E2], [0, 1]) == pytest.approx(
        [1 - np.sqrt(3) * 0.6 / length, 0, 1], abs=1e-6
    )


@pytest.mark.parametrize("name", sorted(set(WITH_IMAGES) - {"knn", "sparse_lookup", "vim"}))
def test_a_class_without_reference_images(name: str) -> None:
    with pytest.raises(BlissError, match=r"class 'a' has (no|0) reference images"):
        by_hand(name, [E1, E2], [1, 1])


@pytest.mark.parametrize("name", ["mahalanobis", "gaussian_ad", "relative_mahalanobis"])
def test_equal_images_have_no_covariance(name: str) -> None:
    with pytest.raises(BlissError, match=r"do not differ.*two different reference images"):
        by_hand(name, [E1, E1, E2], [0, 0, 1])


def test_bliss_needs_two_images_and_the_retrieved_texts() -> None:
    with pytest.raises(BlissError, match="class 'b' has 1 reference image"):
        by_hand("bliss", [E1, E2, E2], [0, 0, 1])
    with pytest.raises(UsageError, match="bliss was used without the retrieved texts of"):
        by_hand("bliss", [E1, E2], [0, 0])


@pytest.mark.parametrize(
    ("name", "changed", "needed"),
    [
        ("knn", {"k": 0}, "k = 0 was given"),
        ("knn", {"k": 1.5}, "a whole number"),
        ("smmp", {"tau": 0}, "tau = 0 was given"),
        ("vim", {"share": 1.5}, "share = 1.5 was given"),
        ("vim", {"scale": -1}, "a number above 0"),
        ("sparse_lookup", {"sharpness": 0}, "sharpness = 0 was given"),
        ("costarr", {"weight": -1}, "weight = -1 was given"),
        ("mahalanobis", {"tau": 1}, "mahalanobis was given tau"),
    ],
)
def test_impossible_parameters(name: str, changed: dict[str, float], needed: str) -> None:
    with pytest.raises(UsageError, match=needed):
        by_hand(name, [E1, E2], [0, 0], **changed)
