"""bliss+: its parts against an independent oracle, its behaviour where data are few."""

import runpy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.calibration import conformal_p_values
from blissaudit.scorer.leave_one_out import NOTHING_LEFT_OUT, LeftOut
from blissaudit.scorer.moments import fit_moments
from blissaudit.scorer.reference import Reference
from blissaudit.scorer.reference_file import images_to_keep
from blissaudit.scorer.scores.contract import Fitting, Normals, Query, fit_score
from blissaudit.scorer.scores.plus.score import (
    BLISS_PLUS,
    bounded_minimum,
    far_term,
    far_weight,
    fit_bliss_plus,
    learnt_weights,
    scale_of,
    standardised,
)
from blissaudit.scorer.statistics import VariancePrior, moderated, variance_prior
from helpers import BENCHMARKS

script = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "learnt_weights.py")))
D, C, M, K = 16, 3, 60, 4


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def world(sizes=(9, 7, 5), seed=0):
    """Normals of C classes around their prompts, external texts, and images to score."""
    rng = np.random.default_rng(seed)
    bias = 3 * rng.normal(size=D)
    classes = len(sizes)
    centres = rng.normal(size=(classes, D))
    prompts = unit(centres + bias)
    labels = np.repeat(np.arange(classes), sizes)
    images = unit(centres[labels] + 0.3 * rng.normal(size=(len(labels), D)))
    texts = unit(rng.normal(size=(M, D)) + bias)
    normals = Normals(tuple("abc"[:classes]), prompts, images, labels)
    queries = unit(np.concatenate([centres, rng.normal(size=(8, D))]))
    return Fitting(normals, texts), queries


def query(images, texts, k=K):
    vectors = texts
    return Query(images, gather_texts(exact_search(images, vectors, k), vectors))


def auroc(normal, anomalous):
    return np.mean([(a > b) + 0.5 * (a == b) for a in anomalous for b in normal])


