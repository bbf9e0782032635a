"""The kinds of things that scenes show, each with the function that draws it.

A drawing is a list of outlines in painting order, each with a paint: "main" (the colour that
captions name), "shade" and "light" (the same colour, darker or lighter) or one of FIXED_PAINTS.
An outline is a polygon, closed implicitly: a float array [points, 2] in a square from -1 to 1 with
y pointing down.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
Part = tuple[Outline, str]


def poly(*points: tuple[float, float]) -> Outline:
    """Polygon through the given points, shape (len(points), 2)."""
    return np.array(points, dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Outline:
    """Axis-parallel rectangle, shape (4, 2)."""
    return poly((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(
    x: float, y: float, rx: float, ry: float, span: tuple[float, float] = (0, 360)
) -> Outline:
    """Ellipse or, for a shorter span in degrees, the segment cut off by the chord.

    Angle 0 points right and angles grow clockwise on the screen.  Shape (steps, 2).
    """
    steps = max(8, int(abs(span[1] - span[0]) / 12))
    angles = np.radians(np.linspace(span[0], span[1], steps))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def disc(x: float, y: float, radius: float) -> Outline:
    return ellipse(x, y, radius, radius)


def band(
    x: float, y: float, outer: float, inner: float, span: tuple[float, float] = (0, 360)
) -> Outline:
    """Ring, or the part of it within the span of degrees."""
    outside = ellipse(x, y, outer, outer, span)
    inside = ellipse(x, y, inner, inner, span)
    return np.concatenate([outside, inside[::-1]])


def bar(start: tuple[float, float], end: tuple[float, float], width: float) -> Outline:
    """Straight bar of the given width from start to end, shape (4, 2)."""
    first, last = np.array(start), np.array(end)
    along = (last - first) / max(float(np.hypot(*(last - first))), 1e-9)
    normal = np.array([-along[1], along[0]]) * width / 2
    return np.array([first + normal, last + normal, last - normal, first - normal])


def spikes(count: int, outer: float, inner: float) -> Outline:
    """Star with count points around the origin, one of them pointing up."""
    angles = np.radians(-90 + 180 / count * np.arange(2 * count))
    radii = np.where(np.arange(2 * count) % 2 == 0, outer, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def tilted(outline: Outline, degrees: float) -> Outline:
    """The outline turned clockwise around its own mean point."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = outline.mean(axis=0)
    return (outline - centre) @ turn + centre


def apple() -> list[Part]:
    return [
        (bar((0.0, -0.45), (0.12, -0.95), 0.14), "wood"),
        (tilted(ellipse(0.4, -0.75, 0.32, 0.15), -25), "leaf"),
        (
            np.concatenate(
                [
                    ellipse(-0.34, 0.2, 0.56, 0.72, (70, 300)),
                    ellipse(0.34, 0.2, 0.56, 0.72, (-120, 110)),
                ]
            ),
            "main",
        ),
        (tilted(ellipse(-0.5, -0.05, 0.1, 0.22), 20), "light"),
    ]


def butterfly() -> list[Part]:
    wings: list[Part] = []
    for side in (-1, 1):
        wings += [
            (tilted(ellipse(side * 0.5, -0.4, 0.5, 0.38), side * -35), "main"),
            (tilted(ellipse(side * 0.4, 0.42, 0.36, 0.32), side * 35), "main"),
            (disc(side * 0.55, -0.42, 0.15), "light"),
            (disc(side * 0.4, 0.42, 0.12), "shade"),
            (bar((0.0, -0.6), (side * 0.25, -0.98), 0.06), "ink"),
        ]
    return [*wings, (ellipse(0, 0, 0.11, 0.72), "ink")]


def cactus() -> list[Part]:
    arms = [
        (bar((-0.6, -0.25), (-0.6, 0.15), 0.22), "main"),
        (disc(-0.6, -0.27, 0.11), "main"),
        (bar((-0.7, 0.15), (0.0, 0.15), 0.22), "main"),
        (bar((0.58, -0.45), (0.58, -0.05), 0.22), "main"),
        (disc(0.58, -0.47, 0.11), "main"),
        (bar((0.0, -0.05), (0.69, -0.05), 0.22), "main"),
    ]
    column = np.concatenate(
        [ellipse(0, -0.65, 0.24, 0.32, (180, 360)), poly((0.24, 0.6), (-0.24, 0.6))]
    )
    return [
        *arms,
        (column, "main"),
        (bar((-0.08, -0.7), (-0.08, 0.5), 0.04), "shade"),
        (bar((0.1, -0.7), (0.1, 0.5), 0.04), "shade"),
        (poly((-0.5, 0.5), (0.5, 0.5), (0.36, 0.98), (-0.36, 0.98)), "wood"),
    ]


