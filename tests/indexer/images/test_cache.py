"""Nothing is embedded, retrieved or fitted twice: other outputs, other indexes, killed runs."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.fitting.reference import ReferenceStore, fit_reference
from blissaudit.indexer.encode.encoder import Encoder
from blissaudit.indexer.images import embedding
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.scorer.reference_file import load_reference

AUDIT = ("audit", "--report", "none")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A cache of this test's own, and how many images each call of an encoder was given."""
    monkeypatch.setenv("BLISS_CACHE", str(tmp_path / "cache"))
    sizes: list[int] = []
    encode = embedding.normalise_rows

    def counted(vectors: np.ndarray) -> object:
        sizes.append(len(vectors))
        return encode(vectors)

    monkeypatch.setattr(embedding, "normalise_rows", counted)
    return sizes


@pytest.fixture(scope="module")
def other_index(bliss, captions, tmp_path_factory) -> Path:
    """The same model, half of the captions."""
    folder = tmp_path_factory.mktemp("other")
    lines = captions.read_text().splitlines(keepends=True)
    (folder / "captions.txt").write_text("".join(lines[::2]))
    build = ("index", "build", folder / "captions.txt", "--model", "demo", "-o", folder / "index")
    assert bliss(*build).code == 0
    return folder / "index"


def scores(folder: Path) -> bytes:
    return (folder / "scores.parquet").read_bytes()


def same_file(first: Path, second: Path) -> bool:
    return os.path.samefile(first, second)


