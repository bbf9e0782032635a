"""Captions of drawn scenes, written by a small grammar.

A caption always names the kind of thing; it may also name the colour, the count and the
background.  A caption that does not name the count speaks of one thing ("a red key") and is right
for scenes with several, as the prompts of a class label are.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from .backgrounds import BACKGROUNDS
from .scenes import COLOURS, COUNTS, KINDS, Scene, sample_scene

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
