"""The three scores that read a trained head, against the oracle and by hand; the head on disk."""

import json

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.scorer.scores import distances as outlier_knn_ratio
from blissaudit.scorer.scores import similarity as image_chunks
from blissaudit.scorer.scores import trained as oecl
from blissaudit.scorer.scores.contract import Fitting, Need, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.scorer.scores.trained import load_head, open_head, save_head
from blissaudit.training.oecl import outlier_logistic

D, H, P = 5, 4, 3
TRAINED = ("oecl", "outlier_knn_ratio", "outlier_logistic")


def unit(values):
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    shapes = {
        "first": (H, D), "first_bias": (H,), "second": (P, H), "second_bias": (P,),
        "logistic": (D,), "logistic_bias": (1,),
    }  # fmt: skip
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["normals"] = unit(rng.standard_normal((7, D)))
    arrays["outliers"] = unit(rng.standard_normal((6, D)))
    return arrays


def fitting(head, dimension=D):
    nothing = np.zeros((0, dimension), np.float32)
    return Fitting(Normals((), nothing, nothing, np.zeros(0, np.int64)), nothing, {Need.HEAD: head})


def images(n=9, views=4):
    return unit(np.random.default_rng(1).standard_normal((n, views, D)))


def test_scores_equal_the_oracle(head, oecl_oracle):
    views = images()
    fitted = fit_score(SCORES["oecl"], fitting(head))
    expected = [-oecl_oracle.feature_length(head, each) for each in views]
    np.testing.assert_allclose(fitted(Query(views[:, 0], views=views)), expected, rtol=1e-6)
    alone = [-oecl_oracle.feature_length(head, each[:1]) for each in views]
    np.testing.assert_allclose(fitted(Query(views[:, 0])), alone, rtol=1e-6)
    ratio = fit_score(SCORES["outlier_knn_ratio"], fitting(head))(Query(views[:, 0]))
    expected = [oecl_oracle.knn_ratio(x, head["normals"], head["outliers"]) for x in views[:, 0]]
    np.testing.assert_allclose(ratio, expected, rtol=1e-6)
    odds = fit_score(SCORES["outlier_logistic"], fitting(head))(Query(views[:, 0]))
    expected = views[:, 0].astype(float) @ head["logistic"] + float(head["logistic_bias"][0])
    np.testing.assert_allclose(odds, expected, rtol=1e-6)


def test_by_hand():
    head = {
        "first": np.array([[1.0, 0.0], [0.0, 2.0]]),
        "first_bias": np.array([0.0, -1.0]),
        "second": np.array([[3.0, 0.0], [0.0, 4.0]]),
        "second_bias": np.zeros(2),
        "normals": np.array([[1.0, 0.0]]),
        "outliers": np.array([[0.0, 1.0]]),
        "logistic": np.array([1.0, -2.0]),
        "logistic_bias": np.array([0.5]),
    }
    x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = {name: fit_score(SCORES[name], fitting(head, 2))(Query(x)).tolist() for name in TRAINED}
    assert found["oecl"] == [-3.0, -4.0, 0.0]
    assert found["outlier_logistic"] == [1.5, -1.5, -0.5]
    assert found["outlier_knn_ratio"][0] == 0.0
    assert found["outlier_knn_ratio"][1] == pytest.approx(np.sqrt(2) / 1e-12)
    assert found["outlier_knn_ratio"][2] == pytest.approx(2 / np.sqrt(2))
    both = x[None, :2]
    views = fit_score(SCORES["oecl"], fitting(head, 2))(Query(both[:, 0], views=both))
    assert views.tolist() == [-2.5]  # the mean of (3, 0) and (0, 4) is (1.5, 2)


