"""Captions encoded in a pipeline are those of encode_prompts, whoever reads and tokenises them."""

import re
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.build.rates import StageRates
from blissaudit.indexer.encode import tokenise_pool as tokenise_process
from blissaudit.indexer.encode.encoder import Encoder, ModelChoice, encode_prompts
from blissaudit.indexer.encode.open_clip import load_encoder
from blissaudit.indexer.encode.pipeline import encode_captions
from blissaudit.indexer.encode.tokenise_pool import (
    PipelineOptions,
    ask_until_answered,
    start_tokeniser,
)
from blissaudit.indexer.images.workers import Processes, end_process

PROMPTS = ["{}", "a drawing of {label}"]
CHUNKS = [
    ["a red apple", "two blue boats at sea", "caf\u00e9 &amp; cr\u00e8me"],
    ["!", "! ! !"],
    ["a very long caption about a boat " * 9, "<end_of_text> key", ""],
    [f"{count} small trees" for count in range(40)],
    ["the last one"],
]
AT_ONCE = {"start_after": 0, "ahead": 2}


@pytest.fixture(scope="module")
def watch(load_test_file):
    return load_test_file("pipeline_watching")


@pytest.fixture(scope="module")
def demo():
    return load_encoder(ModelChoice("demo"))


@pytest.fixture(scope="module")
def expected(demo):
    return [encode_prompts(demo, chunk, PROMPTS) for chunk in CHUNKS]


def equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_halves_of_the_encoder_compose(demo):
    flat = [text for chunk in CHUNKS for text in chunk]
    ids = demo.tokenise(flat)
    assert ids.dtype == np.int64 and ids.shape == (len(flat), demo.facts["context_length"])
    np.testing.assert_array_equal(demo.encode_tokens(ids), demo.encode_texts(flat))
    assert demo.encode_tokens(demo.tokenise([])).shape == (0, 128)
    fake = Encoder({}, demo.preprocessing, 1, lambda t: np.array([[len(x)] for x in t]), len)
    np.testing.assert_array_equal(fake.encode_tokens(fake.tokenise(["a", "bcd"])), [[1], [3]])


@pytest.mark.parametrize("tokenisers", [0, 1, 2])
def test_rows_are_those_of_encode_prompts_bit_for_bit(demo, expected, tokenisers, watch):
    options = PipelineOptions(tokenisers, **AT_ONCE)
    equal(list(encode_captions(CHUNKS, demo, PROMPTS, options)), expected)
    assert watch.children() == []


def test_empty_chunks_and_no_chunks(demo):
    empty = list(encode_captions([[], ["a key"], []], demo, ["{}"]))
    assert [len(rows) for rows in empty] == [0, 1, 0]
    assert empty[0].dtype == np.float32 and empty[0].shape == (0, 128)
    assert list(encode_captions([], demo, ["{}"])) == []


def test_an_encoder_without_halves_or_recipe_is_served_here(demo):
    plain = Encoder(demo.facts, demo.preprocessing, 64, demo.encode_texts, demo.encode_images)
    rows = list(encode_captions(CHUNKS, plain, PROMPTS, PipelineOptions(2, **AT_ONCE)))
    equal(rows, [encode_prompts(plain, chunk, PROMPTS) for chunk in CHUNKS])


def test_processes_start_only_where_they_pay_and_rates_say_so(demo, watch):
    few, many = StageRates(), StageRates()
    rows = encode_captions(CHUNKS, demo, PROMPTS, PipelineOptions(1), few)
    assert len(list(rows)) == len(CHUNKS)
    rows = encode_captions(
        watch.unending(CHUNKS), demo, PROMPTS, PipelineOptions(1, start_after=90), many
    )
    process = watch.one_that_tokenises(rows)
    assert "blissaudit.indexer.encode.tokenise_worker" in process.cmdline()
    rows.close()
    texts = sum(map(len, CHUNKS))
    assert {name: stage.items for name, stage in few.stages.items()} == {
        "reading": texts,
        "tokenising": texts,
        "encoding": texts,
        "writing": 0,
    }
    assert many.stages["reading"].items > 90


