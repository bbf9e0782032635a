"""Rust's ids are the Python tokenizer's on plain texts, and it is used on nothing else."""

import gzip
import os
import random
import string
from pathlib import Path

import numpy as np
import open_clip
import pytest
from blissaudit.indexer.encode import tokens
from blissaudit.indexer.encode.open_clip import recipe_tokeniser
from blissaudit.indexer.encode.tokens import (
    CLEANINGS,
    TokenizerRecipe,
    fast_ids,
    is_plain,
    merges_in_order,
    recipe_of,
    token_rows,
    tokeniser_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PLAIN = "".join(c for c in map(chr, range(32, 127)) if c not in "&<")
FRAGMENTS = st.sampled_from(
    ["'s", "'S", "'t", "'re", "'ve", "'m", "'ll", "'d", "''", "  ", "aaaa", "hah", "the", "12", "."]
)
TEXTS = st.lists(st.one_of(FRAGMENTS, st.text(PLAIN, max_size=12)), max_size=12).map("".join)


@pytest.fixture(scope="module")
def python():
    return open_clip.SimpleTokenizer()


@pytest.fixture(scope="module")
def rust(python):
    return fast_ids(python)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_plain_texts_have_the_same_ids(python, rust, text):
    assert is_plain(text)
    assert rust([text]) == [python.encode(text)]


def test_every_merge_and_every_printable_pair_has_the_same_ids(python, rust):
    merged = [first + second for first, second in python.bpe_ranks]
    words = [word.replace("</w>", " ") for word in merged]
    words = [word for word in words if is_plain(word)]
    assert len(words) > 45_000
    words += [first + second for first in PLAIN for second in PLAIN]
    together = [" ".join(words[at : at + 40]) for at in range(0, len(words), 40)]
    glued = ["".join(words[at : at + 7]).replace(" ", "") for at in range(0, len(words), 21)]
    for texts in (together, glued):
        assert rust(texts) == [python.encode(text) for text in texts]


def test_long_runs_have_the_same_ids(python, rust):
    some = random.Random(0)
    texts = [letter * count for letter in "ab!1-" for count in (2, 3, 7, 64, 257, 600)]
    texts += ["".join(some.choices("abho'!", k=300)) for _ in range(30)]
    assert rust(texts) == [python.encode(text) for text in texts]


@pytest.mark.skipif("BLISS_TEST_DATA" not in os.environ, reason="BLISS_TEST_DATA is not set")
def test_real_captions_have_open_clips_rows(python):
    texts, test_data = [], Path(os.environ["BLISS_TEST_DATA"])
    for name in ("flavors.txt", "laion-bigrams.txt", "wordnet_words.txt", "flickr8k.token.txt"):
        lines = (test_data / "texts" / name).read_text(encoding="utf-8").splitlines()
        texts += [line.rpartition("\t")[2] for line in lines[:: len(lines) // 900]]
    odd = [text for text in texts if not is_plain(text)]
    texts += odd
    np.testing.assert_array_equal(tokeniser_of(python)[0](texts), python(texts).numpy())


@pytest.mark.parametrize(
    "text", ["caf\u00e9", "a & b", "a < b", "a\tb", "a\n", "\x7f", "\u0130", "\u2019s"]
)
def test_other_texts_are_left_to_python(python, monkeypatch, text):
    asked = []

    def watched(tokenizer):
        rust = fast_ids(tokenizer)
        return lambda texts: asked.extend(texts) or rust(texts)

    monkeypatch.setattr("blissaudit.indexer.encode.tokens.fast_ids", watched)
    monkeypatch.setattr("blissaudit.indexer.encode.tokens.WORTH_RUST", 5)
    tokenise, recipe = tokeniser_of(open_clip.SimpleTokenizer())
    texts = ["a key", text, f"{text} and more", "THE END"]
    np.testing.assert_array_equal(tokenise(texts), python(texts).numpy())
    assert not asked  # it is not made for so few
    np.testing.assert_array_equal(tokenise(texts), python(texts).numpy())
    assert asked == ["a key", "THE END"] and recipe == TokenizerRecipe(77, "lower")


@pytest.mark.parametrize("length", [3, 8, 32, 77, 120])
@pytest.mark.parametrize("cleaning", CLEANINGS)
def test_every_length_and_cleaning_has_open_clips_rows(length, cleaning, monkeypatch):
    texts = ["", "A Red_Apple, it's here!", "word " * 90, "caf\u00e9 &amp; <b>", "<END_OF_TEXT> x"]
    tokenizer = open_clip.SimpleTokenizer(context_length=length, clean=cleaning)
    tokenise, recipe = tokeniser_of(tokenizer)
    assert recipe == TokenizerRecipe(length, cleaning)
    monkeypatch.setattr(tokens, "WORTH_RUST", 0)
    expected = tokenizer(texts).numpy()
    np.testing.assert_array_equal(tokenise(texts), expected, strict=True)
    np.testing.assert_array_equal(recipe_tokeniser(recipe)(texts), expected)


def test_a_tokenizer_that_is_not_exactly_open_clips_is_called_as_it_is(tmp_path):
    class Own(open_clip.SimpleTokenizer):
        pass

    changed = open_clip.SimpleTokenizer()
    changed.encoder = {**changed.encoder, "key</w>": 7}
    cut = tmp_path / "cut.gz"
    lines = gzip.open(open_clip.tokenizer.default_bpe()).read().decode().split("\n")
    cut.write_bytes(gzip.compress("\n".join(lines[:1000]).encode()))
    others = [
        Own(),
        changed,
        open_clip.SimpleTokenizer(str(cut)),
        open_clip.SimpleTokenizer(additional_special_tokens=["<mask>"]),
        open_clip.SimpleTokenizer(reduction_mask="simple"),
        lambda texts: np.array([[len(text), 0] for text in texts]),
    ]
    for tokenizer in others:
        assert recipe_of(tokenizer) is None
        tokenise, recipe = tokeniser_of(tokenizer)
        assert recipe is None
        rows = tokenise(["a key", "two"])
        np.testing.assert_array_equal(rows, np.asarray(tokenizer(["a key", "two"])))
        assert tokenise([]).shape == (0, rows.shape[1])


def test_rust_is_not_used_where_it_differs(python, monkeypatch):
    assert fast_ids(python) is not None
    monkeypatch.setattr(tokens, "PIECES", "[a-z]+")
    assert fast_ids(python) is None
    texts = ["a key, 2 boats", "caf\u00e9"]
    monkeypatch.setattr(tokens, "fast_ids", lambda tokenizer: None)
    np.testing.assert_array_equal(tokeniser_of(python)[0](texts), python(texts).numpy())


def test_merges_must_come_after_their_halves_and_make_each_token_once():
    single = {c: n for n, c in enumerate(["a", "b", "c", "c</w>"])}

    def ordered(*merges):
        made = {a + b: 10 + n for n, (a, b) in enumerate(merges)}
        return merges_in_order(merges, {**single, **made})

    assert ordered(("a", "b"), ("ab", "c"), ("ab", "ab"))
    assert not ordered(("ab", "c"), ("a", "b"))
    assert not ordered(("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"))
    assert not ordered(("a", "x"))
    assert not merges_in_order([("a", "b")], single)


def test_rows_are_cut_and_ended():
    rows = token_rows([[5, 0, 6], [], [1, 2, 3, 4]], (8, 9), 5)
    expected = [[8, 5, 0, 6, 9], [8, 9, 0, 0, 0], [8, 1, 2, 3, 9]]
    np.testing.assert_array_equal(rows, np.array(expected, np.int64), strict=True)
    assert token_rows([], (8, 9), 5).shape == (0, 5)


def test_remembered_words_are_bounded_and_change_nothing(monkeypatch):
    monkeypatch.setattr(tokens, "CACHED_WORDS", 5)
    tokenizer = open_clip.SimpleTokenizer()
    tokenise = recipe_tokeniser(TokenizerRecipe(77, "lower"))
    texts = [f"café {one}{two}ing <end_of_text>" for one in string.ascii_lowercase for two in "ay"]
    for _ in range(3):
        np.testing.assert_array_equal(tokenise(texts), tokenizer(texts).numpy())
    tokens.limit_cache(tokenizer)
    assert tokenizer.cache == {t: t for t in ("<start_of_text>", "<end_of_text>")}
