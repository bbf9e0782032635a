"""Drawn scenes, the backgrounds they stand before, and captions of them.

A scene is one to three things of one kind and colour: a small record. `render_scene` turns it into
the same picture every time, because all that varies in the drawing comes from the scene's own seed.

Captions are written by a small grammar. A caption always names the kind of thing; it may also name
the colour, the count and the background. A caption that does not name the count speaks of one thing
("a red key") and is right for scenes with several, as the prompts of a class label are.
"""

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .drawings import DRAWINGS, FIXED_PAINTS

RGB = tuple[int, int, int]

KINDS: tuple[str, ...] = tuple(DRAWINGS)

COLOURS: dict[str, RGB] = {
    "red": (212, 36, 40),
    "orange": (244, 132, 24),
    "yellow": (250, 220, 50),
    "green": (44, 160, 66),
    "blue": (38, 92, 214),
    "purple": (124, 52, 168),
    "pink": (248, 146, 190),
    "white": (246, 246, 246),
    "black": (44, 44, 48),
}

COUNTS: tuple[int, ...] = (1, 2, 3)

FILE_SIZE = 128
"""Pixels of the sides of a scene's file."""
_OVERSAMPLE = 2
_OUTLINE: RGB = (24, 22, 28)
_HALO: RGB = (250, 250, 250)


@dataclass(frozen=True)
class Scene:
    """What is in a picture; `seed` fixes position, size, turn and the exact tints."""

    kind: str
    colour: str
    count: int
    background: str
    seed: int


def sample_scene(rng: np.random.Generator, kind: str | None = None) -> Scene:
    """A scene drawn evenly over all attributes, with the kind given or drawn as well.

    Raises ValueError when the kind is not one of KINDS.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known kinds are {', '.join(KINDS)}")
    return Scene(
        kind=kind if kind is not None else KINDS[int(rng.integers(len(KINDS)))],
        colour=tuple(COLOURS)[int(rng.integers(len(COLOURS)))],
        count=COUNTS[int(rng.integers(len(COUNTS)))],
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        seed=int(rng.integers(2**31)),
    )


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centre x, centre y and half extent of every copy, as fractions of the picture."""
    if count == 1:
        half = rng.uniform(0.33, 0.42)
        room = 0.48 - half
        return [(0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room), half)]
    if count == 2:
        half = rng.uniform(0.22, 0.245)
        if rng.random() < 0.5:
            spots = [(0.26, rng.uniform(0.3, 0.7)), (0.74, rng.uniform(0.3, 0.7))]
        else:
            spots = [(rng.uniform(0.3, 0.7), 0.26), (rng.uniform(0.3, 0.7), 0.74)]
        return [(x, y, half) for x, y in spots]
    half = rng.uniform(0.205, 0.235)
    lone = rng.uniform(0.3, 0.7)
    rows = [(0.25, 0.25), (0.75, 0.25), (lone, 0.75)]
    if rng.random() < 0.5:
        rows = [(x, 1 - y) for x, y in rows]
    return [(x, y, half) for x, y in rows]


def _shaded(colour: RGB, paint: str) -> RGB:
    if paint in FIXED_PAINTS:
        return FIXED_PAINTS[paint]
    values = np.array(colour, dtype=np.float64)
    if paint == "shade":
        values = values * 0.78 if values.mean() > 60 else values + 26
    elif paint == "light":
        values = values + (255 - values) * 0.35 if values.mean() < 235 else values * 0.88
    return int(values[0]), int(values[1]), int(values[2])


def _turn(rng: np.random.Generator) -> np.ndarray:
    angle = np.radians(rng.uniform(-16, 16))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    stretch = rng.uniform(0.9, 1.0, size=2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.diag(stretch * (mirror, 1.0)) @ turn


def render_scene(scene: Scene, size: int) -> Image.Image:
    """RGB picture of size x size pixels, the same for equal scenes.

    Raises KeyError for attributes outside KINDS, COLOURS and BACKGROUNDS, ValueError for a
    count outside COUNTS or a size below 8.
    """
    if scene.count not in COUNTS or size < 8:
        raise ValueError(f"cannot draw {scene.count} things in {size} pixels")
    rng = np.random.default_rng(scene.seed)
    canvas = size * _OVERSAMPLE
    image = paint_background(scene.background, canvas, rng)
    draw = ImageDraw.Draw(image)
    parts = DRAWINGS[scene.kind]()
    for x, y, half in _places(scene.count, rng):
        colour = tint(rng, COLOURS[scene.colour], 10)
        turn = _turn(rng)
        centre = np.array([x, y]) * canvas
        outlines = [(outline @ turn * (half * canvas) + centre, paint) for outline, paint in parts]
        rim = max(1, round(canvas * 0.011))
        for width, line in ((3 * rim, _HALO), (rim, _OUTLINE)):
            for outline, _ in outlines:
                corners = [(float(px), float(py)) for px, py in outline]
                draw.line(
                    [*corners, corners[0], corners[1]], fill=line, width=2 * width, joint="curve"
                )
        for outline, paint in outlines:
            corners = [(float(px), float(py)) for px, py in outline]
            draw.polygon(corners, fill=_shaded(colour, paint))
    return image.resize((size, size), Image.Resampling.BOX)


def picture_as_file(scene: Scene, quality: int) -> Image.Image:
    """The scene as a reader of its 128 pixel JPEG file sees it."""
    buffer = io.BytesIO()
    render_scene(scene, FILE_SIZE).save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def tint(rng: np.random.Generator, base: RGB, spread: int) -> RGB:
    """The base colour with every channel moved by up to spread, clipped to 0..255."""
    moved = np.clip(np.array(base) + rng.integers(-spread, spread + 1, size=3), 0, 255)
    return int(moved[0]), int(moved[1]), int(moved[2])


def _pale(rng: np.random.Generator) -> RGB:
    return tint(rng, (208, 208, 208), 26)


def _darker(colour: RGB, factor: float) -> RGB:
    return int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor)


