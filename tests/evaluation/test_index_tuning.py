"""What tuning measures, by hand and from loops, and how it chooses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from blissaudit.audit.run import AuditSettings, audit_own
from blissaudit.errors import BlissError, UsageError
from blissaudit.evaluation import index_tuning, tuning
from blissaudit.evaluation.index_tuning import (
    Candidate,
    Measured,
    choose,
    divergence,
    halves,
    least_queries,
    lower_bound,
    recall_of,
    with_dominated,
    without_own,
)
from blissaudit.evaluation.tuning import TuningOptions, own_reference, tune, tuning_lines
from blissaudit.indexer.build.build import index_embeddings
from blissaudit.indexer.images.embedded import read_image_embeddings
from blissaudit.indexer.search.captions import search
from blissaudit.indexer.search.index import open_index
from blissaudit.indexer.vectors.nearest import Hits
from blissaudit.scorer.robust import rank_correlation
from helpers import small_worlds as small
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom

N, M, D = 40, 60, 16


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(index, images): 40 images of four classes, 60 texts, the prompts among them."""
    folder, rng = tmp_path_factory.mktemp("tuning"), np.random.default_rng(0)
    centres = rng.standard_normal((4, D))
    rows = np.repeat(centres, N // 4, axis=0) + 1.2 * rng.standard_normal((N, D))
    labels = np.repeat(["ant", "bee", "cat", "dog"], N // 4).tolist()
    small.write_embeddings(folder / "images", "img", rows, label=labels)
    texts = np.vstack([centres, rng.standard_normal((M - 4, D))])
    captions = [f"This is a photo of a {name}" for name in ("ant", "bee", "cat", "dog")]
    captions += [f"text {row}" for row in range(M - 4)]
    small.write_embeddings(folder / "texts", "text", texts, caption=captions)
    index_embeddings(folder / "texts", folder / "index")
    return open_index(folder / "index"), read_image_embeddings(folder / "images")


def partial(index, hidden, kind="half", parameters=None):
    """A candidate that never finds the rows `hidden`."""
    left = np.setdiff1d(np.arange(index.count), hidden)
    shown = index.without(np.asarray(hidden, np.int64))

    def find(queries, k):
        hits = search(shown, queries, k)
        return Hits(hits.similarity, left[hits.rows])

    return Candidate(kind, parameters or {}, find, 1000, 2.5)


@pytest.fixture
def clock(monkeypatch):
    """Search takes as long as `clock[kind]` says, in the order the settings are measured."""
    seconds: list[float] = []
    monkeypatch.setattr(index_tuning, "_seconds", lambda search: seconds.pop(0))
    return seconds


def some(kind, speed, first, bound, recall=None):
    return Measured(
        kind, {}, first, bound if recall is None else recall, bound,
        0.5, 0, 0, 1, 20, 0, None, speed, 0,
    )  # fmt: skip


def test_recall_counts_hits_as_near_as_the_kth_by_hand():
    truth = np.array([[0.9, 0.8, 0.8], [0.5, 0.4, 0.3]], np.float32)
    found = np.array([[0.9, 0.8, 0.8], [0.5, 0.3, 0.2]], np.float32)
    assert recall_of(found, truth).tolist() == [1, pytest.approx(2 / 3)]
    # Another text that is exactly as near as the third is no miss; a nearer one cannot be.
    assert recall_of(np.array([[0.8, 0.8, 0.7]], np.float32), truth[:1]).tolist() == [
        pytest.approx(2 / 3)
    ]


def test_each_text_is_left_out_of_its_own_answer():
    hits = Hits(
        np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.3, 0.2, 0.1]], np.float32),
        np.array([[5, 6, 7], [9, 8, 1], [2, 3, 4]]),
    )
    left = without_own(hits, np.array([5, 1, 77]))
    assert left.rows.tolist() == [[6, 7], [9, 8], [2, 3]]
    np.testing.assert_allclose(left.similarity, [[0.8, 0.7], [0.6, 0.5], [0.3, 0.2]])


@settings(deadline=None)
@given(st.floats(0.01, 0.9999), st.integers(1, 5000))
def test_the_bound_solves_its_equation(mean, count):
    bound = lower_bound(mean, count)
    allowed = -math.log(0.05) / count
    expected = brentq(lambda p: divergence(mean, p) - allowed, 1e-300, mean)
    assert bound == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert bound <= lower_bound(mean, 2 * count) <= mean
    assert bound <= lower_bound(min(1, mean + 0.01), count)


def test_the_bound_of_a_perfect_recall_and_how_many_queries_it_takes():
    assert lower_bound(1, 100) == pytest.approx(0.05 ** (1 / 100))
    assert (lower_bound(1, 0), lower_bound(0, 50)) == (0, 0)
    assert least_queries(0.99) == 299 and least_queries(1) == 0
    assert lower_bound(1, 299) >= 0.99 > lower_bound(1, 298)


