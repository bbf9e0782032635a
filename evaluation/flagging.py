"""What flagging by Benjamini–Hochberg would have meant: realised FDP and power.

In every draw with a clean reference, CALIBRATION_SHARE of each class's reference images are held
out. The score is fitted on the others, scores of the held-out images give the test images
conformal p-values, and every image with q <= LEVEL is flagged. Expected FDP is then at most LEVEL
times the share of normals among the test images, if these are exchangeable with the held-out ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import BlissError
from ..indexer import ranks
from ..scorer import (
    Fitted,
    Fitting,
    Need,
    Query,
    Score,
    benjamini_hochberg,
    conformal_p_values,
    fit_score,
    hold_out,
)
from .draws import Draw
from .metrics import realised_fdp
from .world import World

LEVEL = 0.1
CALIBRATION_SHARE = 0.2


class NotFlagged(Exception):
    """Why no image can be flagged; its text is the reason, one short sentence."""


@dataclass(frozen=True)
class Calibration:
    """The h held-out reference images of one draw, and what is left to fit on."""

    fitting: Fitting
    query: Query
    """The held-out images; h may be 0."""


def held_out(world: World, draw: Draw) -> np.ndarray:
    """bool [m], which reference images to hold out."""
    hashes = [world.hashes[row] for row in draw.reference]
    return hold_out(draw.labels, ranks(hashes), CALIBRATION_SHARE)


def calibration_of(fitting: Fitting, held: np.ndarray, query: Query) -> Calibration:
    """`fitting` without the `held` bool [m] reference images, which are those of `query`."""
    normals = fitting.normals
    rest = replace(normals, images=normals.images[~held], labels=normals.labels[~held])
    return Calibration(replace(fitting, normals=rest), query)


def check_flagging(score: Score, draws: Sequence[Draw], sizes: Sequence[int]) -> None:
    """Raise NotFlagged for a score or draws no p-value can be had for; `sizes` are h a draw."""
    if score.stateful:
        raise NotFlagged("it looks at the other test images, so p-values do not hold")
    if Need.HEAD in score.needs:
        raise NotFlagged("its head may have been trained on the held-out images")
    if any(draw.strangers for draw in draws):
        raise NotFlagged("the reference is contaminated, so p-values do not hold")
    for number, (draw, size) in enumerate(zip(draws, sizes, strict=True)):
        needed = _needed(draw)
        if size < needed:
            raise NotFlagged(
                f"{size} reference images were held out in draw {number + 1}, and fewer than "
                f"{needed} cannot flag all its anomalies at {LEVEL:g}"
            )


def flagged_metrics(
    score: Score,
    changed: Mapping[str, float],
    calibration: Calibration,
    asked: tuple[Fitted, Query, np.ndarray],
    draw: Draw,
) -> np.ndarray:
    """float64 [groups, 2]: realised FDP and power, normals against each group alone.

    `asked` is the score fitted on the whole reference, the test query and its scores [n]: a score
    that needs no reference images is not fitted again. Raises NotFlagged where it cannot be.
    """
    fitted, query, scores = asked
    try:
        if score.uses_references:
            fitted = fit_score(score, calibration.fitting, **changed)
            scores = fitted(query)
        clean = fitted(calibration.query)
    except BlissError as error:
        raise NotFlagged(f"without the held-out images: {error}") from error
    p = conformal_p_values(clean, scores)
    found = np.empty((len(draw.groups), 2))
    for group in range(len(draw.groups)):
        some = np.isin(draw.group, (0, group + 1))
        flagged, anomalous = benjamini_hochberg(p[some]) <= LEVEL, draw.anomalous[some]
        found[group] = realised_fdp(flagged, anomalous), flagged[anomalous].mean()
    return found


def _needed(draw: Draw) -> int:
    """The least h with which all anomalies of each group, and nothing else, could be flagged.

    r of m images at level α need 1/(h + 1) <= α·r/m (Bates et al. 2023).
    """
    sizes = np.bincount(draw.group, minlength=len(draw.groups) + 1)
    return max(int(np.ceil((sizes[0] + r) / (LEVEL * r) - 1e-9)) - 1 for r in sizes[1:])
