"""Thumbnails: right way up, small, and nothing but pixels; files are found and never left."""

from __future__ import annotations

import base64
import io
import os

import numpy as np
import pytest
from blissaudit.audit.pictures import picture_bytes
from blissaudit.audit.report.thumbnails import PictureShelf, thumbnail
from blissaudit.indexer.preprocessing import UnreadableImage
from PIL import Image, PngImagePlugin

SECRET = b"SECRET-PLACE"


def photo(width=800, height=600):
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def exif(orientation=1):
    facts = Image.Exif()
    facts[0x0112], facts[0x010E] = orientation, SECRET.decode()
    facts.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 0.0), 29: SECRET.decode()})
    return facts


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_secrets(kind):
    hidden = {"icc_profile": SECRET * 20, "xmp": SECRET}
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", SECRET.decode())
        hidden = {"pnginfo": text, "icc_profile": SECRET * 20}
    if kind == "JPEG":
        hidden["comment"] = SECRET
    return saved(photo(), kind, exif=exif(), **hidden)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_nothing_but_pixels_is_left_in_a_thumbnail(kind):
    data = with_secrets(kind)
    assert SECRET in data
    small = thumbnail(data, 320)
    assert SECRET not in small
    for chunk in (b"EXIF", b"ICCP", b"XMP "):
        assert chunk not in small
    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size, dict(image.getexif())) == ("WEBP", (320, 240), {})
        assert not {"exif", "icc_profile", "xmp", "comment"} & set(image.info)


def test_a_turned_photograph_stands_upright():
    with Image.open(io.BytesIO(thumbnail(saved(photo(), "JPEG", exif=exif(6)), 200))) as image:
        assert image.size == (150, 200)
        top, bottom = image.getpixel((75, 20)), image.getpixel((75, 180))
    assert top[0] > 200 > 60 > top[2]
    assert bottom[2] > 200 > 60 > bottom[0]


def test_small_images_are_not_made_larger_and_long_ones_keep_a_pixel():
    for size, expected in (((40, 30), (40, 30)), ((4000, 2), (320, 1))):
        with Image.open(io.BytesIO(thumbnail(saved(photo(*size), "PNG"), 320))) as image:
            assert image.size == expected


def test_broken_bytes_have_a_reason():
    with pytest.raises(UnreadableImage, match="truncated"):
        thumbnail(saved(photo(), "JPEG")[:3000], 320)
    with pytest.raises(UnreadableImage, match="not a JPEG, PNG"):
        thumbnail(b"GIF", 320)


def test_the_shelf_keeps_each_picture_once_and_no_more_than_it_may(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        photo(60, 40).save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"x")
    folder = str(tmp_path)
    one = len(thumbnail((tmp_path / "a.png").read_bytes(), 320))
    shelf = PictureShelf(most_bytes=one + 1)
    asked = [shelf.add(folder, name, 320) for name in ("a.png", "bad.png", "a.png", "b.png")]
    assert asked == [0, None, 0, 1]
    assert shelf.add(folder, "c.png", 320) is None
    assert shelf.left_out == 1
    assert "no more pictures" in shelf.reason(folder, "c.png")
    assert "not a JPEG" in shelf.reason(folder, "bad.png")
    assert len(shelf.encoded) == 2
    assert base64.b64decode(shelf.encoded[0])[8:12] == b"WEBP"


@pytest.mark.parametrize("path", ["../out.png", "/etc/passwd", "a/../../out.png", "a\\..\\..\\b"])
def test_no_path_leaves_the_collection(tmp_path, path):
    (tmp_path / "in").mkdir()
    photo().save(tmp_path / "out.png")
    with pytest.raises(UnreadableImage, match="leaves the collection"):
        picture_bytes(str(tmp_path / "in"), path)


def test_a_link_out_of_the_collection_is_not_followed_one_inside_is(tmp_path):
    (tmp_path / "in").mkdir()
    photo().save(tmp_path / "out.png")
    photo().save(tmp_path / "in" / "a.png")
    os.symlink(tmp_path / "out.png", tmp_path / "in" / "b.png")
    os.symlink(tmp_path / "in" / "a.png", tmp_path / "in" / "c.png")
    with pytest.raises(UnreadableImage, match="leaves the collection"):
        picture_bytes(str(tmp_path / "in"), "b.png")
    assert picture_bytes(str(tmp_path / "in"), "c.png") == (tmp_path / "in/a.png").read_bytes()
    with pytest.raises(UnreadableImage, match="does not exist"):
        picture_bytes(str(tmp_path / "in"), "d.png")


def test_a_name_that_is_no_utf8_is_found_by_what_is_shown_of_it(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"odd")
    assert picture_bytes(str(tmp_path), "caf\\xe9.png") == b"odd"
    (tmp_path / "caf\\xe9.png").write_bytes(b"named so")
    assert picture_bytes(str(tmp_path), "caf\\xe9.png") == b"named so"
