"""Picture quality: cleanvision's scores from what the decoder measured, and where they are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.pictures.quality import (
    THRESHOLDS,
    not_measured,
    quality_issues,
    quality_scores,
)
from blissaudit.corpora.images.folders import list_images
from blissaudit.indexer import (
    MEASURES,
    EmbeddedImages,
    EmbedOptions,
    Encoder,
    Preprocessing,
    embed_images,
)
from blissaudit.indexer.images.decoding import DecodingLimits, decode_image
from blissaudit.indexer.images.measures import _moments
from PIL import Image, ImageFilter, ImageStat

SQUASH = Preprocessing((8, 8), "bicubic", "squash", (0.5,) * 3, (0.5,) * 3)


def texture(size: tuple[int, int] = (150, 100)) -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (25, 37, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def gradient(size: tuple[int, int]) -> Image.Image:
    """Of many colours, without an edge."""
    down = Image.linear_gradient("L").resize(size)
    across = Image.linear_gradient("L").rotate(90).resize(size)
    return Image.merge("RGB", (across, down, across)).point(lambda value: value // 2)


BAD = {
    "dark": lambda: texture().point(lambda value: value // 5),
    "light": lambda: texture().point(lambda value: 245 + value // 26),
    "blurry": lambda: gradient((150, 100)),
    "low_information": lambda: texture().quantize(2).convert("RGB"),
    "odd_size": lambda: texture((450, 400)),
    "odd_aspect_ratio": lambda: texture((260, 60)),
    "grayscale": lambda: texture().convert("L").convert("RGB"),
    "empty": lambda: Image.new("RGB", (150, 100), "teal"),
}


def measured(images: dict[str, Image.Image], folder: Path) -> EmbeddedImages:
    """Ordinary images and the given ones, with what the decoder measures."""
    folder.mkdir()
    ordinary = {f"n{n}": texture((150 + n % 3, 100 + n % 2)) for n in range(12)}
    values = []
    for name, image in {**ordinary, **images}.items():
        image.save(folder / f"{name}.png")
        found = decode_image(str(folder / f"{name}.png"), SQUASH, DecodingLimits())
        values.append(found.measures.quality)
    n = len(values)
    return EmbeddedImages(
        vectors=np.eye(n, dtype=np.float32),
        rows=np.arange(n),
        paths=pa.array([*ordinary, *images]).to_pylist(),
        labels=[None] * n,
        hashes=[str(i) for i in range(n)],
        failures=(),
        model={},
        source="here",
        quality=np.array(values, np.float32),
    )


def test_each_issue_is_found_in_its_picture_alone(tmp_path: Path) -> None:
    images = measured({issue: make() for issue, make in BAD.items()}, tmp_path / "a")
    table = quality_issues(images)
    assert table["row"].type == pa.int64() and table["value"].type == pa.float32()
    found = set(zip(table["image"].to_pylist(), table["issue"].to_pylist(), strict=True))
    assert found >= {(issue, issue) for issue in BAD}
    assert {pair for pair in found if pair[0] != pair[1]} <= {
        ("low_information", "light"), ("light", "low_information"), ("light", "grayscale"),
        ("light", "blurry"), ("dark", "blurry"),
    }  # fmt: skip
    assert all(row["value"] < row["threshold"] == pytest.approx(THRESHOLDS[row["issue"]])
               for row in table.to_pylist())  # fmt: skip


def test_grey_pictures_are_no_issue_among_grey_ones(tmp_path: Path) -> None:
    images = measured({"grayscale": BAD["grayscale"]()}, tmp_path / "a")
    colour = MEASURES.index("colour")
    mostly = np.array(images.quality)
    mostly[: len(mostly) // 2 + 1, colour] = 0
    assert "grayscale" in quality_issues(images)["issue"].to_pylist()
    assert "grayscale" not in quality_issues(replace(images, quality=mostly))["issue"].to_pylist()


def test_measures_follow_their_formulas(tmp_path: Path) -> None:
    """In loops over the pixels, for an image that is small enough to be measured whole."""
    image = texture((40, 30))
    image.save(tmp_path / "a.png")
    found = decode_image(str(tmp_path / "a.png"), SQUASH, DecodingLimits()).measures
    value = dict(zip(MEASURES, found.quality, strict=True))
    pixels = list(image.getdata())
    bright = [(0.241 * r * r + 0.691 * g * g + 0.068 * b * b) ** 0.5 / 255 for r, g, b in pixels]
    assert value["brightness_perc_99"] == pytest.approx(np.percentile(bright, 99), abs=0.01)
    assert value["brightness_perc_5"] == pytest.approx(np.percentile(bright, 5), abs=0.01)
    counts = np.array(image.histogram(), float)
    share = counts[counts > 0] / counts.sum()
    assert value["entropy"] == pytest.approx(-(share * np.log2(share)).sum(), abs=1e-4)
    edges = np.asarray(image.convert("L").filter(ImageFilter.FIND_EDGES), float)
    assert value["blurriness"] == pytest.approx(edges.std(), rel=1e-4)
    assert (value["width"], value["height"]) == (40, 30)
    sketch = np.frombuffer(found.sketch, np.uint8).reshape(64, 64)
    direct = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BILINEAR))
    assert np.abs(sketch.astype(int) - direct).max() <= 1


def counting_encoder(seen: list[int]) -> Encoder:
    facts = {
        "model": "mean", "pretrained": None, "weights_sha256": "0" * 64, "dimension": 3,
        "precision": "fp32", "preprocessing": {},
    }  # fmt: skip

    def encode(pixels: np.ndarray) -> np.ndarray:
        seen.append(len(pixels))
        return pixels.mean(axis=(1, 2)) + 1

    return Encoder(facts, SQUASH, 4, lambda texts: np.ones((len(texts), 3)), encode)


def test_measures_are_stored_beside_the_vectors_and_reused(tmp_path: Path) -> None:
    """Also with an image of an earlier version's embeddings, which is not measured."""
    folder, root, seen = tmp_path / "out", tmp_path / "photos", []
    root.mkdir()
    for n in range(5):
        texture((60 + n, 40)).save(root / f"{n}.png")
    options = EmbedOptions(workers=1, part_rows=3)
    first = embed_images(list_images(root), counting_encoder(seen), folder, options)
    assert first.quality is not None and first.quality[:, 0].tolist() == [60, 61, 62, 63, 64]
    assert first.sketches is not None
    decoded = decode_image(str(root / "4.png"), SQUASH, DecodingLimits()).measures
    assert first.sketches[np.array([4, 0])][0].tobytes() == decoded.sketch
    assert first.sketches.digests[4] == decoded.digest.encode()

    texture((80, 40)).save(root / "5.png")
    seen.clear()
    second = embed_images(list_images(root), counting_encoder(seen), folder, options)
    assert sum(seen) == 1 and second.quality is not None
    assert second.quality[:, 0].tolist() == [60, 61, 62, 63, 64, 80]
    assert np.array_equal(second.quality[:5], first.quality)

    from blissaudit.artefacts import MANIFEST, read_json, sha256_of, write_json

    name = "metadata/metadata_0.parquet"
    table = pq.read_table(folder / name)
    pq.write_table(
        table.select(["image_path", "label", "row", "sha256", "exif_rotated"]), folder / name
    )
    manifest = read_json(folder / MANIFEST)
    manifest["checksums"][name] = sha256_of(folder / name)
    write_json(folder / MANIFEST, manifest)
    older = embed_images(list_images(root), counting_encoder(seen), folder, options)
    assert not_measured(older) == 3 and older.sketches is not None
    assert older.sketches.digests[:3].tolist() == [b""] * 3
    assert not {0, 1, 2} & set(quality_issues(older)["row"].to_pylist())
    assert not_measured(replace(older, quality=None)) == 6
    assert quality_scores(replace(older, quality=None)) == {}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_moments_of_a_histogram_are_those_of_pillow(mode):
    shape = (31, 17) if mode == "L" else (31, 17, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture = Image.fromarray(pixels)
    expected = ImageStat.Stat(picture)
    mean, variance = _moments(picture)
    assert mean.tolist() == expected.mean
    assert variance.tolist() == expected.var
