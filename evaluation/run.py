"""Every chosen score on the same draws, from one embedding and one retrieval pass."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import BlissError, UsageError
from ..indexer.index_building import Progress, no_progress
from ..indexer.nearest import Vectors, nearest_texts
from ..scorer.retrieved import Retrieved, gather_texts
from ..scorer.scores.contract import Fitting, Normals, Query, Score, fit_score
from .draws import Draw
from .metrics import METRICS, all_metrics
from .world import World


@dataclass(frozen=True)
class Words:
    """The text side, the same for every draw."""

    prompts: Mapping[str, np.ndarray]
    """Class name -> float32 [d], its label prompt's unit vector."""
    texts: Vectors
    """M external texts."""
    k: int = 10
    """Texts retrieved for each image."""
    names: np.ndarray | None = None
    """str [M]."""
    something: np.ndarray | None = None
    """float32 [d], "a photo of something"."""
    no_prompts: Mapping[str, np.ndarray] | None = None
    """Class name -> float32 [d], its "no" vector, where there is a CLIPN."""


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


@dataclass(frozen=True)
class ScoreResult:
    """What one score reached."""

    chosen: Chosen
    values: np.ndarray
    """float64 [draws, groups, 8], every one of METRICS for normals against each group."""
    seconds: float
    """Fitting and scoring one draw, mean over draws."""
    peak_bytes: int
    """Most memory its arrays took at once in the first draw; what FAISS takes is not counted."""

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
    """Scores by name, with parameters as in `knn:k=5` or `bliss:weight=0.3`; none named: all."""
    chosen = []
    for spec in names or tuple(known):
        name, _, rest = spec.partition(":")
        if name not in known:
            raise UsageError(
                f"the score '{name}' was asked for", f"one of {', '.join(known)}", "Correct --score"
            )
        changed = {}
        for pair in rest.split(",") if rest else ():
            key, equals, value = pair.partition("=")
            try:
                changed[key] = float(value)
            except ValueError:
                equals = ""
            if not equals or key not in known[name].defaults:
                raise UsageError(
                    f"--score {spec} was given",
                    f"NAME:PARAMETER=NUMBER with a parameter of {name}: "
                    f"{', '.join(known[name].defaults) or 'it has none'}",
                    "Correct --score",
                )
        chosen.append(Chosen(spec, known[name], changed))
    if len({entry.name for entry in chosen}) < len(chosen):
        raise UsageError("a score was named twice", "every score once", "Leave one out")
    return tuple(chosen)


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
    fittings = _fittings(world, draws, words, any(c.score.needs_texts for c in scores))
    queries = _queries(world, draws, words)
    results: list[ScoreResult] = []
    skipped: dict[str, str] = {}
    first: BlissError | None = None
    for number, chosen in enumerate(scores):
        try:
            results.append(_evaluate_one(chosen, draws, fittings, queries))
        except BlissError as error:
            first = first or error
            skipped[chosen.name] = str(error)
        progress("scores evaluated", number + 1, len(scores))
    if first is not None and not results:
        raise first
    return EvalResult(groups, tuple(draws), tuple(results), skipped, _leaked(world, draws))


def _fittings(world: World, draws: Sequence[Draw], words: Words, with_texts: bool) -> list[Fitting]:
    texts = np.zeros((0, world.images.shape[1]), np.float32)
    if with_texts and words.texts.count:
        texts = np.concatenate([block for _, block in words.texts.blocks()])
    made = []
    for draw in draws:
        missing = [name for name in draw.normal if name not in words.prompts]
        if missing:
            raise BlissError(
                f"there is no prompt for {', '.join(missing)}", "one for every class", "Add them"
            )
        prompts = np.stack([words.prompts[name] for name in draw.normal])
        normals = Normals(draw.normal, prompts, world.images[draw.reference], draw.labels)
        names = words.names if with_texts else None
        no_prompts = None
        if words.no_prompts is not None:
            no_prompts = np.stack([words.no_prompts[name] for name in draw.normal])
        made.append(Fitting(normals, texts, names, words.something, no_prompts))
    return made


def _queries(world: World, draws: Sequence[Draw], words: Words) -> list[Query]:
    """One retrieval for all test images of all draws, cut to each."""
    tested = np.unique(np.concatenate([draw.test for draw in draws]))
    everything: Retrieved | None = None
    if words.texts.count:
        hits = nearest_texts(world.images[tested], words.texts, words.k)
        everything = gather_texts(hits, words.texts.fetch)
    made = []
    for draw in draws:
        cut = None if everything is None else _cut(everything, np.searchsorted(tested, draw.test))
        made.append(Query(world.images[draw.test], cut))
    return made


def _cut(retrieved: Retrieved, rows: np.ndarray) -> Retrieved:
    """What retrieving for some of the images alone would have given."""
    distinct, position = np.unique(retrieved.position[rows], return_inverse=True)
    return Retrieved(
        retrieved.similarity[rows],
        retrieved.rows[rows],
        position.reshape(len(rows), -1).astype(np.int32),
        retrieved.vectors[distinct],
    )


def _evaluate_one(
    chosen: Chosen, draws: Sequence[Draw], fittings: Sequence[Fitting], queries: Sequence[Query]
) -> ScoreResult:
    values = np.empty((len(draws), len(draws[0].groups), len(METRICS)))
    peak = _peak_of(chosen, fittings[0], queries[0])
    seconds = 0.0
    for number, (draw, fitting, query) in enumerate(zip(draws, fittings, queries, strict=True)):
        start = time.perf_counter()
        scores = fit_score(chosen.score, fitting, **chosen.changed)(query)
        seconds += time.perf_counter() - start
        if scores.shape != draw.test.shape or not np.isfinite(scores).all():
            raise BlissError(
                f"{chosen.name} gave scores of shape {scores.shape}, "
                f"{int((~np.isfinite(scores)).sum())} of them not finite",
                f"{len(draw.test)} finite numbers",
                "Report it, or leave this score out",
            )
        for group in range(len(draw.groups)):
            some = np.isin(draw.group, (0, group + 1))
            values[number, group] = all_metrics(scores[some], draw.anomalous[some])
    return ScoreResult(chosen, values, seconds / len(draws), peak)


def _peak_of(chosen: Chosen, fitting: Fitting, query: Query) -> int:
    """An untimed run, which also warms up what comes after."""
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        fit_score(chosen.score, fitting, **chosen.changed)(query)
        return max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        if not already:
            tracemalloc.stop()


def _leaked(world: World, draws: Sequence[Draw]) -> int:
    most = 0
    for draw in draws:
        known = {world.hashes[row] for row in draw.reference}
        most = max(most, sum(world.hashes[row] in known for row in draw.test))
    return most
