"""A column of texts against the tuple it stands for."""

import numpy as np
import pyarrow as pa
import pytest
from blissaudit.indexer.vectors import string_columns as module
from blissaudit.indexer.vectors.string_columns import (
    arrow_texts,
    as_bytes,
    categories,
    distinct_texts,
    joined,
    joined_contents,
    numbers_of,
    packed_texts,
    ranks,
    text_column,
)
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(st.characters(), max_size=4) | st.sampled_from(["a", "b", "caf\udce9", "\ud800"])
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)
NAMED = st.tuples(st.sampled_from(["", "vector:", "V"]), st.lists(DIGEST, max_size=9))
CONTENTS = NAMED.map(lambda named: tuple(named[0] + digest for digest in named[1]))
TEXTS = st.lists(TEXT | DIGEST | st.none(), max_size=12).map(tuple) | CONTENTS
PLAIN = [text_column, lambda texts: categories(text_column(texts))]


def packing(texts):
    pairs = [as_bytes(texts[i : i + 2]) for i in range(0, len(texts), 2)]
    return joined_contents(map(packed_texts, pairs))


MAKERS = st.sampled_from([*PLAIN, packing])
ENDS = st.integers(-14, 14) | st.none()


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Blocks of three rows, so that a few texts are several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_AT_ONCE", 3)
        yield


@settings(deadline=None)
@given(TEXTS, MAKERS, st.integers(-14, 14), ENDS, ENDS, st.integers(-3, 3).filter(bool))
def test_it_is_read_as_the_tuple(texts, make, at, start, stop, step):
    column = make(texts)
    assert column == texts and texts == column and column == list(texts)
    assert tuple(column) == texts and len(column) == len(texts)
    part = column[start:stop:step]
    assert tuple(part) == texts[start:stop:step] and part == make(texts[start:stop:step])
    again = part[1:4]
    assert tuple(again) == texts[start:stop:step][1:4]
    if -len(texts) <= at < len(texts):
        assert column[at] == texts[at] and column[np.int64(at)] == texts[at]
    else:
        with pytest.raises(IndexError, match=f"text {at} of {len(texts)}"):
            column[at]


@settings(deadline=None)
@given(TEXTS, MAKERS, TEXTS, MAKERS)
def test_columns_are_equal_where_the_tuples_are(texts, make, others, make_other):
    assert (make(texts) == make_other(others)) == (texts == others)
    assert (make(texts) == others) == (texts == others)
    assert make(texts) == make_other(texts)
    assert make(texts) != "ab" and make(texts) != 3


@settings(deadline=None)
@given(TEXTS, MAKERS, TEXT | st.none())
def test_texts_are_found_as_in_the_tuple(texts, make, text):
    column = make(texts)
    assert (text in column) == (text in texts) and column.count(text) == texts.count(text)
    if text in texts:
        assert column.index(text) == texts.index(text)
    else:
        with pytest.raises(ValueError, match=r"^$"):
            column.index(text)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(PLAIN), st.data())
def test_rows_are_taken_and_parts_joined(texts, make, data):
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9)) if texts else []
    column = make(texts)
    assert column.take(np.array(rows, np.int64)) == tuple(texts[i] for i in rows)
    cut = data.draw(st.integers(0, len(texts)))
    parts = [make(texts[:cut]).values, make(texts[cut:]).values]
    assert joined(parts) == texts and joined([part for part in parts if len(part)]) == texts


@settings(deadline=None)
@given(st.lists(st.text(max_size=3) | st.none(), max_size=12).map(tuple), MAKERS)
def test_tables_get_the_same_strings(texts, make):
    column = make(texts)
    assert pa.array(column, pa.string()).equals(pa.array(texts, pa.string()))
    assert pa.array(column[2:7], pa.string()).equals(pa.array(texts[2:7], pa.string()))
    chunks = pa.chunked_array([pa.array(texts[:5], pa.string()), pa.array(texts[5:], pa.string())])
    assert joined(list(arrow_texts(chunks))) == texts
    assert joined(list(arrow_texts(chunks.dictionary_encode()))) == texts


@settings(deadline=None)
@given(TEXTS, MAKERS, st.lists(TEXT, max_size=5, unique=True))
def test_labels_get_numbers(texts, make, names):
    numbers = {name: number for number, name in enumerate(names)}
    expected = [numbers.get(text, -1) for text in texts]
    assert numbers_of(texts, numbers).tolist() == expected
    assert numbers_of(make(texts)[1:], numbers).tolist() == expected[1:]
    assert distinct_texts(texts) == sorted({text for text in texts if text is not None})
    assert distinct_texts(make(texts)[1:]) == sorted({x for x in texts[1:] if x is not None})


@settings(deadline=None)
@given(st.lists(TEXT, max_size=12) | CONTENTS, MAKERS)
def test_ranks_are_places_among_the_distinct(texts, make):
    places = {text: place for place, text in enumerate(sorted(set(texts)))}
    assert ranks(texts).tolist() == ranks(make(texts)).tolist() == [places[x] for x in texts]


def test_other_values_are_what_str_makes_of_them():
    for values in ([1, None, 3], [1.0, 2.5, None, 4.0], [True, False]):
        expected = tuple(None if value is None else str(value) for value in values)
        assert joined(list(arrow_texts(pa.chunked_array([values])))) == expected
    assert joined([]) == () and categories(joined([])) == ()
    assert joined(list(arrow_texts(pa.chunked_array([[b"a", None, "ä".encode()]])))) == (
        "a", None, "ä",
    )  # fmt: skip


@given(CONTENTS.filter(bool), CONTENTS.filter(bool), st.sampled_from(["g", "A", " "]), st.data())
def test_digests_of_one_kind_take_32_bytes_and_others_are_left(some, others, wrong, data):
    column = packing(some)
    assert column.values.type == pa.binary(32) and column == some
    both = packing((*some, *others))
    alike = len({content[:-64] for content in (*some, *others)}) == 1
    assert (both.values.type == pa.binary(32)) == alike and both == (*some, *others)
    row = data.draw(st.integers(0, len(some) - 1))
    at = len(some[row]) - data.draw(st.integers(1, 64))
    broken = (*some[:row], some[row][:at] + wrong + some[row][at + 1 :], *some[row + 1 :])
    assert packing(broken).values.type == pa.large_binary() and packing(broken) == broken


def test_strings_and_bytes_that_are_not_utf8_and_lists_are_refused():
    for values in ([b"\xff"], [["x"], None], [{"x": 1}]):
        with pytest.raises(pa.ArrowInvalid, match=r"(?i)utf-?8|it holds"):
            list(arrow_texts(pa.chunked_array([values])))
    broken = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    with pytest.raises(pa.ArrowInvalid, match=r"(?i)utf-?8"):
        list(arrow_texts(pa.chunked_array([broken])))