def fish() -> list[Part]:
    return [
        (poly((-0.4, 0.0), (-0.98, -0.5), (-0.85, 0.0), (-0.98, 0.5)), "shade"),
        (poly((-0.2, -0.35), (0.1, -0.72), (0.4, -0.3)), "shade"),
        (poly((-0.1, 0.3), (0.0, 0.62), (0.25, 0.3)), "shade"),
        (ellipse(0.2, 0, 0.75, 0.45), "main"),
        (band(0.25, 0.0, 0.42, 0.34, (130, 230)), "light"),
        (disc(0.62, -0.12, 0.12), "paper"),
        (disc(0.65, -0.12, 0.06), "ink"),
    ]


def flower() -> list[Part]:
    petals: list[Part] = [
        (disc(0.38 * np.cos(a), -0.38 + 0.38 * np.sin(a), 0.23), "main")
        for a in np.radians(np.arange(0, 360, 60))
    ]
    return [
        (bar((0, -0.2), (0, 0.98), 0.1), "leaf"),
        (tilted(ellipse(0.28, 0.62, 0.28, 0.12), -30), "leaf"),
        (tilted(ellipse(-0.28, 0.72, 0.28, 0.12), 30), "leaf"),
        *petals,
        (disc(0, -0.38, 0.2), "gold"),
    ]


def heart() -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 40)
    x = 16 * np.sin(t) ** 3 / 17.5
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17.5
    return [
        (np.stack([x, y], axis=1), "main"),
        (tilted(ellipse(-0.48, -0.32, 0.12, 0.2), 35), "light"),
    ]


def moon() -> list[Part]:
    outer = ellipse(-0.1, 0, 0.9, 0.95, (50, 310))
    inner = ellipse(0.3, 0, 0.62, 0.72, (290, 70))
    return [
        (np.concatenate([outer, inner]), "main"),
        (disc(-0.72, 0.1, 0.1), "shade"),
        (disc(-0.55, -0.4, 0.08), "shade"),
    ]


def mushroom() -> list[Part]:
    return [
        (poly((-0.22, -0.05), (0.22, -0.05), (0.34, 0.9), (-0.34, 0.9)), "cream"),
        (ellipse(0, 0.05, 0.92, 0.92, (180, 360)), "main"),
        (disc(-0.45, -0.22, 0.15), "paper"),
        (disc(0.05, -0.55, 0.16), "paper"),
        (disc(0.5, -0.2, 0.14), "paper"),
    ]


def snowman() -> list[Part]:
    return [
        (disc(0, 0.52, 0.46), "main"),
        (disc(0, -0.12, 0.34), "main"),
        (disc(0, -0.55, 0.25), "main"),
        (box(-0.34, -0.78, 0.34, -0.68), "ink"),
        (box(-0.2, -1.0, 0.2, -0.7), "ink"),
        (disc(-0.09, -0.58, 0.045), "ink"),
        (disc(0.12, -0.58, 0.045), "ink"),
        (poly((0.0, -0.52), (0.36, -0.46), (0.0, -0.42)), "carrot"),
        (disc(0, -0.14, 0.06), "ink"),
        (disc(0, 0.1, 0.06), "ink"),
        (disc(0, 0.45, 0.06), "ink"),
        (bar((-0.3, -0.15), (-0.8, -0.4), 0.07), "wood"),
        (bar((0.3, -0.15), (0.8, -0.4), 0.07), "wood"),
    ]


def star() -> list[Part]:
    return [(spikes(5, 0.98, 0.42), "main")]


def tree() -> list[Part]:
    return [
        (box(-0.14, 0.5, 0.14, 0.98), "wood"),
        (poly((0, -0.2), (0.78, 0.65), (-0.78, 0.65)), "shade"),
        (poly((0, -0.62), (0.62, 0.2), (-0.62, 0.2)), "main"),
        (poly((0, -0.98), (0.45, -0.25), (-0.45, -0.25)), "main"),
    ]


