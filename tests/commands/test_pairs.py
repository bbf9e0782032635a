"""bliss pairs: swapped captions are found, from folders and embeddings; what is refused."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit import UsageError, audit_pairs
from blissaudit.demo.scenes import caption, render_scene, sample_scene
from helpers.small_worlds import unit, write_embeddings


def world(count=40):
    rng = np.random.default_rng(0)
    images = unit(rng.standard_normal((count, 24)))
    return images, unit(images + 0.1 * rng.standard_normal((count, 24)))


@pytest.fixture
def folder(tmp_path):
    """Embeddings of 40 pairs in which captions 3 and 8 are swapped."""
    images, texts = world()
    texts[[3, 8]] = texts[[8, 3]]
    names = [f"caption {i}" for i in range(40)]
    uids = [f"{i:032x}" for i in range(40)]
    write_embeddings(tmp_path / "e", "img", images, caption=names, uid=uids)
    (tmp_path / "e" / "text_emb").mkdir()
    np.save(tmp_path / "e" / "text_emb" / "text_emb_0.npy", texts)
    return tmp_path / "e"


@pytest.mark.parametrize("question", [("--question", "pairs"), ("--question=pairs",)])
def test_the_audit_with_that_question_is_the_same_command(bliss, folder, tmp_path, question):
    rest = ("--json", "-q", "--shown", 0, "--keep", 0.1)
    assert bliss("pairs", folder, "-o", tmp_path / "a", *rest).code == 0
    assert bliss("audit", *question, folder, "-o", tmp_path / "b", *rest).code == 0
    for file in (tmp_path / "a").glob("*.parquet"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    refused = bliss("audit", folder, *question, "--robust")
    assert (refused.code, "--robust" in refused.err) == (2, True)


def test_swapped_captions_are_found_and_left_out(bliss, folder, tmp_path):
    done = bliss("pairs", folder, "-o", tmp_path / "out", "--json", "-q", "--shown", 0)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["kept"] == 38
    assert {row["row"] for row in found["worst"][:2]} == {3, 8}
    assert found["worst"][0]["better_caption"] in ("caption 8", "caption 3")
    table = pq.read_table(tmp_path / "out" / "pairs.parquet")
    assert [row for row, keep in enumerate(table["keep"].to_pylist()) if not keep] == [3, 8]
    halves = np.load(tmp_path / "out" / "kept-uids.npy", allow_pickle=False)
    assert halves.dtype == np.dtype("u8,u8")
    assert [int(low) for _, low in halves] == [i for i in range(40) if i not in (3, 8)]
    assert len((tmp_path / "out" / "kept-uids.txt").read_text().split()) == 38
    assert json.loads((tmp_path / "out" / "run.json").read_text())["kept"] == 38
    changed = [("--keep", 0.0004), ("--temperature", 0.5), ("--sums", "top", "--k", 1)]
    for options in changed:
        again = ("pairs", folder, "-o", tmp_path / "o", "--json", "-q", "--shown", 0, *options)
        assert json.loads(bliss(*again, "--overwrite").out) != found, options
    refused = bliss("pairs", folder, "-o", tmp_path / "o", "-q", "--temperature", 0.2)
    assert refused.code == 2 and "results made with other settings (k, sums, tempe" in refused.err


def test_pictures_end_to_end(bliss, index, tmp_path):
    rng = np.random.default_rng(1)
    images, words = tmp_path / "images", []
    images.mkdir()
    for number in range(24):
        scene = sample_scene(rng)
        render_scene(scene, 64).save(images / f"{number:02}.png")
        words.append(caption(scene, rng))
    words[2], words[5] = words[5], words[2]
    for number, text in enumerate(words):
        (images / f"{number:02}.txt").write_text(text)
    (images / "24.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    (images / "24.txt").write_text("never seen")
    done = bliss("pairs", images, "--index", index, "-o", tmp_path / "out", "-q")
    assert done.code == 0, done.err
    assert "24 pairs of 24 images" in done.out
    assert "1 of unreadable images" in done.out
    table = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    worst = sorted(table, key=lambda row: -row["score"])[:6]
    assert {"02.png", "05.png"} <= {row["path"] for row in worst}
    assert any(row["corpus_caption"] for row in worst)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/webp") >= 24
    assert "<script" not in page
    options = ("--model", "demo", "-o", tmp_path / "out", "-q", "--fail-on", "unreadable=0")
    again = bliss("pairs", images, *options, "--overwrite")
    assert again.code == 3


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda e: shutil.rmtree(e / "text_emb"), 2, "has no text_emb folder"),
        (lambda e: np.save(e / "text_emb/text_emb_0.npy", world()[1][:, :8]), 1, "24 dim.*and .*8"),
        (
            lambda e: shutil.copy(e / "img_emb/img_emb_0.npy", e / "text_emb/text_emb_0.npy"),
            2,
            "have the embeddings of the images",
        ),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(bliss, folder, tmp_path, change, code, message):
    import re

    change(folder)
    done = bliss("pairs", folder, "-o", tmp_path / "out", "-q")
    assert done.code == code
    assert re.search(message, done.err)


def test_an_index_of_another_model_is_refused(bliss, folder, index, tmp_path):
    done = bliss("pairs", folder, "--index", index, "-o", tmp_path / "out", "-q")
    assert done.code == 1
    assert "24 dimensions" in done.err
    assert "both from the same model" in done.err


def test_one_pair_or_no_caption_is_refused(bliss, collection, tmp_path):
    image, text = world(1)
    write_embeddings(tmp_path / "e", "img", image, caption=["a"])
    (tmp_path / "e" / "text_emb").mkdir()
    np.save(tmp_path / "e" / "text_emb" / "text_emb_0.npy", text)
    done = bliss("pairs", tmp_path / "e", "-o", tmp_path / "out", "-q")
    assert done.code == 2
    assert "1 pair of 1 different images or captions" in done.err
    done = bliss("pairs", collection, "--model", "demo", "-o", tmp_path / "out", "-q")
    assert done.code == 2
    assert "no image of" in done.err
    assert "--captions" in done.err


def test_arrays_with_several_captions_an_image():
    images, texts = world(12)
    repeated = np.concatenate([images, images[:3]])
    more = np.concatenate([texts, texts[:3]])
    found = audit_pairs(repeated, more)
    np.testing.assert_allclose(found.score[:12], audit_pairs(images, texts).score, atol=1e-6)
    by_row = audit_pairs(images, texts, image=np.arange(12), text=np.roll(np.arange(12), 1))
    assert (by_row.better_text == np.arange(12)).all()
    with pytest.raises(UsageError, match="at least two pairs"):
        audit_pairs(images[:1], texts[:1])
