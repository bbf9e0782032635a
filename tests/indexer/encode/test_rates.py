"""Rates of stages worked by hand, and the stage that is said to limit."""

import pytest
from blissaudit.audit.report.terminal import progress_lines
from blissaudit.indexer.build.rates import StageRates


def rates(encoding, waited, writing=0.25):
    made = StageRates()
    made.add("reading", 1000, 0.01)
    made.set_workers("tokenising", 2)
    made.add("tokenising", 400, 0.05)
    made.add("tokenising", 600, 0.05)
    made.add("encoding", 1000, encoding)
    made.add("writing", 1000, writing)
    made.wait(waited)
    return made


@pytest.mark.parametrize(
    ("made", "limit", "lines"),
    [
        (
            rates(1.64, 0.01),
            "encoding",
            [
                "reading 100,000/s, tokenising 20,000/s (2 processes), encoding 610/s, "
                "writing 4,000/s: the encoder limits"
            ],
        ),
        (
            rates(0.04, 0.06, 0.01),
            "tokenising",
            [
                "reading 100,000/s, tokenising 20,000/s (2 processes), encoding 25,000/s, "
                "writing 100,000/s: tokenising limits",
                "the encoder waited 60% of the time",
            ],
        ),
        (
            rates(0.04, 0.06),
            "writing",
            [
                "reading 100,000/s, tokenising 20,000/s (2 processes), encoding 25,000/s, "
                "writing 4,000/s: writing limits",
                "the encoder waited 60% of the time",
            ],
        ),
    ],
)
def test_the_limit_is_the_encoder_unless_it_waits(made, limit, lines):
    assert made.limit() == limit
    assert made.report() == lines
    made.note("a remark")
    assert made.report() == [*lines, "a remark"]


def test_facts_are_what_was_counted():
    facts = rates(2.0, 0.5).facts()
    assert facts["stages"]["tokenising"] == {
        "items": 1000,
        "busy_seconds": 0.1,
        "workers": 2,
        "per_second": 20000.0,
    }
    assert rates(2.0, 0.5).report()[1] == "the encoder waited 20% of the time"
    assert (facts["encoder_waited"], facts["limit"], facts["notes"]) == (0.5, "encoding", [])


def test_nothing_encoded_is_nothing_to_report():
    made = StageRates()
    made.add("writing", 10, 1.0)
    assert made.report() == [] and made.limit() is None
    assert made.facts()["stages"]["encoding"]["per_second"] is None


def test_what_fails_is_not_counted():
    made = StageRates()
    with pytest.raises(OSError, match="disk"), made.timing("writing", 5):
        raise OSError("disk")
    with made.timing("writing", 3):
        pass
    assert made.stages["writing"].items == 3


def test_remarks_are_written_as_they_are(capsys):
    progress_lines(every=0.0)("the encoder limits", 0, 0)
    assert capsys.readouterr().err == "the encoder limits\n"