def balloon() -> list[Part]:
    return [
        (bar((0.0, 0.4), (0.1, 0.7), 0.06), "ink"),
        (bar((0.1, 0.68), (-0.05, 1.0), 0.06), "ink"),
        (poly((0.0, 0.32), (0.14, 0.52), (-0.14, 0.52)), "shade"),
        (ellipse(0, -0.3, 0.6, 0.7), "main"),
        (tilted(ellipse(-0.25, -0.55, 0.1, 0.2), 25), "light"),
    ]


def boat() -> list[Part]:
    return [
        (bar((0.0, 0.5), (0.0, -0.98), 0.09), "wood"),
        (poly((0.08, -0.9), (0.85, 0.3), (0.08, 0.3)), "main"),
        (poly((-0.1, -0.65), (-0.1, 0.3), (-0.7, 0.3)), "light"),
        (poly((-0.98, 0.45), (0.98, 0.45), (0.65, 0.92), (-0.65, 0.92)), "wood"),
    ]


def car() -> list[Part]:
    return [
        (poly((-0.55, -0.1), (-0.35, -0.52), (0.3, -0.52), (0.55, -0.1)), "main"),
        (poly((-0.42, -0.1), (-0.28, -0.42), (-0.04, -0.42), (-0.04, -0.1)), "glass"),
        (poly((0.05, -0.1), (0.05, -0.42), (0.25, -0.42), (0.42, -0.1)), "glass"),
        (poly((-0.98, 0.4), (-0.95, -0.08), (0.8, -0.12), (0.98, 0.1), (0.98, 0.4)), "main"),
        (disc(-0.52, 0.42, 0.26), "ink"),
        (disc(0.52, 0.42, 0.26), "ink"),
        (disc(-0.52, 0.42, 0.11), "steel"),
        (disc(0.52, 0.42, 0.11), "steel"),
        (box(0.84, 0.04, 0.98, 0.18), "gold"),
    ]


def chair() -> list[Part]:
    return [
        (box(-0.62, 0.2, -0.46, 0.98), "shade"),
        (box(0.5, 0.2, 0.66, 0.98), "shade"),
        (box(-0.62, -0.98, -0.42, 0.2), "main"),
        (box(-0.62, -0.98, -0.3, -0.3), "main"),
        (box(-0.66, 0.05, 0.7, 0.3), "main"),
    ]


def clock() -> list[Part]:
    ticks: list[Part] = [
        (disc(0.56 * np.cos(a), 0.56 * np.sin(a), 0.07), "ink")
        for a in np.radians(np.arange(0, 360, 30))
    ]
    return [
        (disc(0, 0, 0.92), "main"),
        (disc(0, 0, 0.7), "paper"),
        *ticks,
        (bar((0, 0), (0.0, -0.5), 0.1), "ink"),
        (bar((0, 0), (0.35, 0.18), 0.1), "ink"),
    ]


def crown() -> list[Part]:
    zigzag = poly(
        (-0.8, 0.6),
        (-0.95, -0.5),
        (-0.45, 0.02),
        (0, -0.75),
        (0.45, 0.02),
        (0.95, -0.5),
        (0.8, 0.6),
    )
    return [
        (zigzag, "main"),
        (box(-0.8, 0.36, 0.8, 0.68), "shade"),
        (disc(-0.93, -0.55, 0.12), "gold"),
        (disc(0, -0.8, 0.12), "gold"),
        (disc(0.93, -0.55, 0.12), "gold"),
        (disc(0, 0.52, 0.1), "paper"),
        (disc(-0.45, 0.52, 0.08), "paper"),
        (disc(0.45, 0.52, 0.08), "paper"),
    ]


def cup() -> list[Part]:
    return [
        (band(0.5, 0.1, 0.42, 0.24, (-100, 100)), "main"),
        (poly((-0.75, -0.45), (0.55, -0.45), (0.4, 0.75), (-0.6, 0.75)), "main"),
        (ellipse(-0.1, -0.45, 0.65, 0.17), "cream"),
        (ellipse(-0.1, -0.43, 0.5, 0.1), "wood"),
        (ellipse(-0.1, 0.85, 0.8, 0.1), "paper"),
    ]


