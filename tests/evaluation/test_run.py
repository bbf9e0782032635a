"""Scores on the same draws, their report, and the known answer on real embeddings."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.evaluation import run as shared
from blissaudit.evaluation.draws import EmbeddedSet, Protocol, make_draws, make_world
from blissaudit.evaluation.metrics import METRICS, auroc
from blissaudit.evaluation.report import (
    csv_table,
    heading,
    interval_plot,
    markdown_table,
    notes,
    save_report,
    table_rows,
)
from blissaudit.evaluation.run import (
    Chosen,
    EvalResult,
    ScoreResult,
    Words,
    choose_scores,
    evaluate,
    held_out,
)
from blissaudit.indexer.vectors.nearest import exact_search
from blissaudit.indexer.vectors.unit_rows import normalise_rows
from blissaudit.scorer.bliss import gather_texts
from blissaudit.scorer.scores import text_terms
from blissaudit.scorer.scores.contract import Need, Score
from blissaudit.scorer.scores.registry import SCORES

NAMES = ("ant", "bee", "cat", "dog")


def unit(rows):
    return normalise_rows(np.asarray(rows, np.float32)).unit


def world_and_words(k=3):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 8))
    sets = []
    for each in (6, 5):
        rows = np.repeat(centres, each, axis=0) + rng.standard_normal((4 * each, 8))
        sets.append(EmbeddedSet(unit(rows), tuple(np.repeat(NAMES, each).tolist())))
    texts = unit(rng.standard_normal((20, 8)))
    words = Words(dict(zip(NAMES, unit(centres), strict=True)), texts, k)
    return make_world(*sets, {}), words, texts


def cosine_score(seen=None, **facts):
    def fit(fitting, parameters):
        def scores(query):
            if seen is not None:
                seen.append((fitting, query))
            near = (query.images @ fitting.normals.prompts.T).max(axis=1)
            return parameters.get("sign", 1) * -near.astype(np.float64)

        return scores

    return Score("cosine", "−max_i s_i", "none", fit, {"sign": 1}, **facts)


def test_every_score_sees_the_same_draws_and_retrieval_of_the_test_images_alone():
    world, words, texts = world_and_words()
    draws = make_draws(world, Protocol("p", "random", size=2, draws=3))
    seen = []
    cosine = cosine_score(seen, needs=frozenset({Need.TEXTS}))
    result = evaluate(world, draws, words, [Chosen("a", cosine), Chosen("b", cosine)])
    # Once a draw for each score; too few images to flag.
    assert len(seen) == 6 and [x[1].images is seen[0][1].images for x in seen[:4:3]] == [True] * 2
    for draw, (fitting, query) in zip(draws, seen[:3], strict=True):
        assert fitting.normals.classes == draw.normal
        assert np.array_equal(fitting.normals.images, world.images[draw.reference])
        assert np.array_equal(fitting.texts, texts)
        alone = gather_texts(exact_search(world.images[draw.test], words.texts, 3), words.texts)
        for name in ("similarity", "rows", "position", "vectors"):
            assert np.array_equal(getattr(query.retrieved, name), getattr(alone, name)), name
    assert np.array_equal(result.scores[0].values, result.scores[1].values)


def test_scores_over_all_texts_share_one_pass_over_all_draws(monkeypatch):
    world, words, texts = world_and_words()
    draws = make_draws(world, Protocol("p", "random", size=2, draws=3))
    passes = []
    real = text_terms.TextPass.__call__
    monkeypatch.setattr(
        text_terms.TextPass,
        "__call__",
        lambda self, images, nearest: (
            passes.append((len(self.terms), len(images))) or real(self, images, nearest)
        ),
    )
    monkeypatch.setattr(shared, "exact_search", None)
    chosen = choose_scores(["eoe", "neglabel:keep=0.5", "mcm", "csp"], SCORES)
    found = evaluate(world, draws, words, chosen)
    held = [draw.reference[held_out(world, draw)] for draw in draws]
    asked = len(np.unique(np.concatenate([*(draw.test for draw in draws), *held])))
    assert passes == [(9, asked)]
    monkeypatch.undo()
    for entry, result in zip(chosen, found.scores, strict=True):
        alone = evaluate(world, draws, words, [entry]).scores[0]
        assert np.array_equal(result.values, alone.values), entry.name
    cost = {result.chosen.name: result.seconds for result in found.scores}
    assert all(seconds > 0 for seconds in cost.values())
    assert found.scores[0].peak_bytes >= texts.nbytes


def test_metrics_are_of_the_normals_against_each_group():
    world, words, _ = world_and_words()
    far = EmbeddedSet(unit(np.random.default_rng(9).standard_normal((7, 8))), (None,) * 7)
    reference, test = (
        EmbeddedSet(
            world.images[world.part == part], tuple(np.array(world.labels)[world.part == part])
        )
        for part in (0, 1)
    )
    world = make_world(reference, test, {"far": far})
    (draw,) = make_draws(world, Protocol("p", "random", size=2, draws=1))
    result = evaluate(world, [draw], words, [Chosen("cosine", cosine_score())])
    prompts = np.stack([words.prompts[name] for name in draw.normal])
    scores = -(world.images[draw.test] @ prompts.T).max(axis=1)
    for number in (1, 2):
        some = (draw.group == 0) | (draw.group == number)
        expected = auroc(scores[some], draw.group[some] > 0)
        assert result.scores[0].metric("auroc", number - 1)[0] == pytest.approx(expected)
    assert result.anomaly_ratio == pytest.approx((10 / 20 + 7 / 17) / 2)
    assert result.groups == ("other classes", "far")


def test_a_score_that_lacks_something_is_skipped_with_its_reason():
    world, words, _ = world_and_words()
    draws = make_draws(world, Protocol("p", "each"))

    def refuse(fitting, parameters):
        raise UsageError("it was asked for without a moon", "a moon", "Wait")

    moon = Score("moon", "", "", refuse)
    result = evaluate(world, draws, words, [Chosen("moon", moon), Chosen("c", cosine_score())])
    assert [found.chosen.name for found in result.scores] == ["c"]
    assert result.skipped == {"moon": "it was asked for without a moon. Needed: a moon. Wait."}
    assert "skipped moon: it was asked" in notes(result)[0]
    with pytest.raises(UsageError, match="without a moon"):
        evaluate(world, draws, words, [Chosen("moon", moon)])


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (lambda n: np.zeros(n - 1), r"scores of shape \(19,\), 0 of them not finite"),
        (lambda n: np.full(n, np.nan), r"scores of shape \(20,\), 20 of them not finite"),
    ],
)
def test_a_score_that_gives_something_else(made, match):
    world, words, _ = world_and_words()
    bad = Score("bad", "", "", lambda fitting, parameters: lambda q: made(len(q.images)))
    with pytest.raises(BlissError, match=match):
        evaluate(world, make_draws(world, Protocol("p", "each")), words, [Chosen("bad", bad)])


def test_choosing_scores_with_parameters():
    known = {"cosine": cosine_score()}
    (turned,) = choose_scores(["cosine:sign=-1"], known)
    assert (turned.name, turned.parameters) == ("cosine:sign=-1", {"sign": -1})
    assert [chosen.name for chosen in choose_scores([], known)] == ["cosine"]
    for wrong, match in (
        (["sine"], "the score 'sine' was asked for. Needed: one of cosine"),
        (["cosine:sign"], "--score cosine:sign was given"),
        (["cosine:sign=x"], "--score cosine:sign=x was given"),
        (["cosine:k=3"], "with a parameter of cosine: sign"),
        (["cosine", "cosine"], "a score was named twice"),
    ):
        with pytest.raises(UsageError, match=match):
            choose_scores(wrong, known)
    world, words, _ = world_and_words()
    draws = make_draws(world, Protocol("p", "each"))
    both = evaluate(world, draws, words, choose_scores(["cosine", "cosine:sign=-1"], known))
    up, down = (found.metric("auroc") for found in both.scores)
    np.testing.assert_allclose(up + down, 1)


def test_copies_of_reference_images_among_the_tests_are_counted():
    world, words, _ = world_and_words()
    reference = EmbeddedSet(world.images[:24], world.labels[:24])
    test = EmbeddedSet(world.images[20:], world.labels[20:])
    world = make_world(reference, test, {})
    draws = make_draws(world, Protocol("p", "each"))
    result = evaluate(world, draws, words, [Chosen("c", cosine_score())])
    assert result.leaked == 4
    assert notes(result)[-1] == "4 test images have the content of a reference image"


def fixed_result():
    """Two scores on three draws and two groups, with values chosen by hand."""
    draws = make_draws(world_and_words()[0], Protocol("p", "random", size=2, draws=3))
    good, poor = np.zeros((3, 2, len(METRICS))), np.zeros((3, 2, len(METRICS)))
    good[:, :, 0] = [[0.9, 0.7], [0.8, 0.8], [1.0, 0.6]]
    poor[:, :, 0] = good[:, :, 0] - [[0.1], [0.2], [0.3]]
    for values in (good, poor):
        values[:, :, 1:] = [0.25, 0.5, 0.75, 0.625, 0.375, 0.375, 0.625]
    scores = [
        ScoreResult(
            Chosen(name, cosine_score(needs=frozenset({Need.OTHER_IMAGES} if why else ()))),
            values,
            0.0125,
            3 << 20,
            flags,
            why,
        )
        for name, values, flags, why in (
            ("=poor", poor, None, "it is poor"),
            ("good|one", good, np.full((3, 2, 2), [0.0625, 0.875]), ""),
        )
    ]
    return EvalResult(("near", "far"), draws, tuple(scores), {"none": "no reason."}, 0, (7, 9, 8))


GOLDEN = """\
| score | auroc | auroc_worst | gain | fpr95_id | fpr95_ood | aupr_in | aupr_out | precision \
| recall | fdp | fdp_bh | power_bh | auroc: near | auroc: far | seconds | peak_mib |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- \
| --- |
| good\\|one | 80.00 [80.00, 80.00] | 80.00 | +20.00 [+10.00, +30.00] | 25.00 | 50.00 | 75.00 \
| 62.50 | 37.50 | 37.50 | 62.50 | 6.25 | 87.50 | 90.00 | 70.00 | 0.013 | 3.0 |
| =poor | 60.00 [50.00, 70.00] | 50.00 | +0.00 [+0.00, +0.00] | 25.00 | 50.00 | 75.00 \
| 62.50 | 37.50 | 37.50 | 62.50 | – | – | 70.00 | 50.00 | 0.013 | 3.0 |
"""


def test_the_table_is_this_one():
    rows = table_rows(fixed_result(), "=poor")
    assert markdown_table(rows) == GOLDEN
    lines = csv_table(rows).splitlines()
    assert lines[0].startswith("score,auroc,auroc_low,auroc_high,auroc_worst,gain,gain_low")
    assert lines[2].startswith("'=poor,0.6")
    assert "gain" not in table_rows(fixed_result())[0]
    with pytest.raises(UsageError, match="the baseline 'x' is not among the evaluated scores"):
        table_rows(fixed_result(), "x")


def test_the_report_repeats_itself_and_says_everything(tmp_path):
    protocol = Protocol("p", "random", size=2, draws=3, seed=0)
    for folder in ("a", "b"):
        rows = save_report(fixed_result(), protocol, tmp_path / folder, {"k": 3}, "=poor")
    names = {"table.md", "table.csv", "table.json", "scores.svg", "eval.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    facts = json.loads((tmp_path / "a" / "eval.json").read_text())
    assert facts["table"] == rows == json.loads((tmp_path / "a" / "table.json").read_text())
    assert facts["protocol"]["size"] == 2 and facts["k"] == 3 and facts["baseline"] == "=poor"
    assert facts["scores"]["=poor"]["parameters"] == {"sign": 1}
    assert len(facts["draws"]) == 3 and facts["draws"][0]["anomalies"] == {"other classes": 10}
    text = (tmp_path / "a" / "table.md").read_text()
    assert text.startswith(heading(fixed_result(), protocol))
    assert text.endswith(
        "skipped none: no reason.\n=poor looks at the other test images too\n"
        "fdp_bh, power_bh: flagged by Benjamini–Hochberg at 0.1, p-values from 7 to 9 held-out "
        "reference images a draw (20 % of each class)\nno fdp_bh of =poor: it is poor\n"
    )
    assert facts["scores"]["good|one"]["flags"] == [[[0.0625, 0.875]] * 2] * 3
    assert facts["calibration"] == [7, 9, 8] and facts["flagging"]["level"] == 0.1


def test_one_draw_has_no_interval_in_any_format(tmp_path):
    whole = fixed_result()
    scores = [
        ScoreResult(found.chosen, found.values[:1], found.seconds, found.peak_bytes)
        for found in whole.scores
    ]
    one = EvalResult(whole.groups, whole.draws[:1], tuple(scores), {}, 0)
    rows = save_report(one, Protocol("p", "all"), tmp_path, {})
    assert rows[0]["auroc_low"] is None and "80.00 [–]" in markdown_table(rows)
    assert "NaN" not in (tmp_path / "eval.json").read_text()
    assert "stroke-opacity" not in (tmp_path / "scores.svg").read_text()


def test_the_plot_is_xml_with_a_dot_and_a_bar_for_each_score():
    from xml.etree import ElementTree

    from blissaudit.evaluation.metrics import Interval

    nan = math.nan
    svg = interval_plot(
        [("a<b&c\x07", Interval(0.9, 0.85, 0.95)), ("one", Interval(0.5, nan, nan))], "t\x00"
    )
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    dots = root.findall(f"{space}circle")
    bars = [line for line in root.findall(f"{space}line") if line.get("stroke-opacity")]
    assert len(dots) == 2 and len(bars) == 1
    assert float(bars[0].get("x1")) < float(dots[0].get("cx")) < float(bars[0].get("x2"))
    assert "a<b&c�" in [text.text for text in root.findall(f"{space}text")]


DATA = os.environ.get("BLISS_TEST_DATA")


@pytest.mark.skipif(DATA is None, reason="real embeddings are not here: BLISS_TEST_DATA not set")
def test_the_known_answer_on_caltech_101():
    import pyarrow.parquet as pq
    from blissaudit.indexer.search.captions import plain
    from blissaudit.scorer.scores.bliss import BLISS
    from blissaudit.scorer.scores.distances import KNN
    from blissaudit.scorer.scores.softmax import MAXIMUM_COSINE

    real = Path(DATA) / "real"

    def read(folder, kind):
        rows = np.load(real / folder / f"{kind}_emb" / f"{kind}_emb_0.npy")
        return unit(rows), pq.read_table(real / folder / "metadata/metadata_0.parquet").to_pydict()

    texts, columns = read("texts/photo-of-a", "text")
    first = {}
    for row, name in enumerate(columns["name"]):
        first.setdefault(plain(name), row)
    order = json.loads((real / "caltech101" / "classes.json").read_text())
    usable = tuple(name for name in order if plain(name) in first)
    sets = []
    for part in ("val", "test"):
        rows, facts = read(f"caltech101/{part}", "img")
        sets.append(EmbeddedSet(rows, tuple(facts["label"])))
    world = make_world(*sets, {})
    draws = make_draws(world, Protocol("p", "random", among=usable, size=6, draws=20))
    assert len(usable) == 44 and len(draws[0].test) == 2465
    prompts = {
        label: texts[first[plain(label)]] for label in sets[0].labels if plain(label) in first
    }
    chosen = [
        Chosen("bliss", BLISS),
        Chosen("cosine", MAXIMUM_COSINE),
        Chosen("nearest", KNN, {"k": 1}),
    ]
    result = evaluate(world, draws, Words(prompts, texts[:1000]), chosen)
    means = [100 * found.metric("auroc").mean() for found in result.scores]
    assert means[0] == pytest.approx(99.04, abs=0.01)
    assert means[1:] == pytest.approx([98.3, 97.1], abs=0.06)
    assert not re.search("skipped", str(notes(result)))