class Oracle:
    """bliss+ by loops over images, classes and texts, in float64, with refits for leave-one-out."""

    def __init__(self, fitting, k, **changed):
        values = {**BLISS_PLUS.defaults, **changed}
        self.weight, self.tau, self.rivals = values["weight"], values["tau"], values["rivals"]
        self.prior, self.far, self.hub, self.k = values["prior"], values["far"], values["hub"], k
        normals = fitting.normals
        self.texts, self.prompts = fitting.texts.astype(float), normals.prompts.astype(float)
        classes = range(len(self.prompts))
        self.references = [normals.images[normals.labels == c].astype(float) for c in classes]
        self.usable = [t for t in self.texts if max(t @ p for p in self.prompts) <= 0.95]
        spaced = np.linspace(0, len(self.texts) - 1, min(1000, len(self.texts))).astype(int)
        self.s0 = [np.mean([(r @ self.texts[j]).var(ddof=1) for j in spaced])
                   for r in self.references]  # fmt: skip
        self.shrink()
        self.calibrate()

    def shrink(self):
        rows = np.concatenate([r - r.mean(axis=0) for r in self.references])
        n, d = rows.shape
        s = rows.T @ rows / n
        mu = np.trace(s) / d
        delta = ((s - mu * np.eye(d)) ** 2).sum() / d
        beta = sum(((np.outer(x, x) - s) ** 2).sum() / d for x in rows) / n**2
        self.rho, self.mu, self.n = max(1 / n, min(beta, delta) / delta), mu, n
        every = np.concatenate(self.references)
        self.mu_all = every.var(axis=0).mean()

    def hubness(self, t):
        return np.mean(sorted(x @ t for rows in self.references for x in rows)[-16:])

    def z(self, x, c, rows, t):
        sims = rows @ t
        n = len(rows)
        s2 = sims.var(ddof=1) if n > 1 else 0.0
        std = np.sqrt((self.prior * self.s0[c] + (n - 1) * s2) / (self.prior + n - 1))
        return (x @ t - sims.mean()) / (std + 1e-8)

    def bliss(self, x, c, rows):
        near = sorted(range(len(self.texts)), key=lambda j: (-np.float32(x @ self.texts[j]), j))
        pulls = [self.z(x, c, rows, self.texts[j]) for j in near[: self.k]]
        return -self.z(x, c, rows, self.prompts[c]) + self.weight * np.mean(pulls)

    def distance(self, x, classes, rest, without):
        kept = [rows for c, rows in enumerate(rest) if c != without]
        size = self.n if without is None else sum(map(len, kept))
        scatter = sum((r - r.mean(axis=0)).T @ (r - r.mean(axis=0)) for r in kept) / size
        ridge = self.rho * self.n / size * np.eye(len(x))
        inverse = np.linalg.inv(self.mu * ridge + (1 - self.rho) * scatter)
        means = [rest[c].mean(axis=0) for c in classes]
        nearest = min((x - m) @ inverse @ (x - m) for m in means)
        if len(self.references) == 1:
            return np.sqrt(nearest)
        every = np.concatenate(kept)
        scatter = (every - every.mean(axis=0)).T @ (every - every.mean(axis=0)) / size
        overall = self.mu_all * ridge + (1 - self.rho) * scatter
        apart = x - every.mean(axis=0)
        return nearest - apart @ np.linalg.inv(overall) @ apart

    def log_text_sum(self, x, rest, without=None, also=None):
        def part(t):
            odds = [min(30.0, np.exp((y @ t - y @ self.prompts[c]) / self.tau))
                    for c, rows in enumerate(rest) for y in rows if c != without]  # fmt: skip
            near = x @ t - self.hub * self.hubness(t)
            return np.exp(near / self.tau) / (1 + self.rivals * sum(odds) / (len(odds) + 50))

        total = sum(map(part, self.usable))
        if also is not None:
            total += part(self.prompts[also])
        return np.log(total)

    def pieces(self, x, own=None, i=None, without=None, also=None):
        """b, n, r and g of x, which is image i of class `own`; class `without` is gone."""
        rest = list(self.references)
        if own is not None:
            rest[own] = np.delete(rest[own], i, axis=0)
        classes = [c for c in range(len(rest)) if c != without]
        labels = [x @ self.prompts[c] for c in classes]
        b = min(self.bliss(x, c, rest[c]) for c in classes)
        hubs = [self.hub * self.hubness(self.prompts[c]) for c in classes]
        against = np.log(np.sum(np.exp((np.array(labels) - hubs) / self.tau)))
        n = self.log_text_sum(x, rest, without, also) - against
        middle = x @ np.mean(self.usable, axis=0) if len(rest) == 1 else np.mean(labels)
        return [b, n, self.distance(x, classes, rest, without), middle - max(labels)]

    def calibrate(self):
        normal, odd, loose = [], [], []
        several = len(self.references) > 1
        for c, rows in enumerate(self.references):
            for i, x in enumerate(rows):
                normal.append(self.pieces(x, c, i))
                if several:
                    odd.append(self.pieces(x, c, i, without=c))
                    loose.append(self.pieces(x, c, i, without=c, also=c))
        normal = np.array(normal)
        self.mean, self.std = normal.mean(axis=0), normal.std(axis=0)
        scaled = (normal - self.mean) / self.std
        far = scaled[:, 2] + scaled[:, 3]
        self.far_mean, self.far_std = far.mean(), far.std()
        self.w = np.ones(3)
        if several:
            anomalous = (np.array(odd + loose) - self.mean) / self.std
            self.aurocs = [auroc(scaled[:, p], anomalous[:, p]) for p in range(3)]
            towards = [0, 2, 0] if self.aurocs[1] >= self.aurocs[2] else [0, 0, 2]
            self.w = learnt_weights(scaled[:, :3], anomalous[:, :3], np.array(towards))
            shares = [
                s for s in (0, 0.25, 0.5, 0.75, 1)
                if auroc(self.near_far(scaled, s), self.near_far(anomalous, s))
                >= auroc(scaled[:, :3] @ self.w, anomalous[:, :3] @ self.w) - 0.005
            ]  # fmt: skip
            self.far *= max(shares)

    def near_far(self, z, share):
        far = (z[:, 2] + z[:, 3] - self.far_mean) / self.far_std
        return z[:, :3] @ self.w + share * self.far * np.maximum(0, far - 0.5)

    def score(self, x, own=None, i=None):
        return sum(self.parts(x, own, i))

    def parts(self, x, own=None, i=None):
        """What words and what images add."""
        b, n, r, g = (np.array(self.pieces(x, own, i)) - self.mean) / self.std
        far = self.far * max(0, (r + g - self.far_mean) / self.far_std - 0.5)
        doubt, away = max(0, g), max(0, r)
        share = doubt / (doubt + away) if far else 0
        return self.w[:2] @ [b, n] + far * share, self.w[2] * r + far * (1 - share)


