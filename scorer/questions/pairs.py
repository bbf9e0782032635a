"""Pairs: how well each caption fits its image, corrected for what is near to everything.

For a pair of image x and text t, with the cosine s(x, t) = x·t and a temperature τ = 0.01,

    a(x, t) = τ/2·(log Σ_u e^{s(x, u)/τ} + log Σ_y e^{s(y, t)/τ}) - s(x, t)

u runs over t and the texts that are not paired with x, y over x and the images that are not paired
with t. This is negCLIPLoss (Wang et al., NeurIPS 2024, arXiv 2405.19547) with its sign turned: 0 is
a pair that nothing rivals, higher is worse. The sums need only their largest terms: the k nearest.

    p = (1 + #{mismatched pairs of score <= a(x, t)})/(1 + #{mismatched pairs})

is the p-value of "this caption is a random caption of the collection": small where it fits. A
mismatched pair is an image and a caption of two pairs, with the sums those pairs have. Keeping
q <= α (Benjamini and Hochberg) keeps at most a share α of random captions. The share of pairs
whose caption fits no better than a random one (Storey, J. R. Stat. Soc. B 2002, λ = ½) is

    π₀ = min(1, 2·#{p > ½}/n)

a lower bound of the share of wrong captions: a near miss fits better than a random caption.

    >>> import numpy as np
    >>> rows = np.eye(4, dtype=np.float32)
    >>> swapped = Pairs(rows, rows, np.arange(4), np.array([0, 1, 3, 2]))
    >>> found = score_pairs(swapped)
    >>> found.score.round(2).tolist(), found.better_text.tolist()
    ([0.0, 0.0, 1.0, 1.0], [-1, -1, 2, 3])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...arguments import checked_fields
from ...errors import UsageError
from ...indexer.vectors import Hits, Rows, exact_search, slices
from ..calibration import benjamini_hochberg, conformal_p_values

IMAGES_AT_ONCE, TEXTS_AT_ONCE = 512, 4096
"""Of one product of `full_sums`, 8 MiB."""
QUERIES_AT_ONCE = 16_384
FULL_PAIRS = 200_000**2
"""Images times texts up to which all terms of the sums are added."""
WHOLE_NULL, NULL_PAIRS = 2000, 1_000_000
"""Pairs up to which every mismatched pair is scored, and how many are drawn for more pairs."""
FLOOR = -80.0
"""e^FLOOR is the smallest term that is told from 0 in float32 without denormal numbers."""
SEED = 0


@dataclass(frozen=True)
class Pairs:
    """P pairs of n images and M texts, each a unit row that occurs in one or more pairs."""

    images: Rows
    texts: Rows
    image: np.ndarray
    """int64 [P], row of `images`."""
    text: np.ndarray
    """int64 [P], row of `texts`."""

    def __post_init__(self) -> None:
        """UsageError unless there are two images, two texts, and a row of each for every pair."""
        n, m, image, text = len(self.images), len(self.texts), self.image, self.text
        if len(image) != len(text) or n < 2 or m < 2 or len(image) < 2:
            raise UsageError(
                f"{len(image)} image rows and {len(text)} text rows were given for {n:,} different "
                f"images and {m:,} different captions",
                "at least two pairs of different images and different captions: a caption is "
                "compared with those of other images",
                "Give a larger collection",
            )
        if min(image.min(), text.min()) < 0 or image.max() >= n or text.max() >= m:
            raise UsageError(
                "a pair names a row that is not there",
                f"image rows from 0 to {n - 1} and text rows from 0 to {m - 1}",
                "Check the rows of the pairs",
            )


@checked_fields
@dataclass(frozen=True)
class PairSettings:
    """What the scores and the keep list depend on besides the pairs."""

    level: float = 0.05
    """α, the largest share of random captions among the pairs that are kept."""
    temperature: float = 0.01
    """τ."""
    k: int = 10
    """Nearest rivals in each sum, where not all are added."""
    full: bool | None = None
    """Whether all rivals are added; None: up to FULL_PAIRS."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise UsageError(
                f"a level of {self.level} was given", "a number between 0 and 1", "Try 0.05"
            )
        if not 0.001 <= self.temperature <= 100:
            raise UsageError(
                f"a temperature of {self.temperature} was given", "0.001 to 100", "Try 0.01"
            )
        if self.k < 1:
            raise UsageError(f"k = {self.k} was given", "1 or more", "Try 10")


DEFAULTS = PairSettings()