def envelope() -> list[Part]:
    return [
        (box(-0.95, -0.6, 0.95, 0.65), "main"),
        (bar((-0.93, 0.62), (-0.15, 0.0), 0.06), "shade"),
        (bar((0.93, 0.62), (0.15, 0.0), 0.06), "shade"),
        (poly((-0.95, -0.6), (0.95, -0.6), (0, 0.2)), "light"),
        (disc(0, 0.12, 0.14), "ink"),
    ]


def house() -> list[Part]:
    return [
        (box(0.35, -0.85, 0.58, -0.3), "steel"),
        (box(-0.72, -0.15, 0.72, 0.92), "main"),
        (poly((-0.98, -0.1), (0, -0.95), (0.98, -0.1)), "wood"),
        (box(-0.5, 0.3, -0.12, 0.92), "ink"),
        (box(0.12, 0.15, 0.54, 0.55), "glass"),
        (bar((0.33, 0.15), (0.33, 0.55), 0.06), "paper"),
    ]


def key() -> list[Part]:
    return [
        (band(-0.55, 0, 0.42, 0.2), "main"),
        (box(-0.16, -0.11, 0.98, 0.11), "main"),
        (box(0.48, 0.1, 0.64, 0.42), "main"),
        (box(0.8, 0.1, 0.98, 0.5), "main"),
    ]


def ladder() -> list[Part]:
    rungs: list[Part] = [
        (bar((-0.4, y), (0.4, y), 0.13), "shade") for y in (-0.7, -0.35, 0, 0.35, 0.7)
    ]
    return [
        *rungs,
        (box(-0.52, -0.98, -0.34, 0.98), "main"),
        (box(0.34, -0.98, 0.52, 0.98), "main"),
    ]


def rocket() -> list[Part]:
    return [
        (poly((-0.22, 0.6), (0, 1.0), (0.22, 0.6)), "flame"),
        (poly((-0.25, 0.1), (-0.68, 0.72), (-0.25, 0.6)), "shade"),
        (poly((0.25, 0.1), (0.68, 0.72), (0.25, 0.6)), "shade"),
        (
            poly(
                (-0.3, 0.62),
                (-0.36, -0.2),
                (-0.22, -0.6),
                (0, -0.98),
                (0.22, -0.6),
                (0.36, -0.2),
                (0.3, 0.62),
            ),
            "main",
        ),
        (disc(0, -0.2, 0.19), "paper"),
        (disc(0, -0.2, 0.12), "glass"),
    ]


def umbrella() -> list[Part]:
    scallops = [ellipse(x, 0.0, 0.24, 0.12, (0, -180)) for x in (0.72, 0.24, -0.24, -0.72)]
    canopy = np.concatenate([ellipse(0, 0, 0.96, 0.85, (180, 360)), *scallops])
    return [
        (bar((0, -0.1), (0, 0.75), 0.1), "wood"),
        (band(0.15, 0.75, 0.2, 0.1, (0, 180)), "wood"),
        (bar((0, -0.82), (0, -0.98), 0.08), "ink"),
        (canopy, "main"),
        (poly((0, -0.85), (0.24, 0.0), (-0.24, 0.0)), "light"),
    ]


FIXED_PAINTS: dict[str, tuple[int, int, int]] = {
    "wood": (121, 78, 44),
    "leaf": (62, 128, 52),
    "ink": (38, 36, 42),
    "paper": (247, 245, 238),
    "cream": (240, 224, 190),
    "glass": (176, 214, 232),
    "steel": (150, 154, 162),
    "flame": (252, 168, 40),
    "carrot": (240, 120, 30),
    "gold": (246, 206, 66),
}

DRAWINGS: dict[str, Callable[[], list[Part]]] = {
    "apple": apple,
    "balloon": balloon,
    "boat": boat,
    "butterfly": butterfly,
    "cactus": cactus,
    "car": car,
    "chair": chair,
    "clock": clock,
    "crown": crown,
    "cup": cup,
    "envelope": envelope,
    "fish": fish,
    "flower": flower,
    "heart": heart,
    "house": house,
    "key": key,
    "ladder": ladder,
    "moon": moon,
    "mushroom": mushroom,
    "rocket": rocket,
    "snowman": snowman,
    "star": star,
    "tree": tree,
    "umbrella": umbrella,
}
