"""Scores that need no reference image against oracles written as loops, on drawn data."""

import math

import numpy as np
import pytest
from blissaudit.errors import BlissError
from blissaudit.scorer.scores.contract import Need
from blissaudit.scorer.scores.negatives import draw
from blissaudit.scorer.scores.registry import SCORES
from helpers import small_worlds as small
from hypothesis import given, settings

fitting_of, run, unit, worlds = small.fitting_of, small.run, small.unit, small.worlds


def longer(rows):
    rows = rows.astype(float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def exact(fitting):
    return fitting_of(longer(fitting.normals.prompts), fitting.texts)


# Oracles: one image at a time, Python floats and plain exponentials, straight from the formulas.


def cosine(a, b):
    return math.fsum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def cosines(x, vectors):
    return [cosine(x, v) for v in vectors]


def exps(values, tau):
    return [math.exp(v / tau) for v in values]


def maximum_cosine_oracle(x, fitting):
    return -max(cosines(x, fitting.normals.prompts))


def msp_oracle(x, fitting, tau):
    weights = exps(cosines(x, fitting.normals.prompts), tau)
    return 1 - max(weights) / sum(weights)


def energy_oracle(x, fitting, tau):
    return -tau * math.log(sum(exps(cosines(x, fitting.normals.prompts), tau)))


def clip_ad_oracle(x, fitting, tau):
    last = math.exp(cosine(x, fitting.extras[Need.SOMETHING]) / tau)
    return last / (sum(exps(cosines(x, fitting.normals.prompts), tau)) + last)


def eoe_oracle(x, fitting, tau, beta):
    labels = exps(cosines(x, fitting.normals.prompts), tau)
    outliers = exps(cosines(x, fitting.texts), tau)
    total = sum(labels) + sum(outliers)
    return beta * max(outliers) / total - max(labels) / total


def negatives_oracle(fitting, quantile, keep, drop):
    found = []
    for row, text in enumerate(fitting.texts):
        values = sorted(cosines(text, fitting.normals.prompts))
        if drop < 1 and values[-1] > drop:
            continue
        place = quantile * (len(values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        q = values[low] + (place - low) * (values[high] - values[low])
        found.append((round(q, 9), row))
    count = max(1, math.floor(keep * len(found) + 1e-9))
    return sorted(row for _, row in sorted(found)[:count])


def groups_oracle(rows, groups, seed):
    shuffled = np.random.default_rng(seed).permutation(rows).tolist()
    groups = min(groups, len(shuffled))
    size = len(shuffled) // groups
    return [shuffled[i * size : (i + 1) * size] for i in range(groups)]


def neglabel_oracle(x, fitting, p):
    labels = sum(exps(cosines(x, fitting.normals.prompts), p["tau"]))
    rows = negatives_oracle(fitting, p["quantile"], p["keep"], p["drop"])
    groups = groups_oracle(rows, int(p["groups"]), int(p["seed"]))
    scores = []
    for group in groups:
        negatives = sum(exps(cosines(x, fitting.texts[group]), p["tau"]))
        scores.append(labels / (labels + negatives))
    return 1 - sum(scores) / len(scores)


def debiased_oracle(x, fitting, p):
    """Positives as actual vectors: t plus noise along t, along x's part across t, and elsewhere."""
    x = np.asarray(x, float)
    d, tau, pi = len(x), p["tau"], p["pi"]
    draws = draw(int(p["samples"]), p["noise"], d, int(p["seed"]))
    positives = []
    for t in np.asarray(fitting.normals.prompts, float):
        t = t / np.linalg.norm(t)
        frame = np.linalg.qr(np.column_stack([t, x, np.eye(d)]))[0][:, : min(3, d)]
        frame = frame * np.where(frame.T @ x < 0, -1, 1)
        frame[:, 0] = t
        for along, across, rest in zip(draws.along, draws.across, draws.rest, strict=True):
            y = (1 + along) * t + across * frame[:, 1]
            y = y + math.sqrt(rest) * frame[:, 2] if d > 2 else y
            positives.append(math.exp(cosine(x, y / np.linalg.norm(y)) / tau))
    positive = sum(positives) / len(positives)
    labels = sum(exps(cosines(x, fitting.normals.prompts), tau))
    scores = []
    for group in groups_oracle(range(len(fitting.texts)), int(p["groups"]), int(p["seed"])):
        wild = sum(exps(cosines(x, fitting.texts[group]), tau)) / len(group)
        expected = max(wild - pi * positive, p["floor"] * wild) / (1 - pi)
        scores.append(labels / (labels + len(group) * expected))
    return 1 - sum(scores) / len(scores)


def logit_gap_oracle(x, fitting, share):
    first, *others = sorted(cosines(x, fitting.normals.prompts), reverse=True)
    count = max(1, round(share * len(others)))
    return sum(others[:count]) / len(others[:count]) - first if others else 0.0


def oracle(name, x, fitting, p):
    if name == "logit_gap":
        return logit_gap_oracle(x, fitting, p["share"])
    if name == "maximum_cosine":
        return maximum_cosine_oracle(x, fitting)
    if name in ("mcm", "msp"):
        return msp_oracle(x, fitting, p["tau"])
    if name == "energy":
        return energy_oracle(x, fitting, p["tau"])
    if name == "clip_ad":
        return clip_ad_oracle(x, fitting, p["tau"])
    if name == "eoe":
        return eoe_oracle(x, fitting, p["tau"], p["beta"])
    if name == "debiased_negatives":
        return debiased_oracle(x, fitting, p)
    return neglabel_oracle(x, fitting, p)


ORACLE_CASES = [
    ("clip_ad", {}),
    ("csp", {}),
    ("debiased_negatives", {}),
    ("energy", {}),
    ("eoe", {}),
    ("logit_gap", {}),
    ("logit_gap", {"share": 1}),
    ("maximum_cosine", {}),
    ("mcm", {}),
    ("msp", {}),
    ("neglabel", {}),
    ("neglabel_one_group", {}),
    ("mcm", {"tau": 0.1}),
    ("neglabel", {"groups": 4, "keep": 0.8, "seed": 3, "quantile": 0.5}),
    ("neglabel", {"groups": 1, "keep": 1, "drop": 1, "tau": 0.2}),
    ("debiased_negatives", {"groups": 3, "tau": 0.1, "samples": 9, "noise": 1.0}),
    ("debiased_negatives", {"groups": 1, "tau": 0.5, "samples": 5, "pi": 0.05, "seed": 2}),
]


@pytest.mark.parametrize(("name", "changed"), ORACLE_CASES)
@settings(max_examples=25, deadline=None)
@given(world=worlds())
def test_every_score_equals_its_loop_written_oracle(name, changed, world):
    fitting, images = world
    parameters = {**SCORES[name].defaults, **changed}
    if "drop" in parameters:
        largest = (fitting.texts.astype(float) @ fitting.normals.prompts.T).max(axis=1)
        if parameters["drop"] < 1 and (largest > parameters["drop"]).all():
            with pytest.raises(BlissError, match=r"all \d+ external texts are within cosine"):
                run(name, fitting, images, **changed)
            return
    if name == "debiased_negatives":
        changed = {"samples": 10, **changed}
        parameters |= changed
        # √(1 - s²) is where the float32 rounding of a row's length would show.
        fitting, images = exact(fitting), longer(images)
    expected = [oracle(name, x, fitting, parameters) for x in images]
    np.testing.assert_allclose(run(name, fitting, images, **changed), expected, 1e-6, 1e-9)
