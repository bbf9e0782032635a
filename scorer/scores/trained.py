"""Scores that need something trained beforehand: "no" vectors of a CLIPN, or a head of OECL.

CLIPN asks the "yes" of each label against its "no", both from trained text towers,

    p_yes,i = e^{s_i/τ}/(e^{s_i/τ} + e^{n_i/τ})

with s_i the cosine to the prompt of label i and n_i the one to its "no" vector. Competing-to-win
takes the best label alone, agreeing-to-differ all of them, by their softmax.

`bliss train oecl` trains on normal images and known outliers. OECL is the length of contrastive
features, trained to be short on outliers; its baselines on the same images are the distance to the
nearest normal over that to the nearest outlier, and a logistic regression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from ...artefacts import check_checksum, read_manifest, write_atomically, write_manifest, write_text
from ...errors import BlissError, UsageError
from ...indexer.vectors import slices
from .contract import Fitted, Fitting, Need, Query, Score, missing, positive
from .distances import kth_distances
from .similarity import IMAGES_AT_ONCE, in_batches

HEAD_KIND = "oecl-head"
ARRAYS, LOSSES = "head.safetensors", "losses.csv"


@dataclass(frozen=True)
class Head:
    """A trained head: its arrays, the model whose embeddings it reads, and where it lies."""

    arrays: Mapping[str, np.ndarray]
    model: Mapping[str, Any]
    folder: str
    checksums: Mapping[str, str]


def save_head(
    folder: Path, arrays: Mapping[str, np.ndarray], losses: np.ndarray, **facts: Any
) -> None:
    """Write the arrays, `losses` [epochs, 3] as CSV, and the manifest with `facts`, last."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(folder / ARRAYS, lambda file: file.write(save(whole)))
    lines = ["epoch,contrastive,outlier_length,floor"]
    lines += [
        f"{epoch},{','.join(f'{value:.6g}' for value in row)}"
        for epoch, row in enumerate(losses, start=1)
    ]
    write_text(folder / LOSSES, "\n".join(lines) + "\n")
    write_manifest(folder, HEAD_KIND, [ARRAYS, LOSSES], **facts)


def load_head(folder: str | Path) -> Head:
    """Read a finished head; BlissError where it is missing, unfinished or changed."""
    folder = Path(folder)
    manifest = read_manifest(folder, HEAD_KIND, "Make one with `bliss train oecl NORMALS -o DIR`")
    check_checksum(folder, ARRAYS, manifest)
    return Head(load_file(folder / ARRAYS), manifest["model"], str(folder), manifest["checksums"])


def open_head(folder: str | None, scores: Sequence[Score]) -> Head | None:
    """The head in `folder`; None where none is given and there are scores without need of one.

    Raises UsageError where all of the `scores` need one and it is missing, or none does.
    """
    reading = [score.name for score in scores if Need.HEAD in score.needs]
    if folder is None:
        if len(reading) == len(scores):
            raise missing(reading[0], Need.HEAD)
        return None
    if not reading:
        raise UsageError(
            f"--trained was given with {', '.join(score.name for score in scores)}",
            "a score that reads one: oecl, outlier_logistic or outlier_knn_ratio",
            "Leave --trained out, or change --score",
        )
    return load_head(folder)


def trained_arrays(fitting: Fitting, score: str, *names: str) -> list[np.ndarray]:
    """The named arrays of the trained head.

    Raises BlissError where it lacks one of them or is for another dimension than the label
    prompts; the last axis of the first array is d.
    """
    head = fitting.extras[Need.HEAD]
    missing = [name for name in names if name not in head]
    if missing:
        raise BlissError(
            f"the head has no {', '.join(missing)}, which {score} needs",
            "a whole head",
            "Train it again",
        )
    found = [head[name] for name in names]
    d, wanted = found[0].shape[-1], fitting.normals.prompts.shape[1]
    if d != wanted:
        raise BlissError(
            f"the head is for embeddings of {d} dimensions and these have {wanted}",
            "a head trained with the same model",
            "Train one on embeddings of this model",
        )
    return found


SOURCE = "Wang et al., CLIPN for Zero-Shot OOD Detection, ICCV 2023, arXiv 2308.12213"


