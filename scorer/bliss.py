"""The BLISS score (Goodge, Hooi and Ng, BMVC 2024, arXiv 2407.17083), on arrays.

For image x, class c with prompt t_c, and the k external texts d nearest to x by cosine:

    ICS_c(x) = -(x·t_c - μ_c)/(σ_c + 1e-8)                      internal class score
    ETS_c(x) = mean over d of (x·d - μ_{c,d})/(σ_{c,d} + 1e-8)  external text score
    score(x) = min over c of ICS_c(x) + λ·ETS_c(x)

μ and σ (population, ddof 0) are over the class's reference images. All terms are numbers of
standard deviations; higher = more anomalous. The summands of ETS are the *pulls* of the texts.

`bliss_matrices` returns the terms of every class, for small problems; `bliss_scores` keeps a few
numbers an image, in memory bounded by blocks: the statistics of a block of classes are computed
once for all distinct retrieved texts, then every block of images looks its k texts up in them.

    >>> import numpy as np
    >>> from blissaudit.indexer.vectors.nearest import exact_search
    >>> from blissaudit.scorer.moments import fit_moments
    >>> rows = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.8, 0, 0.6]], np.float32)
    >>> reference = Reference(fit_moments(["cup"], rows, np.zeros(3, int)), rows[:1])
    >>> texts = np.eye(3, dtype=np.float32)
    >>> images = np.array([[0.8, 0.6, 0], [0, 0, 1]], np.float32)
    >>> retrieved = gather_texts(exact_search(images, texts, k=1), texts)
    >>> found = bliss_scores(images, retrieved, reference, weight=0.5)
    >>> found.score.round(2).tolist(), found.pull.round(2).tolist()
    ([0.35, 10.61], [[-0.71], [2.83]])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..arguments import checked_arrays
from ..errors import UsageError
from ..indexer.vectors import Hits, Rows, slices
from .leave_one_out import NOTHING_LEFT_OUT, LeftOut, class_texts, left_out_statistics
from .moments import Moments
from .reference import Reference
from .statistics import VariancePrior, check_counts, class_std_float64, moderated, text_statistics

BEST = 3
"""How many of the best classes are kept for each image."""

EPSILON = 1e-8
"""Added to every σ before it divides, as in the published code."""

TABLE_ENTRIES = 4_000_000
"""Entries of the [u, classes] tables of μ and σ of one block of classes: 32 MB each."""

PULL_ENTRIES = 500_000
"""Entries of the [images, k, classes] pulls of one block of images, 4 MB each, and a quarter of
those of the images themselves."""

PAIRS_AT_ONCE = 8192
"""Images that are left out of one class at once."""

IMAGES_AT_ONCE = 16_384
"""Images whose retrieved rows are made distinct at once."""


class Allocator(Protocol):
    """Where arrays that grow with the number of images are kept."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array, its values unset."""

    def release(self, *arrays: np.ndarray) -> None:
        """These arrays are not read or written for a while; their values must stay."""