def _plain(size: int, rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (size, size), _pale(rng))


def _striped(size: int, rng: np.random.Generator) -> Image.Image:
    pale = _pale(rng)
    image = Image.new("RGB", (size, size), pale)
    draw = ImageDraw.Draw(image)
    step, lean = size * rng.uniform(0.14, 0.22), size * rng.uniform(-0.6, 0.6)
    dark = _darker(pale, 0.72)
    for left in np.arange(-size, 2 * size, step):
        draw.polygon(
            [(left, 0), (left + step / 2, 0), (left + step / 2 + lean, size), (left + lean, size)],
            fill=dark,
        )
    return image


def _dotted(size: int, rng: np.random.Generator) -> Image.Image:
    pale = _pale(rng)
    image = Image.new("RGB", (size, size), pale)
    draw = ImageDraw.Draw(image)
    step = size * rng.uniform(0.14, 0.19)
    radius, dark = step * 0.27, _darker(pale, 0.66)
    shift = rng.uniform(0, step, size=2)
    for row in range(-1, int(size / step) + 2):
        for column in range(-1, int(size / step) + 2):
            x = column * step + shift[0] + (row % 2) * step / 2
            y = row * step + shift[1]
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dark)
    return image


def _checkered(size: int, rng: np.random.Generator) -> Image.Image:
    pale = _pale(rng)
    image = Image.new("RGB", (size, size), pale)
    draw = ImageDraw.Draw(image)
    step = size * rng.uniform(0.15, 0.21)
    shift = rng.uniform(-step, 0, size=2)
    dark = _darker(pale, 0.74)
    for row in range(int(size / step) + 2):
        for column in range(row % 2, int(size / step) + 2, 2):
            x, y = column * step + shift[0], row * step + shift[1]
            draw.rectangle((x, y, x + step, y + step), fill=dark)
    return image


def _land(size: int, sky: RGB, ground: RGB, horizon: float) -> Image.Image:
    image = Image.new("RGB", (size, size), sky)
    ImageDraw.Draw(image).rectangle((0, size * horizon, size, size), fill=ground)
    return image


