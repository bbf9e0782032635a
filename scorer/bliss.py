"""The BLISS score (Goodge, Hooi and Ng, BMVC 2024, arXiv 2407.17083), on arrays.

For image x, class c with prompt t_c, and the k external texts d nearest to x by raw cosine:

    ICS_c(x) = -(x·t_c - μ_c)/(σ_c + 1e-8)                      internal class score
    ETS_c(x) = mean over d of (x·d - μ_{c,d})/(σ_{c,d} + 1e-8)  external text score
    score(x) = min over c of ICS_c(x) + λ·ETS_c(x)

μ and σ (population, ddof 0) are over the class's reference images; higher = more anomalous.
`bliss_matrices` returns every class's terms, for small work; `bliss_scores` keeps only what a
reader needs of each image, in memory bounded by blocks of classes and chunks of images.

BLISS terms of chunks of images against blocks of classes, in bounded memory.

The statistics of a class are computed once for all distinct retrieved texts, however many images
retrieved them; then every chunk of images looks its k texts up in that block's tables.

The external texts that the images at hand retrieved, each distinct one once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..indexer.vectors.nearest import Hits
from ..indexer.vectors.rows import Rows, slices
from ..indexer.vectors.scratch import let_go, scratch_array
from .leave_one_out import NOTHING_LEFT_OUT, LeftOut, class_texts, left_out_statistics
from .moments import Moments
from .reference import Reference
from .statistics import VariancePrior, check_counts, class_std_float64, moderated, text_statistics

BEST = 3
"""How many of the best classes are kept for each image."""


@dataclass(frozen=True)
class BlissMatrices:
    """Every class's terms: float64 [n, C] each, total = ics + λ·ets."""

    ics: np.ndarray
    ets: np.ndarray
    total: np.ndarray


@dataclass(frozen=True)
class BlissScores:
    """What is kept of each of n images; all numbers float64."""

    score: np.ndarray
    """[n], min over classes of ICS + λ·ETS."""
    ics: np.ndarray
    """[n], ICS of the nearest class."""
    ets: np.ndarray
    """[n], ETS of the nearest class."""
    best_classes: np.ndarray
    """int64 [n, b], the min(3, C) classes of lowest total, best first; column 0 is the nearest."""
    best_scores: np.ndarray
    """[n, b], their totals."""
    given_ics: np.ndarray
    """[n], ICS of the class the image is filed under; NaN without one."""
    given_ets: np.ndarray
    """[n], ETS of that class; NaN without one."""
    pull: np.ndarray
    """[n, k], standardised similarity of each retrieved text for the nearest class."""

    @property
    def nearest(self) -> np.ndarray:
        """int64 [n], the class of lowest total; equal totals: the lower number."""
        return self.best_classes[:, 0]


def bliss_matrices(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    weight: float = 0.5,
    left_out: LeftOut = NOTHING_LEFT_OUT,
) -> BlissMatrices:
    """ICS, ETS and their sum for n unit rows `images` [n, d] and all C classes; `weight` is λ.

    Raises BlissError naming a class with too few images: two are needed, three where one of
    them is left out.
    """
    shape = (len(images), len(reference.classes))
    ics, ets = np.empty(shape), np.empty(shape)
    for block in class_blocks(images, retrieved, reference, left_out):
        ics[block.images, block.classes] = block.ics
        ets[block.images, block.classes] = block.ets
    return BlissMatrices(ics, ets, ics + weight * ets)