def oracle(fitting, images, k, **changed):
    truth = Oracle(fitting, k, **changed)
    return np.array([truth.score(x) for x in images.astype(float)])


@pytest.mark.parametrize("seed", [521, 707, *range(20)])
def test_weights_where_undamped_newton_steps_went_in_circles_and_others(seed):
    sets = script.random_problem(seed, 3)
    exact = script.Problem(*sets).minimum()[:3]
    wanted = 3 * exact / exact.sum() if exact.any() else np.ones(3)
    np.testing.assert_allclose(learnt_weights(*sets, script.towards(3)), wanted, atol=1e-5)


def test_weights_of_random_problems_are_at_the_minimum():
    """The penalty makes the loss strongly convex, with modulus 30: no weight is farther from its
    optimum than the gradient is long over 30, where that points into w >= 0."""
    longest, at_zero = [], 0
    for seed in range(200):
        sets = script.random_problem(seed, 3)
        found = bounded_minimum(*sets, script.towards(3))
        gradient, _ = script.Problem(*sets).derivatives(found)
        assert (found[:3] >= 0).all()
        gradient[:3] = np.where(found[:3] > 0, gradient[:3], np.minimum(gradient[:3], 0))
        at_zero += (found[:3] == 0).any()
        longest.append(np.linalg.norm(gradient))
    assert max(longest) < 1e-4
    assert at_zero > 20


def test_two_images_of_one_class_cannot_scale_the_evidence_of_all():
    fitting, images = world((2, 1, 1))
    with pytest.warns(UserWarning, match="too few classes have two reference images"):
        found = fit_score(BLISS_PLUS, fitting)(query(images, fitting.texts))
    assert np.abs(found).max() < 1e3


def test_a_scale_is_not_made_of_rounding():
    nearly = np.array([22.627417, 22.627417 + 4e-13])
    assert scale_of(nearly).std == 1.0
    assert scale_of(np.array([1.0, 3.0])).std == 1.0
    assert scale_of(np.array([1.0, 5.0])).std == 2.0


