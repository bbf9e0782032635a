"""Whether two small grey pictures show the same picture: an aligned correlation.

One picture may be the other resized, cropped a little, mirrored, re-encoded or partly covered:

1. Align: x' = a x + b and y' = c y + d, without rotation. Both pictures are smoothed by a Gaussian,
   wide at first and then narrower; at each width Gauss-Newton steps fit a, b, c, d and a gain to
   the least squared difference. They start where the whole of one fits best in a few parts of the
   other, as it is and mirrored. Pairs that do not fit are given up early: most pairs are no copies.
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

PAIRS_AT_ONCE = 256
COVERED = 0.06
"""The share of the area that a box may cover, without half of the blocks at its edge."""
HELPS = 0.3
"""A box counts where at most this share of the disagreement (1 - correlation) is outside it: all of
a watermark's is inside, while other photographs disagree everywhere."""
GRID, BLOCK = 64, 4
"""Points a side, and points a side of a block, where pictures are compared."""
FINE = 0.03
"""The Gaussian's standard deviation there. Pictures reach from -1 to 1."""
LEVELS = ((0.14, 16, 5), (0.11, 16, 3), (0.06, 32, 4), (0.03, 64, 3))
"""Standard deviation, points a side, steps."""
PARTS = ((1.0, 0.0), (0.9, -0.1), (0.9, 0.0), (0.9, 0.1), (0.8, 0.0))
"""Scale and shift, across and down, of the parts of one picture where the other is tried first."""
ALIKE = (0.7, 0.7, 0.8)
"""Pairs with a lower correlation there, and after each of the first two levels, are not aligned
further, unless they fit where they are."""
NEARLY = 0.1
"""Mirrored or not: a correlation so much lower than the other way's is not followed."""
UNLIKE = 0.8
"""Pairs with a lower correlation at half the resolution are not aligned further."""
DOUBTFUL, SURE = 0.85, 0.98
"""Pairs with a correlation between them are aligned once more, without the box that was found."""
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
    quarter, half = _shrunk(first, second)
    # Pictures that fit where they are, but for a box: it can spoil the alignment.
    still = [_compare(half[0], each, None, GRID // 2) for each in (half[1], half[1][:, :, ::-1])]
    turned = np.stack([found.correlation for found in still]).argmax(axis=0)
    here = turned, np.arange(len(first))
    correlation, box, helped = (np.stack(each)[here] for each in list(zip(*still, strict=True))[:3])
    at = np.tile(_IDENTITY, (len(first), 1))
    side, pair, where = _roughly(quarter, half, correlation >= UNLIKE)
    if pair.size:
        moved = _compare(half[0][pair], _turned(half[1][pair], side), where, GRID // 2)
        better = moved.correlation >= correlation[pair]
        pair = pair[better]
        turned[pair], at[pair] = side[better], where[better]
        for old, new in zip((correlation, box, helped), moved, strict=False):
            old[pair] = new[better]
    fine = np.flatnonzero(correlation >= UNLIKE)
    if fine.size:
        other, rough = _turned(second[fine], turned[fine]), (box[fine], helped[fine])
        correlation[fine] = _closely(first[fine], other, at[fine], rough, correlation[fine])
    return correlation, turned.astype(bool)


def _roughly(
    quarter: list[np.ndarray], half: list[np.ndarray], fit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs that can be aligned well, or that `fit` bool [p] where they are, of pictures at a
    quarter and a half of their size: whether mirrored and which pair, int64 [m], where [m, 4].
    """
    found, at = _starts(*quarter)
    side, pair = np.indices(found.shape).reshape(2, -1)
    found, at = found.ravel(), at.reshape(-1, 4)
    steps = zip(ALIKE, LEVELS, (quarter, half, half), strict=False)
    for alike, level, (one, other) in steps:
        best = np.full(len(fit), -1, np.float32)
        np.maximum.at(best, pair, found)
        keep = (found >= best[pair] - NEARLY) & (fit[pair] | (best[pair] >= alike))
        side, pair, at = side[keep], pair[keep], at[keep]
        found, at = _refine(one[pair], _turned(other[pair], side), at, level)
    order = np.lexsort((-found, pair))
    _, first = np.unique(pair[order], return_index=True)
    chosen = order[first]
    return side[chosen], pair[chosen], at[chosen]


def _turned(pictures: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """The pictures [p, S, S], mirrored where `mirror` [p] says so."""
    return np.where(mirror[:, None, None] > 0, pictures[:, :, ::-1], pictures)


def _closely(
    first: np.ndarray,
    second: np.ndarray,
    at: np.ndarray,
    box: tuple[np.ndarray, np.ndarray],
    rough: np.ndarray,
) -> np.ndarray:
    """float32 [p], the correlation at full resolution of pairs that are aligned roughly.

    `box` [p, 4] and whether it helped are of the comparison that gave the correlation `rough`.
    Pairs in doubt are aligned once more without that box in any case, then without the fine one.
    """
    # The picture that shows more is smoothed most, relative to its pixels.
    narrower = at[:, 0] * at[:, 2] < 1
    at = np.where(narrower[:, None], _inverse(at), at)
    first, second = (
        np.where(narrower[:, None, None], one, other)
        for one, other in ((second, first), (first, second))
    )
    boxes = np.where(narrower[:, None], 0, box[0])
    correlation = np.full(len(at), -1, np.float32)
    which, begin, out = np.arange(len(at)), at, boxes * box[1][:, None]
    for attempt in range(3):
        for level in LEVELS[2 + (attempt == 0) :]:
            _, begin = _refine(first[which], second[which], begin, level, out)
        fine = _compare(first[which], second[which], begin, GRID)
        correlation[which] = np.maximum(correlation[which], _with_windows(fine))
        likely = np.maximum(fine.correlation, rough[which]) >= DOUBTFUL
        again = (fine.correlation < SURE) & likely
        which, begin, out = which[again], begin[again], fine.box[again]
        if attempt == 0:
            begin, out = at[which], boxes[which]
        if not which.size:
            break
    return correlation


def _starts(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of a few positions of small pictures float32 [p, S, S]: correlations [2, p], with
    the second as it is and mirrored, and where, [2, p, 4].

    The whole of one is tried in each of PARTS of the other, in both directions.
    """
    p, width, points = len(first), *LEVELS[0][:2]
    scale, shift = np.array(PARTS, np.float32).T
    across = _sampling(scale, shift, first.shape[2], width, points)[0].reshape(-1, first.shape[2])
    k, found = len(PARTS), []
    for one in (first, second):
        cut = (across @ one @ across.T).reshape(p, k, points, k, points).transpose(0, 1, 3, 2, 4)
        cut = cut.reshape(p, k * k, -1)
        cut -= cut.mean(axis=2, keepdims=True)
        cut /= np.sqrt(np.einsum("pks,pks->pk", cut, cut))[:, :, None] + 1e-6
        found.append(cut)
    inside = []
    for cut, whole in zip(found[::-1], found, strict=True):
        whole = whole[:, 0].reshape(p, points, points)
        inside.append(cut @ np.stack([whole, whole[:, :, ::-1]], 3).reshape(p, -1, 2))
    every = np.concatenate(inside, axis=1)
    at = np.array([(*PARTS[i], *PARTS[j]) for j in range(k) for i in range(k)], np.float32)
    back = at * np.array([1, -1, 1, 1], np.float32)  # a part of a mirrored picture
    places = np.stack([np.concatenate([each, _inverse(at)]) for each in (at, back)])
    best = every.argmax(axis=1)
    where = places[np.arange(2)[:, None], best.T]
    return every.max(axis=1).T, where


def _inverse(at: np.ndarray) -> np.ndarray:
    """From x' = a x + b, and the same for y, to x = x' / a - b / a, [p, 4]."""
    scale, shift = 1 / at[:, ::2], -at[:, 1::2] / at[:, ::2]
    turned = np.stack([scale[:, 0], shift[:, 0], scale[:, 1], shift[:, 1]], axis=1)
    return np.clip(turned, _LOW, _HIGH).astype(np.float32)


def _shrunk(*pictures: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The pictures at a quarter and at a half of their size: averages."""
    sides, made = [], list(pictures)
    for _ in range(2):
        pairs = np.eye(made[0].shape[1] // 2, dtype=np.float32).repeat(2, axis=1) / 2
        made = [pairs @ each @ pairs.T for each in made]
        sides.append(made)
    return sides[1], sides[0]


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
    if not len(at):
        return np.zeros(0, np.float32), at
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
    """float32 [p], of blocks without their means, without the best box where that helps."""
    box: np.ndarray
    """float32 [p, 4], the best box."""
    helped: np.ndarray
    """bool [p], whether it was left out."""
    sums: np.ndarray
    """float [3, p, blocks, blocks], squares of both and products, 0 in a box that was left out."""


def _compare(
    first: np.ndarray, second: np.ndarray, at: np.ndarray | None, points: int
) -> _Compared:
    """`points` is the resolution, and FINE the width of the Gaussian at GRID; None: not moved."""
    p, blocks, width = len(first), points // BLOCK, FINE * GRID / points
    if at is None:
        moved, whole = _smooth(second, width, points), np.ones((p, blocks, blocks), np.float32)
    else:
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
    return _Compared(np.where(helped, best, plain).astype(np.float32), box, helped, sums)


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
