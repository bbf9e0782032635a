"""How well scores tell anomalies from normals; higher score = more anomalous, everywhere.

`scores` are float [n] and `anomalous` bool [n] in every function. Equal scores never help or hurt
by their order: AUROC uses midranks, thresholds and precisions treat equal scores alike.

    >>> import numpy as np
    >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import BlissError, UsageError

METRICS = (
    "auroc",
    "fpr95_id",
    "fpr95_ood",
    "aupr_in",
    "aupr_out",
    "precision",
    "recall",
    "fdp",
)
"""What `all_metrics` computes, in this order; the last three at the planted count."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over draws with its bootstrap interval; the ends are NaN for fewer than two draws."""

    mean: float
    low: float
    high: float


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Chance that an anomaly scores above a normal, equal scores counting half (midranks)."""
    _check(scores, anomalous)
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    midrank = np.cumsum(counts) - (counts - 1) / 2
    positives = int(anomalous.sum())
    above = float(midrank[position][anomalous].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(anomalous) - positives))


def fpr95_id(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Share of anomalies accepted when 95 % of normals are (MCM, NegLabel, CSP, CLIPN, EOE).

    Accepted: a score no higher than the lowest threshold that accepts 95 % of the normals.
    """
    _check(scores, anomalous)
    normals = np.sort(scores[~anomalous])
    return float(np.mean(scores[anomalous] <= normals[_needed(len(normals)) - 1]))


def fpr95_ood(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Share of normals flagged when 95 % of anomalies are caught (OpenOOD).

    Flagged: a score no lower than the highest threshold that catches 95 % of the anomalies.
    """
    _check(scores, anomalous)
    caught = np.sort(scores[anomalous])[::-1]
    return float(np.mean(scores[~anomalous] >= caught[_needed(len(caught)) - 1]))


def aupr_out(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Average precision with anomalies as positives; depends on the anomaly ratio: state it."""
    _check(scores, anomalous)
    return _average_precision(scores, anomalous)


def aupr_in(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Average precision with normals as positives, the lowest score first; ratio as above."""
    _check(scores, anomalous)
    return _average_precision(-scores, ~anomalous)


def precision_recall_at(
    scores: np.ndarray, anomalous: np.ndarray, count: int | None = None
) -> tuple[float, float]:
    """Precision and recall among the `count` highest scores (default: as many as are anomalous).

    Where equal scores straddle the cut, the expectation over a random choice among them.
    """
    _check(scores, anomalous)
    positives = int(anomalous.sum())
    count = positives if count is None else count
    if not 1 <= count <= len(scores):
        raise UsageError(
            f"precision at {count} of {len(scores)} images was asked for",
            f"a count from 1 to {len(scores)}",
            "Correct the count",
        )
    cut = np.sort(scores)[-count]
    above, level = scores > cut, scores == cut
    share = (count - above.sum()) / level.sum()
    hits = float(anomalous[above].sum() + share * anomalous[level].sum())
    return hits / count, hits / positives


def realised_fdp(flagged: np.ndarray, anomalous: np.ndarray) -> float:
    """Share of normals among the images `flagged` bool [n]; 0 when none is flagged."""
    return float((flagged & ~anomalous).sum() / max(1, flagged.sum()))


def all_metrics(scores: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """float64 [8], every one of METRICS."""
    precision, recall = precision_recall_at(scores, anomalous)
    return np.array(
        [
            auroc(scores, anomalous),
            fpr95_id(scores, anomalous),
            fpr95_ood(scores, anomalous),
            aupr_in(scores, anomalous),
            aupr_out(scores, anomalous),
            precision,
            recall,
            1 - precision,
        ]
    )


def mean_interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of `values` [draws] and its percentile bootstrap interval over draws."""
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    rows = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def paired_interval(
    values: np.ndarray, baseline: np.ndarray, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean difference to a `baseline` on the same draws [draws], with its bootstrap interval.

    Draws are resampled in pairs, so what makes a draw hard for both does not widen the interval.
    """
    if np.shape(values) != np.shape(baseline):
        raise BlissError(
            f"{np.size(values)} draws were to be compared with {np.size(baseline)}",
            "both scores on the same draws",
            "Evaluate them together",
        )
    return mean_interval(np.asarray(values) - np.asarray(baseline), level, seed)


def _needed(count: int) -> int:
    """The least number that is at least 95 % of `count`, in whole numbers."""
    return -(-95 * count // 100)


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits = np.cumsum(positive[order])[last]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (last + 1)).sum() / positive.sum())


def _check(scores: np.ndarray, anomalous: np.ndarray) -> None:
    if np.shape(scores) != np.shape(anomalous) or np.ndim(scores) != 1:
        raise BlissError(
            f"scores of shape {np.shape(scores)} came with truth of shape {np.shape(anomalous)}",
            "one number and one truth for every image",
            "Check the score",
        )
    if not np.isfinite(scores).all():
        raise BlissError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite",
            "a finite number for every image",
            "Check the score",
        )
    if anomalous.all() or not anomalous.any():
        raise BlissError(
            f"{int(anomalous.sum())} of {len(anomalous)} test images are anomalous",
            "at least one anomaly and one normal image",
            "Check the protocol and the test sets",
        )
