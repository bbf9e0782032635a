"""The members of a reference against the dict they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from blissaudit.indexer.vectors.string_columns import as_bytes, packed_texts, text_column
from blissaudit.scorer.members import RADIUS, as_members, make_members, same_rows, sketch_rows
from blissaudit.scorer.moments import empty_moments
from blissaudit.scorer.reference import Reference
from blissaudit.scorer.reference_file import load_reference, save_reference
from hypothesis import given, settings
from hypothesis import strategies as st

END = "0123456789abcdef"
CONTENT = st.text("ab", max_size=3) | st.sampled_from(
    ["x" + END, "y" + END, END, "vector:" + END * 4, END * 4, "\0a", "ä" * 20]
)  # some have their last 16 bytes in common
FILED = st.dictionaries(
    CONTENT, st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True).map(tuple), max_size=9
)
IMAGES = st.lists(st.tuples(CONTENT, st.integers(0, 4)), max_size=14)


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Blocks of three rows, so that a few members are several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blissaudit.indexer.vectors.string_columns.ROWS_AT_ONCE", 3)
        yield


def dict_of(images):
    """What a dict filled image by image holds."""
    filed = {}
    for content, number in images:
        filed[content] = tuple(sorted({*filed.get(content, ()), number}))
    return filed


def made(images):
    numbers = np.array([number for _, number in images], np.int64)
    return make_members([content for content, _ in images], numbers)


@settings(deadline=None)
@given(FILED, CONTENT)
def test_they_are_read_as_the_dict(filed, content):
    members = as_members(filed)
    assert members == filed and filed == members and len(members) == len(filed)
    assert list(members.items()) == list(filed.items()) and list(members) == list(filed)
    assert list(members.keys()) == list(filed)
    assert dict(members) == filed and as_members(members) is members
    assert (content in members) == (content in filed) and 3 not in members
    assert members.get(content, (9,)) == filed.get(content, (9,))
    assert members.get(content) == filed.get(content)
    if content in filed:
        assert members[content] == filed[content]
    else:
        with pytest.raises(KeyError, match=r".*"):
            members[content]


@settings(deadline=None)
@given(FILED, FILED)
def test_they_are_equal_where_the_dicts_are(filed, others):
    assert (as_members(filed) == as_members(others)) == (filed == others)
    assert (as_members(filed) == others) == (filed == others)
    assert as_members(filed) == dict(reversed(filed.items())) and as_members(filed) != 3


@settings(deadline=None)
@given(IMAGES)
def test_they_are_made_of_images_as_the_dict_is(images):
    filed = dict_of(images)
    assert list(made(images).items()) == list(filed.items()) and made(images) == filed


@settings(deadline=None)
@given(FILED, st.lists(CONTENT, max_size=12))
def test_several_are_looked_up_at_once(filed, asked):
    expected = [(i, c) for i, content in enumerate(asked) for c in filed.get(content, ())]
    members, places = as_members(filed), list(filed)
    images, classes = members.filed(asked)
    assert list(zip(images.tolist(), classes.tolist(), strict=True)) == expected
    found = [places.index(content) if content in filed else -1 for content in asked]
    assert members.find(asked).tolist() == members.find(text_column(asked)).tolist() == found
    packed = packed_texts(as_bytes(asked))
    assert members.find(packed).tolist() == found
    assert members.find(members.contents).tolist() == list(range(len(filed)))


@settings(deadline=None)
@given(FILED, IMAGES)
def test_images_leave_one_class_each(filed, leaving):
    left = {
        content: tuple(c for c in classes if (content, c) not in leaving)
        for content, classes in filed.items()
    }
    numbers = np.array([number for _, number in leaving], np.int64)
    found = as_members(filed).without([content for content, _ in leaving], numbers)
    assert found == {content: classes for content, classes in left.items() if classes}
    assert list(found) == [content for content, classes in left.items() if classes]


@given(st.lists(st.tuples(st.sampled_from([END * 4, "0" * 64, "1" * 64]), st.integers(0, 2))))
def test_digests_are_members_as_other_texts_are(images):
    contents = [content for content, _ in images]
    members = make_members(
        packed_texts(as_bytes(contents)), np.array([number for _, number in images], np.int64)
    )
    assert list(members.items()) == list(dict_of(images).items()) and members == dict_of(images)
    assert (
        members.filed(contents)[0].tolist()
        == members.filed(members.contents.take(members.find(contents)))[0].tolist()
    )
    assert not len(members) or members.contents.values.type == pa.binary(32)


def test_a_saved_reference_has_them_in_order(tmp_path):
    filed = {"x" + END: (1,), "y" + END: (0, 1), "b": (0,), "a": (1,)}
    moments = empty_moments(("ant", "bee"), 4)
    plain = Reference(moments, np.eye(2, 4, dtype=np.float32), ("an ant", "a bee"), {}, filed)
    compact = replace(plain, members=as_members(filed))
    for name, reference in (("plain", plain), ("compact", compact)):
        save_reference(reference, tmp_path / name)
        assert list(load_reference(tmp_path / name).members.items()) == list(filed.items())
    saved = [(tmp_path / name / "members.parquet").read_bytes() for name in ("plain", "compact")]
    assert saved[0] == saved[1]


def test_members_of_a_whole_collection_share_its_column():
    contents = text_column(["a", "b", "c"])
    assert make_members(contents, np.array([0, 1, 0])).contents.values is contents.values


def unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


ROUNDINGS = {
    "float16": lambda rows: rows.astype(np.float16),
    "scaled": lambda rows: rows * np.float32(73.1),
    "scaled float16": lambda rows: (rows * np.float32(0.013)).astype(np.float16),
    "each scaled": lambda rows: rows * np.linspace(0.1, 300, len(rows), dtype=np.float32)[:, None],
}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dimension", [4, 512])
def test_rounded_rows_are_recognised_and_no_others(rounding, dimension):
    rng = np.random.default_rng(dimension)
    common = rng.standard_normal(dimension)  # as of embeddings, in a cone
    rows = unit(rng.standard_normal((200, dimension)) + common)
    rounded = unit(ROUNDINGS[rounding](rows))
    one, other = same_rows(sketch_rows(rounded), sketch_rows(rows))
    apart = np.linalg.norm(rounded[:, None] - rows[None], axis=2)
    wanted = np.argwhere(apart <= 1e-3)
    assert {tuple(pair) for pair in wanted} <= set(zip(one.tolist(), other.tolist(), strict=True))
    assert apart[one, other].max() < 3 * RADIUS
    assert len(wanted) >= 200


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_the_grid_finds_what_comparing_every_pair_finds(seed, n, m):
    """Sketches around the borders of cells, some of them at the limit of what is the same."""
    rng = np.random.default_rng(seed)
    among = rng.integers(-5, 6, (m, 16)) * 304 + rng.integers(-40, 40, (m, 16))
    queries = (
        among[rng.integers(0, m, n)]
        + rng.integers(-9, 10, (n, 16)) * rng.integers(0, 2, n)[:, None]
    )
    queries, among = queries.astype(np.int16), among.astype(np.int16)
    apart = np.square(queries[:, None].astype(np.int64) - among[None]).sum(axis=2)
    wanted = np.argwhere(apart <= round(16 * (RADIUS * 4096) ** 2))
    found = np.stack(same_rows(queries, among), axis=1)
    assert found.tolist() == wanted.tolist()


def test_an_image_is_left_out_of_every_class_that_its_row_is_filed_under():
    rows = unit(np.random.default_rng(1).standard_normal((6, 32)))
    rounded = unit(rows.astype(np.float16))
    names = [f"vector:{n:064x}" for n in range(6)]
    given = np.concatenate([rows, rounded[:1]])  # row 0 is there again, in another class
    classes = np.array([0, 0, 1, 1, 2, 2, 1])
    members = make_members([*names, "vector:" + 64 * "a"], classes, sketch_rows(given))
    others = [f"vector:{n:064x}" for n in range(100, 106)]
    images, filed = members.filed(others, rounded)
    assert images.tolist() == [0, 0, 1, 2, 3, 4, 5] and filed.tolist() == [0, 1, 0, 1, 1, 2, 2]
    assert members.filed(others)[0].tolist() == []
    # Files are compared by their contents alone; a file and a row by the row.
    files = [f"{n:064x}" for n in range(10, 16)]
    by_file = make_members(files, classes[:6], sketch_rows(rows))
    assert by_file.filed([f"{n:064x}" for n in range(6)], rows)[0].tolist() == []
    assert by_file.filed(others, rounded)[1].tolist() == classes[:6].tolist()
    assert members.filed(files, rows)[0].tolist() == [0, 0, 1, 2, 3, 4, 5]
    left = members.without([names[1]], np.array([0]))
    assert left.filed(others, rounded)[0].tolist() == [0, 0, 2, 3, 4, 5]


def test_real_embeddings_are_told_apart(real_data):
    """Each of 1,649 photographs as float16 is recognised, and only where the row is the same."""
    stored = np.load(real_data / "caltech101" / "val" / "img_emb" / "img_emb_0.npy")
    rows = unit(stored)
    one, other = same_rows(sketch_rows(unit(rows.astype(np.float16))), sketch_rows(rows))
    assert set(range(len(rows))) == set(one[one == other].tolist())
    assert all(np.array_equal(rows[i], rows[j]) for i, j in zip(one, other, strict=True))
