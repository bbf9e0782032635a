"""A CLIPN on disk: the "no" tower as safetensors, its loss curve as CSV and SVG, and a manifest.

No torch here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from ..artefacts import check_checksum, read_manifest, write_atomically, write_manifest
from ..errors import UsageError
from ..safe_text import csv_text

CLIPN_KIND = "clipn"
CURVE, PLOT = "curve.csv", "curve.svg"
IMAGES = "images"
"""The training images' embeddings, kept for another training."""


@dataclass(frozen=True)
class Clipn:
    """A folder whose files are as its manifest says."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def model(self) -> Mapping[str, Any]:
        """Facts of the frozen model it was trained over."""
        return self.manifest["model"]

    @property
    def weights(self) -> Path:
        """The tower's safetensors file."""
        return self.folder / self.manifest["weights"]


def open_clipn(folder: str | Path) -> Clipn:
    """The CLIPN in a folder; BlissError where it is none or a file of it was changed."""
    folder = Path(folder)
    manifest = read_manifest(folder, CLIPN_KIND, "Make one with `bliss train clipn`")
    for name in (manifest["weights"], *manifest["checksums"]):
        check_checksum(folder, name, manifest)
    return Clipn(folder, manifest)


def check_output(folder: str | Path, overwrite: bool) -> None:
    """UsageError where the folder holds anything but the embeddings of an unfinished training."""
    folder = Path(folder)
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not overwrite and [name for name in there if name != IMAGES]:
        raise UsageError(
            f"{folder} already holds {', '.join(there[:3])}",
            "a new or empty folder for the CLIPN",
            "Choose another one, or pass --overwrite",
        )


def write_clipn(
    folder: Path,
    weights: bytes,
    model: Mapping[str, Any],
    curve: Sequence[Mapping[str, float]],
    facts: Mapping[str, Any],
) -> None:
    """Write all files, the manifest last; a CLIPN that was there before stays whole until then.

    `weights` are a safetensors file's bytes, `curve` one row a point.
    """
    before = set(folder.glob("no_tower-*.safetensors")) if folder.is_dir() else set()
    name = f"no_tower-{hashlib.sha256(weights).hexdigest()[:12]}.safetensors"
    files = {name: weights}
    if curve:
        files[CURVE] = curve_csv(curve).encode()
        files[PLOT] = curve_svg(curve, "CLIPN: mean losses").encode()
    for file, content in files.items():
        write_atomically(folder / file, partial(lambda data, out: out.write(data), content))
    write_manifest(folder, CLIPN_KIND, files, model=dict(model), weights=name, **facts)
    for old in before - {folder / name}:
        old.unlink()


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
