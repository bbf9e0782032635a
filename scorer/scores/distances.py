"""Scores from distances to the reference images, without any text.

`knn` is the distance to the k-th nearest reference image. The others fit Gaussians or subspaces:
Mahalanobis distance to the nearest class mean with one covariance for all classes, the same less
the distance to all reference images together, one Gaussian a class, and ViM, which adds what lies
outside the principal subspace to the energy of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import BlissError
from ...indexer.vectors import exact_search, slices
from .contract import Fitted, Fitting, Normals, Query, Score, between, positive, whole
from .covariance import Covariance, fit_covariance, squared_lengths, weighed
from .needs import Need
from .similarity import ENTRIES, in_chunks, second_moment, similarity


def members_of(normals: Normals) -> list[np.ndarray]:
    """The rows int64 [m_c] of each class's reference images, C of them.

    Raises BlissError naming a class without reference images.
    """
    members = [np.flatnonzero(normals.labels == c) for c in range(len(normals.classes))]
    for name, rows in zip(normals.classes, members, strict=True):
        if not len(rows):
            raise BlissError(
                f"class '{name}' has no reference images",
                "reference images of every normal class",
                "Add reference images of that class or leave the class out",
            )
    return members


def class_means(normals: Normals) -> np.ndarray:
    """float64 [C, d], the mean of each class's reference images, not normalised."""
    return np.stack(
        [normals.images[rows].mean(axis=0, dtype=np.float64) for rows in members_of(normals)]
    )