def bliss_scores(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    weight: float = 0.5,
    given: np.ndarray | None = None,
    left_out: LeftOut = NOTHING_LEFT_OUT,
) -> BlissScores:
    """Scores and their parts for n unit rows `images` [n, d]; `weight` is λ.

    `images` may lie on disk (`stored_rows.StoredRows`): they are read a chunk at a time.

    `given` int [n] is the class each image is filed under, -1 for none. `left_out` names the
    images that are themselves in the reference. Raises BlissError as `bliss_matrices` does.
    """
    n, k = len(images), retrieved.similarity.shape[1]
    best = min(BEST, len(reference.classes))
    kept = BlissScores(
        score=np.full(n, np.inf),
        ics=np.empty(n),
        ets=np.empty(n),
        best_classes=scratch_array((n, best), np.int64),
        best_scores=scratch_array((n, best), np.float64),
        given_ics=np.full(n, np.nan),
        given_ets=np.full(n, np.nan),
        pull=scratch_array((n, k), np.float64),
    )
    kept.best_classes[:], kept.best_scores[:] = 0, np.inf
    given = np.full(n, -1) if given is None else given
    for block in class_blocks(images, retrieved, reference, left_out):
        _keep_nearest(kept, block, weight)
        _keep_given(kept, block, given[block.images])
        let_go(kept.best_classes, kept.best_scores, kept.pull)
    return kept


def _keep_nearest(kept: BlissScores, block: ClassBlock, weight: float) -> None:
    total = block.ics + weight * block.ets
    here = np.arange(len(total))
    nearest = total.argmin(axis=1)
    lowest = total[here, nearest]
    better = np.flatnonzero(lowest < kept.score[block.images])
    rows = better + block.images.start
    kept.score[rows] = lowest[better]
    kept.ics[rows] = block.ics[better, nearest[better]]
    kept.ets[rows] = block.ets[better, nearest[better]]
    kept.pull[rows] = pull_of(block, nearest)[better]
    _merge_best(kept, block, total)


def _merge_best(kept: BlissScores, block: ClassBlock, total: np.ndarray) -> None:
    """Keep the lowest totals of those so far and this block's; `total` is used up."""
    best = kept.best_scores.shape[1]
    here = np.arange(len(total))
    numbers, values = [kept.best_classes[block.images]], [kept.best_scores[block.images]]
    for _ in range(min(best, total.shape[1])):
        column = total.argmin(axis=1)
        numbers.append((column + block.classes.start)[:, None])
        values.append(total[here, column][:, None])
        total[here, column] = np.inf
    all_numbers, all_values = np.hstack(numbers), np.hstack(values)
    order = np.argsort(all_values, axis=1, kind="stable")[:, :best]
    kept.best_classes[block.images] = np.take_along_axis(all_numbers, order, axis=1)
    kept.best_scores[block.images] = np.take_along_axis(all_values, order, axis=1)


def _keep_given(kept: BlissScores, block: ClassBlock, given: np.ndarray) -> None:
    here = np.flatnonzero((given >= block.classes.start) & (given < block.classes.stop))
    column = given[here] - block.classes.start
    kept.given_ics[here + block.images.start] = block.ics[here, column]
    kept.given_ets[here + block.images.start] = block.ets[here, column]


EPSILON = 1e-8
"""Added to every σ before it divides, as in the published code."""

TABLE_ENTRIES = 4_000_000
"""Entries of one block's [u, classes] tables of μ and σ: 32 MB each."""

PAIRS_AT_ONCE = 8192
"""Images that are left out of one class at once."""

CHUNK_ENTRIES = 500_000
"""Entries of one chunk's [images, k, classes] pulls: 4 MB each."""


@dataclass(frozen=True)
class Tables:
    """μ and 1/(σ + 1e-8) of a block of classes for each distinct text, float64 [u, c]."""

    mean: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """Terms of p (image, class) pairs with the image left out of the class."""

    images: np.ndarray
    """int64 [p], ascending."""
    classes: np.ndarray
    """int64 [p]."""
    ics: np.ndarray
    """float64 [p]."""
    pull: np.ndarray
    """float64 [p, k], each retrieved text's standardised similarity; ETS is its mean."""


