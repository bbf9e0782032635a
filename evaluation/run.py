"""Evaluate scores on the same draws, with one embedding and one retrieval pass.

Each score is fitted on each draw; what scores have in common, the search and sums over all texts,
is computed once and its cost shared.

What flagging by Benjamini–Hochberg would have meant is its realised FDP and power. In every draw
with a clean reference, CALIBRATION_SHARE of each class's reference images are held out. The score
is fitted on the others, scores of the held-out images give the test images conformal p-values, and
every image with q <= LEVEL is flagged. Expected FDP is then at most LEVEL times the share of
normals among the test images, if these are exchangeable with the held-out ones.
"""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ..errors import BlissError, UsageError
from ..indexer import Hits, Rows, blocks_of, exact_search, ranks
from ..progress import Progress, no_progress
from ..scorer import (
    RSCIN,
    Fitted,
    Fitting,
    Need,
    Normals,
    Query,
    Retrieved,
    Score,
    benjamini_hochberg,
    conformal_p_values,
    fit_score,
    for_classes,
    gather_texts,
    hold_out,
    search_with_terms,
    terms_of,
    with_rscin,
)
from .draws import Draw, World
from .metrics import METRICS, all_metrics, realised_fdp

LEVEL = 0.1
CALIBRATION_SHARE = 0.2


class NotFlagged(Exception):
    """Why no image can be flagged; its text is the reason, one short sentence."""


@dataclass(frozen=True)
class Calibration:
    """The h held-out reference images of one draw, and what is left to fit on."""

    fitting: Fitting
    query: Query
    """The held-out images; h may be 0."""


def held_out(world: World, draw: Draw) -> np.ndarray:
    """bool [m], which reference images to hold out."""
    hashes = [world.hashes[row] for row in draw.reference]
    return hold_out(draw.labels, ranks(hashes), CALIBRATION_SHARE)


def calibration_of(fitting: Fitting, held: np.ndarray, query: Query) -> Calibration:
    """`fitting` without the `held` bool [m] reference images, which are those of `query`."""
    normals = fitting.normals
    rest = replace(normals, images=normals.images[~held], labels=normals.labels[~held])
    return Calibration(replace(fitting, normals=rest), query)


def check_flagging(score: Score, draws: Sequence[Draw], sizes: Sequence[int]) -> None:
    """Raise NotFlagged for a score or draws no p-value can be had for; `sizes` are h a draw."""
    if score.stateful:
        raise NotFlagged("it looks at the other test images, so p-values do not hold")
    if Need.HEAD in score.needs:
        raise NotFlagged("its head may have been trained on the held-out images")
    if any(draw.strangers for draw in draws):
        raise NotFlagged("the reference is contaminated, so p-values do not hold")
    for number, (draw, size) in enumerate(zip(draws, sizes, strict=True)):
        needed = _needed(draw)
        if size < needed:
            raise NotFlagged(
                f"{size} reference images were held out in draw {number + 1}, and fewer than "
                f"{needed} cannot flag all its anomalies at {LEVEL:g}"
            )


def flagged_metrics(
    score: Score,
    changed: Mapping[str, float],
    calibration: Calibration,
    asked: tuple[Fitted, Query, np.ndarray],
    draw: Draw,
) -> np.ndarray:
    """float64 [groups, 2]: realised FDP and power, normals against each group alone.

    `asked` is the score fitted on the whole reference, the test query and its scores [n]: a score
    that needs no reference images is not fitted again. Raises NotFlagged where it cannot be.
    """
    fitted, query, scores = asked
    try:
        if score.uses_references:
            fitted = fit_score(score, calibration.fitting, **changed)
            scores = fitted(query)
        clean = fitted(calibration.query)
    except BlissError as error:
        raise NotFlagged(f"without the held-out images: {error}") from error
    p = conformal_p_values(clean, scores)
    found = np.empty((len(draw.groups), 2))
    for group in range(len(draw.groups)):
        some = np.isin(draw.group, (0, group + 1))
        flagged, anomalous = benjamini_hochberg(p[some]) <= LEVEL, draw.anomalous[some]
        found[group] = realised_fdp(flagged, anomalous), flagged[anomalous].mean()
    return found


