"""Scores from distances to the reference images and to class prototypes, without external texts.

`knn` is the distance to the k-th nearest reference image. The others fit Gaussians or subspaces:
Mahalanobis distance to the nearest class mean with one covariance for all classes, the same less
the distance to all reference images together, one Gaussian a class, and ViM, which adds what lies
outside the principal subspace to the energy of the logits.

Prototypes are made of prompts and reference images: `smmp` is maximum concept matching over two
kinds of prototypes, label prompts and class means. `sparse_lookup` composes the image of reference
images: what they cannot compose is anomalous.

`costarr` is our adaptation of COSTARR (Rabinowitz, Cruz, Scheirer and Boult, ICCV 2025, arXiv
2508.01087), which argues that a trained classifier's small weights discard what would tell the
unknown from the known, and so compares features before and after their Hadamard product with the
weights with class means of the same. Without a trained classifier, and NOT as in the paper,

- the label prompt t_c stands for the weights of class c, times √d so that the mean square of its
  entries is 1, and times `weight`, by which the attenuated half counts;
- v_c(x) = [x, weight·√d·(t_c ∘ x)] and v̄_c = mean of v_c over the reference images of c;
- score = 1 − max over all classes c of cos(v_c(x), v̄_c). No logit is multiplied in.

The Hadamard product is linear in x, so with g = 1 + weight²·d·t_c² and m_c the class mean

    cos(v_c(x), v̄_c) = Σ g x m_c / √(Σ g x² · Σ g m_c²)

a cosine in a metric of the label's: two matrix products instead of n·C vectors of 2d numbers. Like
the paper's it depends on single coordinates: rotating all vectors changes it, unlike every other
score with reference images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import BlissError
from ...indexer.vectors import ROUNDING, exact_search, slices
from .contract import Fitted, Fitting, Need, Normals, Query, Score, between, positive, whole
from .similarity import (
    ENTRIES,
    Covariance,
    fit_covariance,
    in_batches,
    second_moment,
    similarity,
    squared_lengths,
    weighed,
)


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


def kth_distances(images: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """float64 [n], Euclidean distance of each image to the k-th nearest of unit `rows` [m, d]."""
    distance = np.empty(len(images))
    for batch in slices(len(images), ENTRIES // max(1, images.shape[1], k)):
        kth = exact_search(images[batch], rows, k).rows[:, k - 1]
        # From the vectors: 2 − 2·cosine loses half the digits of a short distance.
        distance[batch] = np.linalg.norm(images[batch].astype(np.float64) - rows[kth], axis=1)
    return distance


def _fit_knn(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Euclidean distance to the k-th nearest of m unit rows; k is m where there are fewer.

    k = 50 is OpenOOD's choice for m in the tens of thousands; with few reference images it reaches
    into other classes, and k = 1 is the nearest reference image. Labels are not used.
    """
    rows = np.ascontiguousarray(fitting.normals.images, np.float32)
    k = min(whole(parameters, "k", 1), len(rows))
    return lambda query: kth_distances(query.images, rows, k)


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

    def of_batch(batch: np.ndarray) -> np.ndarray:
        batch -= centre
        own = squared_lengths(
            covariance, batch @ covariance.directions.T, np.einsum("nd,nd->n", batch, batch)
        )
        return np.maximum(0, own + (constant - 2 * batch @ weighed_means.T).min(axis=1))

    return in_batches(images, max(means.shape), of_batch)


