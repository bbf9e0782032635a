"""Known points of the field study, through its own settings and the evaluation itself."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blissaudit.evaluation.draws import make_draws
from blissaudit.evaluation.run import Chosen, Words, choose_scores, evaluate
from blissaudit.scorer.scores.contract import Need, Score, fit_score
from blissaudit.scorer.scores.negatives import fit_negatives
from blissaudit.scorer.scores.registry import SCORES
from blissaudit.scorer.scores.similarity import similarity

DATA = os.environ.get("BLISS_TEST_DATA")


def z(values):
    return (values - values.mean()) / values.std()


def fit_sum(fitting, parameters):
    """z(BLISS) + z(log-odds of NegLabel in one group), standardised on the test batch."""
    bliss = fit_score(SCORES["bliss"], fitting)
    mined = {**SCORES["neglabel_retrieved"].defaults, "keep": 0.9, "drop": 1.0}
    meeting = fit_negatives(fitting, mined).mining.meeting

    def score(query):
        negatives = similarity(query.images, fitting.texts[meeting], 0.01).log_sum
        labels = similarity(query.images, fitting.normals.prompts, 0.01).log_sum
        return z(bliss(query)) + z(negatives - labels)

    return score


SUM = Score(
    "sum",
    "",
    "",
    fit_sum,
    needs=frozenset({Need.NORMALS, Need.TEXTS, Need.RETRIEVED, Need.OTHER_IMAGES}),
)


@pytest.mark.skipif(DATA is None, reason="real embeddings are not here: BLISS_TEST_DATA not set")
def test_thirty_caltech_classes_and_a_thousand_texts(load_benchmark):
    field = load_benchmark("field_settings")
    root = Path(DATA) / "real"
    texts, columns = field.load(root / "texts/photo-of-a", "text")
    (setting,) = [
        s for s in field.caltech_settings(root, columns["name"]) if s.name == "Caltech 30"
    ]
    prompts = {name: texts[row] for name, row in setting.prompts.items()}
    names = [
        "bliss",
        "neglabel_one_group:keep=0.9,drop=1",
        "neglabel:keep=0.9,drop=1",
        "maximum_cosine",
        "mahalanobis",
    ]
    chosen = [*choose_scores(names, SCORES), Chosen("sum", SUM)]
    protocol = replace(setting.protocol, draws=10)
    draws = make_draws(setting.world, protocol)
    result = evaluate(setting.world, draws, Words(prompts, texts[:1000]), chosen)
    found = [100 * float(np.mean(score.metric("auroc"))) for score in result.scores]
    # As published with the data: 96.45, 97.3, 97.4, 90.4, 93.5 and 97.6.
    assert found == pytest.approx([96.45, 97.26, 97.37, 90.43, 93.53, 97.6], abs=0.05)
