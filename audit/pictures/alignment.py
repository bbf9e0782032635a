"""Whether two small grey pictures show the same picture: an aligned correlation.

One picture may be the other resized, cropped a little, mirrored, re-encoded or partly covered:

1. Align: x' = a x + b and y' = c y + d, without rotation. Both pictures are smoothed by a Gaussian,
   wide at first and then narrower; at each width Gauss-Newton steps fit a, b, c, d and a gain to
   the least squared difference. Starts: the whole of both, or of one in a part of the other; each
   as it is and mirrored.
2. Compare: in blocks of 4 x 4 pixels, without the mean of each block, the correlation of all blocks
   together. Means and slow changes are left out since other photographs of the same scene share
   them. A box of at most COVERED of the area may be left out, the one that helps most: a watermark.
3. Look closer: the same correlation in every window of 3 x 3 blocks that has some structure. The
   mean of the correlation and of the lowest tenth of the windows is what is given: two photographs
   of a motorbike may agree nearly everywhere and not in its engine.

Copies have correlations near 1; other photographs of the same scene rarely exceed 0.97. Pairs go
in batches of arrays. The method is that of image registration (Lucas and Kanade 1981; Evangelidis
and Psarakis 2008, with the correlation as the aim).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ...indexer import SKETCH, slices

PAIRS_AT_ONCE = 64
COVERED = 0.06
"""The share of the area that a box may cover, without half of the blocks at its edge."""
HELPS = 0.3
"""A box counts where at most this share of the disagreement (1 - correlation) is outside it: all of
a watermark's is inside, while other photographs disagree everywhere."""
GRID, BLOCK = 64, 4
"""Points a side, and points a side of a block, where pictures are compared."""
FINE = 0.03
"""The Gaussian's standard deviation there. Pictures reach from -1 to 1."""
LEVELS = ((0.14, 16, 5), (0.11, 16, 3), (0.03, 64, 3))
"""Standard deviation, points a side, steps."""
UNLIKE = 0.6
"""Pairs with a lower correlation at half the resolution are not aligned further."""
DOUBTFUL, SURE = 0.85, 0.98
"""Pairs with a correlation between them are aligned once more, without the box that was found."""
SCALE = 0.8
"""Of the starts from a part of one picture."""
WINDOW, LOWEST = 3, 0.1
"""Blocks a side of a window, and which quantile of the windows counts."""
STRUCTURE = 0.5
"""Windows with less than this share of the mean window's squares do not count."""
SOFT = 2.0
"""Standard deviation, of 255 levels, of differences that no window is blamed for."""
NOISE = 0.5
"""Standard deviation, of 255 levels, that pictures without structure are assumed to have."""
_LOW = np.array([0.7, -0.35, 0.7, -0.35], np.float32)
_HIGH = np.array([1.42, 0.35, 1.42, 0.35], np.float32)
_LARGEST_STEP = 0.15
_IDENTITY = np.array([1, 0, 1, 0], np.float32)


class Aligned(NamedTuple):
    """How well p pairs of pictures agree."""

    correlation: np.ndarray
    """float32 [p], -1 to 1."""
    mirrored: np.ndarray
    """bool [p]."""


def align_pairs(first: np.ndarray, second: np.ndarray) -> Aligned:
    """The aligned correlation of pairs of grey pictures, both uint8 [p, S, S]."""
    correlation, mirrored = np.zeros(len(first), np.float32), np.zeros(len(first), bool)
    for some in slices(len(first), PAIRS_AT_ONCE):
        pair = first[some].astype(np.float32), second[some].astype(np.float32)
        correlation[some], mirrored[some] = _align(*pair)
    return Aligned(correlation, mirrored)