DYING = """
import os, sys
from blissaudit.indexer.encode import tokenise_worker, tokens as tokenising
def make(recipe):
    made = real(recipe)
    def tokenise(texts):
        if "poison" in texts:
            os._exit(7)
        return made(texts)
    return tokenise
real, tokenising.tokeniser_for = tokenising.tokeniser_for, make
tokenise_worker.main()
"""
WRONG = DYING.replace("return made(texts)", "return made(texts) * 2")
REFUSING = DYING.replace("os._exit(7)", "raise KeyError")


@pytest.fixture
def worker(tmp_path, monkeypatch):
    def install(code):
        (tmp_path / "worker.py").write_text(code)
        command = (sys.executable, "-P", str(tmp_path / "worker.py"))
        monkeypatch.setattr(tokenise_process, "WORKER_COMMAND", command)

    return install


def test_texts_that_kill_every_process_are_named(demo, worker, watch):
    worker(DYING)
    processes = Processes()
    process = start_tokeniser(demo, processes)
    ids, process = ask_until_answered(process, [["a key"], ["a boat"]], demo, processes)
    equal(ids, [demo.tokenise(["a key"]), demo.tokenise(["a boat"])])
    with pytest.raises(BlissError, match=r"died 3 times .*\(exit status 7\) over 2 texts.*'a key'"):
        ask_until_answered(process, [["a boat"], ["a key", "poison"]], demo, processes)
    assert watch.children() == [] and processes.running == set()


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("raise SystemExit(3)", r"ended before it was ready: exit status 3"),
        (WRONG, r"its ids differ from"),
    ],
)
def test_processes_that_cannot_be_used_are_noted_and_done_without(
    demo, worker, monkeypatch, code, note, watch
):
    worker(code)
    monkeypatch.setattr(tokenise_process, "ATTEMPTS", 1)
    rates = StageRates()
    rows = encode_captions(
        watch.unending(CHUNKS), demo, PROMPTS, PipelineOptions(1, **AT_ONCE), rates
    )
    for _ in rows:
        if rates.notes:
            break
    rows.close()
    assert len(rates.notes) == 1 and rates.report()[-1] == rates.notes[0]
    assert re.search(note, rates.notes[0])


@pytest.mark.parametrize("tokenisers", [0, 1])
def test_what_the_source_raises_surfaces_unchanged_after_the_rows_before(
    demo, expected, tokenisers
):
    class Broken(Exception):
        pass

    error = Broken("the network is gone")

    def source():
        yield from CHUNKS[:2]
        raise error

    found = []
    options = PipelineOptions(tokenisers, **AT_ONCE)
    with pytest.raises(Broken, match="the network is gone") as caught:
        for rows in encode_captions(source(), demo, PROMPTS, options):
            found.append(rows)
    assert caught.value is error
    equal(found, expected[:2])


@pytest.mark.parametrize("tokenisers", [0, 1])
def test_what_the_tokenizer_raises_surfaces_unchanged(demo, worker, tokenisers, watch):
    def tokenise(texts):
        if "poison" in texts:
            raise ValueError("no ids for poison")
        return demo.tokenise(texts)

    def source():
        while not waited or (tokenisers and not watch.children()):
            waited.append(time.sleep(0.01))
            yield ["a key"]
        yield ["poison"]

    worker(REFUSING)
    waited = []
    options = PipelineOptions(tokenisers, **AT_ONCE)
    with pytest.raises(ValueError, match="no ids for poison"):
        list(encode_captions(source(), replace(demo, tokenise=tokenise), ["{}"], options))
    processes = Processes()
    process = start_tokeniser(demo, processes)
    with pytest.raises(ValueError, match="no ids for poison"):
        ask_until_answered(process, [["poison"]], replace(demo, tokenise=tokenise), processes)
    end_process(process, processes)


def test_reading_is_bounded(demo):
    read = []

    def source():
        for number in range(1000):
            read.append(number)
            yield [f"text {number}"]

    rows = encode_captions(source(), demo, ["{}"], PipelineOptions(0, ahead=3))
    for taken in range(1, 6):
        next(rows)
        time.sleep(0.05)
        assert len(read) <= taken + 3
    rows.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenisers": -1}, r"-1 tokenising processes were asked for\. Needed: 0, for none"),
        ({"ahead": 0}, r"ahead is 0\. Needed: at least 1 chunk"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        PipelineOptions(**options)


def test_prompts_are_checked_before_anything_starts(demo):
    with pytest.raises(UsageError, match="does not say where the text goes"):
        encode_captions(CHUNKS, replace(demo), ["no place"])
