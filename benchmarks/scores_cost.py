"""Claim: all scores together cost at most 3 times what BLISS alone costs, its retrieval included,
and bliss+ alone at most 1.5 times.

One world of clustered unit rows; every score of the registry is fitted on it and scores the same
images, all of them as an evaluation does, where one pass over the texts finds the nearest and makes
all sums that scores ask for; in the middle case each on its own as well. RsCIN is a wrapper and not
among them, nor are scores that need a trained head.
Seconds and peak extra memory are of one run each: the large case takes minutes.

Run as: python benchmarks/scores_cost.py [--record] [--runs 0: the middle case alone]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import Retrieved, gather_texts
from blissaudit.scorer.scores.contract import Fitted, Fitting, Need, Normals, Query, fit_score
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.scorer.scores.text_terms import search_with_terms
from measuring import Report, begin, measured, unit, verdict

FROZEN = {
    name: score
    for name, score in SCORES.items()
    if not score.trained and not name.startswith("outlier")
}
CLAIM = "every score on the same embeddings, against BLISS with its retrieval"
TARGET, PLUS_TARGET = 3.0, 1.5
K = 10
PASS = "one pass: the nearest texts, and all sums over texts"
NOISE = 1.5
"""Of an image and a text, in lengths of its class centre: cosines then spread as CLIP's do."""


@dataclass(frozen=True)
class Size:
    """How large a world is."""

    images: int
    classes: int
    texts: int
    per_class: int
    dimension: int = 512


MIDDLE = Size(images=10_000, classes=30, texts=10_000, per_class=50)
LARGE = Size(images=100_000, classes=100, texts=100_000, per_class=50)


@dataclass
class Costs:
    """Seconds and bytes of each step, by name."""

    seconds: dict[str, float] = field(default_factory=dict)
    extra: dict[str, int | None] = field(default_factory=dict)

    def of(self, name: str, way: Callable[[], Any]) -> Any:
        """What `way` gives; what it cost is kept under `name`."""
        made, self.seconds[name], self.extra[name] = measured(way)
        return made


def make_world(size: Size, seed: int = 0) -> tuple[Fitting, np.ndarray]:
    """What to fit on, and the images [n, d] to score."""
    rng = np.random.default_rng(seed)

    def noise(rows: int) -> np.ndarray:
        made = rng.standard_normal((rows, size.dimension), np.float32)
        made *= np.float32(NOISE / np.sqrt(size.dimension))
        return made

    centres = unit(noise(size.classes))
    labels = np.repeat(np.arange(size.classes), size.per_class)
    references = unit(centres[labels] + noise(len(labels)))
    texts = rng.uniform(0, 1, (size.texts, 1)).astype(np.float32)
    texts = unit(texts * centres[rng.integers(0, size.classes, size.texts)] + noise(size.texts))
    images = unit(centres[rng.integers(0, size.classes, size.images)] + noise(size.images))
    names = tuple(f"class {number}" for number in range(size.classes))
    normals = Normals(names, unit(centres + noise(size.classes)), references, labels)
    return Fitting(normals, texts, {Need.SOMETHING: texts[0]}), images


def retrieve(fitting: Fitting, images: np.ndarray) -> Retrieved:
    """The K nearest texts of every image."""
    texts = fitting.texts
    return gather_texts(exact_search(images, texts, K), texts)


def alone(
    fitting: Fitting, query: Query, names: Iterable[str]
) -> tuple[dict[str, np.ndarray], Costs, Costs]:
    """Each named score on its own: its values, and what fitting and scoring cost."""
    values, fits, scorings = {}, Costs(), Costs()
    for name in names:
        score = FROZEN[name]
        fitted = fits.of(name, lambda score=score: fit_score(score, fitting))
        values[name] = scorings.of(name, lambda fitted=fitted: fitted(query))
    return values, fits, scorings