@dataclass(frozen=True)
class ClassBlock:
    """The terms of one chunk of b images against one block of c classes."""

    images: slice
    classes: slice
    ics: np.ndarray
    """float64 [b, c]."""
    ets: np.ndarray
    """float64 [b, c]."""
    similarity: np.ndarray
    """float32 [b, k]."""
    position: np.ndarray
    """int32 [b, k]."""
    tables: Tables
    left_out: Evidence
    """The pairs inside this block, numbered within it."""


def class_blocks(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    left_out: LeftOut,
    prior: VariancePrior | None = None,
) -> Iterator[ClassBlock]:
    """Every chunk of images against every block of classes, classes outermost.

    `images` are unit rows [n, d]. With a `prior` every variance is
    moderated. Raises BlissError naming a class with too few images: two are needed, three where
    one of them is left out, and one fewer with a prior.
    """
    moments, prompts = reference.moments, reference.prompt_vectors
    check_counts(moments, needed=2 if prior is None else 1)
    evidence = left_out_evidence(images, retrieved, reference, left_out, prior)
    prompt_mean, prompt_scale = prompt_statistics(moments, prompts, prior)
    for classes in slices(len(moments.parts), TABLE_ENTRIES // max(1, len(retrieved.vectors))):
        block_moments = Moments(moments.classes[classes], moments.parts[classes])
        mean, std = text_statistics(block_moments, retrieved.vectors, needed=1 if prior else 2)
        std = _moderated(std, block_moments.counts[:, None], prior, np.s_[classes, None])
        std += EPSILON
        tables = Tables(np.ascontiguousarray(mean.T), np.ascontiguousarray((1 / std).T))
        del mean, std
        width = retrieved.similarity.shape[1] * (classes.stop - classes.start)
        for chunk in slices(len(images), CHUNK_ENTRIES // width):
            similarity, position = retrieved.similarity[chunk], retrieved.position[chunk]
            cosine = images[chunk].astype(np.float64) @ prompts[classes].T.astype(np.float64)
            ics = (prompt_mean[classes] - cosine) * prompt_scale[classes]
            ets = _pulls(similarity, position, tables).mean(axis=1)
            inside = _inside(evidence, chunk, classes)
            ics[inside.images, inside.classes] = inside.ics
            ets[inside.images, inside.classes] = inside.pull.mean(axis=1)
            yield ClassBlock(chunk, classes, ics, ets, similarity, position, tables, inside)
            let_go(retrieved.similarity, retrieved.position, evidence.pull)


def pull_of(block: ClassBlock, chosen: np.ndarray) -> np.ndarray:
    """float64 [b, k], how far each retrieved text pulls each image from class `chosen` [b]."""
    mean = block.tables.mean[block.position, chosen[:, None]]
    scale = block.tables.scale[block.position, chosen[:, None]]
    pull = (block.similarity - mean) * scale
    own = block.left_out.classes == chosen[block.left_out.images]
    pull[block.left_out.images[own]] = block.left_out.pull[own]
    return pull


def prompt_statistics(
    moments: Moments, prompts: np.ndarray, prior: VariancePrior | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """μ_c and 1/(σ_c + 1e-8) of each class's similarity to its own prompt, float64 [C] each."""
    mean = np.array([part.mean @ p for part, p in zip(moments.parts, prompts, strict=True)])
    std = [class_std_float64(part, prompts[c : c + 1])[0] for c, part in enumerate(moments.parts)]
    return mean, 1 / (_moderated(np.array(std), moments.counts, prior, np.s_[:]) + EPSILON)


def left_out_evidence(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    left_out: LeftOut,
    prior: VariancePrior | None = None,
) -> Evidence:
    """Terms of each scored image against each class it is filed under, without it."""
    order = np.argsort(left_out.images, kind="stable")
    rows, classes = left_out.images[order], left_out.classes[order]
    ics = np.empty(len(rows))
    pull = scratch_array((len(rows), retrieved.similarity.shape[1]), np.float64)
    moments = reference.moments
    for number in np.unique(classes):
        name, part = moments.classes[number], moments.parts[number]
        check_counts(Moments((name,), (part,)), needed=3 if prior is None else 2)
        pairs = np.flatnonzero(classes == number)
        prompt = reference.prompt_vectors[number]
        there = np.zeros(len(retrieved.vectors), bool)
        for few in slices(len(pairs), PAIRS_AT_ONCE):
            there[retrieved.position[rows[pairs[few]]]] = True
        # The prompt is one more text, in front: each image's own row is then sought only once.
        known = class_texts(part, np.concatenate([prompt[None], retrieved.vectors[there]]))
        place = np.cumsum(there)
        for few in slices(len(pairs), PAIRS_AT_ONCE):
            some = rows[pairs[few]]
            members = images[some]
            position = np.insert(place[retrieved.position[some]], 0, 0, axis=1)
            mean, std = left_out_statistics(known, members, position)
            std = _moderated(std, part.count - 1, prior, number) + EPSILON
            cosine = members.astype(np.float64) @ prompt.astype(np.float64)
            ics[pairs[few]] = (mean[:, 0] - cosine) / std[:, 0]
            pull[pairs[few]] = (retrieved.similarity[some] - mean[:, 1:]) / std[:, 1:]
            let_go(pull, retrieved.position, retrieved.similarity)
    return Evidence(rows, classes, ics, pull)


def _moderated(
    std: np.ndarray, count: np.ndarray | int, prior: VariancePrior | None, classes: Any
) -> np.ndarray:
    """σ moderated towards the prior of `classes` (an index into its C), or as it is without one."""
    return std if prior is None else moderated(std, count, prior.std[classes], prior)


def _pulls(similarity: np.ndarray, position: np.ndarray, tables: Tables) -> np.ndarray:
    """float64 [b, k, c], each retrieved text's standardised similarity for each class."""
    pulls = np.take(tables.mean, position, axis=0)
    np.subtract(similarity[:, :, None], pulls, out=pulls)
    pulls *= np.take(tables.scale, position, axis=0)
    return pulls


def _inside(evidence: Evidence, images: slice, classes: slice) -> Evidence:
    """The pairs of one chunk and block, numbered from its first image and class."""
    first, last = np.searchsorted(evidence.images, [images.start, images.stop])
    near = np.arange(first, last)
    near = near[(evidence.classes[near] >= classes.start) & (evidence.classes[near] < classes.stop)]
    return replace(
        evidence,
        images=evidence.images[near] - images.start,
        classes=evidence.classes[near] - classes.start,
        ics=evidence.ics[near],
        pull=evidence.pull[near],
    )


IMAGES_AT_ONCE = 16_384


@dataclass(frozen=True)
class Retrieved:
    """k texts for each of n images, u of them distinct."""

    similarity: np.ndarray
    """float32 [n, k], raw cosines, descending in each row."""
    rows: np.ndarray
    """int64 [n, k], rows of the caption index."""
    position: np.ndarray
    """int32 [n, k], where in `vectors` each retrieved text is."""
    vectors: np.ndarray
    """float32 [u, d], unit rows of the distinct texts."""


def gather_texts(hits: Hits, vectors_of: Callable[[np.ndarray], np.ndarray]) -> Retrieved:
    """Fetch each distinct text of `hits` once; `vectors_of` maps rows int64 [u] to [u, d]."""
    blocks = list(slices(len(hits.rows), IMAGES_AT_ONCE))
    distinct = np.zeros(0, np.int64)
    for some in blocks:
        distinct = np.union1d(distinct, hits.rows[some])
    position = scratch_array(hits.rows.shape, np.int32)
    for some in blocks:
        position[some] = np.searchsorted(distinct, hits.rows[some])
        let_go(position, hits.rows)
    return Retrieved(hits.similarity, hits.rows, position, vectors_of(distinct))
