"""Technically bad pictures, by what was measured while the images were decoded.

The issues have the names, scores and thresholds of cleanvision; a score below its threshold is an
issue:

dark              99th percentile of brightness                                          < 0.32
light             1 - 5th percentile of brightness                                       < 0.05
blurry            1 - exp(-blurriness / 100) + (1 - exp(-std / 100), 0 up to 0.18)       < 0.29
low_information   entropy / 10                                                           < 0.3
odd_size          1 - |√area - middle| / width of [q25 - 3 iqr, q75 + 3 iqr]             < 0.5
odd_aspect_ratio  shorter side / longer side                                             < 0.35

And two of our own meaning: `grayscale`, a picture without colour (colour below 0.02) where at least
half of the pictures have some (cleanvision reports every file stored as grey); and `empty`, one
colour (range below 0.03), which is then neither dark, light, blurry nor of low information.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ...indexer import MEASURES, EmbeddedImages

THRESHOLDS = {
    "dark": 0.32,
    "light": 0.05,
    "blurry": 0.29,
    "low_information": 0.3,
    "odd_size": 0.5,
    "odd_aspect_ratio": 0.35,
    "grayscale": 0.02,
    "empty": 0.03,
}
"""A lower score than this is an issue."""
EMPTY_EXPLAINS = ("dark", "light", "blurry", "low_information")
MOSTLY_COLOUR = 0.5
"""The share of pictures with colour from which grey ones are issues."""
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("image", pa.string()),
        ("issue", pa.string()),
        ("value", pa.float32()),
        ("threshold", pa.float32()),
    ]
)


def quality_issues(images: EmbeddedImages) -> pa.Table:
    """One row for each issue: source row and path of the image, `issue`, its score, the threshold.

    The order is that of THRESHOLDS, the worst image of each issue first. Images that were not
    measured have no issues (see `not_measured`).
    """
    columns: dict[str, list[np.ndarray]] = {"at": [], "value": []}
    issues: list[str] = []
    for issue, score in quality_scores(images).items():
        here = np.flatnonzero(score < THRESHOLDS[issue])
        here = here[np.argsort(score[here], kind="stable")]
        columns["at"].append(here)
        columns["value"].append(score[here])
        issues += [issue] * len(here)
    at = np.concatenate([np.zeros(0, np.int64), *columns["at"]])
    return pa.table(
        [
            pa.array(images.rows[at]),
            pa.array([images.paths[i] for i in at.tolist()], pa.string()),
            pa.array(issues, pa.string()),
            pa.array(np.concatenate([np.zeros(0), *columns["value"]]), pa.float32()),
            pa.array([THRESHOLDS[issue] for issue in issues], pa.float32()),
        ],
        schema=SCHEMA,
    )


def not_measured(images: EmbeddedImages) -> int:
    """How many images were not measured: all that other programs or earlier versions embedded."""
    if images.quality is None:
        return len(images.rows)
    return int(np.isnan(images.quality[:, 0]).sum())


def quality_scores(images: EmbeddedImages) -> dict[str, np.ndarray]:
    """float64 [n] for each issue, lower is worse, NaN for images that were not measured; no issues
    where none was."""
    if images.quality is None:
        return {}
    value = dict(zip(MEASURES, images.quality.T.astype(np.float64), strict=True))
    width, height, colour = value["width"], value["height"], value["colour"]
    texture = 1 - np.exp(-value["blurriness_grayscale_std"] / 100)
    blurry = 1 - np.exp(-value["blurriness"] / 100) + np.where(texture <= 0.18, 0, texture)
    scores = {
        "dark": value["brightness_perc_99"],
        "light": 1 - value["brightness_perc_5"],
        "blurry": np.minimum(1, blurry),
        "low_information": np.minimum(1, value["entropy"] / 10),
        "odd_size": _size_scores(np.sqrt(width * height)),
        "odd_aspect_ratio": np.minimum(width / height, height / width),
    }
    empty = value["range"] < THRESHOLDS["empty"]
    for issue in EMPTY_EXPLAINS:
        scores[issue] = np.where(empty, 1, scores[issue])
    measured = ~np.isnan(colour)
    coloured = (colour[measured] >= THRESHOLDS["grayscale"]).mean() if measured.any() else 0
    mostly = coloured >= MOSTLY_COLOUR
    scores["grayscale"] = colour if mostly else np.where(measured, 1, np.nan)
    scores["empty"] = value["range"]
    return scores


def _size_scores(side: np.ndarray) -> np.ndarray:
    """float64 [n], 1 for the middle of the usual sides, 0.5 at the end of their range."""
    known = side[~np.isnan(side)]
    if not known.size:
        return side
    low, high = np.percentile(known, [25, 75])
    reach = 3 * (high - low)
    middle, length = (low + high) / 2, high - low + 2 * reach
    if length > 0:
        return 1 - np.clip(np.abs(side - middle) / length, 0, 1)
    return np.where(np.isnan(side), np.nan, np.where(side == middle, 1.0, 0.0))
