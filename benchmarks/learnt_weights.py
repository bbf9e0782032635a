"""The weights of `bliss+` are at the minimum: SciPy's bounded solver and exact active sets.

Run as: python benchmarks/learnt_weights.py [--problems 1000]

Random problems of one to four kinds of evidence, of very different scales, that separate hardly or
fully. The reference is the least of the free minima over every choice of weights that are 0: the
minimum over w >= 0 is the free minimum over the weights that are not 0 there. Each is found by
Newton's method, damped until the loss falls.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
from blissaudit.scorer.scores.plus.score import ALONE, RIDGE, bounded_minimum

LOSS, WEIGHT = 1e-9, 1e-5
"""Targets: the largest differences of the loss, as a share of it or of 1, and of a weight. Where
the sets separate fully, every large intercept makes the loss nearly 0, so it is not compared."""


def random_problem(seed: int, kinds: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Evidence [m, p] of normal and [a, p] of anomalous images; p from 1 to 4 where not given."""
    rng = np.random.default_rng(seed)
    m, a = rng.integers(3, 60, 2)
    p = kinds or int(rng.integers(1, 5))
    shift = rng.normal(size=p) * rng.choice([0.3, 1, 3, 10])
    spread = 10 ** rng.uniform(-1, 1, p)
    return rng.normal(size=(m, p)), rng.normal(size=(a, p)) * spread + shift


def towards(kinds: int) -> np.ndarray:
    """What the weights are shrunk towards: the second kind alone, or the only one."""
    return ALONE * np.eye(kinds)[min(1, kinds - 1)]


class Problem:
    """The loss that `learnt_weights` states, of w and b in one array [p + 1]."""

    def __init__(self, normal: np.ndarray, anomalous: np.ndarray) -> None:
        rows = np.concatenate([normal, anomalous])
        self.rows = np.column_stack([rows, np.ones(len(rows))])
        self.truth = np.repeat([0.0, 1.0], [len(normal), len(anomalous)])
        self.start = np.append(towards(normal.shape[1]), 0.0)
        self.ridge = np.array([RIDGE] * normal.shape[1] + [0.0])

    def loss(self, w: np.ndarray) -> float:
        z = self.rows @ w
        penalty = self.ridge * (w - self.start) ** 2
        return float((np.logaddexp(0, z) - self.truth * z).sum() + 0.5 * penalty.sum())

    def derivatives(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient [p + 1] and curvature [p + 1, p + 1]."""
        chance = 0.5 * (1 + np.tanh(self.rows @ w / 2))
        gradient = self.rows.T @ (chance - self.truth) + self.ridge * (w - self.start)
        return gradient, (self.rows.T * (chance * (1 - chance))) @ self.rows + np.diag(self.ridge)

    def free_minimum(self, free: np.ndarray) -> np.ndarray:
        """The minimum over the coefficients numbered in `free`, the others being 0."""
        w = np.zeros(len(self.start))
        w[free] = self.start[free]
        for _ in range(60):
            gradient, curvature = self.derivatives(w)
            step = np.zeros(len(w))
            curvature = curvature[np.ix_(free, free)] + 1e-12 * np.eye(len(free))
            step[free] = np.linalg.solve(curvature, gradient[free])
            size, before = min(1.0, 10 / max(np.abs(step).max(), 1e-300)), self.loss(w)
            while self.loss(w - size * step) > before and size > 1e-9:
                size /= 2
            w = w - size * step
            if np.abs(step).max() < 1e-10:
                break
        return w

    def minimum(self) -> np.ndarray:
        """The least of all free minima with w >= 0."""
        p = len(self.start) - 1
        minima = [
            self.free_minimum(np.flatnonzero([*free, True]))
            for free in itertools.product([True, False], repeat=p)
        ]
        return min((w for w in minima if (w[:p] >= 0).all()), key=self.loss)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=1000)
    count = parser.parse_args().problems
    losses, weights, at_zero, seconds = [], [], 0, 0.0
    for seed in range(count):
        sets = random_problem(seed)
        problem = Problem(*sets)
        exact = problem.minimum()
        begun = time.perf_counter()
        found = bounded_minimum(*sets, towards(sets[0].shape[1]))
        seconds += time.perf_counter() - begun
        least = problem.loss(exact)
        losses.append((problem.loss(found) - least) / max(least, 1))
        weights.append(float(np.abs(found - exact)[:-1].max()))
        at_zero += bool((exact[:-1] == 0).any())
    print(f"{count} random problems of 1 to 4 kinds of evidence, {at_zero} with a weight of 0")
    print(f"the solver takes {1000 * seconds / count:.1f} ms a problem, as the mean")
    for name, values, most in (("the loss", losses, LOSS), ("a weight", weights, WEIGHT)):
        largest = max(map(abs, values))
        met = "met" if largest <= most else "MISSED"
        share = ", as a share of it or of 1" if name == "the loss" else ""
        print(f"=> largest difference of {name}{share}: {largest:.1e}, at most {most:g}: {met}")
    worst = int(np.argmax(losses))
    print(f"the solver's loss is higher by {max(losses):.1e} at most (problem {worst})")
    return 0


if __name__ == "__main__":
    main()