@pytest.mark.parametrize(("true", "count"), [(0.99, 400), (0.95, 60), (0.5, 25)])
def test_the_bound_holds_for_whole_queries_found_or_missed(true, count):
    """The widest values of a given mean: the chance to overstate, summed over all outcomes."""
    chance = sum(
        binom.pmf(hits, count, true)
        for hits in range(count + 1)
        if lower_bound(hits / count, count) > true
    )
    assert chance <= 0.05


def test_the_walk_goes_from_slow_to_fast_and_ends_at_the_first_that_fails():
    exact = some("exact", 100, 1, 1)
    slow, middle, fast = (
        some("slow", 200, 0.999, 0.995),
        some("middle", 300, 0.998, 0.991),
        some("fast", 400, 0.995, 0.992),
    )
    assert choose([fast, exact, middle, slow], 0.99).kind == "fast"
    failing = replace(middle, recall_bound=0.989)
    assert choose([exact, slow, failing, fast], 0.99).kind == "slow"
    # One that another beats on the first half is not on the way.
    beaten = replace(failing, recall_first=0.9949)
    assert choose([exact, slow, beaten, fast], 0.99).kind == "fast"
    # Nor is one below the target on the first half, nor one that is slower than exact search.
    assert choose([exact, replace(slow, recall_first=0.98)], 0.99).kind == "exact"
    assert choose([exact, replace(slow, queries_per_second=99.0)], 0.99).kind == "exact"
    assert choose([exact, slow, middle, fast], 0.9951).kind == "exact"


class Given(list):
    """Candidates that depend on no images."""

    def made(self, images):
        return iter(self)


def test_dominated_is_as_good_and_slower_or_as_fast_and_worse():
    rows = [
        some("a", 100, 1, 1), some("b", 50, 1, 1), some("c", 100, 1, 0.9),
        some("d", 200, 0.5, 0.5), some("e", 200, 0.5, 0.5),
    ]  # fmt: skip
    assert [one.dominated for one in with_dominated(rows)] == [False, True, True, False, False]


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(0, M - 1), min_size=1, max_size=30))
def test_measured_recall_is_that_of_a_loop_over_all_pairs(world, hidden):
    index, images = world
    options = TuningOptions(k=5, text_queries=12, least_recall=0.5)
    found = tune(index, images, Given([partial(index, sorted(hidden))]), options)
    one = found.measured[1]
    texts = index.vectors[np.arange(M)].astype(float)
    left = [row for row in range(M) if row not in hidden]

    def recall(query, own=None):
        order = [r for r in np.argsort(-(texts @ query), kind="stable") if r != own]
        return len(set(order[:5]) & {r for r in order if r in left}) / 5

    every = np.array([recall(image.astype(float)) for image in images.vectors])
    first = found.queries.first_half
    assert first.sum() == 20
    assert one.recall_first == pytest.approx(every[first].mean())
    assert one.recall == pytest.approx(every[~first].mean())
    assert one.recall_bound == lower_bound(one.recall, 20)
    own = found.queries.own
    assert len(set(own.tolist())) == 12
    assert one.text_recall == pytest.approx(np.mean([recall(texts[r], r) for r in own]))
    assert (one.stored_bytes, one.build_seconds) == (1000, 2.5)


def test_scores_are_those_of_an_audit_of_the_images_against_themselves(world):
    index, images = world
    hidden = list(range(0, M, 3))
    found = tune(index, images, Given([partial(index, hidden)]), TuningOptions(k=5), prompts(index))
    exact, one = found.measured
    whole = audit_own(images, index, settings=AuditSettings(k=5)).scores.score
    shown = index.without(np.array([r for r in hidden if r > 3]))  # the prompts must stay
    other = tune(
        index, images, Given([partial(index, [r for r in hidden if r > 3])]), TuningOptions(k=5),
        prompts(index),
    ).measured[1]  # fmt: skip
    half = audit_own(images, shown, settings=AuditSettings(k=5)).scores.score
    change = np.abs(whole - half)
    assert other.score_max == pytest.approx(change.max(), rel=1e-5)
    assert other.score_mean == pytest.approx(change.mean(), rel=1e-5)
    assert other.rank_correlation == pytest.approx(rank_correlation(whole, half))
    tops = [set(np.argsort(-s, kind="stable")[:20].tolist()) for s in (whole, half)]
    assert other.top_in_common == len(tops[0] & tops[1])
    assert (exact.score_max, exact.rank_correlation, exact.top_in_common) == (0, 1, 20)
    assert (exact.recall, exact.recall_bound, exact.text_recall) == (1, 1, 1)
    assert one.score_max > 0


def prompts(index):
    return lambda classes: index.vectors[np.arange(4)][: len(classes)]


def test_without_labels_the_images_are_one_class_around_their_mean(world):
    _, images = world
    own = own_reference(images.vectors, [None] * N, lambda classes: 1 / 0)
    assert own.reference.classes == ("all images",) and own.labels.tolist() == [0] * N
    mean = images.vectors.astype(float).mean(axis=0)
    np.testing.assert_allclose(
        own.reference.prompt_vectors[0], mean / np.linalg.norm(mean), atol=1e-6
    )
    assert own.described == (
        "one class of all images, for want of labels, their mean images in place of prompts"
    )
    labels = ["x", "x", "y", "y", "y", None, *["z"] * (N - 6)]
    own = own_reference(images.vectors, labels, lambda classes: None)
    assert own.reference.classes == ("y", "z")
    assert own.labels.tolist() == [-1, -1, 0, 0, 0, -1, *[1] * (N - 6)]
    assert own.described == "2 classes as labelled, their mean images in place of prompts"