def _needed(draw: Draw) -> int:
    """The least h with which all anomalies of each group, and nothing else, could be flagged.

    r of m images at level α need 1/(h + 1) <= α·r/m (Bates et al. 2023).
    """
    sizes = np.bincount(draw.group, minlength=len(draw.groups) + 1)
    return max(int(np.ceil((sizes[0] + r) / (LEVEL * r) - 1e-9)) - 1 for r in sizes[1:])


@dataclass(frozen=True)
class Words:
    """What is the same for every draw: the text side, and what was trained."""

    prompts: Mapping[str, np.ndarray]
    """Class name -> float32 [d], its label prompt's unit vector."""
    texts: Rows
    """M external texts."""
    k: int = 10
    """Texts retrieved for each image."""
    search: Callable[[np.ndarray, int], Hits] | None = None
    """Finds the k of `texts` nearest to unit rows [n, d], elsewhere; None: in this process."""
    extras: Mapping[Need, Any] = field(default_factory=dict)
    """The values of further needs of the scores; those of each class in the order of `prompts`."""


def fittings_of(
    world: World, draws: Sequence[Draw], words: Words, with_texts: bool
) -> list[Fitting]:
    """What each draw's scores are fitted on; BlissError for a class without a prompt."""
    texts = np.zeros((0, world.images.shape[1]), np.float32)
    if with_texts and len(words.texts):
        texts = np.concatenate([block for _, block in blocks_of(words.texts)])
    made, number = [], {name: c for c, name in enumerate(words.prompts)}
    for draw in draws:
        missing = [name for name in draw.normal if name not in words.prompts]
        if missing:
            raise BlissError(
                f"there is no prompt for {', '.join(missing)}", "one for every class", "Add them"
            )
        prompts = np.stack([words.prompts[name] for name in draw.normal])
        normals = Normals(draw.normal, prompts, world.images[draw.reference], draw.labels)
        classes = np.array([number[name] for name in draw.normal])
        made.append(Fitting(normals, texts, for_classes(words.extras, classes)))
    return made


Made = TypeVar("Made")


@dataclass(frozen=True)
class Cost:
    """Seconds and the most bytes that arrays took at once (what FAISS takes is not counted)."""

    seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(self.seconds + other.seconds, max(self.peak_bytes, other.peak_bytes))


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Trace what arrays take while this lasts: once for a whole evaluation, since switching on and
    off while a thread is about to end can crash Python 3.11."""
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    try:
        yield
    finally:
        if not already:
            tracemalloc.stop()


def measured(way: Callable[[], Made]) -> tuple[Made, Cost]:
    """What `way` makes and what it costs, in one run: tracing hardly slows work on arrays."""
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    start = time.perf_counter()
    made = way()
    seconds = time.perf_counter() - start
    return made, Cost(seconds, max(0, tracemalloc.get_traced_memory()[1] - before))


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """The mean of the seconds and the largest of the bytes."""
    whole = sum(costs, Cost())
    return replace(whole, seconds=whole.seconds / len(costs))


def shared_queries(
    world: World,
    asked: Sequence[np.ndarray],
    words: Words,
    fitted: Mapping[str, Sequence[Fitted]],
) -> tuple[list[Query], dict[str, Cost]]:
    """A query for each int64 array of world rows in `asked`, from one pass over images and texts.

    The pass finds the k nearest texts and works out what the `fitted` scores (of each name one a
    draw) ask of all texts. Its cost goes in equal parts to the scores that asked, for one draw:
    the search comes with it.
    """
    texts, k = words.texts, words.k
    rows = np.unique(np.concatenate(asked))
    images = world.images[rows]
    asking = {name: made for name, made in fitted.items() if any(map(terms_of, made))}
    costs: dict[str, Cost] = {}
    if asking:
        every = [one for made in asking.values() for one in made]
        corpus = next(term for one in every for term in terms_of(one)).texts
        whole, cost = measured(lambda: search_with_terms(images, corpus, k, every))
        cost = replace(cost, seconds=cost.seconds / sum(map(len, asking.values())))
        costs = dict.fromkeys(asking, cost)
    elif len(texts):
        hits = words.search(images, k) if words.search else exact_search(images, texts, k)
        whole = Query(images, gather_texts(hits, texts))
    else:
        whole = Query(images)
    return [_cut(whole, np.searchsorted(rows, some)) for some in asked], costs


def _cut(whole: Query, rows: np.ndarray) -> Query:
    """What asking about some of the images alone would have given."""
    terms = {term: values[rows] for term, values in whole.terms.items()}
    retrieved = whole.retrieved
    if retrieved is not None:
        distinct, position = np.unique(retrieved.position[rows], return_inverse=True)
        retrieved = Retrieved(
            retrieved.similarity[rows],
            retrieved.rows[rows],
            position.reshape(retrieved.rows[rows].shape).astype(np.int32),
            retrieved.vectors[distinct],
        )
    return Query(whole.images[rows], retrieved, terms)


@dataclass(frozen=True)
class Chosen:
    """A score with some of its parameters changed; `name` is how the table calls it."""

    name: str
    score: Score
    changed: Mapping[str, float] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, float]:
        """Every parameter's value."""
        return {**self.score.defaults, **self.changed}


