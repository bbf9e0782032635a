"""What a training came to: the figures on held-out images, who wins, and the lines printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..evaluation.metrics import auroc
from ..indexer.embedded_images import Failure
from ..scorer.head_file import LOSSES
from ..scorer.scores.contract import Fitting, Normals, Query, fit_score
from ..scorer.scores.registry import SCORES
from .oecl_training import TrainedHead
from .outlier_split import Split

BASELINES = ("outlier_logistic", "outlier_knn_ratio")


@dataclass(frozen=True)
class OeclResult:
    """What was trained, and how it fares beside its baselines on held-out images."""

    head: TrainedHead
    counts: Mapping[str, int]
    held_out: str
    """One line: what was held out."""
    auroc: Mapping[str, float]
    """Score -> AUROC of held-out outliers against held-out normals."""
    failures: tuple[Failure, ...]

    @property
    def verdict(self) -> str:
        """One line saying who wins; the baselines are named whenever they are as good."""
        ours = max(value for name, value in self.auroc.items() if name not in BASELINES)
        name = max(BASELINES, key=lambda baseline: self.auroc[baseline])
        gap = 100 * (self.auroc[name] - ours)
        if round(gap, 2) > 0:
            return f"The baseline {name} wins, by {gap:.2f}: use it instead of oecl."
        if round(gap, 2) == 0:
            return f"The baseline {name} is as good as oecl, and simpler."
        return f"oecl is ahead of the best baseline, {name}, by {-gap:.2f}."


def measure(
    arrays: Mapping[str, np.ndarray], normals: np.ndarray, outliers: np.ndarray
) -> dict[str, float]:
    """AUROC of each trained score between views of normals [n, V, d] and of outliers [m, W, d].

    `oecl` and the baselines see the image as it is; `oecl, V views` averages over all views.
    """
    nothing = np.zeros((0, normals.shape[2]), np.float32)
    known = Normals((), nothing, nothing, np.zeros(0, np.int64))
    truth = np.repeat([False, True], [len(normals), len(outliers)])

    def of(name: str, query: Callable[[np.ndarray], Query]) -> float:
        fitted = fit_score(SCORES[name], Fitting(known, nothing, head=arrays))
        return auroc(np.concatenate([fitted(query(rows)) for rows in (normals, outliers)]), truth)

    found = {}
    views = max(normals.shape[1], outliers.shape[1])
    if views > 1:
        found[f"oecl, {views} views"] = of("oecl", lambda rows: Query(rows[:, 0], views=rows))
    for name in ("oecl", *BASELINES):
        found[name] = of(name, lambda rows: Query(rows[:, 0]))
    return found


def result_lines(result: OeclResult, output: str) -> list[str]:
    """Counts, losses, the table of AUROCs in %, and who wins."""
    counts, losses = result.counts, result.head.losses
    first, last = losses[0], losses[-1]
    return [
        f"Trained on {counts['normals']} normal and {counts['outliers']} outlier images, "
        f"{len(result.failures)} unreadable, for {len(losses)} epochs.",
        f"Contrastive loss {first[0]:.3f} to {last[0]:.3f}, outlier length {first[1]:.3f} to "
        f"{last[1]:.3f}, floor {first[2]:.3f} to {last[2]:.3f}: {Path(output) / LOSSES}",
        result.held_out,
        "",
        f"{'score':<20}{'AUROC':>7}",
        *(f"{name:<20}{100 * value:>7.2f}" for name, value in result.auroc.items()),
        "",
        result.verdict,
        f"Score with it: bliss audit … --score oecl --trained {output}",
    ]


def held_out_line(counts: Mapping[str, int], split: Split, turned: bool) -> str:
    """One line: how many images were held out, and how they were chosen."""
    line = (
        f"Held out: {counts['normals_held_out']} normal and "
        f"{counts['outliers_held_out']} outlier images"
    )
    if turned:
        return f"{line}, the outliers being turned copies"
    if split.classes:
        return f"{line}, the outliers being whole classes: {', '.join(split.classes)}"
    return f"{line}, chosen at random"