def _fit_knn(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Euclidean distance to the k-th nearest of m unit rows; k is m where there are fewer.

    k = 50 is OpenOOD's choice for m in the tens of thousands; with few reference images it reaches
    into other classes, and k = 1 is the nearest reference image. Labels are not used.
    """
    references = fitting.normals.images
    k = min(whole(parameters, "k", 1), len(references))
    rows = np.ascontiguousarray(references, np.float32)

    def scores(query: Query) -> np.ndarray:
        distance = np.empty(len(query.images))
        step = ENTRIES // max(query.images.shape[1], k)
        for chunk in slices(len(distance), step):
            images = query.images[chunk]
            kth = exact_search(images, rows, k).rows[:, k - 1]
            # From the vectors: 2 − 2·cosine loses half the digits of a short distance.
            apart = images.astype(np.float64) - references[kth]
            distance[chunk] = np.linalg.norm(apart, axis=1)
        return distance

    return scores


KNN = Score(
    name="knn",
    formula="‖x − x_(k)‖, x_(k) the k-th nearest of all m reference images, k at most m",
    source="Sun et al., Out-of-distribution Detection with Deep Nearest Neighbors, ICML 2022, "
    "arXiv 2204.06507",
    fit=_fit_knn,
    defaults={"k": 50},
    needs=frozenset({Need.NORMALS}),
)


def pooled_covariance(normals: Normals, means: np.ndarray) -> Covariance:
    """Ledoit–Wolf covariance of all reference images about their own class's mean [C, d].

    Raises BlissError where no class has two different images.
    """
    centred = normals.images.astype(np.float64) - means[normals.labels]
    return fit_covariance(centred, "every class")


def nearest_squared(covariance: Covariance, means: np.ndarray, images: np.ndarray) -> np.ndarray:
    """float64 [n], least squared Mahalanobis distance of `images` [n, d] to any of `means` [C, d].

    Everything is relative to the mean of the means, so that yᵀΣ*⁻¹y + mᵀΣ*⁻¹m − 2yᵀΣ*⁻¹m keeps its
    digits.
    """
    centre = means.mean(axis=0)
    apart = means - centre
    weighed_means = weighed(covariance, apart)
    constant = np.einsum("cd,cd->c", weighed_means, apart)

    def of_chunk(chunk: np.ndarray) -> np.ndarray:
        chunk -= centre
        own = squared_lengths(
            covariance, chunk @ covariance.directions.T, np.einsum("nd,nd->n", chunk, chunk)
        )
        return np.maximum(0, own + (constant - 2 * chunk @ weighed_means.T).min(axis=1))

    return in_chunks(images, max(means.shape), of_chunk)


def _fit_mahalanobis(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Lee et al. with Ledoit–Wolf shrinkage in place of the empirical covariance."""
    means = class_means(fitting.normals)
    covariance = pooled_covariance(fitting.normals, means)

    def scores(query: Query) -> np.ndarray:
        return nearest_squared(covariance, means, query.images)

    return scores


MAHALANOBIS = Score(
    name="mahalanobis",
    formula="min over c of (x − m_c)ᵀ Σ*⁻¹ (x − m_c), Σ* the pooled within-class covariance, "
    "Ledoit–Wolf",
    source="Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and "
    "Adversarial Attacks, NeurIPS 2018, arXiv 1807.03888",
    fit=_fit_mahalanobis,
    needs=frozenset({Need.NORMALS}),
)


def _fit_relative_mahalanobis(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Ledoit–Wolf's shrinkage of the within-class covariance, in both Gaussians.

    With few reference images all else hangs on it: in the directions they do not span, the score
    is |y|²/a_within − |y|²/a_all. Shrunk each by its own formula, a_within came out above a_all,
    and Caltech's anomalies scored lowest (AUROC 19 with 6 classes, 98 as it is). With one class
    the Gaussians are the same and every score is 0.
    """
    normals = fitting.normals
    means = class_means(normals)
    within = pooled_covariance(normals, means)
    middle = normals.images.mean(axis=0, dtype=np.float64)[None]
    centred = normals.images.astype(np.float64) - middle
    overall = fit_covariance(centred, "all classes", within.shrinkage)

    def scores(query: Query) -> np.ndarray:
        to_class = nearest_squared(within, means, query.images)
        return to_class - nearest_squared(overall, middle, query.images)

    return scores


RELATIVE_MAHALANOBIS = Score(
    name="relative_mahalanobis",
    formula="min over c of (x − m_c)ᵀ Σ*⁻¹ (x − m_c) − (x − m)ᵀ Σ*_all⁻¹ (x − m), "
    "mean m and Σ*_all over all reference images",
    source="Ren et al., A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection, "
    "2021, arXiv 2106.09022",
    fit=_fit_relative_mahalanobis,
    needs=frozenset({Need.NORMALS}),
)


def _fit_gaussian_ad(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Rippel et al., who have one normal class; with several the nearest Gaussian counts.

    Distances alone are compared, without log-determinants. A class holds at most its m_c images'
    directions. Raises BlissError naming a class without two different reference images.
    """
    normals = fitting.normals
    gaussians = []
    for name, rows in zip(normals.classes, members_of(normals), strict=True):
        images = normals.images[rows].astype(np.float64)
        mean = images.mean(axis=0)
        gaussians.append((mean, fit_covariance(images - mean, f"class '{name}'")))

    def of_chunk(chunk: np.ndarray) -> np.ndarray:
        nearest = np.full(len(chunk), np.inf)
        for mean, covariance in gaussians:
            chunk -= mean
            along = chunk @ covariance.directions.T
            whole = np.einsum("nd,nd->n", chunk, chunk)
            np.minimum(nearest, squared_lengths(covariance, along, whole), out=nearest)
            chunk += mean
        return np.sqrt(nearest)

    def scores(query: Query) -> np.ndarray:
        return in_chunks(query.images, 4 * query.images.shape[1], of_chunk)

    return scores


GAUSSIAN_AD = Score(
    name="gaussian_ad",
    formula="min over c of √((x − m_c)ᵀ Σ*_c⁻¹ (x − m_c)), Σ*_c the class's own covariance, "
    "Ledoit–Wolf",
    source="Rippel, Mertens and Merhof, Modeling the Distribution of Normal Data in Pre-Trained "
    "Deep Features for Anomaly Detection, ICPR 2020, arXiv 2005.14140",
    fit=_fit_gaussian_ad,
    needs=frozenset({Need.NORMALS}),
)


def _fit_vim(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """ViM with the prompts as its classifier: logits = `scale`·x·t_c, no bias.

    Without a bias the paper's origin is 0, so nothing is centred. The principal space holds the
    D leading eigenvectors of the mean of x xᵀ over the references, D = `share`·min(d, m): 256 for
    512 dimensions. With m < d images the references span only m directions and D must stay below
    that, or no reference would have a residual; it also stays below the rank.
    """
    scale = positive(parameters, "scale")
    images, prompts = fitting.normals.images, fitting.normals.prompts
    outside = _outside(images, between(parameters, "share", 0, 1))

    def residual(rows: np.ndarray) -> np.ndarray:
        return np.linalg.norm(rows @ outside, axis=1)

    d = images.shape[1]
    best_logits = scale * similarity(images, prompts, 1 / scale).largest
    alpha = best_logits.mean() / in_chunks(images, d, residual).mean()

    def scores(query: Query) -> np.ndarray:
        log_sum = similarity(query.images, prompts, 1 / scale).log_sum
        return alpha * in_chunks(query.images, d, residual) - log_sum

    return scores


def _outside(images: np.ndarray, share: float) -> np.ndarray:
    """float64 [d, d − D], an orthonormal basis of what the principal space leaves out."""
    m, d = images.shape
    values, vectors = np.linalg.eigh(second_moment(images))
    rank = int((values > values[-1] * d * np.finfo(np.float64).eps).sum())
    principal = min(int(share * min(d, m)), rank - 1)
    return vectors[:, : d - principal]


VIM = Score(
    name="vim",
    formula="α·‖x outside the D principal directions‖ − log Σ_c e^{100·s_c}, "
    "α = mean of max_c 100·s_c / mean residual, both over the reference images",
    source="Wang et al., ViM: Out-of-Distribution with Virtual-logit Matching, CVPR 2022, "
    "arXiv 2203.10807",
    fit=_fit_vim,
    defaults={"share": 0.5, "scale": 100.0},
    needs=frozenset({Need.NORMALS}),
)
