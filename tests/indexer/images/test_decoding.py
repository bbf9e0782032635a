"""Pixels by hand, equality with open_clip's transform, and one plain reason per broken file."""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.indexer.images import decoding
from blissaudit.indexer.images.decoding import (
    DecodingLimits,
    Preprocessing,
    UnreadableImage,
    _formats,
    decode_bytes,
    decode_image,
)
from PIL import Image

LIMITS = DecodingLimits()
GREY_2X3 = [[0, 40, 80], [120, 160, 200]]
ORIENTED = {
    1: [[0, 40, 80], [120, 160, 200]],
    2: [[80, 40, 0], [200, 160, 120]],
    3: [[200, 160, 120], [80, 40, 0]],
    4: [[120, 160, 200], [0, 40, 80]],
    5: [[0, 120], [40, 160], [80, 200]],
    6: [[120, 0], [160, 40], [200, 80]],
    7: [[200, 80], [160, 40], [120, 0]],
    8: [[80, 200], [40, 160], [0, 120]],
}


def prepare(
    height: int, width: int, mode: str = "squash", interpolation: str = "bicubic", **rest: int
) -> Preprocessing:
    return Preprocessing(
        (height, width), interpolation, mode, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), **rest
    )


def decode_as_stored(path: Path, apply_exif: bool = True) -> tuple[np.ndarray, bool]:
    """Decode without resizing: squash to the size the image has once it is upright."""
    data = path.read_bytes()
    with Image.open(path) as image:
        turned = decoding._load(decoding._open(data, LIMITS), apply_exif)
        assert sorted((turned.width, turned.height)) == sorted(image.size)
    same_size = prepare(turned.height, turned.width, apply_exif=apply_exif)
    pixels, sha256, rotated, _ = decode_image(str(path), same_size, LIMITS)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    return pixels, rotated


def reason_for(path: Path | str, limits: DecodingLimits = LIMITS) -> str:
    with pytest.raises(UnreadableImage, match=r"^\w") as caught:
        decode_image(str(path), prepare(8, 8, "shortest"), limits)
    return str(caught.value)


