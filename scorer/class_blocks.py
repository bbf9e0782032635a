"""BLISS terms of chunks of images against blocks of classes, in bounded memory.

The statistics of a class are computed once for all distinct retrieved texts, however many images
retrieved them; then every chunk of images looks its k texts up in that block's tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..indexer.stored_rows import Rows
from ..indexer.vectors.scratch import let_go, scratch_array
from .leave_one_out import LeftOut, class_texts, left_out_statistics
from .moderation import VariancePrior, moderated
from .moments import Moments
from .reference import Reference
from .retrieved import Retrieved
from .slices import slices
from .text_statistics import check_counts, class_std_float64, text_statistics

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
