"""`bliss explain`: the terms of a score, and a map whose cells and constant add up to it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit import UsageError
from blissaudit import explain as explain_images
from blissaudit.audit.questions.explain import KeptImages
from blissaudit.indexer import ModelChoice, load_encoder, open_index
from blissaudit.scorer import load_reference
from blissaudit.scorer.moments import scatter_of
from helpers import ROOT
from helpers.small_worlds import write_embeddings
from PIL import Image

STRAY = "apple/clock.png"


@pytest.fixture(scope="module")
def fitted(bliss, collection, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain") / "reference"
    assert bliss("reference", "fit", collection, "--model", "demo", "-o", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def explain(bliss, fitted, index, collection):
    def run(*arguments, images=(STRAY,)):
        paths = [collection / each for each in images]
        return bliss("explain", *paths, "--reference", fitted, "--index", index, *arguments)

    return run


def page_data(path):
    page = path.read_text(encoding="utf-8")
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    )


@pytest.fixture(scope="module")
def audited(bliss, collection, index, tmp_path_factory):
    """A run with --robust and maps, and what the command that made the maps printed."""
    folder = tmp_path_factory.mktemp("maps") / "run"
    audit = ("audit", collection, "--index", index, "-o", folder, "--report", "none", "--robust")
    assert bliss(*audit).code == 0
    done = bliss("report", folder, "--top", 5, "--heatmaps")
    assert done.code == 0, done.err
    return folder, done


def facts(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_cells_and_constant_add_up_to_the_score_of_the_class(explain, bliss, fitted, index,
                                                              collection):  # fmt: skip
    (found,) = facts(explain("--json"))
    scored = bliss(
        *("score", collection / STRAY, "--reference", fitted, "--index", index, "--json"),
    )
    (worst,) = json.loads(scored.out)["worst"]
    assert found["explained"] == found["nearest"] == worst["nearest_class"]
    assert found["score"] == pytest.approx(worst["score"], rel=1e-4)
    total = np.sum(found["cells"]) + found["constant"]
    assert total == pytest.approx(found["score"], abs=1e-3 * (1 + abs(found["score"])))
    assert found["score"] == pytest.approx(found["ics"] + 0.5 * found["ets"])
    assert sum(each["adds"] for each in found["captions"]) == pytest.approx(0.5 * found["ets"])


def test_parts_have_maps_that_add_up_to_the_whole(explain):
    parts = {
        part: facts(explain("--json", "--part", part, "--k", 2))[0]
        for part in ("total", "label", "captions", "1", "2")
    }
    cells = {part: np.array(found["cells"]) for part, found in parts.items()}
    np.testing.assert_allclose(cells["label"] + cells["captions"], cells["total"], atol=1e-5)
    np.testing.assert_allclose(cells["1"] + cells["2"], cells["captions"], atol=1e-5)
    sums = {part: cells[part].sum() + parts[part]["constant"] for part in parts}
    assert sums["label"] == pytest.approx(parts["total"]["ics"], abs=1e-3)
    assert sums["2"] == pytest.approx(parts["total"]["captions"][1]["adds"], abs=1e-3)
    assert parts["2"]["part"] == parts["total"]["captions"][1]["text"]


def test_another_class_and_another_weight_are_explained(explain):
    other = facts(explain("--json", "--class", "house", "--lambda", 2))[0]
    assert (other["explained"], other["weight"]) == ("house", 2)
    assert other["score"] == pytest.approx(other["ics"] + 2 * other["ets"])


def test_maps_are_written_over_the_upright_picture(explain, tmp_path, collection):
    done = explain("-o", tmp_path / "maps", images=(STRAY, "boat/0.png"))
    assert done.code == 0, done.err
    assert f"Maps: {tmp_path / 'maps'}" in done.out
    assert "the reference keeps vectors without names" in done.err
    assert "2 x 2 cells (exact)" in done.out
    with Image.open(tmp_path / "maps" / "0001.png") as drawn:
        assert drawn.size[0] == Image.open(collection / STRAY).size[0]
    with np.load(tmp_path / "maps" / "0002.npz") as numbers:
        total = numbers["cells"].sum() + numbers["constant"]
        assert total == pytest.approx(float(numbers["score"]), abs=1e-3)


def test_maps_replace_no_picture_and_go_into_no_file(explain, tmp_path):
    (tmp_path / "0001.png").write_bytes(b"mine")
    for name, message in (("", "is there already, and is no map"), ("0001.png", " is a file. ")):
        done = explain("-o", tmp_path / name)
        assert done.code == 2 and message in done.err
        assert (tmp_path / "0001.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class", "tower"), "--class tower is not a class of the reference"),
        (("--part", "11"), "--part 11 was given"),
        (("--part", "²"), "--part ² was given"),
        (("--part", "left"), "a caption's number from 1 to 10"),
    ],
)
def test_what_cannot_be_explained_is_refused(explain, arguments, message):
    done = explain(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_explained(
    explain, tmp_path, bliss, fitted, index, collection
):
    broken = tmp_path / "broken.png"
    broken.write_bytes((ROOT / "LICENSE").read_bytes())
    where = ("--reference", fitted, "--index", index)
    done = bliss("explain", broken, collection / STRAY, *where, "--json")
    assert len(facts(done)) == 1
    assert "broken.png: " in done.err
    done = bliss("explain", broken, *where)
    assert (done.code, done.out) == (1, "")
    assert "none of 1 images could be read" in done.err


def test_the_nearest_reference_images_are_printed_with_what_is_known_of_them(
    explain, audited, bliss, index, collection
):
    (found,) = facts(explain("--json"))
    assert [near["path"] for near in found["nearest_images"]] == [None] * 3
    cosines = [near["similarity"] for near in found["nearest_images"]]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] < 0.9999  # the image itself is in the reference
    run = audited[0]
    done = bliss("explain", collection / STRAY, "--reference", run / "reference", "--index", index)
    assert "without names" not in done.err
    near = done.out.split("nearest reference images\n")[1].split("  map of")[0]
    images = np.load(run / "images/img_emb/img_emb_0.npy")
    scored = pq.read_table(run / "scores.parquet").to_pylist()
    paths = [row["path"] for row in scored]
    cosines = images @ images[paths.index(STRAY)]
    order = [at for at in np.argsort(-cosines, kind="stable").tolist()
             if scored[at]["left_out"] and paths[at] != STRAY]  # fmt: skip
    assert re.findall(r"(\S+\.png)", near) == [paths[at] for at in order[:3]]


def test_maps_are_arrays_in_python_and_say_which_classes_have_no_images(fitted, index, collection):
    encoder = load_encoder(ModelChoice("demo"))
    reference = load_reference(fitted)
    parts = [replace(part, centred=None, scatter=scatter_of(part))
             for part in reference.moments.parts]  # fmt: skip
    bare = replace(reference, moments=replace(reference.moments, parts=tuple(parts)), sample=None)
    (found,), failures = explain_images([collection / STRAY], bare, open_index(index), encoder)
    assert failures == []
    assert found.nearest_images == ()
    assert "statistics only" in KeptImages(bare).remark()
    assert isinstance(found.cells, np.ndarray)
    assert found.cells.sum() + found.constant == pytest.approx(found.score, abs=1e-3)


def test_other_models_and_models_without_maps_are_refused(
    small, fitted, index, bliss, collection, tmp_path
):
    rows = np.eye(3, dtype=np.float32)
    write_embeddings(tmp_path / "texts", "text", rows, caption=["a", "b", "c"])
    made = ("index", "build", "--embeddings", tmp_path / "texts", "-o", tmp_path / "other", "-q")
    assert bliss(*made).code == 0
    where = ("--reference", fitted, "--index", tmp_path / "other", "--k", 1)
    done = bliss("explain", collection / STRAY, *where)
    assert done.code == 1
    assert "both from the same model" in done.err or "was made with" in done.err
    done = bliss("explain", collection / STRAY, "--reference", fitted, "--index", fitted)
    assert done.code in (1, 2)
    with pytest.raises(UsageError, match="no map_cells"):
        explain_images([], load_reference(fitted), open_index(index), small.small_encoder())


def test_maps_on_the_page_add_up_to_the_score_of_the_class_of_each_image(audited):
    folder, done = audited
    assert "5 heatmaps" in done.err
    weight = json.loads((folder / "run.json").read_text())["settings"]["weight"]
    rows = {row["row"]: row for row in pq.read_table(folder / "scores.parquet").to_pylist()}
    images = page_data(folder / "report.html")["images"]
    assert len(images) == 5
    for image in images:
        drawn, row = image["map"], rows[image["row"]]
        score = row["given_ics"] + weight * row["given_ets"]
        assert len(drawn["values"]) == drawn["rows"] * drawn["cols"] == 4
        assert drawn["total"] == pytest.approx(score, abs=1e-3 * (1 + abs(score)))
        assert sum(drawn["values"]) == pytest.approx(drawn["total"], abs=1e-3)
        assert row["label"] in drawn["title"]
        assert drawn["method"].startswith("Exact: ")
        assert drawn["box"] == [0, 0, 1, 1]


def test_a_report_has_maps_on_request_and_those_of_a_robust_run_are_the_same(audited, bliss):
    folder, _ = audited
    before = page_data(folder / "report.html")["images"]
    assert bliss("report", folder, "--top", 5).code == 0
    assert not any("map" in image for image in page_data(folder / "report.html")["images"])
    done = bliss("report", folder, "--top", 4, "--heatmaps")
    assert "4 heatmaps" in done.err
    for old, new in zip(before, page_data(folder / "report.html")["images"], strict=False):
        np.testing.assert_allclose(new["map"]["values"], old["map"]["values"], atol=1e-3)


def test_the_map_of_another_score_is_titled_as_the_part_of_bliss(audited, bliss, tmp_path):
    run = shutil.copytree(audited[0], tmp_path / "run")
    told = json.loads((run / "run.json").read_text())
    told["settings"]["score"] = "maximum_cosine"
    (run / "run.json").write_text(json.dumps(told))
    assert bliss("report", run, "--heatmaps", "--top", 1).code == 0
    (image,) = page_data(run / "report.html")["images"]
    assert "BLISS part" in image["map"]["title"]
    assert "ranked by maximum_cosine" in image["map"]["title"]


def test_it_says_why_there_are_no_maps(audited, bliss, index, tmp_path):
    folder, _ = audited
    bare = shutil.copytree(folder, tmp_path / "bare")
    shutil.rmtree(bare / "reference")
    done = bliss("report", bare, "--heatmaps", "--top", 3)
    assert done.code == 0
    assert "no heatmaps: " in done.err
    assert not any("map" in image for image in page_data(bare / "report.html")["images"])
    rows = np.load(folder / "images/img_emb/img_emb_0.npy")
    labels = pq.read_table(folder / "images/metadata")["label"].to_pylist()
    write_embeddings(tmp_path / "e", "img", rows, label=labels)
    audit = ("audit", "--embeddings", tmp_path / "e", "--index", index, "-o", tmp_path / "run")
    assert bliss(*audit, "--report", "none", "--prompts", "means").code == 0
    done = bliss("report", tmp_path / "run", "--heatmaps", "--top", 3)
    assert re.search("no heatmaps: .*embeddings.*names no model", done.err)
    done = bliss("report", tmp_path / "run", "--heatmaps", "--model", "demo")
    assert "0 heatmaps; 26 without: " in done.err
    done = bliss(*audit, "--heatmaps")
    assert done.code == 2
    assert "`bliss report RUN --heatmaps` in its place" in done.err
