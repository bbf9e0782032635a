"""Copies: kinds, groups, leaks, and how sure an aligned correlation is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.pictures import copies as copies_module
from blissaudit.audit.pictures.alignment import align_pairs
from blissaudit.audit.pictures.copies import SCHEMA, CopySettings, candidate_pairs, find_copies
from blissaudit.audit.review.photographs import Photographs, opened_pictures
from blissaudit.errors import UsageError
from blissaudit.indexer import MEASURES, EmbeddedImages, sketch_of, text_column
from blissaudit.indexer.search import dispatch
from blissaudit.scorer import Reference, fit_moments
from PIL import Image, ImageDraw, ImageFilter

MODEL = {"model": "m", "weights_sha256": "0" * 64, "dimension": 8}


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Soft patches with some lines, unlike those of any other seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        draw.line(
            tuple(rng.integers(0, 120, 4).tolist()), tuple(rng.integers(0, 255, 3).tolist()), 2
        )
    return image


def encoded(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def watermarked(image: Image.Image) -> Image.Image:
    """A white box of 5 % of the area."""
    covered = image.copy()
    ImageDraw.Draw(covered).rectangle((20, 60, 20 + 30, 60 + 18), "white")
    return covered


CHANGES = {
    "resized": lambda image: image.resize((50, 60)),
    "encoded again": lambda image: encoded(image, 30),
    "cropped": lambda image: image.crop((11, 3, 118, 84)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "watermarked": watermarked,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_correlates_and_another_picture_does_not(change: str) -> None:
    before = [picture(seed) for seed in range(4)]
    after = [CHANGES[change](image) for image in before]
    found = align_pairs(sketches(before), sketches(after))
    assert found.correlation.min() >= CopySettings().correlation
    assert (found.mirrored == (change == "mirrored")).all()
    assert align_pairs(sketches(before), sketches(after[1:] + after[:1])).correlation.max() < 0.7


def test_what_moved_in_a_scene_is_no_watermark() -> None:
    """Two changed places apart from each other, each smaller than a watermark may be."""
    before, after = picture(0), picture(0)
    for corner in ((5, 5), (90, 60)):
        after.paste(picture(1).crop((0, 0, 24, 24)), corner)
    found = align_pairs(sketches([before]), sketches([after])).correlation
    assert 0.5 < found[0] < CopySettings().correlation


@pytest.mark.parametrize("side", [10, 12])
def test_pictures_that_differ_in_a_few_details_are_no_copies(side: int) -> None:
    """As two photographs of a kind of motorbike: the rest agrees, so that the whole does."""
    before, after = ([picture(seed) for seed in (0, 2, 3)] for _ in range(2))
    for seed, image in zip((0, 2, 3), after, strict=True):
        for x, y in ((12, 10), (95, 20), (55, 65)):
            image.paste(picture(seed + 20).crop((x, y, x + side, y + side)), (x, y))
    found = align_pairs(sketches(before), sketches(after)).correlation
    assert found.max() < CopySettings().correlation - 0.01 and found.min() > 0.85


def test_empty_pictures_are_no_copies_of_each_other_by_their_noise() -> None:
    grey = np.full((1, 64, 64), 128, np.uint8)
    assert align_pairs(grey, grey).correlation[0] < 0.5


def sketches(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([sketch_of(image) for image in images])


def embedded(vectors: np.ndarray, names: str, hashes: str | None = None) -> EmbeddedImages:
    """Images of one letter each, filed under their letter in lower case."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    contents = [f"{content}" * 64 for content in hashes or "0123456789abcdef"[: len(names)]]
    return EmbeddedImages(
        vectors=unit.astype(np.float32),
        rows=10 + np.arange(len(names)),
        paths=text_column([f"{name}.png" for name in names]),
        labels=text_column([name.lower() for name in names]),
        hashes=text_column(contents),
        failures=(),
        model=MODEL,
        source="here",
    )


