"""Thumbnails: right way up, small, and nothing but pixels; files are found and never left."""

from __future__ import annotations

import base64
import io
import os
import tarfile

import numpy as np
import pytest
from blissaudit.audit.report.thumbnails import PictureShelf
from blissaudit.audit.review.photographs import Photographs, Wanted, read_photographs
from blissaudit.indexer.encode.encoder import UnreadableImage
from blissaudit.indexer.images.workers import reused_workers
from helpers.pictures import thumbnail
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


def shelf_of(folder, names, most):
    shelf = PictureShelf(most_bytes=most)
    for row, name in enumerate(names):
        shelf.request("mine", Wanted(row, name), 320)
        shelf.request("mine", Wanted(row, "asked again.png"), 10)
    shelf.fill({"mine": Photographs(str(folder), {})})
    return shelf


def test_the_shelf_keeps_each_picture_once_and_no_more_than_it_may(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        photo(60, 40).save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"x")
    one = len(thumbnail((tmp_path / "a.png").read_bytes(), 320))
    shelf = shelf_of(tmp_path, ["a.png", "bad.png", "b.png", "c.png", "gone.png"], one + 1)
    assert [shelf.number("mine", row) for row in range(5)] == [0, None, 1, None, None]
    assert shelf.left_out == 2
    assert "no more pictures" in shelf.reason("mine", 4)  # it was not even looked for
    assert "no more pictures" in shelf.reason("mine", 3)
    assert "not a JPEG" in shelf.reason("mine", 1)
    assert len(shelf.encoded) == 2
    assert base64.b64decode(shelf.encoded[0])[8:12] == b"WEBP"
    assert shelf_of(tmp_path, ["a.png"], 0).left_out == 1


def test_the_shelf_keeps_what_was_asked_for_first_whatever_comes_first(tmp_path):
    """In an archive the last rows may be the most anomalous."""
    sizes = [(60, 40), (20, 300), (300, 20), (50, 50), (9, 9)]
    data = [saved(photo(*size), "PNG") for size in sizes]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, content in enumerate(data):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    small = [thumbnail(content, 320) for content in data]
    order = [4, 2, 0, 3, 1]
    for most in range(1, sum(map(len, small)) + 2, 80):
        shelf = PictureShelf(most_bytes=most)
        for row in order:
            shelf.request("mine", Wanted(row, ""), 320)
        with reused_workers():
            shelf.fill({"mine": Photographs(None, {"images": str(tmp_path / "a.tar")})})
        before = np.cumsum([0, *(len(small[row]) for row in order)])
        expected = [row for row, size in zip(order, before, strict=False) if size < most]
        assert [base64.b64decode(each) for each in shelf.encoded] == [small[r] for r in expected]
        assert [shelf.number("mine", row) for row in expected] == list(range(len(expected)))
        assert shelf.left_out == 5 - len(expected)


def test_rows_come_in_order_and_one_without_an_image_does_not_move_the_others(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(5):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 1
            if number == 2:
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "0.png", 0
            archive.addfile(member, io.BytesIO(b"%d" % number))
    where = Photographs(None, {"images": str(tmp_path / "a.tar")})
    found = list(read_photographs(where, [Wanted(row, "") for row in (9, 3, 0, 2, 4)]))
    assert [(each.place, each.data) for each in found] == [
        (2, b"0"), (3, None), (1, b"3"), (4, b"4"), (0, None)
    ]  # fmt: skip
    assert {each.problem for each in found if each.data is None} == {
        "the collection has no readable image at this row any more"
    }


def picture(folder, path):
    """The bytes or the problem of one file."""
    (found,) = read_photographs(Photographs(str(folder), {}), [Wanted(7, path)])
    assert found.place == 0
    return found.problem if found.data is None else found.data


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../out.png", "its path leaves the folder"),
        ("/etc/passwd", "its path leaves the folder"),
        ("a/../../out.png", "its path leaves the folder"),
        ("a\\..\\..\\b", "leaves the folder" if os.name == "nt" else "does not exist"),
        ("a\0.png", "not valid"),
        ("..\\xe9/../../out.png", "its path leaves the folder"),
    ],
)
def test_no_path_leaves_the_collection(tmp_path, path, words):
    (tmp_path / "in").mkdir()
    photo().save(tmp_path / "out.png")
    assert words in picture(tmp_path / "in", path)


def test_a_link_out_of_the_collection_is_not_followed_one_inside_is(tmp_path):
    (tmp_path / "in").mkdir()
    photo().save(tmp_path / "out.png")
    photo().save(tmp_path / "in" / "a.png")
    os.symlink(tmp_path / "out.png", tmp_path / "in" / "b.png")
    os.symlink(tmp_path / "in" / "a.png", tmp_path / "in" / "c.png")
    os.symlink(tmp_path / "out.png", tmp_path / "in" / os.fsdecode(b"\xe9.png"))
    assert "a link that leaves the folder" in picture(tmp_path / "in", "b.png")
    assert "a link that leaves the folder" in picture(tmp_path / "in", "\\xe9.png")
    assert picture(tmp_path / "in", "c.png") == (tmp_path / "in/a.png").read_bytes()
    assert "does not exist" in picture(tmp_path / "in", "d.png")


def test_a_name_that_is_no_utf8_is_found_by_what_is_shown_of_it(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"odd")
    assert picture(tmp_path, "caf\\xe9.png") == b"odd"
    (tmp_path / "caf\\xe9.png").write_bytes(b"named so")
    assert picture(tmp_path, "caf\\xe9.png") == b"named so"