def together(fitting: Fitting, images: np.ndarray) -> tuple[dict[str, np.ndarray], Costs]:
    """All scores as one evaluation makes them; what each step cost."""
    costs = Costs()
    fitted: dict[str, Fitted] = {
        name: costs.of(f"fit {name}", lambda score=score: fit_score(score, fitting))
        for name, score in FROZEN.items()
    }
    texts = fitting.texts
    query = costs.of(PASS, lambda: search_with_terms(images, texts, K, fitted.values()))
    values = {
        name: costs.of(f"score {name}", lambda one=one: one(query)) for name, one in fitted.items()
    }
    return values, costs


def plus_alone(fitting: Fitting, images: np.ndarray) -> Costs:
    """What bliss+ costs as an audit makes it: fitted, then one pass that searches and sums."""
    costs = Costs()
    fitted = costs.of("fit", lambda: fit_score(FROZEN["bliss+"], fitting))
    query = costs.of("pass", lambda: search_with_terms(images, fitting.texts, K, [fitted]))
    costs.of("score", lambda: fitted(query))
    return costs


def case(report: Report, title: str, size: Size, own: Iterable[str]) -> None:
    """Print the table of one size, and the ratio; the scores of `own` also run on their own."""
    fitting, images = make_world(size)
    report.say(
        f"\n{title}: n = {size.images:,}, C = {size.classes}, M = {size.texts:,}, "
        f"{size.per_class} reference images a class, d = {size.dimension}, k = {K}"
    )
    values, costs = together(fitting, images)
    plus = plus_alone(fitting, images)
    query = Query(images, costs.of("retrieval", lambda: retrieve(fitting, images)))
    report.say(f"  {len(query.retrieved.vectors):,} distinct texts retrieved")
    separate, fits, scorings = alone(fitting, query, own)
    report.say("                          beside the shared pass          | on its own")
    report.say("  score                   fit s   score s  memory MiB     | fit s   score s")
    for name in FROZEN:
        steps = f"fit {name}", f"score {name}"
        memory = max(costs.extra[step] or 0 for step in steps) / 2**20
        fit, scoring = (costs.seconds[step] for step in steps)
        line = f"  {name:22} {fit:6.2f}  {scoring:8.2f}  {memory:10,.0f}"
        if name in separate:
            line += f"     | {fits.seconds[name]:5.2f}  {scorings.seconds[name]:8.2f}"
        report.say(line)
        if name in separate:
            scale = np.abs(separate[name]).max() or 1.0
            gap = float(np.abs(values[name] - separate[name]).max() / scale)
            if gap > 1e-6:
                report.say(f"    the two ways differ by {gap:.1e} of the largest score")
    parts = {PASS: costs.seconds[PASS]}
    parts["all fits"] = sum(s for name, s in costs.seconds.items() if name.startswith("fit "))
    parts["all scoring"] = sum(s for name, s in costs.seconds.items() if name.startswith("score "))
    for name, seconds in parts.items():
        report.say(f"  {name}: {seconds:.2f} s")
    whole = sum(parts.values())
    bliss = costs.seconds["retrieval"] + fits.seconds["bliss"] + scorings.seconds["bliss"]
    if len(separate) == len(FROZEN):
        unshared = sum(fits.seconds.values()) + sum(scorings.seconds.values())
        report.say(f"  each on its own {unshared + costs.seconds['retrieval']:.1f} s")
    report.say(f"  all scores together {whole:.1f} s")
    report.say(f"  BLISS with its retrieval (FAISS) {bliss:.1f} s")
    report.say(verdict("all scores / BLISS", whole / bliss, TARGET, at_least=False))
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in plus.seconds.items())
    memory = max(extra or 0 for extra in plus.extra.values()) / 2**20
    report.say(f"  bliss+ alone: {steps}; memory {memory:,.0f} MiB")
    ratio = sum(plus.seconds.values()) / bliss
    report.say(verdict("bliss+ / BLISS", ratio, PLUS_TARGET, at_least=False))


def main() -> None:
    report = begin("scores_cost", CLAIM, 1)
    case(report, "middle", MIDDLE, FROZEN)
    if report.runs:
        case(report, "large", LARGE, ["bliss"])
    report.finish()


if __name__ == "__main__":
    main()