Material = tuple[Draw, Query, Calibration]
"""What one draw's scores work on."""


@dataclass(frozen=True)
class ScoreResult:
    """What one score reached."""

    chosen: Chosen
    values: np.ndarray
    """float64 [draws, groups, 8], every one of METRICS for normals against each group."""
    seconds: float
    """Fitting and scoring one draw, mean over draws, with its part of what scores share."""
    peak_bytes: int
    """Most memory its arrays took at once in any draw; what FAISS takes is not counted."""
    flags: np.ndarray | None = None
    """float64 [draws, groups, 2]: realised FDP and power of flagging."""
    not_flagged: str = ""
    """Why there are no flags."""

    def metric(self, name: str, group: int | None = None) -> np.ndarray:
        """float64 [draws], one metric for one group or averaged over them."""
        values = self.values[:, :, METRICS.index(name)]
        return values.mean(axis=1) if group is None else values[:, group]


@dataclass(frozen=True)
class EvalResult:
    """All scores on all draws."""

    groups: tuple[str, ...]
    """What the normals were told from: other classes, outlier sets."""
    draws: tuple[Draw, ...]
    scores: tuple[ScoreResult, ...]
    skipped: Mapping[str, str]
    """Score -> why it could not be used."""
    leaked: int
    """Test images whose content is also in the reference, at most in any draw."""
    calibration: tuple[int, ...] = ()
    """Reference images held out to flag with, in each draw."""

    @property
    def anomaly_ratio(self) -> float:
        """Share of anomalies among the test images, mean over draws and groups (AUPR needs it)."""
        shares = [
            (draw.group == g).sum() / np.isin(draw.group, (0, g)).sum()
            for draw in self.draws
            for g in range(1, len(self.groups) + 1)
        ]
        return float(np.mean(shares))


def choose_scores(names: Sequence[str], known: Mapping[str, Score]) -> tuple[Chosen, ...]:
    """Scores by name, with parameters as in `knn:k=5` or `bliss:weight=0.3`; none named: all.

    `NAME+rscin` is NAME smoothed over the test images.
    """
    chosen = []
    for spec in names or tuple(known):
        name, _, rest = spec.partition(":")
        plain = name.removesuffix(RSCIN)
        if plain not in known:
            raise UsageError(
                f"the score '{name}' was asked for",
                f"one of {', '.join(known)}, or one of them with {RSCIN} after it",
                "Correct --score",
            )
        score = known[plain] if plain == name else with_rscin(known[plain])
        changed = {}
        for pair in rest.split(",") if rest else ():
            key, equals, value = pair.partition("=")
            try:
                changed[key] = float(value)
            except ValueError:
                equals = ""
            if not equals or key not in score.defaults:
                raise UsageError(
                    f"--score {spec} was given",
                    f"NAME:PARAMETER=NUMBER with a parameter of {name}: "
                    f"{', '.join(score.defaults) or 'it has none'}",
                    "Correct --score",
                )
        chosen.append(Chosen(spec, score, changed))
    if len({entry.name for entry in chosen}) < len(chosen):
        raise UsageError("a score was named twice", "every score once", "Leave one out")
    return tuple(chosen)


