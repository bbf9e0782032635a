"""bliss eval --from eval.json: the same numbers again, and what is said when they are not."""

import json
import shutil

import numpy as np
import pytest
from blissaudit.evaluation.report import differences
from helpers import small_worlds as small

NAMES = ("ant", "bee", "cat", "dog")

write_embeddings = small.write_embeddings


@pytest.fixture(scope="module")
def world(tmp_path_factory, bliss):
    """Four classes, an outlier set, an index, a protocol file, and an evaluation in `first`."""
    folder, rng = tmp_path_factory.mktemp("from"), np.random.default_rng(0)
    centres = rng.standard_normal((4, 16))
    for name, each in (("clean", 9), ("test", 8)):
        rows = np.repeat(centres, each, axis=0) + 1.2 * rng.standard_normal((4 * each, 16))
        write_embeddings(folder / name, "img", rows, label=np.repeat(NAMES, each).tolist())
    write_embeddings(folder / "far", "img", rng.standard_normal((12, 16)), label=["x"] * 12)
    texts = np.vstack([centres, rng.standard_normal((40, 16))])
    captions = [f"a {n}" for n in NAMES] + [f"text {row}" for row in range(40)]
    write_embeddings(folder / "texts", "text", texts, caption=captions)
    made = ("--embeddings", folder / "texts", "-o", folder / "index")
    assert bliss("index", "build", *made).code == 0
    (folder / "mine.json").write_text(json.dumps({"choice": "random", "size": 2, "draws": 5}))
    done = bliss(
        *("eval", "--reference", folder / "clean", "--test", folder / "test"),
        *("--index", folder / "index", "--ood", f"far={folder / 'far'}", "-o", folder / "first"),
        *("--protocol", folder / "mine.json", "--seed", "7", "--shots", "5", "--k", "4"),
        *("--prompt", "a {}", "--class-prompt", "ant=text 3", "--baseline", "knn:k=2"),
        *("--score", "bliss", "--score", "knn:k=2", "--score", "maximum_cosine+rscin"),
    )
    assert done.code == 0, done.err
    return folder


def table(folder):
    rows = json.loads((folder / "eval.json").read_text())["table"]
    return [{k: v for k, v in row.items() if k not in ("seconds", "peak_mib")} for row in rows]


SAME = "every number of the table is the one recorded"


def test_the_same_numbers_without_the_protocol_file(bliss, world):
    (world / "mine.json").rename(world / "gone.json")
    again = bliss("eval", "--from", world / "first" / "eval.json", "-o", world / "again")
    assert again.code == 0, again.err
    assert again.err.splitlines()[-1] == SAME
    assert table(world / "again") == table(world / "first")
    first, second = (
        json.loads((world / name / "eval.json").read_text()) for name in ("first", "again")
    )
    assert second["asked"] == first["asked"]
    assert [s["values"] for s in first["scores"].values()] == [
        s["values"] for s in second["scores"].values()
    ]
    twice = bliss("eval", "--from", world / "again" / "eval.json", "-o", world / "twice")
    assert twice.err.splitlines()[-1] == SAME


def test_an_option_beside_it_wins(bliss, world):
    done = bliss(
        *("eval", "--from", world / "first" / "eval.json", "-o", world / "other"),
        *("--seed", "8"),
    )
    assert done.code == 0, done.err
    assert "not as before: protocol" in done.err
    assert "the numbers of the table differ by up to" in done.err
    facts = json.loads((world / "other" / "eval.json").read_text())
    assert (facts["protocol"]["seed"], facts["protocol"]["shots"], facts["k"]) == (8, 5, 4)


def test_a_changed_set_is_named(bliss, world):
    shutil.copytree(world / "test", world / "kept")
    rows = np.load(world / "test" / "img_emb" / "img_emb_0.npy")
    np.save(world / "test" / "img_emb" / "img_emb_0.npy", rows[::-1])
    done = bliss("eval", "--from", world / "first" / "eval.json", "-o", world / "changed")
    shutil.rmtree(world / "test")
    shutil.move(world / "kept", world / "test")
    assert "not as before: sets" in done.err


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 1, "could not be read"),
        ({"kind": "audit", "format_version": 1}, 1, "is of kind audit and format 1. Needed: an e"),
        ({"kind": "evaluation", "format_version": 1}, 1, "has no usable 'asked'"),
        (
            {
                "kind": "evaluation",
                "format_version": 1,
                "asked": {},
                "protocol": {},
                "sets": {},
                "table": [{"auroc": 1.0}],
            },
            1,
            "has no usable 'table[0].score'",
        ),
    ],
)
def test_a_file_that_cannot_be_repeated(bliss, tmp_path, content, code, message):
    if content is not None:
        (tmp_path / "eval.json").write_text(json.dumps(content))
    done = bliss("eval", "--from", tmp_path / "eval.json")
    assert done.code == code and message in done.err


def test_without_it_the_sets_must_be_given(bliss):
    done = bliss("eval")
    assert done.code == 2 and "--test" in done.err
    done = bliss("eval", "--test", "images", "--index", "captions")
    assert done.code == 2 and "--reference was not given" in done.err


def test_differences_by_hand():
    row = {"score": "a", "auroc": 0.5, "gain": None, "seconds": 1.0}
    before = {"sets": {"test": {"sha256": "1", "source": "x"}}, "table": [row], "libraries": {}}
    same = {**before, "sets": {"test": {"sha256": "1", "source": "y"}}}
    same["table"] = [{**row, "seconds": 2.0}]
    assert differences(before, same) == [SAME]
    other = {**before, "libraries": {"numpy": "9"}, "table": [{**row, "auroc": 0.25}]}
    assert differences(before, other) == [
        "not as before: libraries",
        "the numbers of the table differ by up to 0.25",
    ]
    empty = {**before, "table": [{**row, "gain": 0.1}]}
    assert differences(before, empty) == ["the numbers of the table differ by up to inf"]
    assert differences(before, {**before, "table": []})[0] == "not as before: a missing"