def fit_clipn_ctw(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """1 - p_yes of the label with the largest cosine; among equal ones, the largest p_yes."""
    no, tau = no_prompts("clipn_ctw", fitting), positive(parameters, "tau")
    prompts = fitting.normals.prompts.astype(np.float64)

    def score(query: Query) -> np.ndarray:
        found = np.empty(len(query.images))
        for rows, yes, against in _cosines(query.images, prompts, no):
            best = yes == yes.max(axis=1, keepdims=True)
            doubt = said_no(yes, against, tau)
            found[rows] = np.where(best, doubt, np.inf).min(axis=1)
        return found

    return score


def fit_clipn_atd(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """1 - Σ_i softmax(s/τ)_i·p_yes,i, summed as Σ_i softmax(s/τ)_i·(1 - p_yes,i)."""
    no, tau = no_prompts("clipn_atd", fitting), positive(parameters, "tau")
    prompts = fitting.normals.prompts.astype(np.float64)

    def score(query: Query) -> np.ndarray:
        found = np.empty(len(query.images))
        for rows, yes, against in _cosines(query.images, prompts, no):
            share = np.exp((yes - yes.max(axis=1, keepdims=True)) / tau)
            share /= share.sum(axis=1, keepdims=True)
            found[rows] = (share * said_no(yes, against, tau)).sum(axis=1)
        return found

    return score


def said_no(yes: np.ndarray, no: np.ndarray, tau: float) -> np.ndarray:
    """1 - p_yes from cosines of one shape, without overflow.

    >>> said_no(np.array([0.3, 0.3]), np.array([0.3, 0.3 - 0.01 * np.log(3)]), 0.01).round(12)
    array([0.5 , 0.25])
    """
    return np.exp(-np.logaddexp(0, (yes - no) / tau))


def no_prompts(name: str, fitting: Fitting) -> np.ndarray:
    """float64 [C, d]; UsageError where there is not one for every label."""
    found = fitting.extras[Need.NO_PROMPTS]
    if found.shape != fitting.normals.prompts.shape:
        raise UsageError(
            f'{name} was given "no" vectors of shape {found.shape}',
            f"{fitting.normals.prompts.shape}, one for every label",
            "Encode the prompts of these labels",
        )
    return found.astype(np.float64)


def _cosines(
    images: np.ndarray, prompts: np.ndarray, no: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """For each block of images its rows, and its cosines to both kinds of vector, [b, C]."""
    for rows in slices(len(images), IMAGES_AT_ONCE):
        wide = images[rows].astype(np.float64)
        yield rows, wide @ prompts.T, wide @ no.T


CLIPN_CTW = Score(
    name="clipn_ctw",
    formula="1 - p_yes,i at the largest s_i, p_yes,i = e^{s_i/τ}/(e^{s_i/τ} + e^{n_i/τ}), τ = 0.01",
    source=SOURCE,
    fit=fit_clipn_ctw,
    defaults={"tau": 0.01},
    needs=frozenset({Need.NO_PROMPTS}),
)

CLIPN_ATD = Score(
    name="clipn_atd",
    formula="1 - Σ_i softmax(s/τ)_i·p_yes,i, p_yes,i = e^{s_i/τ}/(e^{s_i/τ} + e^{n_i/τ}), τ = 0.01",
    source=SOURCE,
    fit=fit_clipn_atd,
    defaults={"tau": 0.01},
    needs=frozenset({Need.NO_PROMPTS}),
)


def feature_lengths(head: Mapping[str, np.ndarray], views: np.ndarray) -> np.ndarray:
    """float64 [n], ‖mean over V of f(x_v)‖ of unit rows `views` [n, V, d].

    f(x) = second·max(0, first·x + first_bias) + second_bias; batch normalisation is folded in.
    """
    weights, bias = head["first"].astype(np.float64), head["first_bias"].astype(np.float64)
    second = head["second"].astype(np.float64)

    def of_batch(batch: np.ndarray) -> np.ndarray:
        hidden = np.maximum(batch @ weights.T + bias, 0).mean(axis=1)
        return np.linalg.norm(hidden @ second.T + head["second_bias"], axis=1)

    return in_batches(views, views.shape[1] * max(weights.shape), of_batch)


def _fit_oecl(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """No parameter; the published score averages 32 views, without views the image is its only."""
    names = ("first", "first_bias", "second", "second_bias")
    head = dict(zip(names, trained_arrays(fitting, "oecl", *names), strict=True))

    def scores(query: Query) -> np.ndarray:
        views = query.images[:, None] if query.views is None else query.views
        return -feature_lengths(head, views)

    return scores


OECL = Score(
    name="oecl",
    formula="-‖mean over views of f(x)‖₂, f a trained projection head before normalisation",
    source="Le-Gia and Ahn, Understanding normalization in contrastive representation learning "
    "and out-of-distribution detection, arXiv 2312.15288; here on frozen embeddings",
    fit=_fit_oecl,
    needs=frozenset({Need.HEAD}),
)


def _fit_outlier_knn_ratio(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Against the images that the head was trained on; no parameter."""
    known = trained_arrays(fitting, "outlier_knn_ratio", "normals", "outliers")

    def scores(query: Query) -> np.ndarray:
        normal, outlier = (kth_distances(query.images, rows, 1) for rows in known)
        return normal / np.maximum(outlier, 1e-12)

    return scores


OUTLIER_KNN_RATIO = Score(
    name="outlier_knn_ratio",
    formula="‖x − nearest normal‖ / ‖x − nearest outlier‖",
    source="the nearest-neighbour rule on normals and known outliers, as a ratio",
    fit=_fit_outlier_knn_ratio,
    needs=frozenset({Need.HEAD}),
)


def _fit_outlier_logistic(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """The log-odds of being an outlier; no parameter."""
    weights, bias = trained_arrays(fitting, "outlier_logistic", "logistic", "logistic_bias")
    weights = weights.astype(np.float64)

    return lambda query: (
        in_batches(query.images, len(weights), lambda rows: rows @ weights) + float(bias[0])
    )


OUTLIER_LOGISTIC = Score(
    name="outlier_logistic",
    formula="w·x + b of a ridge logistic regression, outlier images against normal ones",
    source="the usual outlier-exposure baseline; Hendrycks et al., ICLR 2019, arXiv 1812.04606",
    fit=_fit_outlier_logistic,
    needs=frozenset({Need.HEAD}),
)