def test_another_output_with_another_index_embeds_and_fits_nothing(
    bliss, collection, index, other_index, tmp_path, encoded
):
    first, second, alone = (tmp_path / name for name in ("first", "second", "alone"))
    assert bliss(*AUDIT, collection, "--index", index, "-o", first).code == 0
    assert sum(encoded) == 26
    again = bliss(*AUDIT, collection, "--index", other_index, "-o", second)
    assert again.code == 0 and sum(encoded) == 26
    assert f"image embeddings of {collection} reused from {first}/images\n" in again.err
    assert f"fitted reference reused from {first}/reference\n" in again.err
    assert "images embedded" not in again.err
    for name in ("images/img_emb/img_emb_0.npy", "reference/reference.safetensors"):
        assert same_file(first / name, second / name)
    for name in ("images/manifest.json", "reference/manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    shutil.rmtree(tmp_path / "cache")  # with nothing to take over, everything is made again
    assert bliss(*AUDIT, collection, "--index", other_index, "-o", alone).code == 0
    assert sum(encoded) == 52
    assert scores(alone) == scores(second) != scores(first)


def test_overwriting_with_another_index_keeps_embeddings_and_reference(
    bliss, collection, index, other_index, tmp_path, encoded
):
    out, alone = tmp_path / "out", tmp_path / "alone"
    audit = (*AUDIT, collection, "-o", out)
    assert bliss(*audit, "--index", index).code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    fitted = (out / "reference" / "manifest.json").stat().st_mtime_ns
    refused = bliss(*audit, "--index", other_index)
    assert refused.code == 2 and "(index differ)" in refused.err
    assert bliss(*audit, "--index", other_index, "--overwrite").code == 0
    assert sum(encoded) == 26
    assert (out / "reference" / "manifest.json").stat().st_mtime_ns == fitted
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    images = {path for path in before if "images" in path.parts}
    assert {path: kept[path] for path in images} == {path: before[path] for path in images}
    assert not (set(before) - images) & set(kept)  # the hits of the other index are gone
    assert bliss(*AUDIT, collection, "-o", alone, "--index", other_index).code == 0
    assert scores(alone) == scores(out)


def test_score_and_reference_fit_take_over_what_an_audit_embedded(
    bliss, collection, index, tmp_path, encoded
):
    assert bliss(*AUDIT, collection, "--index", index, "-o", tmp_path / "run").code == 0
    fit = bliss("reference", "fit", collection, "--model", "demo", "-o", tmp_path / "reference")
    assert fit.code == 0
    score = bliss("score", collection, "--reference", tmp_path / "reference", "--index", index)
    assert score.code == 0 and sum(encoded) == 26
    for outcome in (fit, score):
        assert f"reused from {tmp_path}/run/images" in outcome.err


def test_a_grown_collection_in_another_output_embeds_only_what_is_new(
    bliss, collection, index, tmp_path, encoded
):
    images = shutil.copytree(collection, tmp_path / "images")
    assert bliss(*AUDIT, images, "--index", index, "-o", tmp_path / "first").code == 0
    shutil.copy(images / "boat" / "0.png", images / "boat" / "aaa.png")
    (images / "house" / "0.png").write_bytes((collection / "boat" / "1.png").read_bytes() + b"\0")
    second = bliss(*AUDIT, images, "--index", index, "-o", tmp_path / "second")
    assert second.code == 0 and sum(encoded) == 26 + 1
    line = f"images of {images} that are in {tmp_path}/first/images are not embedded again\n"
    assert line in second.err
    found = pq.read_table(tmp_path / "second" / "scores.parquet").to_pydict()
    known = pq.read_table(tmp_path / "first" / "scores.parquet").to_pydict()
    assert len(set(found["content"]) - set(known["content"])) == 1
    assert len(found["content"]) == 27


def test_files_that_only_look_the_same_are_embedded_by_their_content(
    bliss, collection, index, tmp_path, encoded
):
    images, other = tmp_path / "images", tmp_path / "other"
    for folder in (images, other):
        shutil.copytree(collection, folder)
    pair = [other / "boat" / "0.png", other / "boat" / "1.png"]
    first, second = (path.read_bytes() for path in pair)
    size = max(len(first), len(second)) + 1
    for folder, contents in ((images, (first, second)), (other, (second, first))):
        for name, content in zip(("0.png", "1.png"), contents, strict=True):
            (folder / "boat" / name).write_bytes(content.ljust(size, b"\0"))
        for path in folder.rglob("*.png"):
            os.utime(path, (10**9, 10**9))
    assert bliss(*AUDIT, images, "--index", index, "-o", tmp_path / "first").code == 0
    again = bliss(*AUDIT, other, "--index", index, "-o", tmp_path / "second")
    assert again.code == 0 and "image embeddings of" not in again.err
    assert sum(encoded) == 26  # all contents are known: only which file has which is not
    content = {}
    for out in ("first", "second"):
        table = pq.read_table(tmp_path / out / "scores.parquet").to_pydict()
        content[out] = dict(zip(table["path"], table["content"], strict=True))
    one, two = content["first"], content["second"]
    assert (one["boat/0.png"], one["boat/1.png"]) == (two["boat/1.png"], two["boat/0.png"])
    assert one["boat/0.png"] != two["boat/0.png"]


@pytest.mark.parametrize("damage", ["vector", "vanished", "request", "note"])
def test_a_folder_that_changed_or_went_is_ignored(
    bliss, collection, index, tmp_path, encoded, damage
):
    first, second = tmp_path / "first", tmp_path / "second"
    assert bliss(*AUDIT, collection, "--index", index, "-o", first).code == 0
    manifest = first / "images" / "manifest.json"
    if damage == "vector":
        vectors = first / "images" / "img_emb" / "img_emb_0.npy"
        vectors.write_bytes(vectors.read_bytes()[:-1] + b"\x01")
    elif damage == "vanished":
        shutil.rmtree(first / "images")
    elif damage == "request":  # as if it had been made again in another way
        facts = json.loads(manifest.read_text())
        facts["request"]["time_limit"] = 9.0
        manifest.write_text(json.dumps(facts))
    else:
        for note in (tmp_path / "cache").rglob("*.json"):
            note.write_text('{"folder": 3, "request')
    again = bliss(*AUDIT, collection, "--index", index, "-o", second)
    assert again.code == 0 and sum(encoded) == 52
    assert "image embeddings of" not in again.err


def test_another_model_way_of_reading_or_prompt_takes_nothing_over(
    bliss, collection, index, tmp_path, encoded
):
    audit = (*AUDIT, collection, "--index", index)
    assert bliss(*audit, "-o", tmp_path / "first").code == 0
    assert "images embedded" in bliss(*audit, "--ignore-exif", "-o", tmp_path / "second").err
    assert sum(encoded) == 52
    prompted = bliss(*audit, "--prompt", "a {label}", "-o", tmp_path / "third")
    assert "image embeddings of" in prompted.err and "fitted reference" not in prompted.err
    assert sum(encoded) == 52


def test_a_kept_reference_is_the_fitted_one_to_the_bit(bliss, collection, index, tmp_path):
    assert bliss(*AUDIT, collection, "--index", index, "-o", tmp_path / "run").code == 0
    images = read_image_embeddings(tmp_path / "run" / "images")
    labelled = images.labels
    assert set(labelled) == {"apple", "boat", "house"}
    encoder = Encoder(
        dict(images.model), None, 8, lambda texts: np.eye(len(texts), 128, dtype=np.float32),
        lambda pixels: pixels,
    )  # fmt: skip
    kept = ReferenceStore(tmp_path / "reference", tmp_path / "cache")
    plain = fit_reference(images, None, encoder, calibration_share=0.3)
    first = fit_reference(images, None, encoder, calibration_share=0.3, store=kept)
    again = fit_reference(images, None, encoder, calibration_share=0.3, store=kept)
    assert list(again.members.items()) == list(plain.members.items())
    for reference in (first, again):
        assert reference.prompts == plain.prompts and reference.classes == plain.classes
        assert np.array_equal(reference.prompt_vectors, plain.prompt_vectors)
        assert reference.calibration is not None and plain.calibration is not None
        assert np.array_equal(reference.calibration.images, plain.calibration.images)
        for part, expected in zip(reference.moments.parts, plain.moments.parts, strict=True):
            assert part.count == expected.count
            assert np.array_equal(part.mean, expected.mean)
            assert np.array_equal(part.centred, expected.centred)  # type: ignore[arg-type]
    made = (tmp_path / "reference" / "reference.safetensors").stat().st_mtime_ns
    other = fit_reference(images, None, encoder, calibration_share=0.0, store=kept)
    assert other.calibration is None  # another share is another reference
    assert (tmp_path / "reference" / "reference.safetensors").stat().st_mtime_ns != made
    assert load_reference(tmp_path / "reference").calibration is None


def test_a_reference_that_would_be_too_large_is_fitted_again(
    bliss, collection, index, tmp_path, encoded, monkeypatch
):
    audit = (*AUDIT, collection, "--index", index, "-o")
    assert bliss(*audit, tmp_path / "first").code == 0
    monkeypatch.setattr("blissaudit.audit.fitting.reference.MOST_BYTES", 100)
    shutil.rmtree(tmp_path / "cache" / "references")
    assert bliss(*audit, tmp_path / "second").code == 0
    assert sum(encoded) == 26 and not list((tmp_path / "second" / "reference").glob("*"))
    assert scores(tmp_path / "second") == scores(tmp_path / "first")


def two_of_everything(folder: Path, collection: Path) -> dict[str, tuple[str, list[str]]]:
    """Collections with two kinds of labels or images, and the options that choose the second."""
    folder.mkdir()
    paths = sorted(collection.glob("*/*.png"))
    other = paths[1:] + paths[:1]
    with tarfile.open(folder / "labels.tar", "w") as archive:
        for path in paths:
            name = f"{path.parent.name}{path.stem}"
            record = {"one": path.parent.name, "two": "class " + path.parent.name}
            for suffix, data in (("png", path.read_bytes()), ("json", json.dumps(record).encode())):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    kinds = [path.parent.name for path in paths]
    columns = {
        "image": [path.read_bytes() for path in paths],
        "other_image": [path.read_bytes() for path in other],
        "label": kinds,
        "second": ["class " + kind for kind in kinds],
    }
    pq.write_table(pa.table(columns), folder / "table.parquet")
    return {
        "labels.tar": ("one", ["--label-column", "two"]),
        "table.parquet": ("label", ["--label-column", "second"]),
    }


@pytest.mark.parametrize("name", ["labels.tar", "table.parquet"])
def test_options_that_say_where_labels_and_images_are_belong_to_the_request(
    bliss, collection, index, tmp_path, encoded, name
):
    first, second = two_of_everything(tmp_path / "made", collection)[name]
    out, given = tmp_path / "out", tmp_path / "made" / name
    audit = (*AUDIT, given, "--index", index)
    assert bliss(*audit, "--label-column", first, "-o", out).code == 0
    assert sum(encoded) == 26
    kinds = set(pq.read_table(out / "scores.parquet")["label"].to_pylist())
    assert bliss(*audit, *second, "-o", out).code == 2
    for folder, more in ((out, ["--overwrite"]), (tmp_path / "other", [])):  # stash, then cache
        assert bliss(*audit, *second, *more, "-o", folder).code == 0
        table = pq.read_table(folder / "scores.parquet")
        assert set(table["label"].to_pylist()) == {f"class {kind}" for kind in kinds}
    if name == "table.parquet":
        before = table["content"].to_pylist()
        swapped = (*audit, "--image-column", "other_image", *second)
        assert bliss(*swapped, "--overwrite", "-o", out).code == 0
        table = pq.read_table(out / "scores.parquet")
        assert table["content"].to_pylist() == before[1:] + before[:1]
    assert sum(encoded) == 26


def test_another_collection_with_the_same_names_sizes_and_times(
    bliss, collection, index, tmp_path, encoded
):
    """In an output folder whose first audit did not finish; and one of 0.1, which named none."""
    paths = sorted(path.relative_to(collection) for path in collection.glob("*/*.png"))
    size = max((collection / path).stat().st_size for path in paths)
    for name, shift in (("one", 0), ("two", 1)):
        for number, path in enumerate(paths):
            image = tmp_path / name / path
            image.parent.mkdir(parents=True, exist_ok=True)
            source = collection / paths[(number + shift) % len(paths)]
            image.write_bytes(source.read_bytes().ljust(size, b"\0"))
            os.utime(image, (1, 1))
    out = tmp_path / "out"
    assert bliss(*AUDIT, tmp_path / "one", "--index", index, "-o", out).code == 0
    before = pq.read_table(out / "scores.parquet")["content"].to_pylist()
    (out / "run.json").unlink()
    assert bliss(*AUDIT, tmp_path / "two", "--index", index, "-o", out).code == 0
    after = pq.read_table(out / "scores.parquet")["content"].to_pylist()
    assert after == before[1:] + before[:1]
    assert sum(encoded) == 26
    path = out / "images" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["request"]["collection"]
    path.write_text(json.dumps(manifest))
    assert bliss(*AUDIT, tmp_path / "two", "--index", index, "-o", out).code == 0
    assert json.loads(path.read_text()) == manifest