@dataclass(frozen=True)
class PairScores:
    """What is known of P pairs."""

    similarity: np.ndarray
    """float64 [P], the cosines."""
    score: np.ndarray
    """float64 [P], higher = the caption fits worse."""
    text_bias: np.ndarray
    """float64 [P], τ/2 times the log sum of the caption."""
    p: np.ndarray
    """float64 [P], small = it fits better than random captions do."""
    q: np.ndarray
    """float64 [P]."""
    kept: np.ndarray
    """bool [P], q <= α."""
    better_text: np.ndarray
    """int64 [P], a text that would fit the image better; -1 where none was found or looked for."""
    better_text_gain: np.ndarray
    """float64 [P], by how much its score is lower."""
    better_image: np.ndarray
    """int64 [P], an image that the text would fit better, or -1."""
    better_image_gain: np.ndarray
    """float64 [P]."""

    @property
    def order(self) -> np.ndarray:
        """int64 [P], the worst pair first."""
        return np.lexsort((np.arange(len(self.score)), -self.score))

    @property
    def random_share(self) -> float:
        """π₀, the share of captions that fit no better than random ones."""
        return random_share(self.p)


Search = Callable[[np.ndarray, int], Hits]
"""The k nearest rows to unit queries [b, d]."""


def score_pairs(
    pairs: Pairs,
    settings: PairSettings = DEFAULTS,
    nearest_texts: Search | None = None,
    nearest_images: Search | None = None,
    suggest: int = 1000,
) -> PairScores:
    """Score every pair; better texts and images are looked for where a pair is not kept.

    Also for the `suggest` worst pairs. Beyond FULL_PAIRS the sums have their `settings.k` largest
    terms, found by exact search or by `nearest_texts` and `nearest_images`.
    """
    full = settings.full
    if full is None:
        full = nearest_texts is None and len(pairs.images) * len(pairs.texts) <= FULL_PAIRS
    find_texts = nearest_texts or (lambda some, k: exact_search(some, pairs.texts, k))
    find_images = nearest_images or (lambda some, k: exact_search(some, pairs.images, k))
    if full:
        rest = full_sums(pairs, settings.temperature)
    else:
        rest = (
            top_sums(pairs.images, own_rows(pairs.image, pairs.text, len(pairs.images)), find_texts,
                     len(pairs.texts), settings),
            top_sums(pairs.texts, own_rows(pairs.text, pairs.image, len(pairs.texts)), find_images,
                     len(pairs.images), settings),
        )  # fmt: skip
    similarity = pair_similarity(pairs, pairs.image, pairs.text)
    own = similarity / settings.temperature
    sums = np.logaddexp(rest[0][pairs.image], own), np.logaddexp(rest[1][pairs.text], own)
    half = settings.temperature / 2
    score = np.maximum(half * (sums[0] + sums[1]) - similarity, 0)
    p = conformal_p_values(-mismatch_scores(pairs, sums, half), -score)
    q = benjamini_hochberg(p)
    kept = q <= settings.level
    doubtful = np.union1d(np.flatnonzero(~kept), np.argsort(-score, kind="stable")[:suggest])
    sides = []
    for at, rows, mine, theirs, search in (
        (0, pairs.images, pairs.image, pairs.text, None if full else find_texts),
        (1, pairs.texts, pairs.text, pairs.image, None if full else find_images),
    ):
        others = pairs.texts if at == 0 else pairs.images
        bias = half * whole_sums(rest[1 - at], theirs, own)
        asked, place = np.unique(mine[doubtful], return_inverse=True)
        best, fit = best_rows(rows, asked, others, bias, own_rows(mine, theirs, len(rows)), search)
        gain = fit[place] + score[doubtful] - half * whole_sums(rest[at], mine, own)[mine[doubtful]]
        found, gains = np.full(len(score), -1), np.full(len(score), np.nan)
        better = gain > 0
        found[doubtful[better]] = best[place[better]]
        gains[doubtful[better]] = gain[better]
        sides.append((found, gains))
    return PairScores(similarity, score, half * sums[1], p, q, kept, *sides[0], *sides[1])


def random_share(p: np.ndarray) -> float:
    """π₀ from p-values [n]."""
    return min(1.0, 2 * float((p > 0.5).mean()))