def test_halves_are_random_disjoint_and_the_larger_is_held_out():
    first = halves(7, 0)
    assert first.sum() == 3
    assert not np.array_equal(halves(40, 0), halves(40, 1))
    assert np.array_equal(halves(40, 2), halves(40, 2))


def test_the_table_the_choice_and_the_facts(world, clock):
    index, images = world
    clock += [0.4, 0.2, 0.1]
    lossless = partial(index, [], "IVF4,SQ8", {"nprobe": 4})
    poor = partial(index, range(30), "PQ8")
    found = tune(
        index, images, Given([lossless, poor]), TuningOptions(k=5, least_recall=0.8, text_queries=0)
    )
    assert found.chosen.kind == "IVF4,SQ8"
    lines = tuning_lines(found)
    assert lines[0] == (
        "the 5 nearest captions of 40 images against exact search: "
        "chosen on 20 of them, recall of the 20 held out"
    )
    one = found.measured[1]
    assert [line.split() for line in lines[4:6]] == [
        ["-", "exact", "1.0000", "1.0000", "0", "0", "1.0000", "20", "0.0", *peak(found, 0), "100",
         "0.0"],
        ["*", "IVF4,SQ8", "nprobe=4", "1.0000", f"{one.recall_bound:.4f}", "0", "0", "1.0000",
         "20", "0.0", *peak(found, 1), "200", "2.5"],
    ]  # fmt: skip
    assert one.recall_bound == pytest.approx(0.05 ** (1 / 20))
    assert lines[-1] == (
        "chosen: IVF4,SQ8 nprobe=4, the fastest whose recall is 0.8 or more: 1.0000 held out, at "
        f"least {one.recall_bound:.4f}"
    )
    facts = found.facts()
    assert facts["chosen"] == {"kind": "IVF4,SQ8", "parameters": {"nprobe": 4}}
    assert facts["image_queries"] == {"chosen_on": 20, "held_out": 20}
    assert [each["kind"] for each in facts["settings"]] == ["exact", "IVF4,SQ8", "PQ8"]
    assert facts["settings"][1]["text_recall"] is None


def peak(found, number):
    bytes_ = found.measured[number].peak_bytes
    return [] if bytes_ is None else [f"{bytes_ / 2**20:,.1f}"]


@pytest.mark.parametrize(
    ("least", "seconds", "said"),
    [
        (0.99, 0.1, "chosen: exact. 20 held-out images cannot show a recall of 0.99: that needs "
                    "299, even where each finds all its captions"),
        (0.8, 0.8, "chosen: exact. No other setting is 1.1 times as fast"),
        (0.86, 0.1, "chosen: exact. No faster setting has shown a recall of 0.86"),
    ],
)  # fmt: skip
def test_exact_stays_and_it_is_said_why(world, clock, least, seconds, said):
    index, images = world
    clock += [0.4, seconds]
    hidden = [] if least != 0.86 else [0]
    found = tune(
        index, images, Given([partial(index, hidden)]), TuningOptions(k=5, least_recall=least)
    )
    assert found.chosen.kind == "exact"
    assert tuning_lines(found)[-1] == said


def test_options_change_what_is_asked(world):
    index, images = world
    few = TuningOptions(k=5, image_queries=10, text_queries=7)
    asked, _ = tuning.ask(index, images, few, None)
    assert (len(asked.images), len(asked.texts), asked.first_half.sum()) == (10, 7, 5)
    again, _ = tuning.ask(index, images, replace(few, seed=1), None)
    assert not np.array_equal(asked.images, again.images)
    candidate = partial(index, range(0, 60, 2))
    light, heavy = (
        tune(index, images, Given([candidate]), TuningOptions(k=5, weight=w)).measured[1]
        for w in (0.5, 5.0)
    )
    assert heavy.score_max > 2 * light.score_max


def test_what_cannot_be_tuned_is_refused(world):
    index, images = world
    for wrong in (0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"a recall of .* was asked for"):
            TuningOptions(least_recall=wrong)
        with pytest.raises(UsageError, match=r"a weight of .* was given"):
            TuningOptions(weight=wrong or -1)
    with pytest.raises(UsageError, match=r"1 image and 1000 text queries were asked for"):
        TuningOptions(image_queries=1)
    with pytest.raises(UsageError, match=r"k = 61 was asked of an index of M = 60 texts"):
        tune(index, images, Given([]), TuningOptions(k=60))
    with pytest.raises(BlissError, match=r"16 dimensions"):
        other = replace(images, model={**images.model, "dimension": 8})
        tune(index, other, Given(), TuningOptions(k=5))
    with pytest.raises(UsageError, match=r"has 1 image\. Needed: 2 or more"):
        tune(index, replace(images, rows=images.rows[:1]), Given(), TuningOptions(k=5))