class InMemory:
    """Ordinary numpy arrays."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """`np.empty`."""
        return np.empty(shape, dtype)

    def release(self, *arrays: np.ndarray) -> None:
        """Nothing to do."""


IN_MEMORY = InMemory()


@dataclass(frozen=True)
class Retrieved:
    """k texts for each of n images, u of them distinct."""

    similarity: np.ndarray
    """float32 [n, k], cosines, descending in each row."""
    rows: np.ndarray
    """int64 [n, k], rows of the caption index."""
    position: np.ndarray
    """int32 [n, k], where in `vectors` each retrieved text is."""
    vectors: Rows
    """float32 [u, d], unit rows of the distinct texts, in memory or on disk."""

    def only(self, images: slice) -> Retrieved:
        """The texts of some images, `vectors` as they are."""
        similarity, rows = self.similarity[images], self.rows[images]
        return Retrieved(similarity, rows, self.position[images], self.vectors)


@dataclass(frozen=True)
class BlissMatrices:
    """The terms of every class: float64 [n, C] each, total = ics + λ·ets."""

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
    given_pull: np.ndarray
    """[n, k], the same for the class the image is filed under; without one, `pull`."""

    @property
    def nearest(self) -> np.ndarray:
        """int64 [n], the class of lowest total; of equal totals the lower class number."""
        return self.best_classes[:, 0]


@checked_arrays(vectors=("texts",))
def gather_texts(
    hits: Hits,
    texts: Rows,
    allocator: Allocator = IN_MEMORY,
) -> Retrieved:
    """Read each distinct text of `hits` once from `texts` [M, d], in memory or on disk.

    Raises UsageError where `hits` name rows that `texts` lack.
    """
    blocks = list(slices(len(hits.rows), IMAGES_AT_ONCE))
    distinct = np.zeros(0, np.int64)
    for block in blocks:
        distinct = np.union1d(distinct, hits.rows[block])
    if distinct.size and not 0 <= distinct[0] <= distinct[-1] < len(texts):
        raise UsageError(
            f"the hits name rows {distinct[0]:,} to {distinct[-1]:,} of {len(texts):,} texts",
            "the texts that were searched",
            "Pass the array that was given to the search",
        )
    position = allocator.empty(hits.rows.shape, np.int32)
    for block in blocks:
        position[block] = np.searchsorted(distinct, hits.rows[block])
        allocator.release(position, hits.rows)
    return Retrieved(hits.similarity, hits.rows, position, texts[distinct])


@checked_arrays(vectors=("images",))
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
    _check_weight(weight)
    shape = (len(images), len(reference.classes))
    ics, ets = np.empty(shape), np.empty(shape)
    for block in class_blocks(images, retrieved, reference, left_out):
        ics[block.images, block.classes] = block.ics
        ets[block.images, block.classes] = block.ets
    return BlissMatrices(ics, ets, ics + weight * ets)


@checked_arrays(vectors=("images",), numbers=("given",))
def bliss_scores(  # noqa: PLR0913 - six positional
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    weight: float = 0.5,
    given: np.ndarray | None = None,
    left_out: LeftOut = NOTHING_LEFT_OUT,
    *,
    allocator: Allocator = IN_MEMORY,
) -> BlissScores:
    """Scores and their parts for n unit rows `images` [n, d]; `weight` is λ.

    `images` may be on disk: they are read a block at a time. `given` int [n] is the class each
    image is filed under, -1 for none. `left_out` names the images that are themselves in the
    reference. `allocator` makes the arrays of more than one number an image. Raises BlissError as
    `bliss_matrices` does.
    """
    _check_weight(weight)
    n, k = len(images), retrieved.similarity.shape[1]
    best = min(BEST, len(reference.classes))
    kept = BlissScores(
        score=np.full(n, np.inf),
        ics=np.empty(n),
        ets=np.empty(n),
        best_classes=allocator.empty((n, best), np.int64),
        best_scores=allocator.empty((n, best), np.float64),
        given_ics=np.full(n, np.nan),
        given_ets=np.full(n, np.nan),
        pull=allocator.empty((n, k), np.float64),
        given_pull=allocator.empty((n, k), np.float64),
    )
    kept.best_classes[:], kept.best_scores[:] = 0, np.inf
    given = np.full(n, -1) if given is None else given
    if len(given) != n:
        raise UsageError(
            f"{len(given):,} classes were given for {n:,} images", "one for each", "Correct `given`"
        )
    for block in class_blocks(images, retrieved, reference, left_out, allocator=allocator):
        _keep_nearest(kept, block, weight)
        _keep_given(kept, block, given[block.images])
        allocator.release(kept.best_classes, kept.best_scores, kept.pull, kept.given_pull)
    for rows in slices(n, IMAGES_AT_ONCE):
        nowhere = np.flatnonzero(given[rows] < 0) + rows.start
        kept.given_pull[nowhere] = kept.pull[nowhere]
        allocator.release(kept.pull, kept.given_pull)
    return kept


def _check_weight(weight: float) -> None:
    if not -np.inf < weight < np.inf:
        raise UsageError(f"a weight of {weight} was given", "a finite number", "Try 0.5")


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
    kept.pull[rows] = pull_of(block, better, nearest[better])
    _merge_best(kept, block, total)


def _merge_best(kept: BlissScores, block: ClassBlock, total: np.ndarray) -> None:
    """Keep the lowest totals of those so far and this block's; overwrites `total`."""
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
    kept.given_pull[here + block.images.start] = pull_of(block, here, column)


@dataclass(frozen=True)
class Tables:
    """μ and 1/(σ + 1e-8) of a block of classes for each distinct text, float64 [u, c]."""

    mean: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class LeftOutTerms:
    """Terms of p (image, class) pairs, each with the image left out of the class."""

    images: np.ndarray
    """int64 [p], ascending."""
    classes: np.ndarray
    """int64 [p]."""
    ics: np.ndarray
    """float64 [p]."""
    pull: np.ndarray
    """float64 [p, k], each retrieved text's standardised similarity; ETS is its mean."""

    def within(self, images: slice, classes: slice) -> LeftOutTerms:
        """The pairs of a block of images and of classes, numbered from its first ones."""
        first, last = np.searchsorted(self.images, [images.start, images.stop])
        inside = (self.classes[first:last] >= classes.start) & (
            self.classes[first:last] < classes.stop
        )
        pairs = first + np.flatnonzero(inside)
        return LeftOutTerms(
            self.images[pairs] - images.start,
            self.classes[pairs] - classes.start,
            self.ics[pairs],
            self.pull[pairs],
        )


