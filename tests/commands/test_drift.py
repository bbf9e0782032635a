"""bliss drift: what is new is named, whichever way the collections are given; what is refused."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.small_worlds import unit, write_embeddings

D = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory, bliss, write_embeddings_of_texts):
    """An index of 30 directions; images near the first 10, the last 12 new ones near the 21st."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("drift")
    texts = unit(rng.standard_normal((30, D)))
    write_embeddings_of_texts(folder / "texts", texts, [f"caption {i}" for i in range(30)])
    index = folder / "index"
    assert bliss("index", "build", "--embeddings", folder / "texts", "-o", index, "-q").code == 0
    near = np.concatenate([np.arange(120) % 10, np.full(12, 20)])
    images = unit(texts[near] + 0.2 * rng.standard_normal((132, D)))
    sides = np.where(np.arange(132) < 60, "before", "after")
    paths = [f"{i}.png" for i in range(132)]
    for name, part in (("old", slice(0, 60)), ("new", slice(60, None)), ("all", slice(None))):
        write_embeddings(
            folder / name, "img", images[part], image_path=paths[part], side=sides[part]
        )
    write_embeddings(folder / "small", "img", images[:, :8], image_path=paths)
    return folder


@pytest.fixture(scope="module")
def write_embeddings_of_texts():
    return lambda folder, rows, captions: write_embeddings(folder, "text", rows, caption=captions)


def drift(bliss, world, out, *given):
    done = bliss("drift", *given, "--index", world / "index", "-o", out, "--json", "-q",
                 "--overwrite")  # fmt: skip
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_new_caption_is_first_in_both_directions(bliss, world, tmp_path):
    found = drift(bliss, world, tmp_path / "a", world / "old", world / "new")
    assert (found["old"], found["new"]) == (60, 72)
    assert found["gained"][0]["caption"] == "caption 20"
    assert found["gained"][0]["new"] >= 12
    assert found["p"] <= 0.05
    given = (world / "old", world / "new", "--index", world / "index", "-o", tmp_path / "a", "-q")
    refused = bliss("drift", *given, "--k", 7)
    assert refused.code == 2 and "holds results made with other settings (k differ" in refused.err
    back = drift(bliss, world, tmp_path / "b", world / "new", world / "old", "--shown", 0)
    assert back["lost"][0]["caption"] == "caption 20"
    page = (tmp_path / "a" / "report.html").read_text()
    assert "caption 20" in page
    assert "<script" not in page
    assert not (tmp_path / "b" / "report.html").exists()
    table = pq.read_table(tmp_path / "a" / "captions.parquet").to_pylist()
    assert table[0]["caption"] == "caption 20"
    assert len(table[0]["new_examples"]) == 6
    split = drift(bliss, world, tmp_path / "c", world / "all", "--column", "side",
                  "--old", "before", "--new", "after")  # fmt: skip
    assert split["gained"] == found["gained"]
    options = [("--k", 3), ("--fdr", 0.9), ("--permutations", 0)]
    for option in options:
        other = drift(bliss, world, tmp_path / "d", world / "old", world / "new", *option)
        assert other != found, option


def test_classes_are_compared_within_and_their_shares_apart(bliss, world, tmp_path):
    rows = np.load(world / "all" / "img_emb" / "img_emb_0.npy")
    for name, part, label in (
        ("old", slice(0, 60), ["x"] * 20 + ["y"] * 40),
        ("new", slice(60, None), ["x"] * 52 + ["y"] * 20),
    ):
        write_embeddings(tmp_path / name, "img", rows[part], label=label)
    sides = tmp_path / "old", tmp_path / "new"
    found = drift(bliss, world, tmp_path / "a", *sides)
    assert found["within_classes"]
    assert [each["q"] < 0.01 for each in found["class_shares"]] == [True, True]
    assert {row["class"] for row in found["by_class"] if row["caption"] == "caption 20"} == {"y"}
    whole = drift(bliss, world, tmp_path / "a", *sides, "--ignore-classes")
    assert not whole["within_classes"]
    assert "class_shares" not in whole


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (("old", "old"), 2, "hold the same 60 images.*two different collections"),
        (("old", "small"), 1, "8 dimensions"),
        (("old",), 2, "neither of NEW and --column"),
        (("all", "--column", "side"), 2, "--column, --old and --new go together"),
        (("all", "--column", "x", "--old", "a", "--new", "b"), 2, "has no column 'x'.*side"),
        (("all", "--column", "side", "--old", "a", "--new", "after"), 2, "side = 'a'.*before"),
        (("old", "new", "--old", "a"), 2, "one of --old and --new"),
        (("old", "nowhere"), 2, "does not exist"),
    ],
)
def test_what_cannot_be_compared_is_refused(bliss, world, tmp_path, given, code, message):
    words = [world / word if (world / word).exists() and n < 2 else word
             for n, word in enumerate(given)]  # fmt: skip
    done = bliss("drift", *words, "--index", world / "index", "-o", tmp_path / "out", "-q")
    assert done.code == code
    assert re.search(message, done.err, re.S)


def test_pictures_side_by_side_and_an_image_that_cannot_be_read(bliss, collection, tmp_path):
    (tmp_path / "c.txt").write_text("an apple\na boat\na house\na clock\na cup\na key\na fish\n")
    index = tmp_path / "index"
    assert bliss("index", "build", tmp_path / "c.txt", "--model", "demo", "-o", index).code == 0
    new = shutil.copytree(collection / "boat", tmp_path / "new")
    (new / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    done = bliss("drift", collection / "apple", new, "--index", index, "-o", tmp_path / "out",
                 "--permutations", 19, "--k", 7)  # fmt: skip
    assert done.code == 0, done.err
    assert "9 old images and 9 new images" in done.out
    assert "1 image could not be read" in done.out
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/webp") >= 9


def test_an_index_of_another_model_or_none_is_refused(bliss, world, index, tmp_path):
    sides = (world / "old", world / "new", "-o", tmp_path / "out", "-q")
    done = bliss("drift", *sides, "--index", index)
    assert done.code == 1
    assert "both from the same model" in done.err
    done = bliss("drift", *sides, "--index", tmp_path / "nowhere")
    assert done.code in (1, 2)
    assert "nowhere" in done.err
