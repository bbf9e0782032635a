"""`bliss audit --score NAME`: another score ranks, its numbers are the score's own."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.scorer.reference_file import load_reference
from blissaudit.scorer.scores.contract import Need
from blissaudit.scorer.scores.registry import SCORES


@pytest.fixture(scope="module")
def plain(bliss, collection, index, tmp_path_factory):
    """A BLISS audit of the collection: its embeddings serve every other run here."""
    folder = tmp_path_factory.mktemp("plain") / "audit"
    assert bliss("audit", collection, "--index", index, "-o", folder).code == 0
    return folder


def audit(bliss, images, index, folder, *more):
    done = bliss(
        *("audit", "--embeddings", images, "--index", index, "--model", "demo", "-o", folder),
        *more,
    )
    table = None
    if done.code == 0:
        table = pq.read_table(folder / "scores.parquet").to_pydict()
    return done, table


def test_maximum_cosine_ranks_by_the_prompts_alone(bliss, plain, collection, index, tmp_path):
    images = plain / "images"
    done, table = audit(bliss, images, index, tmp_path / "run", "--score", "maximum_cosine")
    fitted = tmp_path / "reference"
    assert bliss("reference", "fit", collection, "--model", "demo", "-o", fitted).code == 0
    prompts = load_reference(fitted).prompt_vectors.astype(float)
    expected = -(read_image_embeddings(images).vectors.astype(float) @ prompts.T).max(axis=1)
    np.testing.assert_allclose(table["score"], expected, atol=1e-6)
    order = np.argsort(-expected, kind="stable")
    assert [table["rank"][i] for i in order] == list(range(1, len(order) + 1))
    assert "ranked by maximum_cosine; nearest class and captions are BLISS's" in done.out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["settings"]["score"] == "maximum_cosine"
    before = pq.read_table(plain / "scores.parquet").to_pydict()
    for column in ("nearest_class", "captions", "z"):
        assert table[column] == before[column]
    assert table["score"] != before["score"]


def test_the_same_fit_again_succeeds_and_another_is_refused(bliss, collection, tmp_path):
    broken = tmp_path / "images"
    shutil.copytree(collection, broken)
    (broken / "apple" / "=broken.png").write_bytes(b"")
    command = ("reference", "fit", broken, "--model", "demo", "-o", tmp_path / "fitted")
    first = bliss(*command)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "fitted").iterdir()}
    again = bliss(*command)
    assert (first.code, again.code, again.out) == (0, 0, first.out)
    assert "was fitted by the same command before: nothing changed" in again.err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "fitted").iterdir()} == before
    assert bliss(*command, "--fail-on", "unreadable=0").code == 3
    (broken / "apple" / "=broken.png").unlink()
    for changed in ((), ("--hold-out", 0.3)):
        refused = bliss(*command, *changed)
        assert refused.code == 2 and "already holds manifest.json" in refused.err
    assert bliss(*command, "--overwrite").code == 0


UNTRAINED = {name for name, score in SCORES.items() if not score.trained}
HEADED = {name for name, score in SCORES.items() if Need.HEAD in score.needs}


@pytest.mark.parametrize("name", sorted(HEADED))
def test_a_trained_score_asks_for_its_head(name, bliss, plain, index, tmp_path):
    done = bliss(
        *("audit", "--embeddings", plain / "images", "--index", index, "--model", "demo"),
        *("-o", tmp_path / "run", "--score", name),
    )
    assert (done.code, done.out) == (2, "")
    assert f"{name} was used without a trained head" in done.err


@pytest.mark.parametrize(
    "name", [*sorted(UNTRAINED - {"eoe", "bliss"}), "mcm+rscin", "bliss+rscin"]
)
def test_every_score_ranks_against_a_separate_reference(name, bliss, plain, index, tmp_path):
    images = plain / "images"
    done, table = audit(
        bliss, images, index, tmp_path / "run", "--reference", images, "--score", name
    )
    assert done.code == 0, done.err
    assert np.isfinite(table["score"]).all()
    assert set(table["p"]) == {None}


def test_bliss_plus_puts_the_strays_first(bliss, plain, index, tmp_path):
    images = plain / "images"
    _, table = audit(
        bliss, images, index, tmp_path / "run", "--reference", images, "--score", "bliss+"
    )
    best = sorted(zip(table["rank"], table["path"], strict=True))[:2]
    before = pq.read_table(plain / "scores.parquet").to_pydict()
    expected = sorted(zip(before["rank"], before["path"], strict=True))[:2]
    assert {path for _, path in best} == {path for _, path in expected}


def test_bliss_plus_audits_a_collection_that_is_its_own_reference(bliss, plain, index, tmp_path):
    images = plain / "images"
    done, table = audit(bliss, images, index, tmp_path / "run", "--score", "bliss+")
    assert "ranked by bliss+; nearest class and captions are BLISS's" in done.out
    assert "26 of them are in the reference" in done.out
    assert {table["path"][i] for i in range(26) if table["rank"][i] <= 2} == {
        "apple/clock.png",
        "boat/umbrella.png",
    }
    assert set(table["p"]) == {None}
    # Every image left out of its own class: the same as naming the collection as its reference.
    _, named = audit(
        bliss, images, index, tmp_path / "named", "--reference", images, "--score", "bliss+"
    )
    np.testing.assert_allclose(named["score"], table["score"], rtol=1e-6)
    np.testing.assert_allclose(
        np.array(table["words"]) + table["images"], table["score"], rtol=1e-9, atol=1e-9
    )
    learnt = json.loads((tmp_path / "run" / "run.json").read_text())["bliss_plus"]
    assert learnt["version"] == 4 and sum(learnt["weights"].values()) == pytest.approx(3)
    assert f"{learnt['without_own_class']['images_auroc']:.1%} by images" in done.out


def test_auto_picks_a_score_and_says_why(bliss, plain, index, tmp_path, monkeypatch):
    images = plain / "images"
    _, wanted = audit(bliss, images, index, tmp_path / "plus", "--score", "bliss+")
    done, table = audit(bliss, images, index, tmp_path / "auto", "--score", "auto")
    assert "\nscore auto: bliss+, from 26 reference images of 3 classes\n" in done.out
    assert table["score"] == wanted["score"]
    facts = json.loads((tmp_path / "auto" / "run.json").read_text())
    assert (facts["request"]["score"], facts["settings"]["score"]) == ("auto", "bliss+")
    one, _ = audit(bliss, images, index, tmp_path / "one", "--score", "auto", "--normal", "apple")
    assert "of 1 class; with one class its weights are equal\n" in one.out
    labels = ("--score", "auto", "--question", "mislabel")
    assert "score auto" not in audit(bliss, images, index, tmp_path / "labels", *labels)[0].out
    monkeypatch.setattr("blissaudit.audit.scores.MOST_TEXT_BYTES", 100)
    done, table = audit(bliss, images, index, tmp_path / "large", "--score", "auto")
    assert "score auto: bliss; bliss+ was not used because the vectors of" in done.out
    before = pq.read_table(plain / "scores.parquet").to_pydict()
    assert table["score"] == before["score"]


def test_bliss_plus_with_a_fitted_reference_has_p_values(bliss, plain, collection, index, tmp_path):
    fitted = tmp_path / "reference"
    assert bliss("reference", "fit", collection, "--model", "demo", "-o", fitted).code == 0
    against = ("--reference", fitted, "--score", "bliss+")
    done, table = audit(bliss, plain / "images", index, tmp_path / "run", *against)
    assert done.code == 0, done.err
    count = load_reference(fitted).calibration_count
    assert count > 2
    p = np.array(table["p"])
    ranks = p * (count + 1)
    np.testing.assert_allclose(ranks, ranks.round(), atol=1e-9)
    order = np.argsort(table["rank"])
    assert (np.diff(p[order]) >= 0).all()
    assert len(set(p)) > 1
    scored = json.loads(
        bliss("score", collection, *against, "--index", index, "--json", "--top", 30).out
    )
    found = {image["path"]: (image["score"], image["p"]) for image in scored["worst"]}
    for path, score, value in zip(table["path"], table["score"], table["p"], strict=True):
        assert found[path] == (pytest.approx(score, rel=1e-6), value)
    plain_scored = json.loads(
        bliss("score", collection, "--reference", fitted, "--index", index, "--json").out
    )
    assert plain_scored["worst"][0]["score"] != scored["worst"][0]["score"]


def test_a_score_that_scoring_cannot_have_is_refused(bliss, collection, index, tmp_path):
    fitted = tmp_path / "reference"
    assert bliss("reference", "fit", collection, "--model", "demo", "-o", fitted).code == 0
    done = bliss("score", collection, "--reference", fitted, "--index", index, "--score", "knn")
    assert done.code == 2
    assert "knn compares with reference images, and a fitted reference keeps none" in done.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--score", "knnn"], "score 'knnn' is unknown. Needed: one of auto, bliss, bliss+, "),
        (["--score", "knn"], "an image cannot be left out of its own. Needed: a folder of clean"),
    ],
)
def test_a_score_that_cannot_be_had_is_refused(more, message, bliss, plain, index, tmp_path):
    done, _ = audit(bliss, plain / "images", index, tmp_path / "run", *more)
    assert done.code == 2
    assert message in done.err


def test_a_fitted_reference_has_no_images_to_compare_with(
    bliss, plain, collection, index, tmp_path
):
    fitted = tmp_path / "reference"
    assert bliss("reference", "fit", collection, "--model", "demo", "-o", fitted).code == 0
    done, _ = audit(
        bliss, plain / "images", index, tmp_path / "run", "--reference", fitted, "--score", "vim"
    )
    assert done.code == 2
    assert "vim compares with reference images, and a fitted reference keeps none" in done.err