@pytest.fixture
def world() -> tuple[EmbeddedImages, list[Image.Image]]:
    """b, B and a (the same file) show picture 0 (B encoded again); C looks like c; d is apart."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((3, 8))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    near = 0.05 * rng.standard_normal((6, 8))
    images = embedded(base[[0, 0, 0, 1, 1, 2]] + near, "bBacCd", "112345")
    pictures = [picture(0), picture(0), encoded(picture(0), 40), picture(1), picture(2), picture(3)]
    return images, pictures


def test_kinds_groups_and_what_is_kept(world: tuple[EmbeddedImages, list[Image.Image]]) -> None:
    images, pictures = world
    quality = np.ones((6, len(MEASURES)), np.float32)
    quality[1, 0] = 2  # B is the largest
    copies = find_copies(replace(images, quality=quality), open_picture=pictures.__getitem__)
    table = copies.table()
    assert table.schema == SCHEMA
    group = table.slice(0, 3).to_pydict()
    assert group["image"] == ["B.png", "b.png", "a.png"] and group["row"] == [11, 10, 12]
    assert group["kind"] == ["exact", "exact", "near"] and group["keep"] == [True, False, False]
    assert group["correlation"][2] > 0.975 and group["group"] == [0, 0, 0]
    alike = table.slice(3).to_pydict()
    assert alike["image"] == ["c.png", "C.png"] and alike["kind"] == ["look-alike"] * 2
    assert alike["group"] == [1, 1] and alike["correlation"][0] < 0.7
    assert not any(table["leak"].to_pylist())
    assert find_copies(images, open_picture=pictures.__getitem__).kept.tolist() == [1]  # "B" < "a"
    named = replace(images, paths=["b.png", "b-copy.png", "b (2).png", *images.paths[3:]])
    assert find_copies(named, open_picture=pictures.__getitem__).kept.tolist() == [0]
    assert copies.notice() == "2 pairs of pictures compared"


def test_embeddings_alone_confirm_equal_vectors_only(
    world: tuple[EmbeddedImages, list[Image.Image]],
) -> None:
    images, _ = world
    vectors = np.array(images.vectors)
    vectors[4] = vectors[3]
    contents = text_column([f"vector:{name}" for name in "ABCDDE"])
    found = find_copies(replace(images, vectors=vectors, hashes=contents))
    kinds = dict(
        zip(found.table()["image"].to_pylist(), found.table()["kind"].to_pylist(), strict=True)
    )
    assert kinds["c.png"] == kinds["C.png"] == "near"
    assert kinds["a.png"] == "look-alike"
    assert "no pictures were compared" in found.notice()


def test_a_picture_that_cannot_be_had_is_counted(
    world: tuple[EmbeddedImages, list[Image.Image]],
) -> None:
    images, pictures = world
    found = find_copies(images, open_picture=lambda i: None if i == 2 else pictures[i])
    assert found.groups.tolist() == [0, 0, -1, -1, -1, -1]
    assert found.notice() == "1 pairs of pictures compared; 1 pictures could not be had"


@pytest.mark.parametrize(
    "change",
    [{"neighbours": 1}, {"candidate": 0.999}, {"correlation": 1.0}, {"look_alike": 0.999}],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_changes_the_result(
    world: tuple[EmbeddedImages, list[Image.Image]], change: dict[str, float]
) -> None:
    images, pictures = world
    apart = text_column([f"{number}" * 64 for number in range(6)])
    images = replace(images, hashes=apart)

    def found(settings: CopySettings) -> list[tuple[float, ...]]:
        pairs = find_copies(images, open_picture=pictures.__getitem__, settings=settings).pairs
        return list(
            zip(pairs.first.tolist(), pairs.second.tolist(), pairs.kind.tolist(), strict=True)
        )

    assert found(CopySettings()) != found(replace(CopySettings(), **change))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"neighbours": 0}, "neighbours is 0"), ({"correlation": 1.5}, "correlation is 1.5")],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CopySettings(**settings)  # type: ignore[arg-type]


def test_many_equal_files_hide_no_near_copy() -> None:
    """They do not use up the neighbours; a leak of one of them is a leak of all."""
    images = embedded(
        np.eye(8)[[0] * 14] + 1e-4 * np.arange(14)[:, None], "abcdefghijklmn", "0" * 13 + "1"
    )
    pictures = [picture(0)] * 13 + [encoded(picture(0), 40)]
    settings = CopySettings(neighbours=1)
    opened = pictures.__getitem__
    assert (find_copies(images, open_picture=opened, settings=settings).groups == 0).all()
    other = embedded(np.eye(8)[:1], "x", "f")
    found = find_copies(
        images, open_picture=opened, against=other, open_other=opened, settings=settings
    )
    assert found.leaks is not None
    assert found.leaks.first.tolist() == list(range(14)) and set(found.leaks.kind) == {2}


def test_leaks_name_the_image_of_the_other_collection(
    world: tuple[EmbeddedImages, list[Image.Image]],
) -> None:
    images, pictures = world
    other = embedded(np.array(images.vectors)[[3, 5, 4]], "xyz", "3fe")
    theirs = [picture(1), encoded(picture(3), 40), picture(9)]
    found = find_copies(
        images, open_picture=pictures.__getitem__, against=other, open_other=theirs.__getitem__
    )
    table = found.table().to_pandas()
    leaks = table[table["leak"]]
    assert leaks["image"].tolist() == ["c.png", "x.png", "d.png", "y.png"]
    assert leaks["kind"].tolist() == ["exact", "exact", "near", "near"]
    assert leaks["other"].tolist() == [False, True, False, True]
    assert leaks["keep"].tolist() == [False, True, False, True]
    assert leaks["group"].nunique() == 2 and leaks["group"].min() == 1


def test_a_reference_gives_leaks_of_the_same_file(
    world: tuple[EmbeddedImages, list[Image.Image]],
) -> None:
    images, _ = world
    moments = fit_moments(("k",), np.array(images.vectors), np.zeros(6, np.int64))
    reference = Reference(moments, np.eye(8, dtype=np.float32)[:1], members={"3" * 64: (0,)})
    table = find_copies(images, against=reference).table().to_pandas()
    leaks = table[table["leak"]]
    assert leaks["image"].tolist() == ["c.png"] and leaks["kind"].tolist() == ["exact"]
    assert leaks["similarity"].isna().all()


def test_large_collections_are_searched_through_lists(
    world: tuple[EmbeddedImages, list[Image.Image]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((600, 8)).astype(np.float32)
    rows[300:] = rows[:300] + 0.01 * rng.standard_normal((300, 8))
    images = embedded(rows, "a" * 600, [f"{i:064x}" for i in range(600)])  # type: ignore[arg-type]
    exact = find_copies(images).pairs
    monkeypatch.setattr(copies_module, "ALL_PAIRS_UP_TO", 100)
    monkeypatch.setattr(dispatch, "EXACT_UP_TO", 100)
    monkeypatch.setattr(dispatch, "PROBES", 4)
    lists = find_copies(images).pairs
    twins = {(i, i + 300) for i in range(300)}
    assert twins <= set(zip(exact.first.tolist(), exact.second.tolist(), strict=True))
    assert twins <= set(zip(lists.first.tolist(), lists.second.tolist(), strict=True))


@pytest.mark.parametrize(("spread", "neighbours"), [(0.0, 3), (0.02, 10), (0.3, 2), (1.0, 10)])
def test_candidates_are_the_nearest_of_each_whichever_way_they_are_found(
    monkeypatch: pytest.MonkeyPatch, spread: float, neighbours: int
) -> None:
    """With many equal cosines, and where there are too many near pairs."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 16))[rng.integers(0, 20, 500)]
    rows += spread * rng.standard_normal(rows.shape)
    rows[300:] = rows[:200]
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    settings = CopySettings(neighbours=neighbours, candidate=0.9)

    def found(**constants: int) -> tuple[np.ndarray, ...]:
        for name, value in constants.items():
            monkeypatch.setattr(copies_module, name, value)
        return candidate_pairs(unit, settings=settings)

    searched = found(ALL_PAIRS_UP_TO=0)
    assert len(searched[0]) >= 200
    for constants in ({"PAIRS_AN_IMAGE": 0}, {"PAIRS_AN_IMAGE": 500}):
        for each, wanted in zip(found(ALL_PAIRS_UP_TO=500, **constants), searched, strict=True):
            np.testing.assert_array_equal(each, wanted)