def encoded(form: str, **options: object) -> bytes:
    """A 40 x 50 noise image, so that no codec can make it small."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size and whose data holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


# Orientation


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": 1})],
    ids=["png", "tiff", "tiff-lzw", "webp"],
)
def test_exif_orientation_is_applied_and_reported(
    tmp_path: Path, orientation: int, form: str, options: dict[str, object]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = Image.fromarray(np.array(GREY_2X3, dtype=np.uint8)).convert("RGB")
    path = tmp_path / "turned"
    grey.save(path, form, exif=exif.tobytes(), **options)

    pixels, rotated = decode_as_stored(path)
    assert pixels[:, :, 1].tolist() == ORIENTED[orientation]
    assert rotated is (orientation != 1)
    pixels, rotated = decode_as_stored(path, apply_exif=False)
    assert pixels[:, :, 1].tolist() == GREY_2X3
    assert rotated is False


@pytest.mark.parametrize("value", [0, 9, 4000])
def test_a_meaningless_or_damaged_orientation_is_upright(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    grey = Image.fromarray(np.array(GREY_2X3, dtype=np.uint8))
    grey.save(tmp_path / "odd.png", exif=exif.tobytes())
    grey.save(tmp_path / "damaged.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff")
    for name in ("odd.png", "damaged.png"):
        pixels, rotated = decode_as_stored(tmp_path / name)
        assert (pixels[:, :, 0].tolist(), rotated) == (GREY_2X3, False)


# Colour modes: the expected RGB of each pixel, worked out by hand


def palette_image(transparency: bytes | None) -> tuple[Image.Image, dict[str, object]]:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putdata([0, 1])
    return image, {} if transparency is None else {"transparency": transparency}


def from_values(values: list, dtype: object, mode: str | None = None) -> Image.Image:
    image = Image.fromarray(np.array(values, dtype=dtype))
    assert mode is None or image.mode == mode
    return image


CASES: dict[str, tuple[str, Callable[[], tuple[Image.Image, dict[str, object]]], list]] = {
    "1": (
        "PNG",
        lambda: (from_values([[False, True]], bool, "1"), {}),
        [[0, 0, 0], [255, 255, 255]],
    ),
    "L": ("BMP", lambda: (from_values([[7, 250]], np.uint8, "L"), {}), [[7] * 3, [250] * 3]),
    "LA": (  # 100 at alpha 51 = 1/5 over white: 100/5 + 255 * 4/5 = 224
        "PNG",
        lambda: (from_values([[[100, 51], [9, 255]]], np.uint8, "LA"), {}),
        [[224] * 3, [9] * 3],
    ),
    "P": ("GIF", lambda: palette_image(None), [[10, 20, 30], [200, 100, 0]]),
    "P with transparency": (
        "PNG",
        lambda: palette_image(b"\x00\xff"),
        [[255, 255, 255], [200, 100, 0]],
    ),
    "RGB with a transparent colour": (
        "PNG",
        lambda: (from_values([[[1, 2, 3], [4, 5, 6]]], np.uint8), {"transparency": (1, 2, 3)}),
        [[255, 255, 255], [4, 5, 6]],
    ),
    "RGBA": (
        "PNG",
        lambda: (from_values([[[0, 50, 255, 51], [200, 0, 0, 0]]], np.uint8, "RGBA"), {}),
        [[204, 214, 255], [255, 255, 255]],
    ),
    "RGBA webp": (
        "WEBP",
        lambda: (from_values([[[1, 2, 3, 255], [200, 0, 0, 0]]], np.uint8), {"lossless": True}),
        [[1, 2, 3], [255, 255, 255]],
    ),
    "CMYK": (  # no ink is white, full key is black, full cyan has no red
        "TIFF",
        lambda: (Image.frombytes("CMYK", (3, 1), bytes([0] * 4 + [0, 0, 0, 255] + [255, 0, 0, 0])),
                 {}),
        [[255] * 3, [0] * 3, [0, 255, 255]],
    ),
    "CMYK jpeg, which Adobe stores inverted": (
        "JPEG",
        lambda: (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), {"quality": 100, "subsampling": 0}),
        [[0] * 3] * 64,
    ),
    "YCbCr": (
        "JPEG",
        lambda: (Image.new("YCbCr", (8, 8), (90, 128, 128)), {"quality": 100, "subsampling": 0}),
        [[90] * 3] * 64,
    ),
    "I;16": (
        "PNG",
        lambda: (from_values([[0, 255, 256, 65535]], np.uint16, "I;16"), {}),
        [[0] * 3, [0] * 3, [1] * 3, [255] * 3],
    ),
    "I;16 tiff": (
        "TIFF",
        lambda: (from_values([[0x1234, 0xFFFF]], np.uint16, "I;16"), {}),
        [[0x12] * 3, [255] * 3],
    ),
    "I within 16 bits": (
        "TIFF",
        lambda: (from_values([[0, 65535, 0x4000]], np.int32, "I"), {}),
        [[0] * 3, [255] * 3, [64] * 3],
    ),
    "I beyond 16 bits is stretched": (
        "TIFF",
        lambda: (from_values([[-100, 410, 0]], np.int32, "I"), {}),
        [[0] * 3, [255] * 3, [50] * 3],
    ),
    "F within 0..1": (
        "TIFF",
        lambda: (from_values([[0.0, 0.2, 1.0, np.nan]], np.float32, "F"), {}),
        [[0] * 3, [51] * 3, [255] * 3, [0] * 3],
    ),
    "F within 0..255": (
        "TIFF",
        lambda: (from_values([[0.4, 99.6, 255.0]], np.float32, "F"), {}),
        [[0] * 3, [100] * 3, [255] * 3],
    ),
    "F beyond is stretched, infinities are its ends": (
        "TIFF",
        lambda: (from_values([[-5.0, 1015.0, 199.0, np.inf, -np.inf]], np.float32, "F"), {}),
        [[0] * 3, [255] * 3, [51] * 3, [255] * 3, [0] * 3],
    ),
    "F of nothing but NaN": (
        "TIFF",
        lambda: (from_values([[np.nan, np.nan]], np.float32, "F"), {}),
        [[0] * 3, [0] * 3],
    ),
    "F of one large value": (
        "TIFF",
        lambda: (from_values([[900.0, 900.0]], np.float32, "F"), {}),
        [[0] * 3, [0] * 3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_colour_mode_becomes_rgb(tmp_path: Path, name: str) -> None:
    form, build, expected = CASES[name]
    image, options = build()
    path = tmp_path / "image"
    image.save(path, form, **options)
    pixels, rotated = decode_as_stored(path)
    assert pixels.reshape(-1, 3).tolist() == expected
    assert rotated is False


def test_first_frame_of_gif_and_first_page_of_tiff(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    for name in ("a.gif", "b.tiff", "c.webp", "d.png"):
        more = {"lossless": True} if name == "c.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **more)
        pixels, _ = decode_as_stored(tmp_path / name)
        assert pixels.reshape(-1, 3).tolist() == [[250, 0, 0]] * 16, name


# Resizing and cropping


def open_clip_pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """What open_clip's inference transform hands to ToTensor."""
    transform = pytest.importorskip("open_clip.transform").image_transform(
        preprocessing.size,
        is_train=False,
        resize_mode=preprocessing.resize_mode,
        interpolation=preprocessing.interpolation,
        fill_color=preprocessing.fill_color,
    )
    for step in transform.transforms[:-2]:
        image = step(image)
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (33, 33), (24, 40), (41, 23)])
def test_pixels_equal_open_clips_transform(
    tmp_path: Path, mode: str, interpolation: str, size: tuple[int, int]
) -> None:
    preprocessing = prepare(*size, mode, interpolation, fill_color=77)
    rng = np.random.default_rng(sum(size))
    shapes = [(32, 32), (33, 47), (47, 33), (1, 1), (2, 9), (31, 200), (5, 5), (24, 40), (333, 64)]
    shapes += [tuple(rng.integers(1, 130, 2).tolist()) for _ in range(10)]
    path = tmp_path / "noise.bmp"
    for shape in shapes:
        image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        image.save(path)
        pixels, *_ = decode_image(str(path), preprocessing, LIMITS)
        expected = open_clip_pixels(image, preprocessing)
        assert pixels.shape == (*size, 3)
        assert np.array_equal(pixels, expected), shape


