"""Every option changes what it says it changes, and options of effort change nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import blissaudit
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def audit(bliss, collection, index, tmp_path_factory):
    """`audit(*options)` gives scores.parquet of the collection; images are embedded once."""
    root = tmp_path_factory.mktemp("options")
    assert bliss("audit", collection, "--index", index, "-o", root / "first").code == 0

    def scored(*options: object, **changed: Path | str) -> dict[str, list]:
        asked = {
            "embeddings": root / "first" / "images",
            "index": index,
            "model": "demo",
            "output": root / "again",
            **changed,
        }
        flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
        outcome = bliss("audit", *flags, "--no-robust", *options, "--overwrite")
        assert outcome.code == 0, outcome.err
        return pq.read_table(root / "again" / "scores.parquet").to_pydict()

    return scored


@pytest.fixture(scope="module")
def plain(audit):
    return audit()


@pytest.fixture(scope="module")
def build(bliss, captions, tmp_path_factory):
    """`build(corpus, *options)` gives the folder of a new index and what was said."""

    def built(*options: object, corpus: Path = captions) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("built") / "index"
        outcome = bliss("index", "build", corpus, "--model", "demo", "-o", folder, *options)
        assert outcome.code == 0, outcome.err
        return folder, outcome.out

    return built


def stored(folder: Path) -> np.ndarray:
    parts = range(len(list((folder / "text_emb").iterdir())))
    return np.concatenate([np.load(folder / "text_emb" / f"text_emb_{p}.npy") for p in parts])


def read_captions(folder: Path) -> list[str]:
    return pq.read_table(folder / "metadata" / "metadata_0.parquet")["caption"].to_pylist()


def test_k_and_weight(audit, plain):
    few = audit("--k", 3)
    assert few["captions"] == [captions[:3] for captions in plain["captions"]]
    assert not np.allclose(few["score"], plain["score"], atol=1e-3)
    heavy = audit("--lambda", 2.0)
    total = np.array(heavy["ics"]) + 2.0 * np.array(heavy["ets"])
    np.testing.assert_allclose(heavy["score"], total, rtol=1e-12)
    assert not np.allclose(heavy["score"], plain["score"], atol=1e-3)


def test_prompts_are_averaged_and_labels_replace_them(audit, plain):
    def ics(*options: str) -> np.ndarray:
        return np.array(audit(*options)["given_ics"])

    one, two, both = ics("--prompt", "{}"), ics("--prompt", "a {}"), None
    both = ics("--prompt", "{}", "--prompt", "a {}")
    for other in (one, two, np.array(plain["given_ics"])):
        assert np.abs(both - other).max() > 1e-3
    word = ics("--class-prompt", "boat=a ship at sea")
    changed = np.abs(word - plain["given_ics"]) > 1e-3
    assert {plain["label"][i] for i in np.flatnonzero(changed)} == {"boat"}


def test_normal_classes(audit, plain):
    two = audit("--normal", "apple", "--normal", "boat")
    assert set(two["nearest_class"]) == {"apple", "boat"}
    houses = [label == "house" for label in plain["label"]]
    assert [not left for left in two["left_out"]] == houses
    by_rank = sorted(zip(two["rank"], houses, strict=True))
    assert sum(house for _, house in by_rank[:10]) >= 7
    assert [ics is None for ics in two["given_ics"]] == houses


def test_reference_corpus_and_index(bliss, audit, plain, collection, captions, tmp_path):
    fewer = shutil.copytree(collection, tmp_path / "fewer")
    for stray in ("apple/clock.png", "boat/umbrella.png"):
        (fewer / stray).unlink()
    clean = audit("--reference", fewer)
    assert clean["left_out"].count(False) == 2
    worst = sorted(zip(clean["rank"], clean["path"], strict=True))[:5]
    assert {path for _, path in worst} >= {"apple/clock.png", "boat/umbrella.png"}
    assert not np.allclose(clean["score"], plain["score"], atol=1e-3)
    corpus = ("audit", collection, "--corpus", captions, "--model", "demo", "-o", tmp_path / "out")
    assert bliss(*corpus).code == 0
    made = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert made["captions"] == plain["captions"]
    assert (tmp_path / "out" / "index" / "manifest.json").is_file()


def test_effort_changes_nothing(bliss, collection, index, plain, tmp_path):
    command = ("audit", collection, "--index", index, "-o", tmp_path / "out")
    options = ("--batch-size", 5, "--workers", 2, "--precision", "fp32", "--device", "cpu")
    outcome = bliss(*command, *options, "--no-robust", "--top", 3)
    assert outcome.err.startswith("model demo, device cpu, precision fp32, batch 5\n")
    assert outcome.out.split("\n\n")[0].count("\n") == 3
    assert outcome.out.split("\n\n")[1].count("\n") == 1
    found = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    np.testing.assert_allclose(found["ics"], plain["ics"], atol=1e-3)
    a = np.load(tmp_path / "out" / "images" / "img_emb" / "img_emb_0.npy")
    encoder = blissaudit.load_encoder(blissaudit.ModelChoice("demo"))
    listed = blissaudit.list_images(collection)
    b = blissaudit.embed_images(listed, encoder, tmp_path / "b").vectors
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_exif_orientation_and_the_time_limit(bliss, collection, index, tmp_path):
    images = shutil.copytree(collection, tmp_path / "images")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(images / "boat" / "1.png") as picture:
        picture.save(images / "boat" / "turned.jpg", exif=exif.tobytes(), quality=95)
    command = ("audit", images, "--index", index, "-o", tmp_path / "out", "--top", 0)
    outcome = bliss(*command)
    assert "\n1 image was rotated as its EXIF orientation says\n" in outcome.out
    turned = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    refused = bliss(*command, "--ignore-exif")
    assert "(ignore_exif differ)" in refused.err
    assert "rotated" not in bliss(*command, "--ignore-exif", "--overwrite").out
    left = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    at = turned["path"].index("boat/turned.jpg")
    assert abs(turned["ics"][at] - left["ics"][at]) > 1e-2
    assert "(time_limit differ)" in bliss(*command, "--ignore-exif", "--time-limit", 60).err


def test_the_time_limit(bliss, collection, index, tmp_path):
    fit = ("reference", "fit", collection, "--model", "demo", "-o", tmp_path / "reference")
    assert bliss(*fit).code == 0
    Image.effect_noise((2500, 2500), 50).save(tmp_path / "large.png", compress_level=1)
    score = ("score", tmp_path / "large.png", "--index", index)
    late = bliss(*score, "--reference", tmp_path / "reference", "--time-limit", 0.01)
    assert (late.code, late.out) == (1, "")
    assert late.err.endswith(
        f"\nbliss: the only image in {tmp_path} could not be read (large.png: "
        "decoding took longer than 0.01 s). Needed: at least one readable image. "
        "Check the files.\n"
    )


def test_calibration_share(bliss, collection, tmp_path):
    for share, held in ((0, 0), (0.25, 6), (0.5, 12)):
        folder = tmp_path / str(share)
        fit = ("reference", "fit", collection, "--model", "demo", "-o", folder)
        outcome = bliss(*fit, "--hold-out", share)
        assert outcome.out == (
            f"{26 - held} images of 3 classes, {held} held out for calibration, 0 unreadable: "
            f"{folder}\n"
        )
        assert blissaudit.load_reference(folder).calibration_count == held
    refused = bliss("reference", "fit", collection, "--model", "demo", "-o", tmp_path / "x",
                    "--hold-out", 1)  # fmt: skip
    assert (refused.code, refused.out) == (2, "")
    assert "a calibration share of 1.0 was given. Needed: 0 or more and below 1." in refused.err


def test_caption_rules(build, tmp_path):
    corpus = tmp_path / "rules.txt"
    corpus.write_text("cup\na  red cup\na  red cup\ncafe\u0301\n\u210c\nno\n", encoding="utf-8")
    folder, said = build(corpus=corpus)
    assert read_captions(folder) == ["cup", "a red cup", "café", "\u210c", "no"]
    assert "corpus rules.txt: 6 texts read, dropped: 1 duplicate\n" in said
    kept = {
        ("--min-characters", 3): ["cup", "a red cup", "café"],
        ("--max-characters", 3): ["cup", "\u210c", "no"],
        ("--keep-duplicates",): ["cup", "a red cup", "a red cup", "café", "\u210c", "no"],
        ("--keep-whitespace",): ["cup", "a  red cup", "café", "\u210c", "no"],
        ("--unicode", "none"): ["cup", "a red cup", "cafe\u0301", "\u210c", "no"],
        ("--unicode", "NFKC"): ["cup", "a red cup", "café", "H", "no"],
    }
    for options, captions in kept.items():
        assert read_captions(build(*options, corpus=corpus)[0]) == captions, options


def test_index_prompt_dtype_and_parts(build, index):
    plain = stored(index)
    encoder = blissaudit.load_encoder(blissaudit.ModelChoice("demo"))
    texts = read_captions(index)
    exact, said = build("--dtype", "float32")
    assert said.splitlines()[0].endswith(", float32")
    assert (plain.dtype, stored(exact).dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(stored(exact), encoder.encode_texts(texts), atol=1e-6)
    np.testing.assert_allclose(stored(exact), plain, atol=1e-3)
    prompted, said = build("--prompt", "{}", "--prompt", "a drawing of {}", "--dtype", "float32")
    assert "prompts: {}; a drawing of {}\n" in said
    total = encoder.encode_texts(texts)
    total = total + encoder.encode_texts([f"a drawing of {text}" for text in texts])
    total /= np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(stored(prompted), total, atol=1e-6)
    parts, _ = build("--part-rows", 128, "--dtype", "float32", "--batch-size", 7)
    assert json.loads((parts / "manifest.json").read_text())["parts"] == [128, 128, 44]
    np.testing.assert_allclose(stored(parts), stored(exact), atol=1e-6)


def test_export_and_search(bliss, build):
    import faiss

    folder, _ = build("--export")
    exported = faiss.read_index(str(folder / "text.index"))
    query = stored(folder)[[7]].astype(np.float32)
    similarity, rows = exported.search(query, 5)
    opened = blissaudit.open_index(folder)
    hits = blissaudit.search(opened, query / np.linalg.norm(query), 5)
    assert rows.tolist() == hits.rows.tolist()
    np.testing.assert_allclose(similarity, hits.similarity, atol=1e-3)
    caption = read_captions(folder)[7]
    found = json.loads(
        bliss("index", "search", folder, "--text", caption, "--top", 2, "--json").out
    )
    assert (len(found), found[0]["row"]) == (2, 7)
    assert found[0]["caption"] == caption
    line = bliss("index", "search", folder, "--text", caption, "--top", 1).out
    assert line == f"{found[0]['similarity']:7.4f}  {7:>9,}  {caption}\n"
