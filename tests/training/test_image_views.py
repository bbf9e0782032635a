"""Views of image files: what they are made of, that they are repeatable, and their cache."""

import json

import blissaudit
import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.training import oecl
from blissaudit.training.oecl import picture_views, views_encoder, views_of
from PIL import Image

SIZE = (16, 16)


def picture(seed=0, height=32, width=32):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def views(shown, count=6, seed=0):
    return np.stack(picture_views(shown, count, seed, SIZE, Image.Resampling.BICUBIC))


def test_the_first_view_is_the_picture_and_the_others_differ():
    made = views(picture())
    expected = Image.fromarray(picture()).resize(SIZE, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(made[0], np.asarray(expected))
    assert made.shape == (6, 16, 16, 3)
    assert len({view.tobytes() for view in made}) == 6


def test_views_depend_on_the_picture_and_the_seed_alone():
    np.testing.assert_array_equal(views(picture()), views(picture()))
    np.testing.assert_array_equal(views(picture(), 3), views(picture(), 6)[:3])
    assert (views(picture(), seed=1)[1:] != views(picture())[1:]).any(axis=(1, 2, 3)).all()
    one, two = picture(), picture()
    two[0, 0] ^= 1
    assert (views(one)[1:] != views(two)[1:]).any(axis=(1, 2, 3)).all()


def test_views_are_wide_and_high_not_high_and_wide():
    made = picture_views(picture(0, 40, 20), 2, 0, (20, 10), Image.Resampling.BICUBIC)
    assert [view.shape for view in made] == [(20, 10, 3)] * 2


def test_crops_keep_their_area_and_shape():
    rng = np.random.default_rng(0)
    boxes = np.array([oecl._crop((200, 100), rng) for _ in range(500)])
    left, top, right, bottom = boxes.T
    assert min(left.min(), top.min()) >= 0 and right.max() <= 200 and bottom.max() <= 100
    area = (right - left) * (bottom - top) / 20_000
    assert area.min() == pytest.approx(0.3, abs=0.02) and area.max() == pytest.approx(1, abs=0.05)
    shape = (right - left) / (bottom - top) / 2
    assert shape.min() == pytest.approx(3 / 4, abs=0.03)
    assert shape.max() == pytest.approx(4 / 3, abs=0.03)


def test_colours_by_hand():
    grey = np.full((2, 2, 3), 100, np.uint8)
    np.testing.assert_array_equal(oecl._coloured(grey, np.array([1.2, 0.5, 0.3])), 120)
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 200
    found = oecl._coloured(red, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(found, 60)  # 0.299·200, no saturation left
    two = np.array([[[50] * 3, [150] * 3]], np.uint8)
    found = oecl._coloured(two, np.array([1.0, 1.4, 1.0]))
    assert found[0, :, 0].tolist() == [30, 170]


def test_half_of_the_views_are_mirrored(monkeypatch):
    monkeypatch.setattr(oecl, "AREA", (1.0, 1.0))
    monkeypatch.setattr(oecl, "SHAPE", (1.0, 1.0))
    monkeypatch.setattr(oecl, "STRENGTH", 0.0)
    made = views(picture(), 101)
    mirrored = sum(np.abs(view.astype(int) - made[0][:, ::-1]).max() <= 1 for view in made[1:])
    kept = sum(np.abs(view.astype(int) - made[0]).max() <= 1 for view in made[1:])
    assert mirrored + kept == 100 and 35 <= mirrored <= 65


@pytest.fixture(scope="module")
def encoder():
    return blissaudit.load_encoder(blissaudit.ModelChoice("demo"))


@pytest.fixture(scope="module")
def cached(encoder, collection, tmp_path_factory):
    """Three views of each image, in four turns, as `embed_images` caches them."""
    folder = tmp_path_factory.mktemp("views") / "cache"
    several = views_encoder(encoder, 3, 0, (0, 1, 2, 3))
    return folder, blissaudit.embed_images(blissaudit.list_images(collection), several, folder)


def test_the_first_of_each_turn_is_the_turned_picture(encoder, collection, cached, tmp_path):
    _, images = cached
    rows = views_of(images.vectors, 4, 3)
    assert rows.shape == (len(images.paths), 4, 3, encoder.facts["dimension"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, rtol=1e-6)
    plain = blissaudit.embed_images(blissaudit.list_images(collection), encoder, tmp_path / "plain")
    # The files have the model's own size: enlarging them and coming back loses a little.
    assert np.median((rows[:, 0, 0] * plain.vectors).sum(axis=1)) > 0.99
    for turns in range(4):
        size = tuple(2 * side for side in encoder.preprocessing.size)
        with Image.open(collection / images.paths[0]) as file:
            upright = np.asarray(file.convert("RGB").resize(size, Image.Resampling.BICUBIC))
        turned = Image.fromarray(np.rot90(upright, turns))
        small = np.array(turned.resize(encoder.preprocessing.size, Image.Resampling.BICUBIC))
        expected = encoder.encode_images(small[None])[0]
        np.testing.assert_allclose(rows[0, turns, 0], expected, atol=1e-5)


def test_the_cache_says_what_its_views_are_and_is_for_them_alone(encoder, collection, cached):
    folder, images = cached
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model"]["preprocessing"]["views"] == {
        "views": 3, "quarter_turns": [0, 1, 2, 3], "seed": 0, "area": [0.3, 1.0],
        "shape": [0.75, 4 / 3], "strength": 0.4, "enlarged": 2,
    }  # fmt: skip
    assert manifest["checksums"] and manifest["model"]["weights_sha256"]
    listed = blissaudit.list_images(collection)
    again = blissaudit.embed_images(listed, views_encoder(encoder, 3, 0, (0, 1, 2, 3)), folder)
    np.testing.assert_array_equal(again.vectors, images.vectors)
    for count, seed, turns in ((2, 0, (0, 1, 2, 3)), (3, 1, (0, 1, 2, 3)), (3, 0, (0,))):
        with pytest.raises(UsageError, match=r"was made with other settings \(.*preprocessing"):
            blissaudit.embed_images(listed, views_encoder(encoder, count, seed, turns), folder)


def test_of_files_twice_the_models_size_the_first_view_is_the_plain_embedding(encoder, tmp_path):
    for seed in range(3):
        Image.fromarray(picture(seed, 128, 128)).save(tmp_path / f"{seed}.png")
    listed = blissaudit.list_images(tmp_path)
    plain = blissaudit.embed_images(listed, encoder, tmp_path / "plain").vectors
    several = blissaudit.embed_images(listed, views_encoder(encoder, 2), tmp_path / "views").vectors
    np.testing.assert_allclose(views_of(several, 1, 2)[:, 0, 0], plain, atol=1e-5)


def test_batches_do_not_matter(encoder):
    pictures = np.stack([picture(seed, 128, 128) for seed in range(5)])
    several = views_encoder(encoder, 3)
    together = several.encode_images(pictures)
    alone = np.concatenate([several.encode_images(each[None]) for each in pictures])
    np.testing.assert_allclose(together, alone, atol=1e-5)