def test_photographs_equal_open_clips_transform() -> None:
    folder = Path(os.environ.get("BLISS_TEST_DATA", "absent"), "real/caltech101/val/images")
    if not folder.is_dir():
        pytest.skip("BLISS_TEST_DATA holds no Caltech photographs")
    photographs = sorted(folder.rglob("*.jpg"))[::80]
    assert len(photographs) >= 10
    for number, path in enumerate(photographs):
        mode = ("shortest", "longest", "squash")[number % 3]
        preprocessing = prepare(224, 224, mode)
        with Image.open(path) as image:
            expected = open_clip_pixels(image.convert("RGB"), preprocessing)
        pixels, *_ = decode_image(str(path), preprocessing, LIMITS)
        assert np.array_equal(pixels, expected), path.name


def test_conversion_to_rgb_comes_before_resizing(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.putdata([0, 1, 0, 1])
    image.save(tmp_path / "palette.png")
    pixels, *_ = decode_image(
        str(tmp_path / "palette.png"), prepare(1, 1, interpolation="bilinear"), LIMITS
    )
    assert pixels.tolist() == [[[128, 128, 128]]]  # a palette could only give 0 or 255


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"interpolation": "random"}, "interpolation 'random'. Needed: bicubic or bilinear"),
        ({"resize_mode": "fit"}, "resize mode 'fit'. Needed: shortest or longest or squash"),
        ({"size": (0, 5)}, r"image size \(0, 5\)"),
    ],
)
def test_preprocessing_that_open_clip_does_not_have_is_refused(
    changed: dict[str, object], message: str
) -> None:
    good: dict[str, object] = {"size": (8, 8), "interpolation": "bicubic", "resize_mode": "squash"}
    with pytest.raises(UsageError, match=message):
        Preprocessing(**{**good, **changed}, mean=(0.5,) * 3, std=(0.5,) * 3)  # type: ignore


# Broken files


