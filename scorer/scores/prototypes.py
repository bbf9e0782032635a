"""Scores from class prototypes made of prompts and reference images.

`smmp` is maximum concept matching over two kinds of prototypes, label prompts and class means.
`sparse_lookup` composes the image of reference images: what they cannot compose is anomalous.

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

from ...indexer.vectors import ROUNDING, slices
from .contract import Fitted, Fitting, Query, Score, between, positive
from .distances import class_means
from .needs import Need
from .similarity import in_chunks


def _fit_smmp(fitting: Fitting, parameters: Mapping[str, float]) -> Fitted:
    """S_MMP without its tuning. With one class every softmax is 1 and so every score is 0.

    1 − the paper's score, summed over the other classes, so that nearly certain images still have
    different scores.
    """
    tau = positive(parameters, "tau")
    texts = fitting.normals.prompts.astype(np.float64)
    means = class_means(fitting.normals)
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def of_chunk(images: np.ndarray) -> np.ndarray:
        return (unmatched(images @ texts.T / tau) + unmatched(images @ means.T / tau)) / 2

    def scores(query: Query) -> np.ndarray:
        return in_chunks(query.images, max(texts.shape), of_chunk)

    return scores


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

    def of_chunk(images: np.ndarray) -> np.ndarray:
        length = np.sqrt(np.square(images) @ metric.T * mean_square)
        return 1 - (images @ pulled.T / np.maximum(length, 1e-12)).max(axis=1)

    def scores(query: Query) -> np.ndarray:
        return in_chunks(query.images, 2 * max(prompts.shape), of_chunk)

    return scores


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
