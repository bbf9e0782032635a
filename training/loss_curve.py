"""A loss curve as CSV and as a plain SVG: one line for each column after `step`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..csv_cells import csv_text

Rows = Sequence[Mapping[str, float]]
"""Points in order; the first column is `step`, all have the same columns."""

WIDTH, HEIGHT, LEFT, TOP, KEY = 520, 260, 50, 40, 150
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377")
TICKS = 4


def curve_csv(rows: Rows) -> str:
    """Header and one line a point, six significant digits.

    >>> print(curve_csv([{"step": 1, "loss": 2.5}]), end="")
    step,loss
    1,2.5
    """
    return csv_text([list(rows[0]), *([_short(value) for value in row.values()] for row in rows)])


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def curve_svg(rows: Rows, title: str) -> str:
    """SVG text; the vertical axis starts at 0."""
    names = [name for name in rows[0] if name != "step"]
    last = max(1, rows[-1]["step"])
    highest = max(max(row[name] for row in rows for name in names), 1e-9)
    bottom = TOP + HEIGHT

    def at(step: float, loss: float) -> str:
        return f"{LEFT + WIDTH * step / last:.1f},{bottom - HEIGHT * loss / highest:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + KEY}" '
        f'height="{bottom + 40}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="13">{escape(title)}</text>',
    ]
    for tick in range(TICKS + 1):
        x, y = LEFT + WIDTH * tick / TICKS, bottom - HEIGHT * tick / TICKS
        parts.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + WIDTH}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">'
            f"{highest * tick / TICKS:.2f}</text>"
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555">'
            f"{last * tick / TICKS:g}</text>"
        )
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(at(row["step"], row[name]) for row in rows)
        y = TOP + 14 + 20 * number
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{LEFT + WIDTH + 12}" y="{y}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