@pytest.mark.parametrize("sizes", [(9, 7, 5), (2, 2, 3), (20, 2, 18), (7,)])
def test_equals_the_oracle(sizes):
    fitting, images = world(sizes)
    found = fit_score(BLISS_PLUS, fitting)(query(images, fitting.texts))
    expected = oracle(fitting, images, K)
    np.testing.assert_allclose(found, expected, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize(
    "changed",
    [{"weight": 1.5}, {"tau": 0.05}, {"rivals": 200.0}, {"prior": 1.0}, {"far": 0.0}, {"hub": 0.5}],
)
def test_every_parameter_changes_the_score_as_the_oracle_says(changed):
    fitting, images = world()
    asked = query(images, fitting.texts)
    plain = fit_score(BLISS_PLUS, fitting)(asked)
    found = fit_score(BLISS_PLUS, fitting, **changed)(asked)
    assert np.abs(found - plain).max() > 1e-4
    expected = oracle(fitting, images, K, **changed)
    np.testing.assert_allclose(found, expected, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("sizes", [(9, 7, 5), (20, 3, 18)])
def test_a_reference_image_scores_as_refitting_without_it_says(sizes):
    """Moments, covariance and text weights without it; scales and learnt weights shared."""
    fitting, _ = world(sizes)
    normals = fitting.normals
    reference = Reference(
        fit_moments(normals.classes, normals.images, normals.labels), normals.prompts
    )
    reference = replace(
        reference, sample=images_to_keep(reference.moments, normals.images, normals.labels)
    )
    scorer = fit_bliss_plus(reference, fitting.texts, BLISS_PLUS.defaults)
    order = np.random.default_rng(3).permutation(len(normals.labels))
    left_out = LeftOut(np.arange(len(order)), normals.labels[order])
    images = normals.images[order]
    found = scorer(images, query(images, fitting.texts).retrieved, left_out)
    truth = Oracle(fitting, K)
    expected = [truth.score(x, c, i) for c, rows in enumerate(truth.references)
                for i, x in enumerate(rows)]  # fmt: skip
    np.testing.assert_allclose(found, np.array(expected)[order], rtol=5e-5, atol=5e-5)
    kept_in = scorer(images, query(images, fitting.texts).retrieved, NOTHING_LEFT_OUT)
    assert (kept_in < found).mean() > 0.95


class OnDisk:
    """Rows that count how many are read at once."""

    def __init__(self, rows):
        self.rows, self.most = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, wanted):
        found = self.rows[wanted]
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize("full", [BLISS_PLUS.defaults["full"], 0])
@pytest.mark.parametrize("known", [False, True])
def test_images_on_disk_are_read_a_few_at_once_and_score_the_same(full, known, monkeypatch):
    fitting, more = world()
    normals = fitting.normals
    moments = fit_moments(normals.classes, normals.images, normals.labels)
    kept = images_to_keep(moments, normals.images, normals.labels)
    reference = Reference(moments, normals.prompts, sample=kept)
    scorer = fit_bliss_plus(reference, fitting.texts, {**BLISS_PLUS.defaults, "full": full})
    images = np.concatenate([more, normals.images])
    left_out = LeftOut(np.arange(len(more), len(images)), normals.labels)
    retrieved = query(images, fitting.texts).retrieved
    against = scorer.terms[0](query(images, fitting.texts)) if known and scorer.terms else None
    expected = scorer.parts(images, retrieved, left_out, against)
    for module, name in (
        ("scorer.scores.plus.evidence", "IMAGES_AT_ONCE"),
        ("scorer.scores.plus.evidence", "PAIRS_AT_ONCE"),
        ("scorer.leave_one_out", "PAIRS_AT_ONCE"),
        ("scorer.bliss", "PAIRS_AT_ONCE"),
    ):
        monkeypatch.setattr(f"blissaudit.{module}.{name}", 5)
    monkeypatch.setattr("blissaudit.scorer.bliss.PULL_ENTRIES", 5 * K * C)
    rows = OnDisk(images)
    found = scorer.parts(rows, retrieved, left_out, against)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert rows.most == 5


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_classes_texts_and_references_does_not_matter(seed):
    fitting, images = world()
    rng = np.random.default_rng(seed)
    classes, texts = rng.permutation(C), rng.permutation(M)
    rows = rng.permutation(len(fitting.normals.labels))
    normals = fitting.normals
    turned = Fitting(
        Normals(
            tuple(normals.classes[c] for c in classes),
            normals.prompts[classes],
            normals.images[rows],
            np.argsort(classes)[normals.labels[rows]],
        ),
        fitting.texts[texts],
    )
    found = fit_score(BLISS_PLUS, turned)(query(images, turned.texts))
    expected = fit_score(BLISS_PLUS, fitting)(query(images, fitting.texts))
    np.testing.assert_allclose(found, expected, rtol=5e-5, atol=5e-5)


def test_moderation_by_hand():
    prior = VariancePrior(np.array([0.2]), 10.0)
    # n = 3, population variance 0.06, so s² = 0.09: (10·0.04 + 2·0.09)/12.
    assert moderated(np.sqrt(0.06), 3, 0.2, prior) == pytest.approx(np.sqrt(0.58 / 12))
    assert moderated(np.array(0.0), 1, 0.2, prior) == pytest.approx(0.2)


def test_the_prior_is_the_mean_unbiased_variance_and_lends_itself_to_single_images():
    fitting, _ = world((4, 1, 6))
    normals, texts = fitting.normals, fitting.texts
    moments = fit_moments(normals.classes, normals.images, normals.labels)
    prior = variance_prior(moments, texts, 10.0)
    means = [
        (normals.images[normals.labels == c].astype(float) @ texts.T).var(axis=0, ddof=1).mean()
        for c in (0, 2)
    ]
    expected = np.sqrt([means[0], np.mean(means), means[1]])
    np.testing.assert_allclose(prior.std, expected, rtol=1e-5)
    single = fit_moments(("a",), normals.images[:1], np.zeros(1, int))
    assert variance_prior(single, texts, 10.0) is None


def test_one_image_in_a_class_is_enough_and_said():
    fitting, images = world((6, 1, 5))
    with pytest.warns(UserWarning, match=r"one reference image is all there is of b; the spread"):
        found = fit_score(BLISS_PLUS, fitting)(query(images, fitting.texts))
    assert np.isfinite(found).all()
    assert found[:C].max() < np.median(found[C:])


@pytest.mark.parametrize("copies", [1, 2])
def test_without_any_spread_labels_and_captions_alone_are_compared(copies):
    fitting, images = world((1, 1, 1))
    normals = fitting.normals
    normals = replace(
        normals, images=np.tile(normals.images, (copies, 1)), labels=np.tile(normals.labels, copies)
    )
    fitting = replace(fitting, normals=normals)
    with pytest.warns(
        UserWarning, match=r"too few classes have two reference images that differ; only"
    ):
        found = fit_score(BLISS_PLUS, fitting)(query(images, fitting.texts))
    assert found[:C].max() < found[C:].max()
    truth = fit_score(BLISS_PLUS, fitting, prior=1.0)(query(images, fitting.texts))
    np.testing.assert_array_equal(found, truth)


def test_texts_that_are_all_labels_in_other_words_are_refused():
    fitting, _ = world()
    texts = unit(np.repeat(fitting.normals.prompts, 3, axis=0) + 0.001)
    with pytest.raises(BlissError, match=r"all 9 external texts are within cosine 0\.95"):
        fit_score(BLISS_PLUS, replace(fitting, texts=texts))


def test_a_class_without_reference_images_is_named():
    fitting, _ = world((6, 0, 5))
    with pytest.raises(BlissError, match=r"class 'b' has 0 reference images\. Needed: at least 1"):
        fit_score(BLISS_PLUS, fitting)


def test_weights_follow_the_piece_that_separates_and_are_equal_without_evidence():
    rng = np.random.default_rng(0)
    normal, odd = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    odd[:, 1] += 3
    towards = np.array([0.5, 0.5])
    weights = learnt_weights(normal, odd, towards)
    assert weights[1] > 5 * weights[0] >= 0
    assert weights.sum() == pytest.approx(2)
    assert learnt_weights(normal, odd[:0], towards).tolist() == [1, 1]
    swapped = learnt_weights(normal[:, ::-1], odd[:, ::-1], towards)
    np.testing.assert_allclose(swapped, weights[::-1], rtol=1e-6)


def test_weights_stay_where_they_are_shrunk_to_if_nothing_separates():
    same = np.random.default_rng(0).normal(size=(5, 2))
    for towards in ([0, 2], [2, 0], [1, 1]):
        found = learnt_weights(same, same, np.array(towards))
        np.testing.assert_allclose(found, towards, atol=0.01)


@pytest.mark.parametrize(
    ("far", "share"), [(0.0, 1), (0.9, 1), (1.2, 0.75), (1.9, 0.5), (3.9, 0.25), (4.1, 0)]
)
def test_the_far_term_is_cut_until_it_costs_nothing_by_hand(far, share):
    # One normal image has a far term; from 1 on, it is no longer below the anomaly.
    normal, anomalous = (np.array([0.0, 0]), np.array([0.0, far])), (np.ones(1), np.zeros(1))
    assert far_weight(normal, anomalous) == share


def test_scales_and_hinge_by_hand():
    scale = scale_of(np.array([1.0, 3.0]))
    assert standardised(np.array([5.0]), scale).tolist() == [3.0]
    assert scale_of(np.array([2.0, 2.0])).std == 1.0
    z = np.array([[9.0, 9.0, 1.0, 3.0], [9.0, 9.0, 2.0, -1.0]])
    assert far_term(z, scale).tolist() == [1.5, 0]
    assert scale_of(np.array([[1.0, 2.0], [3.0, 2.0]])).std.tolist() == [1, 1]


def test_the_parts_are_what_words_and_images_add():
    fitting, images = world()
    reference = Reference(
        fit_moments(tuple("abc"), fitting.normals.images, fitting.normals.labels),
        fitting.normals.prompts,
    )
    scorer = fit_bliss_plus(reference, fitting.texts, BLISS_PLUS.defaults)
    retrieved = query(images, fitting.texts).retrieved
    found = scorer.parts(images, retrieved, NOTHING_LEFT_OUT)
    truth = Oracle(fitting, K)
    expected = [truth.parts(x) for x in images.astype(float)]
    np.testing.assert_allclose(found, expected, rtol=5e-5, atol=5e-5)
    total = scorer(images, retrieved, NOTHING_LEFT_OUT)
    np.testing.assert_allclose(found.sum(axis=1), total)
    facts = scorer.facts(K)
    assert (facts["version"], facts["far"]) == (4, truth.far)
    np.testing.assert_allclose(list(facts["weights"].values()), truth.w, rtol=1e-4)
    assert facts["without_own_class"] == {
        "words_auroc": pytest.approx(truth.aurocs[1]),
        "images_auroc": pytest.approx(truth.aurocs[2]),
    }


def test_k_is_the_querys_and_changes_the_score():
    fitting, images = world()
    fitted = fit_score(BLISS_PLUS, fitting)
    found = {k: fitted(query(images, fitting.texts, k)) for k in (2, K)}
    assert np.abs(found[2] - found[K]).max() > 1e-6
    np.testing.assert_allclose(found[2], oracle(fitting, images, 2), rtol=5e-5, atol=5e-5)
    with pytest.raises(UsageError, match=r"bliss\+ was used without the retrieved texts of"):
        fitted(Query(images))


def exchangeable(seed, classes=3, each=40):
    """A calibrated reference and clean images to score, all drawn alike; 16 texts a class apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, D))
    labels = np.tile(np.arange(classes), each)
    images = unit(centres[labels] + rng.normal(size=(len(labels), D)))
    fitted, held, fresh = np.split(np.arange(len(labels)), [40, 80])
    moments = fit_moments(tuple("abc"), images[fitted], labels[fitted])
    reference = Reference(
        moments, unit(centres), sample=images_to_keep(moments, images[fitted], labels[fitted])
    )
    texts = unit(rng.normal(size=(30, D)))
    return reference, texts, images[held], images[fresh]


def test_p_values_of_clean_images_are_uniform():
    """Neither moments nor scales nor weights have seen a calibration image."""
    p = []
    for seed in range(60):
        reference, texts, held, fresh = exchangeable(seed)
        scorer = fit_bliss_plus(reference, texts, BLISS_PLUS.defaults)
        calibration, found = (
            scorer(images, query(images, texts).retrieved, NOTHING_LEFT_OUT)
            for images in (held, fresh)
        )
        p.append(conformal_p_values(calibration, found))
    p = np.concatenate(p)
    # 60 runs of 40 shared calibration images: the share below a level is known to about 0.01.
    for level in (0.1, 0.3, 0.5, 0.8):
        assert np.mean(p <= level) == pytest.approx(level, abs=0.035)
    assert np.mean(p) == pytest.approx(0.5, abs=0.03)