@tracing()
def evaluate(
    world: World,
    draws: Sequence[Draw],
    words: Words,
    scores: Sequence[Chosen],
    progress: Progress = no_progress,
) -> EvalResult:
    """Run every score over the same draws.

    A score that the draws lack something for is skipped with its reason; where that is so for
    all of them, the first reason is raised.
    """
    groups = draws[0].groups
    if any(draw.groups != groups for draw in draws):
        raise BlissError(
            "the draws are tested against different groups", "the same in all", "Split them up"
        )
    fittings = fittings_of(world, draws, words, any(Need.TEXTS in c.score.needs for c in scores))
    held = [held_out(world, draw) for draw in draws]
    clean = [draw.reference[some] for draw, some in zip(draws, held, strict=True)]
    results: list[ScoreResult] = []
    refused: dict[str, BlissError] = {}
    fitted: dict[str, list[Fitted]] = {}
    costs: dict[str, Cost] = {}
    for chosen in scores:
        try:
            fitted[chosen.name], costs[chosen.name] = _fit_one(chosen, fittings)
        except BlissError as error:
            refused[chosen.name] = error
    asked = [*(draw.test for draw in draws), *clean]
    queries, passed = shared_queries(world, asked, words, fitted)
    material = [
        (draw, query, calibration_of(fitting, some, calibration))
        for draw, fitting, query, some, calibration in zip(
            draws, fittings, queries[: len(draws)], held, queries[len(draws) :], strict=True
        )
    ]
    for number, chosen in enumerate(scores):
        try:
            if chosen.name in fitted:
                cost = costs[chosen.name] + passed.get(chosen.name, Cost())
                # Popped, so that what it holds is free once it is done.
                made = fitted.pop(chosen.name)
                results.append(_evaluate_one(chosen, made, material, cost))
        except BlissError as error:
            refused[chosen.name] = error
        progress("scores evaluated", number + 1, len(scores))
    skipped = {c.name: str(refused[c.name]) for c in scores if c.name in refused}
    if skipped and not results:
        raise refused[next(iter(skipped))]
    sizes = tuple(int(some.sum()) for some in held)
    return EvalResult(groups, tuple(draws), tuple(results), skipped, _leaked(world, draws), sizes)


def _fit_one(chosen: Chosen, fittings: Sequence[Fitting]) -> tuple[list[Fitted], Cost]:
    """One score fitted for every draw, and what one draw costs."""
    found = [
        measured(partial(fit_score, chosen.score, fitting, **chosen.changed))
        for fitting in fittings
    ]
    return [fitted for fitted, _ in found], mean_cost([cost for _, cost in found])


def _evaluate_one(
    chosen: Chosen, fitted: Sequence[Fitted], material: Sequence[Material], before: Cost
) -> ScoreResult:
    draws = [draw for draw, *_ in material]
    values = np.empty((len(draws), len(draws[0].groups), len(METRICS)))
    flags, not_flagged = np.empty((*values.shape[:2], 2)), ""
    try:
        sizes = [len(calibration.query.images) for *_, calibration in material]
        check_flagging(chosen.score, draws, sizes)
    except NotFlagged as reason:
        not_flagged = str(reason)
    costs = []
    for number, (draw, query, calibration) in enumerate(material):
        scores, cost = measured(partial(fitted[number], query))
        costs.append(cost)
        _check_scores(chosen, scores, len(draw.test))
        for group in range(len(draw.groups)):
            some = np.isin(draw.group, (0, group + 1))
            values[number, group] = all_metrics(scores[some], draw.anomalous[some])
        if not not_flagged:
            asked = fitted[number], query, scores
            try:
                flags[number] = flagged_metrics(
                    chosen.score, chosen.changed, calibration, asked, draw
                )
            except NotFlagged as reason:
                not_flagged = str(reason)
    cost = before + mean_cost(costs)
    kept = None if not_flagged else flags
    return ScoreResult(chosen, values, cost.seconds, cost.peak_bytes, kept, not_flagged)


def _check_scores(chosen: Chosen, scores: np.ndarray, count: int) -> None:
    if scores.shape != (count,) or not np.isfinite(scores).all():
        raise BlissError(
            f"{chosen.name} gave scores of shape {scores.shape}, "
            f"{int((~np.isfinite(scores)).sum())} of them not finite",
            f"{count} finite numbers",
            "Report it, or leave this score out",
        )


def _leaked(world: World, draws: Sequence[Draw]) -> int:
    most = 0
    for draw in draws:
        known = {world.hashes[row] for row in draw.reference}
        most = max(most, sum(world.hashes[row] in known for row in draw.test))
    return most
