"""Captions encoded in a pipeline are those of encode_prompts; one thread feeds the encoder."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from blissaudit.errors import UsageError
from blissaudit.indexer.build.parts import encode_captions
from blissaudit.indexer.encode.encoder import Encoder, ModelChoice, encode_prompts
from blissaudit.indexer.encode.open_clip import load_encoder

PROMPTS = ["{}", "a drawing of {label}"]
BATCHES = [
    ["a red apple", "two blue boats at sea", "caf\u00e9 &amp; cr\u00e8me"],
    ["!", "! ! !"],
    ["a very long caption about a boat " * 9, "<end_of_text> key", ""],
    [f"{count} small trees" for count in range(40)],
    ["the last one"],
]


@pytest.fixture(scope="module")
def demo():
    return load_encoder(ModelChoice("demo"))


@pytest.fixture(scope="module")
def expected(demo):
    return [encode_prompts(demo, batch, PROMPTS) for batch in BATCHES]


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    threads = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= threads


def equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def unending(seen):
    """The batches again and again without end; says in `seen` when it is closed."""
    try:
        while True:
            yield from BATCHES
    finally:
        seen.append("closed")


def test_halves_of_the_encoder_compose(demo):
    flat = [text for batch in BATCHES for text in batch]
    ids = demo.tokenise(flat)
    assert ids.dtype == np.int64 and ids.shape == (len(flat), demo.facts["context_length"])
    np.testing.assert_array_equal(demo.encode_tokens(ids), demo.encode_texts(flat))
    assert demo.encode_tokens(demo.tokenise([])).shape == (0, 128)
    fake = Encoder({}, demo.preprocessing, 1, lambda t: np.array([[len(x)] for x in t]), len)
    np.testing.assert_array_equal(fake.encode_tokens(fake.tokenise(["a", "bcd"])), [[1], [3]])


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_rows_are_those_of_encode_prompts_bit_for_bit(demo, expected, ahead):
    equal(list(encode_captions(BATCHES, demo, PROMPTS, ahead)), expected)


def test_empty_batches_and_no_batches(demo):
    empty = list(encode_captions([[], ["a key"], []], demo, ["{}"]))
    assert [len(rows) for rows in empty] == [0, 1, 0]
    assert empty[0].dtype == np.float32 and empty[0].shape == (0, 128)
    assert list(encode_captions([], demo, ["{}"])) == []


def test_an_encoder_without_a_tokeniser_is_given_the_texts(demo):
    plain = Encoder(demo.facts, demo.preprocessing, 64, demo.encode_texts, demo.encode_images)
    rows = list(encode_captions(BATCHES, plain, PROMPTS))
    equal(rows, [encode_prompts(plain, batch, PROMPTS) for batch in BATCHES])


def test_the_next_batches_are_tokenised_while_one_is_encoded(demo):
    tokenised = threading.Semaphore(0)

    def tokenise(texts):
        tokenised.release()
        return demo.tokenise(texts)

    def encode(ids):
        if not waited:  # while the first batch is encoded, three others are tokenised
            waited.extend(tokenised.acquire(timeout=30) for _ in range(4))
        return demo.encode_tokens(ids)

    waited = []
    encoder = replace(demo, tokenise=tokenise, encode_tokens=encode)
    assert len(list(encode_captions(BATCHES, encoder, ["{}"], 3))) == len(BATCHES)
    assert waited == [True] * 4


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_what_the_source_raises_surfaces_unchanged_after_the_rows_before(demo, expected, taken):
    class Broken(Exception):
        pass

    error = Broken("the network is gone")

    def source():
        yield from BATCHES[:taken]
        raise error

    found = []
    with pytest.raises(Broken, match="the network is gone") as caught:
        for rows in encode_captions(source(), demo, PROMPTS, 2):
            found.append(rows)
    assert caught.value is error
    equal(found, expected[:taken])


def test_what_the_tokenizer_raises_surfaces_unchanged_and_closes_the_source(demo):
    def tokenise(texts):
        if "the last one" in texts:
            raise ValueError("no ids for the last one")
        return demo.tokenise(texts)

    seen = []
    with pytest.raises(ValueError, match="no ids for the last one"):
        list(encode_captions(unending(seen), replace(demo, tokenise=tokenise), ["{}"]))
    assert seen == ["closed"]


def test_a_source_that_cannot_be_iterated_is_an_error_and_no_hang(demo):
    with pytest.raises(TypeError, match="not iterable"):
        list(encode_captions(3, demo, ["{}"]))


def test_what_the_encoder_raises_ends_the_thread(demo):
    def fail(ids):
        raise MemoryError("no memory for this batch")

    seen = []
    with pytest.raises(MemoryError, match="no memory"):
        list(encode_captions(unending(seen), replace(demo, encode_tokens=fail), ["{}"]))
    assert seen == ["closed"]


def test_reading_is_bounded(demo):
    read = []

    def source():
        for number in range(1000):
            read.append(number)
            yield [f"text {number}"]

    rows = encode_captions(source(), demo, ["{}"], 3)
    for taken in range(1, 6):
        next(rows)
        time.sleep(0.05)
        assert len(read) <= taken + 3 + 1  # those in the queue and the one to be put there
    rows.close()


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("end", ["close", "forget"])
def test_closing_early_ends_the_thread_and_the_source(demo, ahead, end):
    seen = []
    rows = encode_captions(unending(seen), demo, ["{}"], ahead)
    next(rows)
    if end == "close":
        rows.close()
    else:
        del rows
        gc.collect()
    assert seen == ["closed"]


def test_prompts_are_checked_before_anything_starts(demo):
    with pytest.raises(UsageError, match="does not say where the text goes"):
        encode_captions(BATCHES, demo, ["no place"])


SCRIPT = """
import sys
import numpy as np
from blissaudit.indexer.encode.encoder import Encoder
from blissaudit.indexer.build.parts import encode_captions
encoder = Encoder({}, None, 1, None, None, tokenise=lambda texts: np.ones((len(texts), 4), int),
                  encode_tokens=lambda ids: ids / np.float32(2))
def source():
    while True:
        yield ["a key", "a boat"]
rows = encode_captions(source(), encoder, ["{}"])
next(rows)
print("running", flush=True)
if sys.argv[1] == "forever":
    for _ in rows:
        pass
"""


@pytest.mark.parametrize("ending", ["leave", "forever"])
def test_a_program_ends_at_once_whether_it_leaves_or_is_interrupted(ending):
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout.readline() == "running\n"
    if ending == "forever":
        os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    if ending == "forever":
        assert errors.strip().endswith("KeyboardInterrupt") and errors.count("Traceback") == 1
    else:
        assert (program.returncode, errors) == (0, "")
