"""`bliss explain`: the terms of a score, and a map whose cells and constant add up to it."""

import json

import numpy as np
import pytest
from helpers import ROOT
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
    assert "2 x 2 cells (exact)" in done.out
    with Image.open(tmp_path / "maps" / "0001.png") as drawn:
        assert drawn.size[0] == Image.open(collection / STRAY).size[0]
    with np.load(tmp_path / "maps" / "0002.npz") as numbers:
        total = numbers["cells"].sum() + numbers["constant"]
        assert total == pytest.approx(float(numbers["score"]), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class", "tower"), "--class tower is not a class of the reference"),
        (("--part", "11"), "--part 11 was given"),
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