def test_a_blurred_copy_still_is_one() -> None:
    soft = [picture(seed).filter(ImageFilter.GaussianBlur(1)) for seed in range(3)]
    found = align_pairs(sketches([picture(seed) for seed in range(3)]), sketches(soft))
    assert found.correlation.min() > 0.9


def test_pictures_are_opened_from_files(tmp_path: Path) -> None:
    """Upright, as in an audit of given embeddings; what is no image or lies outside is None."""
    picture(0).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.jpg", exif=exif.tobytes())
    (tmp_path / "c.png").write_text("no image")
    names = text_column(["a.png", "b.jpg", "c.png", "../a.png"])
    with opened_pictures(Photographs(str(tmp_path), {}), names) as opened:
        found = [opened(i) for i in range(4)]
    assert found[2] is None and found[3] is None
    assert found[0] is not None and found[1] is not None
    assert align_pairs(sketches(found[:1]), sketches(found[1:2])).correlation[0] > 0.99  # type: ignore[arg-type]
    with opened_pictures(Photographs(None, {}), names) as opened:
        assert opened(0) is None


@pytest.mark.parametrize("named", [True, False])
def test_copies_among_given_embeddings_are_confirmed_on_their_files(
    bliss: Any, index: Path, tmp_path: Path, named: bool
) -> None:
    """With --image-root, or without it where the files lie beside the embeddings."""
    vectors = np.random.default_rng(0).standard_normal((6, 128)).astype(np.float32)
    vectors[[1, 2]] = vectors[0] + 1e-3 * vectors[[1, 2]]
    given = tmp_path / "given"
    root = tmp_path / "files" if named else given
    root.mkdir()
    for folder in ("img_emb", "metadata"):
        (given / folder).mkdir(parents=True)
    np.save(given / "img_emb" / "img_emb_0.npy", vectors)
    names = [f"{i}.png" for i in range(6)]
    table = pa.table({"image_path": [*names[:5], "gone.png"], "label": ["x"] * 3 + ["y"] * 3})
    pq.write_table(table, given / "metadata" / "metadata_0.parquet")
    for i, seed in enumerate((0, 0, 1, 2, 3)):
        picture(seed).resize((120 + 10 * i, 90)).save(root / names[i])

    def found(*options: object) -> list[tuple[str, str]]:
        out = tmp_path / f"out{len(options)}"
        done = bliss("audit", "--embeddings", given, "--index", index, *options, "-o", out,
                     "--question", "copy", "--report", "none")  # fmt: skip
        assert done.code == 0, done.err
        table = pq.read_table(out / "copies.parquet")
        assert ("no pictures were compared" in done.out) == (table["kind"][0].as_py() != "near")
        return list(zip(table["image"].to_pylist(), table["kind"].to_pylist(), strict=True))

    alike = [("0.png", "1.png"), ("0.png", "2.png"), ("1.png", "2.png")]
    copies = found("--image-root", root) if named else found()
    assert sorted(copies[:2]) == [("0.png", "near"), ("1.png", "near")]
    assert {kind for _, kind in copies[2:]} == {"look-alike"} and len(copies) == 4
    if named:
        assert sorted(name for name, _ in found()) == sorted(sum(alike, ()))
