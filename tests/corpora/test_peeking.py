"""A first look at a corpus: counts worked by hand, and what must not change them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import pytest
from blissaudit.corpora.peeking import LENGTH_EDGES, Peek, guess_language, peek, script_shares
from blissaudit.corpora.registry import JSON, TextBatch, batch_values
from blissaudit.errors import UsageError
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class Rows:
    """A source in memory, one text or list of texts a row, that notes what was read."""

    rows: Sequence[object]
    read: list[int] = field(default_factory=list)
    spec: str = "rows"
    default_prompt: str = "{}"
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None

    def facts(self) -> dict[str, JSON]:
        return {}

    def batches(self, size: int) -> Iterator[TextBatch]:
        def values() -> Iterator[tuple[int, object]]:
            for row, value in enumerate(self.rows):
                self.read.append(row)
                yield row, value

        try:
            yield from batch_values(values(), size)
        finally:
            self.read.append(-1)


def test_counts_lengths_duplicates_and_letters_by_hand() -> None:
    found = peek(Rows(["a cat", "", ["a  cat", "кот сидит"], "x" * 2001, None, "9 !"]))
    assert found == Peek(
        rows=6,
        whole=True,
        texts=7,
        empty=2,
        shortest=3,
        longest=2001,
        lengths=(4, 0, 0, 0, 0, 0, 0, 0, 1),
        duplicates=1 / 5,
        ascii=2009 / 2017,
        scripts={"Latin": 2009 / 2017, "Cyrillic": 8 / 2017},
        language=None,
        examples=("a cat", "кот сидит", "x" * 2001, "9 !"),
    )


@pytest.mark.parametrize(("size", "bin_"), [(1, 0), (9, 0), (10, 1), (639, 6), (2000, 7)])
def test_lengths_fall_into_their_bins(size: int, bin_: int) -> None:
    lengths = peek(Rows(["x" * size])).lengths
    assert lengths[bin_] == sum(lengths) == 1
    assert len(lengths) == len(LENGTH_EDGES)


def test_rows_are_source_rows_and_reading_stops_after_them() -> None:
    source = Rows([["a", "b", "c"]] * 1000)
    found = peek(source, rows=3)
    assert (found.rows, found.texts, found.whole) == (3, 9, False)
    assert source.read[-1] == -1
    assert max(source.read) < 200
    assert peek(Rows(["a"] * 3), rows=3).whole
    assert not peek(Rows(["a"] * 4), rows=3).whole
    assert peek(Rows([]), rows=3) == Peek(
        0, True, 0, 0, 0, 0, (0,) * len(LENGTH_EDGES), 0.0, 0.0, {}, None, ()
    )
    with pytest.raises(UsageError, match=r"0 rows were asked for. Needed: at least 1"):
        peek(source, rows=0)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("dog", {"Latin": 1.0}),
        ("狗 dog", {"Latin": 3 / 4, "CJK": 1 / 4}),
        ("いぬ", {"Hiragana": 1.0}),
        ("كلب", {"Arabic": 1.0}),
        ("σκύλος", {"Greek": 1.0}),
        ("12 !?", {}),
    ],
)
def test_scripts(text: str, shares: dict[str, float]) -> None:
    assert script_shares([text]) == shares


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["A child in a pink dress is climbing up a set of stairs"], "English"),
        (["Ein Hund läuft mit dem Ball auf der Wiese und bellt"], "German"),
        (["Un chien court dans le parc avec une balle sur la plage"], "French"),
        (["Un perro corre por el parque con una pelota en la playa"], "Spanish"),
        (["Il cane corre nel parco con una palla e gioca"], "Italian"),
        (["Um cão corre no parque com uma bola e não para"], "Portuguese"),
        (["Een hond rent in het park met een bal van de buren"], "Dutch"),
        (["tench", "goldfish", "great white shark"], None),
        ([], None),
    ],
)
def test_language_hints(texts: list[str], language: str | None) -> None:
    assert guess_language(texts) == language


def test_no_language_is_guessed_where_most_letters_are_not_latin() -> None:
    assert (
        peek(Rows(["a dog in the park", "собака бежит по большому зелёному парку"])).language
        is None
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("ab \té犬", max_size=12), max_size=20), st.integers(0, 5))
def test_order_changes_only_the_examples_and_repeats_add_up(texts: list[str], seed: int) -> None:
    found, shuffled = asdict(peek(Rows(texts))), list(texts)
    random.Random(seed).shuffle(shuffled)
    again = asdict(peek(Rows(shuffled)))
    for each in (found, again):
        each.pop("examples")
    assert found == again
    twice = peek(Rows(texts * 2))
    assert twice.lengths == tuple(2 * n for n in found["lengths"])
    if sum(found["lengths"]):
        assert twice.duplicates == pytest.approx((1 + found["duplicates"]) / 2)
