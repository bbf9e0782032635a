"""Batches: written and read again, gathered to parts in any order, errors unchanged."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from blissaudit.distributed.batches import (
    END,
    FAILED,
    READ_ERROR,
    Batch,
    PartGatherer,
    apply_step,
    array_to_arrow,
    arrow_to_array,
    count_rows,
    error_batch,
    from_arrow,
    to_arrow,
)
from blissaudit.errors import BlissError, UsageError
from hypothesis import given
from hypothesis import strategies as st


def batch(part: int, number: int, last: bool, *values: int) -> Batch:
    return Batch(part, number, last, pa.table({"value": pa.array(values, pa.int64())}))


TWO_PARTS = [
    batch(0, 0, False, 1, 2), batch(0, 1, False, 3), batch(0, 2, True, 4),
    batch(1, 0, False, 5), batch(1, 1, True),
]  # fmt: skip


def parts_of(batches: list[Batch], wanted: frozenset[int] | None = None) -> dict[int, list[int]]:
    found = PartGatherer(wanted).gather(batches)
    return {number: table["value"].to_pylist() for number, table in found}


@given(order=st.permutations(TWO_PARTS), again=st.lists(st.sampled_from(TWO_PARTS)))
def test_parts_are_the_same_in_whatever_order_and_however_often_batches_come(order, again):
    assert parts_of([*order, *again]) == {0: [1, 2, 3, 4], 1: [5]}
    assert parts_of([*again, *order]) == {0: [1, 2, 3, 4], 1: [5]}


@given(dtype=st.sampled_from(["f4", "i8", "u1"]), m=st.integers(1, 9), cut=st.integers(0, 9))
def test_numbers_come_back_bit_for_bit_however_they_were_chunked(dtype, m, cut):
    made = np.arange(m * 3).reshape(m, 3).astype(dtype) / np.asarray(7, dtype)
    rows = array_to_arrow(made.astype(dtype))
    chunked = pa.chunked_array([rows[:cut], rows[cut:]])
    back = arrow_to_array(chunked)
    assert back.dtype == dtype and np.array_equal(back, made.astype(dtype))


def test_a_batch_is_written_as_one_row_and_several_rows_are_read_in_turn():
    rows = pa.concat_tables(to_arrow(each) for each in TWO_PARTS)
    assert list(from_arrow(rows)) == TWO_PARTS


def test_a_step_is_applied_to_work_and_to_nothing_else():
    def reverse(table: pa.Table) -> pa.Table:
        return table.take(pa.array(range(len(table) - 1, -1, -1)))

    assert apply_step(reverse, TWO_PARTS[0]) == batch(0, 0, False, 2, 1)
    end = Batch(-1, 7, True, pa.table({"value": [1, 2]}), END)
    assert apply_step(reverse, end) is end


def test_an_error_of_a_step_arrives_as_it_is():
    def fail(table: pa.Table) -> pa.Table:
        raise UsageError("this", "that", "Do so")

    failed = apply_step(fail, TWO_PARTS[3])
    (arrived,) = from_arrow(to_arrow(failed))
    with pytest.raises(UsageError, match=r"^this\. Needed: that\. Do so\.$"):
        list(PartGatherer().gather([*TWO_PARTS[:3], arrived]))


def test_any_other_error_is_one_plain_sentence():
    failed = error_batch(ZeroDivisionError("division\nby zero"), FAILED)
    with pytest.raises(BlissError, match=r"a worker failed \(ZeroDivisionError: division by zero"):
        list(PartGatherer().gather([failed]))


def test_what_was_read_before_reading_broke_off_is_given_out():
    broke = error_batch(BlissError("the drive is gone", "a drive", "Mount it"), READ_ERROR)
    found = []
    with pytest.raises(BlissError, match="the drive is gone"):
        for number, _ in PartGatherer().gather([broke, *TWO_PARTS]):
            found.append(number)
    assert found == [0, 1]


@pytest.mark.parametrize("missing", [0, 1, 2, 4])
def test_a_batch_that_never_comes_is_an_error_behind_the_whole_parts(missing):
    some = TWO_PARTS[:missing] + TWO_PARTS[missing + 1 :]
    with pytest.raises(BlissError, match=r"^1 part did not come back"):
        parts_of(some)


def test_a_part_of_which_nothing_comes_is_missed_only_where_it_is_wanted():
    assert parts_of(TWO_PARTS) == parts_of(TWO_PARTS, frozenset({0, 1}))
    with pytest.raises(BlissError, match=r"^2 parts did not come back"):
        parts_of(TWO_PARTS, frozenset({0, 1, 2, 3}))


def test_what_reading_ends_with_is_remembered_and_rows_of_work_are_count_rows():
    told: list[int] = []
    end = Batch(-1, 5, True, pa.table({"rows": [5]}), END)
    gatherer = PartGatherer()
    assert len(list(gatherer.gather(count_rows([*TWO_PARTS, end], told.append)))) == 2
    assert (told, gatherer.input_rows) == ([2, 3, 4, 5, 5], 5)