def _meadow(size: int, rng: np.random.Generator) -> Image.Image:
    ground = tint(rng, (134, 184, 98), 14)
    horizon = rng.uniform(0.45, 0.65)
    image = _land(size, tint(rng, (206, 230, 246), 9), ground, horizon)
    draw = ImageDraw.Draw(image)
    blade, tall = _darker(ground, 0.78), size * 0.05
    for x, y in rng.uniform((0, horizon), (1, 1), size=(60, 2)) * size:
        draw.line((x, y, x + tall * 0.3, y - tall), fill=blade, width=max(1, size // 90))
    return image


def _sea(size: int, rng: np.random.Generator) -> Image.Image:
    water = tint(rng, (96, 160, 204), 14)
    horizon = rng.uniform(0.4, 0.6)
    image = _land(size, tint(rng, (222, 236, 244), 9), water, horizon)
    draw = ImageDraw.Draw(image)
    foam, wide = tint(rng, (214, 234, 244), 8), size * 0.07
    for x, y in rng.uniform((0, horizon + 0.03), (1, 1), size=(22, 2)) * size:
        draw.arc(
            (x - wide, y - wide / 2, x + wide, y + wide / 2), 20, 160, foam, max(1, size // 70)
        )
    return image


def _desert(size: int, rng: np.random.Generator) -> Image.Image:
    sand = tint(rng, (226, 198, 146), 10)
    horizon = rng.uniform(0.45, 0.6)
    image = _land(size, tint(rng, (250, 236, 214), 6), sand, horizon)
    draw = ImageDraw.Draw(image)
    for x, y in rng.uniform((0, horizon), (1, 1), size=(5, 2)) * size:
        wide, high = size * rng.uniform(0.3, 0.6), size * rng.uniform(0.05, 0.12)
        draw.ellipse((x - wide, y, x + wide, y + 2 * high), fill=tint(rng, (214, 182, 126), 10))
    return image


def _snow(size: int, rng: np.random.Generator) -> Image.Image:
    horizon = rng.uniform(0.5, 0.65)
    image = _land(size, tint(rng, (166, 186, 206), 9), tint(rng, (240, 244, 250), 5), horizon)
    draw = ImageDraw.Draw(image)
    for x, y in rng.uniform(0, 1, size=(45, 2)) * size:
        radius = size * rng.uniform(0.008, 0.018)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(252, 252, 255))
    return image


def _night(size: int, rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (size, size), tint(rng, (34, 40, 84), 10))
    draw = ImageDraw.Draw(image)
    for x, y in rng.uniform(0, 1, size=(40, 2)) * size:
        radius = size * rng.uniform(0.004, 0.012)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(236, 236, 214))
    return image


PAINTERS: dict[str, Callable[[int, np.random.Generator], Image.Image]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "meadow": _meadow,
    "sea": _sea,
    "desert": _desert,
    "snow": _snow,
    "night": _night,
}

BACKGROUNDS: tuple[str, ...] = tuple(PAINTERS)


def paint_background(name: str, size: int, rng: np.random.Generator) -> Image.Image:
    """RGB image of size x size pixels.  Raises KeyError for a name not in BACKGROUNDS."""
    return PAINTERS[name](size, rng)


OPENINGS: tuple[str, ...] = (
    "{}",
    "This is a photo of {}",
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "an image showing {}",
    "a small picture with {}",
    "here you can see {}",
    "look at {}",
    "somebody drew {}",
)

SETTINGS: dict[str, tuple[str, ...]] = {
    "plain": ("on a plain background", "before a plain wall"),
    "striped": ("on a striped background", "in front of stripes"),
    "dotted": ("on a dotted background", "in front of dots"),
    "checkered": ("on a checkered background", "in front of a checkerboard"),
    "meadow": ("in a meadow", "on the grass"),
    "sea": ("at sea", "over the water"),
    "desert": ("in the desert", "on the sand"),
    "snow": ("in the snow", "on a winter day"),
    "night": ("at night", "under a dark sky"),
}

COUNT_WORDS: dict[int, str] = {1: "one", 2: "two", 3: "three"}

_ODD_PLURALS = {"butterfly": "butterflies", "cactus": "cacti", "fish": "fish", "snowman": "snowmen"}
_MOST_SAMPLES = 100_000


def plural(kind: str) -> str:
    """The plural of a kind: "key" gives "keys", "fish" gives "fish"."""
    return _ODD_PLURALS.get(kind, kind + "s")


def with_article(words: str) -> str:
    """The words after "a", or after "an" where they begin with a vowel."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _things(kind: str, colour: str | None, count: int | None) -> list[str]:
    """The ways to name the things of a scene; None leaves an attribute unsaid."""
    hue = f"{colour} " if colour else ""
    if count is None:
        return [with_article(hue + kind)]
    if count == 1:
        return [f"one {hue}{kind}", f"a single {hue}{kind}"]
    return [f"{COUNT_WORDS[count]} {hue}{plural(kind)}"]


def label_forms(label: str) -> list[str]:
    """What a program makes of a class label without regard to articles ("a photo of a apple")."""
    return [label, f"This is a photo of a {label}", f"a photo of a {label}", f"a {label}"]


def describe(
    rng: np.random.Generator,
    kind: str,
    colour: str | None = None,
    count: int | None = None,
    background: str | None = None,
) -> str:
    """A caption that names the kind and those attributes that are not None.

    Raises KeyError for an unknown count or background.
    """
    if colour is None and count is None and background is None and rng.random() < 0.5:
        forms = label_forms(kind)
        return forms[int(rng.integers(len(forms)))]
    things = _things(kind, colour, count)
    words = things[int(rng.integers(len(things)))]
    if background is not None:
        settings = SETTINGS[background]
        words = f"{words} {settings[int(rng.integers(len(settings)))]}"
    return OPENINGS[int(rng.integers(len(OPENINGS)))].format(words)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A right caption of the scene that names each further attribute with probability one half."""
    named = rng.random(3) < 0.5
    return describe(
        rng,
        scene.kind,
        scene.colour if named[0] else None,
        scene.count if named[1] else None,
        scene.background if named[2] else None,
    )


def all_captions() -> Iterator[str]:
    """Every caption of the grammar once, in a fixed order."""
    seen: set[str] = set()
    attributes = itertools.product(KINDS, (None, *COLOURS), (None, *COUNTS), (None, *BACKGROUNDS))
    for kind, colour, count, background in attributes:
        things = _things(kind, colour, count)
        endings = [f" {words}" for words in SETTINGS[background]] if background else [""]
        written = [
            opening.format(words + ending)
            for opening, words, ending in itertools.product(OPENINGS, things, endings)
        ]
        if colour is None and count is None and background is None:
            written += label_forms(kind)
        for text in written:
            if text not in seen:
                seen.add(text)
                yield text


def sample_captions(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different captions of scenes drawn at random.

    Raises ValueError for a count that is negative or above 100,000.
    """
    if not 0 <= count <= _MOST_SAMPLES:
        raise ValueError(f"can sample 0 to {_MOST_SAMPLES} different captions, not {count}")
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen[caption(sample_scene(rng), rng)] = None
    return list(chosen)