@dataclass(frozen=True)
class ClassBlock:
    """The terms of a block of b images against a block of c classes."""

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
    left_out: LeftOutTerms
    """The pairs inside this block, numbered within it."""


def class_blocks(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    left_out: LeftOut,
    prior: VariancePrior | None = None,
    *,
    allocator: Allocator = IN_MEMORY,
) -> Iterator[ClassBlock]:
    """Every block of unit rows `images` [n, d] against every block of classes, classes outermost.

    With a `prior` every variance is moderated. Raises BlissError naming a class with too few
    images: two are needed, three where one of them is left out, and one fewer with a prior.
    """
    if len(images) != len(retrieved.rows):
        raise UsageError(
            f"{len(images):,} images were given with the texts of {len(retrieved.rows):,}",
            "the images that the texts were retrieved for, in the same order",
            "Search for the texts of these images",
        )
    moments, prompts = reference.moments, reference.prompt_vectors
    if prompts.shape != (len(moments.parts), moments.dimension):
        raise UsageError(
            f"a reference of {len(moments.parts):,} classes in {moments.dimension} dimensions has "
            f"prompt vectors of shape {prompts.shape}",
            "one row for each class, in the same dimensions",
            "Correct its prompt_vectors",
        )
    for what, numbers, count in (
        ("images", left_out.images, len(images)),
        ("classes", left_out.classes, len(moments.parts)),
    ):
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < count:
            raise UsageError(
                f"left_out names {what} from {numbers.min():,} to {numbers.max():,}",
                f"{what} from 0 to {count - 1:,}",
                "Correct left_out",
            )
    check_counts(moments, needed=2 if prior is None else 1)
    outside = left_out_terms(images, retrieved, reference, left_out, prior, allocator=allocator)
    prompt_mean, prompt_scale = prompt_statistics(moments, prompts, prior)
    for classes in slices(len(moments.parts), classes_at_once(len(retrieved.vectors))):
        some = reference.only(classes).moments
        mean, std = text_statistics(some, retrieved.vectors, needed=1 if prior else 2)
        std = _moderated(std, some.counts[:, None], prior, np.s_[classes, None])
        std += EPSILON
        tables = Tables(np.ascontiguousarray(mean.T), np.ascontiguousarray((1 / std).T))
        del mean, std
        width = retrieved.similarity.shape[1] * (classes.stop - classes.start)
        for rows in slices(len(images), PULL_ENTRIES // max(width, prompts.shape[1] // 4)):
            similarity, position = retrieved.similarity[rows], retrieved.position[rows]
            cosine = images[rows].astype(np.float64) @ prompts[classes].T.astype(np.float64)
            ics = (prompt_mean[classes] - cosine) * prompt_scale[classes]
            ets = _pulls(similarity, position, tables).mean(axis=1)
            inside = outside.within(rows, classes)
            ics[inside.images, inside.classes] = inside.ics
            ets[inside.images, inside.classes] = inside.pull.mean(axis=1)
            yield ClassBlock(rows, classes, ics, ets, similarity, position, tables, inside)
            allocator.release(retrieved.similarity, retrieved.position, outside.pull)


def classes_at_once(texts: int) -> int:
    """How many classes are scored together where u = `texts` are distinct."""
    return max(1, TABLE_ENTRIES // max(1, texts))


def pull_of(block: ClassBlock, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """float64 [r, k], how far each retrieved text pulls some images, `rows` int64 [r] of the block,
    from the class `chosen` int64 [r] of each."""
    position = block.position[rows]
    mean = block.tables.mean[position, chosen[:, None]]
    scale = block.tables.scale[position, chosen[:, None]]
    pull = (block.similarity[rows] - mean) * scale
    place = np.full(len(block.ics), -1)
    place[rows] = np.arange(len(rows))
    place = place[block.left_out.images]
    own = np.flatnonzero(place >= 0)
    own = own[block.left_out.classes[own] == chosen[place[own]]]
    pull[place[own]] = block.left_out.pull[own]
    return pull


def prompt_statistics(
    moments: Moments, prompts: np.ndarray, prior: VariancePrior | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """μ_c and 1/(σ_c + 1e-8) of each class's similarity to its own prompt, float64 [C] each."""
    mean = np.array([part.mean @ p for part, p in zip(moments.parts, prompts, strict=True)])
    std = [class_std_float64(part, prompts[c : c + 1])[0] for c, part in enumerate(moments.parts)]
    return mean, 1 / (_moderated(np.array(std), moments.counts, prior, np.s_[:]) + EPSILON)


def left_out_terms(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    left_out: LeftOut,
    prior: VariancePrior | None = None,
    *,
    allocator: Allocator = IN_MEMORY,
) -> LeftOutTerms:
    """Terms of each image of `left_out` against each class it is filed under, without it."""
    left_out = left_out.ascending
    rows, classes = left_out.images, left_out.classes
    ics = np.empty(len(rows))
    pull = allocator.empty((len(rows), retrieved.similarity.shape[1]), np.float64)
    moments = reference.moments
    for number in np.unique(classes):
        name, part = moments.classes[number], moments.parts[number]
        check_counts(Moments((name,), (part,)), needed=3 if prior is None else 2)
        pairs = np.flatnonzero(classes == number)
        prompt = reference.prompt_vectors[number]
        used = np.zeros(len(retrieved.vectors), bool)
        for few in slices(len(pairs), PAIRS_AT_ONCE):
            used[retrieved.position[rows[pairs[few]]]] = True
        # The prompt is one more text, in front: each image's own row is then found only once.
        texts = class_texts(part, np.concatenate([prompt[None], retrieved.vectors[used]]))
        place = np.cumsum(used)
        for few in slices(len(pairs), PAIRS_AT_ONCE):
            some = rows[pairs[few]]
            members = images[some]
            position = np.insert(place[retrieved.position[some]], 0, 0, axis=1)
            mean, std = left_out_statistics(texts, members, position)
            std = _moderated(std, part.count - 1, prior, number) + EPSILON
            cosine = members.astype(np.float64) @ prompt.astype(np.float64)
            ics[pairs[few]] = (mean[:, 0] - cosine) / std[:, 0]
            pull[pairs[few]] = (retrieved.similarity[some] - mean[:, 1:]) / std[:, 1:]
            allocator.release(pull, retrieved.position, retrieved.similarity)
    return LeftOutTerms(rows, classes, ics, pull)


def filed_terms(
    images: Rows,
    retrieved: Retrieved,
    reference: Reference,
    given: np.ndarray,
    left_out: LeftOut,
) -> tuple[np.ndarray, np.ndarray]:
    """ICS and ETS, float64 [n] each, of the class `given` int [n] each image is filed under alone.

    NaN for -1. What `bliss_scores` keeps as `given_ics` and `given_ets`, without the terms of the
    other classes. Raises BlissError as `bliss_matrices` does.
    """
    ics, ets = np.full(len(given), np.nan), np.full(len(given), np.nan)
    own = given[left_out.images] == left_out.classes
    pairs = LeftOut(left_out.images[own], left_out.classes[own])
    terms = left_out_terms(images, retrieved, reference, pairs)
    ics[terms.images], ets[terms.images] = terms.ics, terms.pull.mean(axis=1)
    rest = np.flatnonzero((given >= 0) & np.isnan(ics))
    for number in np.unique(given[rest]):
        here = rest[given[rest] == number]
        texts, position = np.unique(retrieved.position[here], return_inverse=True)
        some = Retrieved(
            retrieved.similarity[here],
            retrieved.rows[here],
            position.reshape(len(here), -1).astype(np.int32),
            retrieved.vectors[texts],
        )
        found = bliss_scores(images[here], some, reference.only(slice(number, number + 1)))
        ics[here], ets[here] = found.ics, found.ets
    return ics, ets


def _moderated(
    std: np.ndarray, count: np.ndarray | int, prior: VariancePrior | None, classes: Any
) -> np.ndarray:
    """σ moderated towards the prior of `classes` (an index into its C); unchanged without one."""
    return std if prior is None else moderated(std, count, prior.std[classes], prior)


def _pulls(similarity: np.ndarray, position: np.ndarray, tables: Tables) -> np.ndarray:
    """float64 [b, k, c], each retrieved text's standardised similarity for each class."""
    pulls = np.take(tables.mean, position, axis=0)
    np.subtract(similarity[:, :, None], pulls, out=pulls)
    pulls *= np.take(tables.scale, position, axis=0)
    return pulls