def broken_files() -> dict[str, tuple[bytes, str]]:
    """File name: its bytes, and the exact reason."""
    jpeg, png = encoded("JPEG"), encoded("PNG")
    ends_early = "the image data ends early: the file is truncated"
    foreign = "the content is not a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image"
    damaged = "the {} file is damaged or cut off"
    bad_checksum = bytearray(png)
    bad_checksum[29] ^= 1
    scrambled = bytearray(png)
    scrambled[len(png) // 2 : len(png) // 2 + 40] = b"\x55" * 40
    wide = io.BytesIO()
    Image.new("L", (65535, 1)).save(wide, "PNG")
    return {
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"hello, I am a text file\n" * 20, foreign),
        "page.jpg": (b"<!DOCTYPE html><html><title>404</title></html>", foreign),
        "vector.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', foreign),
        "noise.webp": (np.random.default_rng(1).bytes(3000), foreign),
        "half.jpg": (jpeg[: len(jpeg) // 2], ends_early),
        "half.png": (png[: len(png) // 2], ends_early),
        "half.bmp": (encoded("BMP")[:3000], ends_early),
        "half.gif": (encoded("GIF")[:1500], ends_early),
        "half.tiff": (encoded("TIFF")[:3000], ends_early),
        "half.webp": (encoded("WEBP")[:400], damaged.format("WebP")),
        "start.jpg": (jpeg[:20], damaged.format("JPEG")),
        "start.png": (png[:20], damaged.format("PNG")),
        "start.bmp": (encoded("BMP")[:20], damaged.format("BMP")),
        "start.gif": (encoded("GIF")[:8], damaged.format("GIF")),
        "start.tif": (encoded("TIFF")[:6], damaged.format("TIFF")),
        "checksum.png": (bytes(bad_checksum), damaged.format("PNG")),
        "no_pixels.png": (png_header(0, 5), damaged.format("PNG")),
        "missing_rows.png": (png_header(50, 50), ends_early),
        "bomb.png": (
            png_header(100_000, 100_000),
            "the image has more pixels than the limit of 250000000 (100000 x 100000 pixels)",
        ),
        "needle.png": (
            wide.getvalue(),
            "the image is too long and thin to resize to 5000 x 5000 (65535 x 1 pixels)",
        ),
        "scrambled.png": (
            bytes(scrambled),
            "the image data is damaged (unrecognized data stream contents when reading image file)",
        ),
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", broken_files())
def test_broken_files_have_their_reason(tmp_path: Path, name: str) -> None:
    data, reason = broken_files()[name]
    (tmp_path / name).write_bytes(data)
    size = 5000 if name == "needle.png" else 8
    with pytest.raises(UnreadableImage, match=re.escape(reason)) as caught:
        decode_image(str(tmp_path / name), prepare(size, size, "shortest"), LIMITS)
    assert str(caught.value) == reason


def test_a_needle_that_would_vanish_has_its_reason(tmp_path: Path) -> None:
    Image.new("L", (1, 900)).save(tmp_path / "needle.png")
    with pytest.raises(UnreadableImage, match=r"too long and thin to resize to 8 x 8 \(1 x 900"):
        decode_image(str(tmp_path / "needle.png"), prepare(8, 8, "longest"), LIMITS)


def test_things_that_are_no_files_have_their_reason_and_do_not_block(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    assert reason_for(tmp_path / "folder.jpg") == "it is a folder, not a file"
    assert reason_for(tmp_path / "gone.jpg") == "the file does not exist"
    assert reason_for(tmp_path / "gone" / "x.jpg") == "the file does not exist"
    assert reason_for("null\0byte.jpg") == "the file name is not valid on this system"
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert reason_for(tmp_path / "loop.jpg").startswith("the file could not be read (Too many")
    os.mkfifo(tmp_path / "pipe.jpg")
    device = "it is a pipe, socket or device, not a file"
    assert reason_for(tmp_path / "pipe.jpg") == device
    assert reason_for("/dev/zero") == device
    with socket.socket(socket.AF_UNIX) as endpoint:
        here = os.getcwd()
        os.chdir(tmp_path)  # the names of sockets must be short
        try:
            endpoint.bind("socket.jpg")
        finally:
            os.chdir(here)
    assert reason_for(tmp_path / "socket.jpg") == device


def test_no_permission_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> os.stat_result:  # permissions do not bind root, who may run the tests
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(decoding.os, "stat", refuse)
    assert reason_for(tmp_path / "locked.jpg") == "there is no permission to read the file"


def test_limits_are_inclusive_and_named(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded("PNG"))
    size = path.stat().st_size
    assert reason_for(path, DecodingLimits(max_bytes=size - 1)) == (
        f"the file is larger than the limit of {size - 1} bytes"
    )
    assert reason_for(path, DecodingLimits(max_pixels=1999)) == (
        "the image has more pixels than the limit of 1999 (50 x 40 pixels)"
    )
    exact = DecodingLimits(max_pixels=2000, max_bytes=size)
    expected = decode_image(str(path), prepare(8, 8), LIMITS)[0]
    assert np.array_equal(decode_image(str(path), prepare(8, 8), exact)[0], expected)


def test_an_image_beyond_pillows_own_limit_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (50, 40), (9, 8, 7)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    pixels, *_ = decode_image(str(tmp_path / "large.png"), prepare(1, 1), LIMITS)
    assert pixels.tolist() == [[[9, 8, 7]]]
    assert Image.MAX_IMAGE_PIXELS == 10


def test_too_little_memory_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image.png").write_bytes(encoded("PNG"))

    def fail(*given: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(decoding, "_to_rgb", fail)
    assert reason_for(tmp_path / "image.png") == "there is not enough memory to decode the image"


def test_reasons_hold_no_memory_addresses() -> None:
    error = ValueError("bad <_io.BytesIO object at 0x7f00dead>\n at 0xBEEF, tile 3")
    assert decoding._plain(error) == "bad at , tile 3"
    assert decoding._plain(KeyError()) == "KeyError"


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3), (1, 2, 3)).save(tmp_path / "really_png.jpg", "PNG")
    pixels, rotated = decode_as_stored(tmp_path / "really_png.jpg")
    assert pixels.reshape(-1, 3).tolist() == [[1, 2, 3]] * 9 and rotated is False


def with_chunk(name: bytes, body: bytes, after_pixels: bool) -> bytes:
    """A small PNG with one more chunk."""
    image = Image.new("RGB", (9, 7), (200, 30, 40))
    file = io.BytesIO()
    image.save(file, "PNG")
    data = file.getvalue()
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    place = len(data) - 12 if after_pixels else 33
    return data[:place] + chunk + data[place:]


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize(
    ("name", "body"),
    [
        (b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * (2 << 20))),
        (b"iTXt", b"workflow\0\1\0en\0k\0" + zlib.compress(b"x" * (2 << 20))),
        (b"iTXt", b"workflow\0\0\0\0\0" + b"x" * (2 << 20)),
        (b"tEXt", b"parameters\0" + b"x" * (70 << 20)),
        (b"iCCP", b"profile\0\0" + zlib.compress(b"x" * (2 << 20))),
    ],
    ids=["zTXt", "packed iTXt", "iTXt", "tEXt", "iCCP"],
)
def test_a_png_with_a_long_text_or_profile_is_read(
    name: bytes, body: bytes, after_pixels: bool
) -> None:
    found, *_ = decode_bytes(with_chunk(name, body, after_pixels), prepare(8, 8), LIMITS)
    plain, *_ = decode_bytes(with_chunk(b"tEXt", b"a\0b", False), prepare(8, 8), LIMITS)
    assert np.array_equal(found, plain)


def test_avif_is_read_and_heif_needs_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 40)).save(file, "AVIF")
    pixels, *_ = decode_bytes(file.getvalue(), prepare(8, 8), LIMITS)
    assert np.abs(pixels.astype(int) - (200, 30, 40)).max() < 12
    with pytest.raises(UnreadableImage, match="the AVIF file is damaged"):
        decode_bytes(file.getvalue()[:60], prepare(8, 8), LIMITS)
    heif = b"\0\0\0\x18ftypheic" + bytes(40)
    with pytest.raises(UnreadableImage, match="HEIF images need the package pillow-heif"):
        decode_bytes(heif, prepare(8, 8), LIMITS)
    asked = []
    plugin = SimpleNamespace(register_heif_opener=lambda: asked.append("registered"))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    _formats.cache_clear()
    with pytest.raises(UnreadableImage, match="the HEIF file is damaged"):
        decode_bytes(heif, prepare(8, 8), LIMITS)
    _formats.cache_clear()
    assert asked == ["registered"]