@dataclass(frozen=True)
class OwnRows:
    """The rows of the other side that each row is paired with."""

    starts: np.ndarray
    rows: np.ndarray
    """Those of row i are `rows[starts[i] : starts[i + 1]]`."""

    def counts(self, of: np.ndarray) -> np.ndarray:
        """int64 [b], how many each of rows int64 [b] has."""
        return self.starts[of + 1] - self.starts[of]

    def places(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in `of`, row of the other side) of every one that rows int64 [b] have."""
        counts = self.counts(of)
        place = np.repeat(np.arange(len(of)), counts)
        shift = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self.rows[self.starts[of][place] + shift]

    def among(self, of: np.ndarray, found: np.ndarray) -> np.ndarray:
        """bool [b, k], which of `found` int64 [b, k] are paired with rows `of` int64 [b]."""
        place, rows = self.places(of)
        width = 1 + max(int(found.max(initial=0)), int(rows.max(initial=0)))
        keys = np.arange(len(of))[:, None] * width + found
        return np.isin(keys, place * width + rows)


def own_rows(mine: np.ndarray, theirs: np.ndarray, count: int) -> OwnRows:
    """The distinct rows int64 `theirs` [P] that each row of `mine` [P], of 0..count - 1, has."""
    width = int(theirs.max(initial=0)) + 1
    keys = np.unique(mine * np.int64(width) + theirs)
    starts = np.searchsorted(keys, np.arange(count + 1) * np.int64(width))
    return OwnRows(starts, keys % width)


def pair_similarity(pairs: Pairs, image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """float64 [m], the cosine of each of m images and texts, by row."""
    found = np.empty(len(image))
    for some in slices(len(image), QUERIES_AT_ONCE):
        images, texts = pairs.images[image[some]], pairs.texts[text[some]]
        found[some] = np.einsum("nd,nd->n", images, texts, dtype=np.float64)
    return found


def full_sums(pairs: Pairs, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """log Σ e^{s/τ} over all rivals: float64 [n] of each image, float64 [M] of each text.

    Terms are float32, e^{(s - m)/τ} with the largest s of an image in a block of texts as m. A text
    whose terms are all too small for that is added again in float64.
    """
    n, m = len(pairs.images), len(pairs.texts)
    of_images, of_texts = np.full(n, -np.inf), np.full(m, -np.inf)
    own = own_rows(pairs.image, pairs.text, len(pairs.images))
    scale = np.float32(1 / temperature)
    for some in slices(n, IMAGES_AT_ONCE):
        images = np.ascontiguousarray(pairs.images[some], np.float32)
        place, paired = own.places(np.arange(some.start, some.start + len(images)))
        order = np.argsort(paired, kind="stable")
        place, paired = place[order], paired[order]
        for other in slices(m, TEXTS_AT_ONCE):
            texts = np.ascontiguousarray(pairs.texts[other], np.float32)
            first, last = np.searchsorted(paired, (other.start, other.start + len(texts)))
            mine = place[first:last], paired[first:last] - other.start
            terms = images @ texts.T
            terms[mine] = -np.inf
            top = terms.max(axis=1)
            top[np.isinf(top)] = -1
            terms -= top[:, None]
            terms *= scale
            np.maximum(terms, FLOOR, out=terms)
            np.exp(terms, out=terms)
            terms[mine] = 0
            with np.errstate(divide="ignore"):
                rows = terms @ np.ones(len(texts), np.float32)
                here = np.log(rows.astype(np.float64)) + top / temperature
                of_images[some] = np.logaddexp(of_images[some], here)
                weights = np.exp((top - top.max()) / temperature, dtype=np.float64)
                column = (weights.astype(np.float32) @ terms).astype(np.float64)
                there = np.log(column) + top.max() / temperature
            low = np.flatnonzero(column < 1e-25 * weights.sum())
            if low.size:
                exact = images.astype(np.float64) @ texts[low].T.astype(np.float64)
                hidden = np.zeros((len(images), len(texts)), bool)
                hidden[mine] = True
                there[low] = _log_sum(np.where(hidden[:, low], -np.inf, exact) / temperature)
            of_texts[other] = np.logaddexp(of_texts[other], there)
    return of_images, of_texts


def _log_sum(terms: np.ndarray) -> np.ndarray:
    """float64 [b], log Σ e^term over the rows of [a, b]; -inf where there is none."""
    top = terms.max(axis=0)
    safe = np.where(np.isinf(top), 0, top)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(terms - safe).sum(axis=0)) + safe


def top_sums(
    rows: Rows, own: OwnRows, search: Search, count: int, settings: PairSettings
) -> np.ndarray:
    """float64 [n], log Σ e^{s/τ} over the k nearest rivals of each row, of `count` on that side."""
    n = len(rows)
    found = np.full(n, -np.inf)
    for some in slices(n, QUERIES_AT_ONCE):
        of = np.arange(some.start, min(some.stop, n))
        hits = rivals(rows[some], of, own, search, count, settings.k)
        with np.errstate(divide="ignore"):
            found[of] = _log_sum(hits.similarity.T.astype(np.float64) / settings.temperature)
    return found


def rivals(
    queries: np.ndarray, of: np.ndarray, own: OwnRows, search: Search, count: int, k: int
) -> Hits:
    """The k nearest rows that are not paired with the queries [b, d], -inf where there are fewer.

    `of` int64 [b] are the queries' rows.
    """
    most = int(own.counts(of).max(initial=0))
    hits = search(np.ascontiguousarray(queries, np.float32), min(k + most, count))
    similarity = hits.similarity.copy()
    similarity[own.among(of, hits.rows) | (hits.rows < 0)] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return Hits(
        np.take_along_axis(similarity, order, axis=1), np.take_along_axis(hits.rows, order, axis=1)
    )


def whole_sums(rest: np.ndarray, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """float64 [n], the sums of rivals `rest` with the terms `own` float64 [P] of pairs added."""
    whole = rest.copy()
    np.logaddexp.at(whole, rows, own)
    return whole


def mismatch_scores(pairs: Pairs, sums: tuple[np.ndarray, np.ndarray], half: float) -> np.ndarray:
    """float64 [m], scores of mismatched pairs: all, or NULL_PAIRS drawn with a fixed seed."""
    count = len(pairs.image)
    own = own_rows(pairs.image, pairs.text, len(pairs.images))
    if count <= WHOLE_NULL:
        image, text = np.divmod(np.arange(count * count), count)
        products = pairs.images[pairs.image] @ pairs.texts[pairs.text].T
        similarity = products.astype(np.float64).ravel()
    else:
        rng = np.random.default_rng(SEED)
        image = np.sort(rng.integers(count, size=NULL_PAIRS))
        text = rng.integers(count, size=NULL_PAIRS)
        similarity = pair_similarity(pairs, pairs.image[image], pairs.text[text])
    mismatched = np.concatenate(
        [
            ~own.among(pairs.image[image[some]], pairs.text[text[some]][:, None])[:, 0]
            for some in slices(len(image), NULL_PAIRS)
        ]
    )
    scores = half * (sums[0][image] + sums[1][text]) - similarity
    return scores[mismatched]


def best_rows(
    rows: Rows,
    asked: np.ndarray,
    others: Rows,
    bias: np.ndarray,
    own: OwnRows,
    search: Search | None,
) -> tuple[np.ndarray, np.ndarray]:
    """int64 [a] and float64 [a]: the other row of largest s - bias, and that, for rows `asked`.

    Rows paired already are left out; -1 and -inf where none is left. With `search`, the largest
    among the nearest.
    """
    best, fit = np.full(len(asked), -1), np.full(len(asked), -np.inf)
    for some in slices(len(asked), IMAGES_AT_ONCE):
        of = asked[some]
        queries = np.ascontiguousarray(rows[of], np.float32)
        for found, similarity in _candidates(queries, of, others, own, search):
            corrected = similarity - bias[np.maximum(found, 0)]
            at = corrected.argmax(axis=1)[:, None]
            value = np.take_along_axis(corrected, at, axis=1)[:, 0]
            larger = value > fit[some]
            row = np.take_along_axis(np.broadcast_to(found, corrected.shape), at, axis=1)[:, 0]
            best[some] = np.where(larger, row, best[some])
            fit[some] = np.where(larger, value, fit[some])
    return best, fit


def _candidates(
    queries: np.ndarray, of: np.ndarray, others: Rows, own: OwnRows, search: Search | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, similarities with -inf for those paired already): the nearest, or all by blocks."""
    if search is not None:
        hits = rivals(queries, of, own, search, len(others), 32)
        yield hits.rows, hits.similarity.astype(np.float64)
        return
    place, paired = own.places(of)
    for other in slices(len(others), TEXTS_AT_ONCE):
        block = others[other]
        similarity = (queries @ block.T).astype(np.float64)
        here = (paired >= other.start) & (paired < other.start + len(block))
        similarity[place[here], paired[here] - other.start] = -np.inf
        yield np.arange(other.start, other.start + len(block))[None], similarity