def _fit_mahalanobis(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """Lee et al. with Ledoit–Wolf shrinkage in place of the empirical covariance."""
    means = class_means(fitting.normals)
    covariance = pooled_covariance(fitting.normals, means)

    return lambda query: nearest_squared(covariance, means, query.images)


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

    def of_batch(batch: np.ndarray) -> np.ndarray:
        nearest = np.full(len(batch), np.inf)
        for mean, covariance in gaussians:
            batch -= mean
            along = batch @ covariance.directions.T
            whole = np.einsum("nd,nd->n", batch, batch)
            np.minimum(nearest, squared_lengths(covariance, along, whole), out=nearest)
            batch += mean
        return np.sqrt(nearest)

    return lambda query: in_batches(query.images, 4 * query.images.shape[1], of_batch)


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
    alpha = best_logits.mean() / in_batches(images, d, residual).mean()

    def scores(query: Query) -> np.ndarray:
        log_sum = similarity(query.images, prompts, 1 / scale).log_sum
        return alpha * in_batches(query.images, d, residual) - log_sum

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


def _fit_smmp(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """S_MMP without its tuning. With one class every softmax is 1 and so every score is 0.

    1 − the paper's score, summed over the other classes, so that nearly certain images still have
    different scores.
    """
    tau = positive(parameters, "tau")
    texts = fitting.normals.prompts.astype(np.float64)
    means = class_means(fitting.normals)
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def of_batch(images: np.ndarray) -> np.ndarray:
        return (unmatched(images @ texts.T / tau) + unmatched(images @ means.T / tau)) / 2

    return lambda query: in_batches(query.images, max(texts.shape), of_batch)


def unmatched(logits: np.ndarray) -> np.ndarray:
    """float64 [n], 1 − the largest softmax of `logits` [n, C], without rounding to 0."""
    best = logits.argmax(axis=1)[:, None]
    odds = np.exp(logits - np.take_along_axis(logits, best, axis=1))
    np.put_along_axis(odds, best, 0, axis=1)
    others = odds.sum(axis=1)
    return others / (1 + others)


SMMP = Score(
    name="smmp",
    formula="1 − ½(max_c softmax(x·t_c/τ) + max_c softmax(x·p_c/τ)), p_c = m_c/‖m_c‖",
    source="Wang et al., Mitigating the Modality Gap: Few-Shot Out-of-Distribution Detection with "
    "Multi-modal Prototypes and Image Bias Estimation, 2025, arXiv 2502.00662",
    fit=_fit_smmp,
    defaults={"tau": 0.01},
    needs=frozenset({Need.NORMALS}),
)


def _fit_costarr(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """The adaptation described above."""
    prompts = fitting.normals.prompts.astype(np.float64)
    means = class_means(fitting.normals)
    weight = between(parameters, "weight", 0, np.inf)
    metric = 1 + weight**2 * prompts.shape[1] * np.square(prompts)
    pulled = metric * means
    mean_square = np.einsum("cd,cd->c", pulled, means)

    def of_batch(images: np.ndarray) -> np.ndarray:
        length = np.sqrt(np.square(images) @ metric.T * mean_square)
        return 1 - (images @ pulled.T / np.maximum(length, 1e-12)).max(axis=1)

    return lambda query: in_batches(query.images, 2 * max(prompts.shape), of_batch)


COSTARR = Score(
    name="costarr",
    formula="1 − max over c of cos(v_c(x), mean of v_c over class c), v_c(x) = [x, √d·(t_c ∘ x)]",
    source="our adaptation to label texts of Rabinowitz et al., COSTARR: Consolidated Open Set "
    "Technique with Attenuation for Robust Recognition, ICCV 2025, arXiv 2508.01087",
    fit=_fit_costarr,
    defaults={"weight": 1.0},
    needs=frozenset({Need.NORMALS}),
)


IMAGES_AT_ONCE = 128
"""Few enough that their candidates are a small part of the reference images."""

PAIRS_AT_ONCE = 4096


def _fit_sparse_lookup(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """DictAS's lookup on whole images, with none of its trained generators: key = value = image.

    Published logits are q·k/√d on layer-normalised rows, whose length is √d: √d times the cosine.
    So it is here, times `sharpness`. References more than 1/(sharpness·√d) of cosine behind the
    nearest get no weight at all.
    """
    references = np.ascontiguousarray(fitting.normals.images, np.float32)
    scale = positive(parameters, "sharpness") * np.sqrt(references.shape[1])

    def scores(query: Query) -> np.ndarray:
        made = np.empty(len(query.images))
        for rows in slices(len(made), IMAGES_AT_ONCE):
            made[rows] = _unlike(query.images[rows].astype(np.float64), references, scale)
        return made

    return scores


def _unlike(images: np.ndarray, references: np.ndarray, scale: float) -> np.ndarray:
    """float64 [b], 1 − the cosine of each image [b, d] to what the references compose of it.

    Float32 cosines only choose the candidates, those that may get a weight; theirs are made again
    in float64.
    """
    rough = images.astype(np.float32) @ references.T
    near = rough >= rough.max(axis=1, keepdims=True) - np.float32(1 / scale + ROUNDING)
    image, reference = np.nonzero(near)
    logits = np.empty(len(image))
    for pairs in slices(len(image), PAIRS_AT_ONCE):
        vectors = references[reference[pairs]].astype(np.float64)
        logits[pairs] = scale * np.einsum("pd,pd->p", vectors, images[image[pairs]])
    weights = sparsemax(logits, image)
    kept = weights > 0
    used, column = np.unique(reference[kept], return_inverse=True)
    spread = np.zeros((len(images), len(used)))
    spread[image[kept], column] = weights[kept]
    composed = spread @ references[used].astype(np.float64)
    length = np.linalg.norm(images, axis=1) * np.linalg.norm(composed, axis=1)
    # Opposite references can cancel out; what is left of them resembles nothing.
    return 1 - np.einsum("nd,nd->n", images, composed) / np.maximum(length, 1e-12)


def sparsemax(logits: np.ndarray, row: np.ndarray) -> np.ndarray:
    """float64 [p], the `logits` [p] of each row projected onto the probability simplex.

    `row` int [p] is ascending and leaves no row out. Weights are max(0, z − t) with t such that
    they sum to 1 (Martins and Astudillo, ICML 2016, arXiv 1602.02068). Newton's method from
    t = max z − 1, where the sum is 1 or more, only rises and ends once no more logits fall away.
    """
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    z = logits - np.maximum.reduceat(logits, starts)[row]
    above = z > -1
    while True:
        total = np.add.reduceat(np.where(above, z, 0), starts) - 1
        weights = z - (total / np.add.reduceat(above, starts, dtype=np.int64))[row]
        still = above & (weights > 0)
        if np.array_equal(still, above):
            return np.where(above, weights, 0)
        above = still


SPARSE_LOOKUP = Score(
    name="sparse_lookup",
    formula="1 − cos(x, Σ_j w_j x_j) over the m reference images x_j, w = sparsemax(√d·x·x_j)",
    source="the lookup of Qu et al., DictAS: A Framework for Class-Generalizable Few-Shot Anomaly "
    "Segmentation via Dictionary Lookup, ICCV 2025, arXiv 2508.13560, without its training",
    fit=_fit_sparse_lookup,
    defaults={"sharpness": 1.0},
    needs=frozenset({Need.NORMALS}),
)