def test_chunks_do_not_matter(head, monkeypatch):
    views = images()
    query = Query(views[:, 0], views=views)
    whole = {name: fit_score(SCORES[name], fitting(head))(query) for name in TRAINED}
    monkeypatch.setattr(image_chunks, "ENTRIES", 2 * 4 * D)
    monkeypatch.setattr(outlier_knn_ratio, "ENTRIES", 2 * D)
    for name, expected in whole.items():
        found = fit_score(SCORES[name], fitting(head))(query)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_views_in_another_order_and_twice_over_change_nothing(head):
    views = images()
    found = oecl.feature_lengths(head, views)
    np.testing.assert_allclose(oecl.feature_lengths(head, views[:, ::-1]), found, rtol=1e-9)
    doubled = np.concatenate([views, views], axis=1)
    np.testing.assert_allclose(oecl.feature_lengths(head, doubled), found, rtol=1e-9)


@pytest.mark.parametrize("name", TRAINED)
def test_a_head_that_is_missing_incomplete_or_of_another_model(head, name):
    with pytest.raises(UsageError, match=f"{name} was used without a trained head"):
        fit_score(SCORES[name], fitting(None))
    with pytest.raises(BlissError, match=f"the head has no .*, which {name} needs"):
        fit_score(SCORES[name], fitting({}))
    with pytest.raises(BlissError, match="for embeddings of 5 dimensions and these have 8"):
        fit_score(SCORES[name], fitting(head, 8))


def test_the_logistic_baseline_is_the_minimum(oecl_oracle):
    rng = np.random.default_rng(4)
    normals = unit(rng.standard_normal((30, D)) + [2, 0, 0, 0, 0])
    outliers = unit(rng.standard_normal((11, D)) + [0, 1, 0, 0, 0])
    for ridge in (1e-3, 0.5):
        weights, bias = outlier_logistic(normals, outliers, ridge)
        best = oecl_oracle.log_loss(weights.astype(float), bias, normals, outliers, ridge)
        for axis in range(D + 1):
            for step in (-0.02, 0.02):
                moved, shift = weights.astype(float), bias
                if axis < D:
                    moved[axis] += step
                else:
                    shift += step
                assert oecl_oracle.log_loss(moved, shift, normals, outliers, ridge) > best
    weak, strong = (outlier_logistic(normals, outliers, ridge)[0] for ridge in (1e-3, 0.5))
    assert np.linalg.norm(weak) > 2 * np.linalg.norm(strong)


def test_each_kind_of_image_counts_alike_however_many_there_are():
    rng = np.random.default_rng(5)
    normals, outliers = unit(rng.standard_normal((9, D)) + 1), unit(rng.standard_normal((9, D)))
    once = outlier_logistic(normals, outliers)[0]
    np.testing.assert_allclose(
        outlier_logistic(np.repeat(normals, 2, axis=0), np.repeat(outliers, 2, axis=0))[0],
        once,
        atol=2e-3,
    )


FACTS = {"model": {"model": "m", "dimension": D}, "counts": {}, "settings": {}}


def test_a_head_comes_back_from_disk(head, tmp_path):
    save_head(tmp_path / "head", head, np.array([[1.5, 2.0, 0.25]]), **FACTS)
    found = load_head(tmp_path / "head")
    assert found.model == FACTS["model"]
    assert set(found.arrays) == set(head)
    for name, array in head.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert (tmp_path / "head" / "losses.csv").read_text() == (
        "epoch,contrastive,outlier_length,floor\n1,1.5,2,0.25\n"
    )
    manifest = json.loads((tmp_path / "head" / "manifest.json").read_text())
    assert set(manifest["checksums"]) == {"head.safetensors", "losses.csv"}
    assert found.checksums == manifest["checksums"]


def test_a_head_that_is_damaged_or_not_needed(head, tmp_path):
    with pytest.raises(BlissError, match=r"does not exist.*bliss train oecl"):
        load_head(tmp_path / "none")
    save_head(tmp_path / "head", head, np.zeros((1, 3)), **FACTS)
    with pytest.raises(
        UsageError, match=r"--trained was given with knn, mcm.*a score that reads one"
    ):
        open_head(str(tmp_path / "head"), [SCORES["knn"], SCORES["mcm"]])
    assert open_head(None, [SCORES["knn"]]) is None
    with open(tmp_path / "head" / "head.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(BlissError, match="does not match the checksum"):
        open_head(str(tmp_path / "head"), [SCORES["oecl"], SCORES["knn"]])
