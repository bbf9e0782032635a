"""The scikit-learn and PyOD detectors, on the real libraries."""

import warnings

import numpy as np
import pytest

pytest.importorskip(
    "sklearn", reason="scikit-learn is not installed: pip install bliss-audit[sklearn]"
)
from blissaudit import bliss_scores, fit_moments
from blissaudit.audit.adapters.sklearn_detector import BlissDetector
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.leave_one_out import LeftOut
from blissaudit.scorer.reference import Reference
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

EXPECTED = {"check_estimators_dtypes": "its data has a row of zeros, which has no direction"}


@pytest.fixture
def world():
    """Three classes of 12 images, their prompts and 40 texts, in 16 dimensions; far from unit."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(3, 16))
    labels = np.arange(36) % 3
    images = 7 * (centres[labels] + 0.3 * rng.normal(size=(36, 16)))
    return images, labels, 2 * centres + rng.normal(size=(3, 16)), rng.normal(size=(40, 16))


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None].astype(np.float32)


def ours(images, world, left_out):
    fitted, labels, prompts, texts = world
    rows = unit(images)
    vectors = unit(texts)
    reference = Reference(fit_moments(["0", "1", "2"], unit(fitted), labels), unit(prompts))
    retrieved = gather_texts(exact_search(rows, vectors, 4), vectors)
    return bliss_scores(rows, retrieved, reference, 0.7, left_out=left_out).score


def test_scikit_learns_own_checks_pass_where_they_apply():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(BlissDetector(), on_fail=None, expected_failed_checks=EXPECTED)
    wrong = [r["check_name"] for r in results if r["status"] == "failed"]
    passed = [r["check_name"] for r in results if r["status"] == "passed"]
    assert wrong == []
    assert {"check_outliers_train", "check_outliers_fit_predict", "check_fit_score_takes_y"} <= {
        *passed
    }


def test_new_images_get_minus_the_bliss_score(world):
    images, labels, prompts, texts = world
    new = np.random.default_rng(6).normal(size=(9, 16))
    detector = BlissDetector(prompts, texts, k=4, weight=0.7).fit(images, labels)
    none = LeftOut(np.zeros(0, np.int64), np.zeros(0, np.int64))
    expected = ours(new, world, none)
    np.testing.assert_allclose(detector.score_samples(new), -expected, rtol=1e-4)


def test_fitted_images_are_left_out_of_their_class_wherever_they_are_scored(world):
    images, labels, prompts, texts = world
    detector = BlissDetector(prompts, texts, k=4, weight=0.7).fit(images, labels)
    expected = ours(images, world, LeftOut(np.arange(36), labels.astype(np.int64)))
    np.testing.assert_allclose(detector.score_samples(images), -expected, rtol=1e-4)
    one = detector.score_samples(images[7:8])
    np.testing.assert_allclose(one, -expected[7:8], rtol=1e-4)


def test_the_sign_is_scikit_learns_and_contamination_is_the_share_called_outliers(world):
    images, labels, prompts, texts = world
    far = np.vstack([images, -images[:4]])
    detector = BlissDetector(prompts, texts, k=4, contamination=0.25).fit(images, labels)
    assert (detector.predict(images) == -1).sum() == 9
    scores = detector.score_samples(far)
    assert scores[36:].max() < np.median(scores[:36])
    np.testing.assert_array_equal(detector.predict(far), np.where(scores < detector.offset_, -1, 1))


def test_without_texts_their_weight_means_nothing_and_with_them_everything_counts(world):
    images, labels, prompts, texts = world

    def scores(**changed):
        given = {"prompts": prompts, "texts": texts, "k": 4, **changed}
        return BlissDetector(**given).fit(images, labels).score_samples(images)

    np.testing.assert_array_equal(scores(texts=None, weight=0.1), scores(texts=None, weight=9))
    for changed in ({"prompts": None}, {"texts": None}, {"k": 9}, {"weight": 2.0}):
        assert np.abs(scores() - scores(**changed)).max() > 1e-3, changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompts": np.ones((2, 16))}, r"prompts of shape \(2, 16\).*each of the 3 classes"),
        ({"prompts": np.zeros((3, 16))}, "row 0 of prompts is zero"),
        ({"texts": np.ones((4, 5))}, "texts have 5 dimensions, X has 16"),
        ({"texts": np.full((4, 16), np.nan)}, "row 0 of texts is zero, NaN or infinite"),
        ({"contamination": 0.7}, "contamination 0.7 was given; above 0, up to 0.5"),
        ({"k": 0}, "k = 0 was given; needed: a whole number, 1 or more"),
        ({"k": 2.5}, "k = 2.5 was given; needed: a whole number"),
    ],
)
def test_what_does_not_fit_is_named(world, changed, words):
    images, labels, prompts, texts = world
    given = {"prompts": prompts, "texts": texts, **changed}
    with pytest.raises(ValueError, match=words):
        BlissDetector(**given).fit(images, labels)


def test_a_class_of_two_is_too_small(world):
    images, _, _, texts = world
    with pytest.raises(ValueError, match=r"class 'b' has 2 images; needed: 3"):
        BlissDetector(texts=texts).fit(images, ["a"] * 34 + ["b"] * 2)


@pytest.mark.parametrize(("nothing", "other"), [(None, "a"), (np.nan, 1.0)])
def test_a_row_without_a_class_is_named(world, nothing, other):
    images, _, _, texts = world
    with pytest.raises(ValueError, match="y holds None or NaN; needed: a class for each row"):
        BlissDetector(texts=texts).fit(images, [nothing, *[other] * 35])
    column = BlissDetector(texts=texts).fit(images, np.full((36, 1), "a"))
    assert column.classes_.tolist() == ["a"]


def test_pyod_has_the_same_scores_with_our_sign(world):
    pytest.importorskip("pyod", reason="PyOD is not installed: pip install bliss-audit[pyod]")
    from blissaudit.audit.adapters.pyod_detector import BlissPyOD

    images, labels, prompts, texts = world
    new = np.random.default_rng(6).normal(size=(9, 16))
    sklearns = BlissDetector(prompts, texts, k=4, weight=0.7).fit(images, labels)
    pyods = BlissPyOD(prompts, texts, k=4, weight=0.7, contamination=0.25).fit(images, labels)
    np.testing.assert_array_equal(pyods.decision_scores_, -sklearns.score_samples(images))
    np.testing.assert_array_equal(pyods.decision_function(new), -sklearns.score_samples(new))
    assert pyods.labels_.sum() == 9
    highest = np.argsort(pyods.decision_scores_)[-9:]
    assert set(np.flatnonzero(pyods.labels_)) == set(highest)
    np.testing.assert_array_equal(
        pyods.predict(new), (pyods.decision_function(new) > pyods.threshold_).astype(int)
    )
    assert pyods.get_params()["k"] == 4
    for method in ("predict", "predict_proba", "decision_function", "predict_with_rejection"):
        with pytest.raises(NotFittedError, match="not fitted"):
            getattr(BlissPyOD(), method)(images)
