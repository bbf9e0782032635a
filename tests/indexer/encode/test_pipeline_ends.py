"""However a pipeline ends, its source is closed and no thread or process stays behind."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from blissaudit.indexer.encode.encoder import ModelChoice, encode_prompts
from blissaudit.indexer.encode.open_clip import load_encoder
from blissaudit.indexer.encode.pipeline import encode_captions
from blissaudit.indexer.encode.tokenise_pool import PipelineOptions

CHUNKS = [["a red apple", "café &amp; crème"], ["!", "a key", "! ! !"], ["the last one"]]


@pytest.fixture(scope="module")
def watch(load_test_file):
    return load_test_file("pipeline_watching")


@pytest.fixture(scope="module")
def demo():
    return load_encoder(ModelChoice("demo"))


def test_a_killed_process_is_replaced_and_its_chunk_done_again(demo, watch):
    expected = [encode_prompts(demo, chunk, ["{}"]) for chunk in CHUNKS]
    rows = encode_captions(watch.unending(CHUNKS), demo, ["{}"], PipelineOptions(1, start_after=0))
    taken = itertools.count()
    started = set()

    def take_until(done):
        deadline = time.monotonic() + 120
        while not done():
            assert time.monotonic() < deadline, (done, watch.children(), threading.enumerate())
            np.testing.assert_array_equal(next(rows), expected[next(taken) % 3])

    def another_lives():
        new = set(watch.children()) - started
        started.update(new)
        return bool(new)

    take_until(another_lives)
    take_until(lambda: "tokenising here" not in {each.name for each in threading.enumerate()})
    for _ in range(2):
        for process in watch.children():
            process.kill()
        take_until(another_lives)
    for _ in range(60):
        np.testing.assert_array_equal(next(rows), expected[next(taken) % 3])
    rows.close()
    assert watch.children() == []


def test_closing_early_ends_the_source_the_threads_and_the_processes(demo, watch):
    before, seen = watch.daemons(), []
    rows = encode_captions(
        watch.unending(CHUNKS, seen), demo, ["{}"], PipelineOptions(2, start_after=0)
    )
    watch.one_that_tokenises(rows)
    rows.close()
    assert watch.children() == [] and seen == ["closed"] and watch.daemons() == before


SCRIPT = """
import sys
import psutil
from blissaudit.indexer.encode.encoder import ModelChoice
from blissaudit.indexer.encode.open_clip import load_encoder
from blissaudit.indexer.encode.tokenise_pool import PipelineOptions
from blissaudit.indexer.encode.pipeline import encode_captions
def source():
    while True:
        yield ["a key", "a boat"]
encoder, options = load_encoder(ModelChoice("demo")), PipelineOptions(1, start_after=0)
rows = encode_captions(source(), encoder, ["{}"], options)
for _ in rows:
    if found := psutil.Process().children():
        break
print(found[0].pid, flush=True)
if sys.argv[1] == "forever":
    for _ in rows:
        pass
"""


@pytest.mark.parametrize("ending", ["leaves", signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_a_program_however_it_ends(ending, watch):
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "forever" if isinstance(ending, int) else "leave"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    number, workers = int(program.stdout.readline()), []
    with contextlib.suppress(psutil.NoSuchProcess):  # the program has left, and its worker with it
        workers = [psutil.Process(number)]
    if ending == signal.SIGINT:
        os.killpg(program.pid, ending)
    elif ending == signal.SIGKILL:
        program.kill()
    _, errors = program.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert [each for each in alive if watch.lives(each)] == []
    if ending == signal.SIGINT:
        assert errors.strip().endswith("KeyboardInterrupt") and errors.count("Traceback") == 1
    else:
        assert errors == ""