def _align(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one batch, float32 [p, S, S]."""
    p, pairs = len(first), np.arange(len(first))
    sides = [(one, np.stack([other, other[:, :, ::-1]])) for one, other in _shrunk(first, second)]
    one, both = sides[0]
    here, there = np.concatenate([one, one]), np.concatenate(both)
    still = np.tile(_IDENTITY, (2 * p, 1))
    tries = [_refine(here, there, scale * still, LEVELS[0]) for scale in (1, SCALE)]
    # A part of the first is found as the whole of the second: more of the pictures is compared.
    found, at = _refine(there, here, SCALE * still, LEVELS[0])
    tries.append((found, _inverse(at)))
    best = np.argmax([found for found, _ in tries], axis=0)
    at = np.stack([at for _, at in tries])[best, np.arange(2 * p)]
    one, both = sides[1]
    found, at = _refine(np.concatenate([one, one]), np.concatenate(both), at, LEVELS[1])
    mirrored = found.reshape(2, p).argmax(axis=0)
    at = at.reshape(2, p, 4)[mirrored, pairs]
    # A box with much contrast can spoil the alignment: pictures that fit where they are stay there.
    tried = [_compare(one, both[mirrored, pairs], at, GRID // 2)]
    tried += [_compare(one, each, still[:p], GRID // 2) for each in both]
    rough = np.stack([found.correlation for found in tried])
    best = rough.argmax(axis=0)
    at = np.where(best[:, None] > 0, _IDENTITY, at)
    mirrored = np.where(best > 0, best - 1, mirrored)
    box = np.stack([found.box for found in tried])[best, pairs]
    correlation = rough[best, pairs]
    like = np.flatnonzero(correlation >= UNLIKE)
    if not like.size:
        return correlation, mirrored.astype(bool)
    first, second, at, box = first[like], second[like], at[like], box[like]
    second = np.where(mirrored[like][:, None, None] > 0, second[:, :, ::-1], second)
    _, at = _refine(first, second, at, LEVELS[2], box)
    fine = _compare(first, second, at, GRID)
    correlation[like] = _with_windows(fine)
    again = np.flatnonzero((fine.correlation < SURE) & (fine.correlation >= DOUBTFUL))
    if again.size:
        first, second, at, box = first[again], second[again], at[again], fine.box[again]
        _, at = _refine(first, second, at, LEVELS[2], box)
        better = _with_windows(_compare(first, second, at, GRID))
        correlation[like[again]] = np.maximum(correlation[like[again]], better)
    return correlation, mirrored.astype(bool)


def _inverse(at: np.ndarray) -> np.ndarray:
    """From x' = a x + b, and the same for y, to x = x' / a - b / a, [p, 4]."""
    scale, shift = 1 / at[:, ::2], -at[:, 1::2] / at[:, ::2]
    turned = np.stack([scale[:, 0], shift[:, 0], scale[:, 1], shift[:, 1]], axis=1)
    return np.clip(turned, _LOW, _HIGH).astype(np.float32)


def _shrunk(*pictures: np.ndarray) -> list[list[np.ndarray]]:
    """The pictures at a quarter and a half of their size: averages."""
    sides = []
    for factor in (4, 2):
        pixels = pictures[0].shape[1] // factor
        shape = -1, pixels, factor, pixels, factor
        sides.append([each.reshape(shape).mean(axis=(2, 4)) for each in pictures])
    return sides


def _refine(
    first: np.ndarray,
    second: np.ndarray,
    at: np.ndarray,
    level: tuple[float, int, int],
    box: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The best correlation float32 [p] of some Gauss-Newton steps from `at` [p, 4], and where.

    `box` (rows and columns from 0 to 1: top, bottom, left, right, [p, 4]) is left out.
    """
    width, points, steps = level
    target = _smooth(first, width, points)
    weight = np.ones((1, points, points), np.float32) if box is None else _outside(box, points)
    best, where = np.full(len(at), -2, np.float32), at
    for step in range(steps + 1):
        found, change = _step(target, second, at, width, weight)
        better = found > best
        best, where = np.where(better, found, best), np.where(better[:, None], at, where)
        if step < steps:
            at = np.clip(at + change, _LOW, _HIGH)
    return best, where


def _step(
    target: np.ndarray, second: np.ndarray, at: np.ndarray, width: float, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The correlation at `at` float32 [p], and the Gauss-Newton step from there [p, 4]."""
    p, points, _ = target.shape
    across, across_change, inside_x = _sampling(at[:, 0], at[:, 1], second.shape[2], width, points)
    down, down_change, inside_y = _sampling(at[:, 2], at[:, 3], second.shape[1], width, points)
    narrow, grid = second @ across.transpose(0, 2, 1), _grid(points)
    moved = down @ narrow
    slope_x = down @ (second @ across_change.transpose(0, 2, 1))
    slope_y = down_change @ narrow
    weight = (weight * inside_y[:, :, None] * inside_x[:, None, :]).reshape(p, 1, -1)
    parts = np.stack([moved, slope_x * grid, slope_x, slope_y * grid[:, None], slope_y, target], 1)
    parts = parts.reshape(p, 6, -1)
    total = weight.sum(axis=2, keepdims=True) + 1e-6
    parts = (parts - (parts * weight).sum(axis=2, keepdims=True) / total) * weight
    products = parts @ parts.transpose(0, 2, 1)
    scale = np.sqrt(products[:, 0, 0] * products[:, 5, 5]) + 1e-6
    normal, aim = products[:, :5, :5], products[:, :5, 5:]
    ridge = 1e-3 * np.einsum("pii->pi", normal) + 1e-3
    fitted = np.linalg.solve(normal + ridge[:, :, None] * np.eye(5, dtype=np.float32), aim)[..., 0]
    gain = np.where(np.abs(fitted[:, :1]) < 1e-3, 1e-3, fitted[:, :1])
    change = np.clip(fitted[:, 1:] / gain, -_LARGEST_STEP, _LARGEST_STEP)
    return products[:, 0, 5] / scale, change


class _Compared(NamedTuple):
    """p pairs compared block by block."""

    correlation: np.ndarray
    """float32 [p], of blocks without their means, leaving out the best box."""
    box: np.ndarray
    """float32 [p, 4], that box."""
    sums: np.ndarray
    """float [3, p, blocks, blocks], squares of both and products, 0 in a box that was left out."""


def _compare(first: np.ndarray, second: np.ndarray, at: np.ndarray, points: int) -> _Compared:
    """`points` is the resolution, and FINE the width of the Gaussian at GRID."""
    p, blocks, width = len(first), points // BLOCK, FINE * GRID / points
    across, _, inside_x = _sampling(at[:, 0], at[:, 1], second.shape[2], width, points)
    down, _, inside_y = _sampling(at[:, 2], at[:, 3], second.shape[1], width, points)
    moved = down @ second @ across.transpose(0, 2, 1)
    whole_x = inside_x.reshape(p, blocks, BLOCK).min(axis=2)
    whole_y = inside_y.reshape(p, blocks, BLOCK).min(axis=2)
    whole = whole_y[:, :, None] * whole_x[:, None, :]
    one, other = (_without_means(each, blocks) for each in (_smooth(first, width, points), moved))
    sums = np.stack([(one * one).sum(3), (other * other).sum(3), (one * other).sum(3)]) * whole
    noise = NOISE**2 * BLOCK**2 * whole.sum(axis=(1, 2))
    totals = sums.sum(axis=(2, 3))
    plain = best = _ratio(totals, noise)
    box = np.zeros((p, 4), np.float32)
    edge = np.zeros((3, p, blocks + 1, blocks + 1))
    edge[:, :, 1:, 1:] = sums.cumsum(axis=2).cumsum(axis=3)
    for rows, columns in _boxes(blocks):
        boxed = edge[:, :, rows:, columns:] - edge[:, :, :-rows, columns:]
        boxed = boxed - edge[:, :, rows:, :-columns] + edge[:, :, :-rows, :-columns]
        without = totals[:, :, None, None] - boxed
        without[:2] = np.maximum(without[:2], 0)
        ratio = _ratio(without, noise[:, None, None])
        most = ratio.reshape(p, -1).argmax(axis=1)
        top, left = np.divmod(most, ratio.shape[2])
        ratio = ratio.reshape(p, -1)[np.arange(p), most]
        better = ratio > best
        best = np.where(better, ratio, best)
        here = np.stack([top, top + rows, left, left + columns], axis=1) / blocks
        box = np.where(better[:, None], here, box)
    helped = 1 - best <= HELPS * (1 - plain)
    box = box.astype(np.float32)
    sums = sums * np.where(helped[:, None, None], _outside(box, blocks), 1)
    return _Compared(np.where(helped, best, plain).astype(np.float32), box, sums)


def _with_windows(found: _Compared) -> np.ndarray:
    """float32 [p], the mean of the correlation and of the lowest tenth of the windows."""
    p, blocks = found.sums.shape[1:3]
    edge = np.zeros((3, p, blocks + 1, blocks + 1))
    edge[:, :, 1:, 1:] = found.sums.cumsum(axis=2).cumsum(axis=3)
    rows = edge[:, :, WINDOW:] - edge[:, :, :-WINDOW]
    window = (rows[..., WINDOW:] - rows[..., :-WINDOW]).reshape(3, p, -1)
    structure = window[0] + window[1]
    counts = structure > STRUCTURE * structure.mean(axis=1, keepdims=True)
    blameless = (SOFT * BLOCK * WINDOW) ** 2
    ratio = (window[2] + blameless) / np.sqrt((window[0] + blameless) * (window[1] + blameless))
    ordered = np.sort(np.where(counts, ratio, np.inf), axis=1)
    place = (LOWEST * (counts.sum(axis=1) - 1)).astype(np.int64)
    low = ordered[np.arange(p), np.maximum(place, 0)]
    low = np.where(np.isfinite(low), low, found.correlation)
    return ((found.correlation + low) / 2).astype(np.float32)


def _ratio(sums: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Correlation from the sums of squares of both and of products, [3, ...]."""
    return sums[2] / np.sqrt((sums[0] + noise) * (sums[1] + noise) + 1e-9)


def _without_means(pictures: np.ndarray, blocks: int) -> np.ndarray:
    """float32 [p, blocks, blocks, BLOCK²]."""
    cut = pictures.reshape(len(pictures), blocks, BLOCK, blocks, BLOCK).transpose(0, 1, 3, 2, 4)
    flat = cut.reshape(len(pictures), blocks, blocks, -1)
    return flat - flat.mean(axis=3, keepdims=True)


@functools.cache
def _boxes(blocks: int) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of the largest boxes whose area without half a block at each edge is at
    most COVERED of the whole."""
    area = COVERED * blocks**2
    widest = {rows: min(blocks, 1 + int(area // max(1, rows - 1))) for rows in range(2, blocks + 1)}
    return tuple((h, w) for h, w in widest.items() if w > 1 and widest.get(h + 1, 0) < w)


def _outside(box: np.ndarray, points: int) -> np.ndarray:
    """float32 [p, points, points], 0 inside the box and 1 outside."""
    centre = (np.arange(points) + 0.5) / points
    rows = (centre >= box[:, :1]) & (centre < box[:, 1:2])
    columns = (centre >= box[:, 2:3]) & (centre < box[:, 3:])
    return 1 - (rows[:, :, None] & columns[:, None, :]).astype(np.float32)


@functools.cache
def _grid(points: int) -> np.ndarray:
    """float32 [points], the middles of so many pixels from -1 to 1."""
    return ((2 * np.arange(points) + 1) / points - 1).astype(np.float32)


def _sampling(
    scale: np.ndarray, shift: np.ndarray, pixels: int, width: float, points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian weights [p, points, pixels] of the pixels for each point of a line, the change of
    these weights where the point moves, and which points are inside, float32 [p, points]."""
    where = scale[:, None] * _grid(points) + shift[:, None]
    apart = _grid(pixels) - where[:, :, None]
    wide = np.float32(width) * scale[:, None, None]
    weights = np.exp(-0.5 * np.square(apart / wide))
    weights /= np.maximum(weights.sum(axis=2, keepdims=True), np.float32(1e-30))
    mean = (weights * apart).sum(axis=2, keepdims=True)
    return weights, weights * (apart - mean) / wide**2, (np.abs(where) <= 1).astype(np.float32)


def _smooth(pictures: np.ndarray, width: float, points: int) -> np.ndarray:
    """float32 [p, points, points]."""
    one, none = np.ones(1, np.float32), np.zeros(1, np.float32)
    weights = _sampling(one, none, pictures.shape[1], width, points)[0][0]
    return weights @ pictures @ weights.T


assert SKETCH == GRID, "sketches are compared at their own resolution"
