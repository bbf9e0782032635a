"""Worker processes: order, time limits, crashes, and nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from blissaudit.corpora.images.source import ImageItem
from blissaudit.errors import BlissError, UsageError
from blissaudit.indexer.images import workers
from blissaudit.indexer.images.decode_worker import frame_bytes, image_request, read_frame
from blissaudit.indexer.images.decoding import (
    Decoded,
    DecodingLimits,
    Preprocessing,
    Undecodable,
    decode_image,
)
from blissaudit.indexer.images.workers import decode_images, look_ahead
from PIL import Image

EIGHT = Preprocessing((8, 8), "bicubic", "squash", (0.5,) * 3, (0.5,) * 3)
LIMITS = DecodingLimits()

# The real worker, except that some file names make it misbehave; `started` counts its processes.
TRAPPED_WORKER = """
import os, signal, sys, time
from blissaudit.indexer.images import decode_worker

real = decode_worker.decode_image

def trapped(path, preprocessing, limits):
    name = os.path.basename(path)
    if "hang" in name:
        time.sleep(600)
    if "slow" in name:
        time.sleep(0.2)
    if "exit" in name:
        os._exit(3)
    if "segv" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "kill" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "bug" in name:
        raise ZeroDivisionError
    if "noisy" in name:
        print("stray text")
        os.write(1, b"stray bytes from a codec")
    return real(path, preprocessing, limits)

with open(os.path.join(os.path.dirname(__file__), "started"), "a") as file:
    file.write("x")
decode_worker.decode_image = trapped
decode_worker.main()
"""


KEPT: set[psutil.Process] = set()
REUSED: list[subprocess.Popen[bytes]] = []
"""Workers that wait for the next test with the fixture `reused`."""


def new_children() -> list[psutil.Process]:
    """The child processes that the test itself started, and that none reuses."""
    kept = {process.pid for process in REUSED}
    every = psutil.Process().children(recursive=True)
    return [each for each in every if each not in KEPT and each.pid not in kept]


@pytest.fixture(scope="module", autouse=True)
def no_worker_is_reused_elsewhere() -> Iterator[None]:
    yield
    while REUSED:
        workers.kill(REUSED.pop())


@pytest.fixture
def reused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode with the workers of earlier tests, where how they start and end is not the point."""
    monkeypatch.setattr(workers, "_idle", REUSED)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No child process, not even a zombie, and no thread outlives a test.

    Workers that other tests of this process keep for each other are left aside.
    """
    monkeypatch.setattr(workers, "_idle", None)
    KEPT.clear()
    KEPT.update(psutil.Process().children(recursive=True))
    threads = set(threading.enumerate())
    yield
    gc.collect()
    assert new_children() == []
    assert set(threading.enumerate()) <= threads


@pytest.fixture
def trapped_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the pool run TRAPPED_WORKER; returns the file that counts started processes."""
    script = tmp_path / "trapped.py"
    script.write_text(TRAPPED_WORKER)
    monkeypatch.setattr(workers, "WORKER_COMMAND", (sys.executable, "-P", str(script)))
    return tmp_path / "started"


def make_images(folder: Path, names: Sequence[str]) -> list[str]:
    """Images of one grey each: the i-th has the value i."""
    for value, name in enumerate(names):
        Image.new("L", (4, 4), value).save(folder / name, "PNG")
    return [str(folder / name) for name in names]


def files(paths: Sequence[str], rows: Sequence[int] | None = None) -> list[ImageItem]:
    """Items that name local files, with rows from 0 unless given."""
    rows = range(len(paths)) if rows is None else rows
    return [ImageItem(row, path, file=path) for row, path in zip(rows, paths, strict=True)]


def greys(outcomes: Sequence[Decoded | Undecodable]) -> list[int | str]:
    """Each outcome's single grey value, or its reason."""
    found: list[int | str] = []
    for outcome in outcomes:
        if isinstance(outcome, Undecodable):
            found.append(outcome.reason)
        else:
            assert outcome.pixels.shape == (8, 8, 3) and np.ptp(outcome.pixels) == 0
            found.append(int(outcome.pixels[0, 0, 0]))
    return found


@pytest.mark.usefixtures("reused")
@pytest.mark.parametrize("count", [1, 3])
def test_outcomes_come_in_order_and_equal_decode_image(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(5)
    paths = []
    for number in range(40):
        height, width = rng.integers(1, 200, 2).tolist()
        path = tmp_path / f"{number}.png"
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        Image.fromarray(noise).save(path, exif=exif.tobytes())
        paths.append(str(path))
    (tmp_path / "20.png").write_bytes(b"")
    rows = [1000 - number for number in range(40)]
    outcomes = list(decode_images(files(paths, rows), EIGHT, LIMITS, count))
    assert [outcome.row for outcome in outcomes] == rows
    assert outcomes[20] == Undecodable(980, "the file is empty")
    for number, outcome in enumerate(outcomes):
        if number != 20:
            assert isinstance(outcome, Decoded)
            pixels, sha256, rotated, _ = decode_image(paths[number], EIGHT, LIMITS)
            assert np.array_equal(outcome.pixels, pixels) and outcome.pixels.flags.writeable
            assert (outcome.sha256, outcome.exif_rotated) == (sha256, rotated)
            assert rotated is (number % 8 != 0)


@pytest.mark.usefixtures("reused")
def test_all_preprocessing_reaches_the_worker(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif.tobytes())
    odd = Preprocessing((9, 12), "bilinear", "longest", (0.1,) * 3, (0.2,) * 3, 200, False)
    (outcome,) = decode_images(files([str(tmp_path / "a.png")]), odd, LIMITS)
    assert isinstance(outcome, Decoded)
    assert np.array_equal(outcome.pixels, decode_image(str(tmp_path / "a.png"), odd, LIMITS)[0])
    assert outcome.pixels[0, 0].tolist() == [200] * 3  # padded with the fill colour
    (refused,) = decode_images(
        files([str(tmp_path / "a.png")]), odd, DecodingLimits(max_pixels=59), 1
    )
    assert refused == Undecodable(
        0, "the image has more pixels than the limit of 59 (10 x 6 pixels)"
    )


@pytest.mark.usefixtures("reused")
def test_names_of_any_kind_reach_the_worker(tmp_path: Path) -> None:
    names = ["plain.png", "with space\nand newline.png", "日本.png", os.fsdecode(b"\xff\xe9.png")]
    try:
        paths = make_images(tmp_path, names)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    invalid = "the file name is not valid on this system"
    outcomes = list(decode_images(files([*paths, "a\ud800.png", "a\0b"]), EIGHT, LIMITS, 2))
    assert greys(outcomes) == [0, 1, 2, 3, invalid, invalid]


def test_a_hang_is_killed_in_time_and_named(tmp_path: Path, trapped_worker: Path) -> None:
    paths = make_images(tmp_path, ["0", "hang1", "2", "3"])
    started = time.monotonic()
    outcomes = list(decode_images(files(paths), EIGHT, DecodingLimits(seconds=0.75), 1))
    assert greys(outcomes) == [0, "decoding took longer than 0.75 s", 2, 3]
    assert 0.75 < time.monotonic() - started < 8
    assert trapped_worker.read_text() == "xx"


def test_crashes_are_named_and_the_next_image_is_fine(tmp_path: Path, trapped_worker: Path) -> None:
    names = ["0", "exit1", "2", "segv3", "kill4", "5", "bug6", "noisy7"]
    outcomes = list(decode_images(files(make_images(tmp_path, names)), EIGHT, LIMITS, 1))
    assert greys(outcomes) == [
        0,
        "the decoder process died (exit status 3)",
        2,
        "the decoder process died (signal 11)",
        "the decoder process died (signal 9)",
        5,
        "decoding failed (ZeroDivisionError)",
        7,
    ]
    assert trapped_worker.read_text() == "x" * 4  # one for each death, one at the start


def test_idle_workers_are_reused_and_end_with_the_context(
    tmp_path: Path, trapped_worker: Path
) -> None:
    paths = make_images(tmp_path, ["0", "1", "exit2", "hang3"])
    with workers.reused_workers():
        for _ in range(2):
            with workers.reused_workers():
                assert greys(list(decode_images(files(paths[:2]), EIGHT, LIMITS, 1))) == [0, 1]
        with workers.Decoder() as decoder:
            decoder.thumbnail(Path(paths[0]).read_bytes(), 4, LIMITS)
        assert trapped_worker.read_text() == "x"
        (kept,) = new_children()
        kept.kill()
        kept.wait()
        outcomes = list(decode_images(files(paths[:3]), EIGHT, LIMITS, 1))  # replaced twice
        assert greys(outcomes) == [0, 1, "the decoder process died (exit status 3)"]
        assert trapped_worker.read_text() == "xx" and new_children() == []
        outcomes = decode_images(files(paths), EIGHT, LIMITS, 2)  # left while one worker is busy
        assert greys([next(outcomes), next(outcomes)]) == [0, 1]
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
        assert len(new_children()) <= 1
    assert new_children() == []


def test_relative_names_mean_the_folder_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path, ["0", "1"])
    with workers.reused_workers():
        assert greys(list(decode_images(files([str(tmp_path / "1")]), EIGHT, LIMITS, 1))) == [1]
        monkeypatch.chdir(tmp_path)
        assert greys(list(decode_images(files(["1"]), EIGHT, LIMITS, 1))) == [1]


def test_slow_images_do_not_change_the_order(tmp_path: Path, trapped_worker: Path) -> None:
    names = [f"slow{number}" if number % 3 == 0 else str(number) for number in range(9)]
    outcomes = decode_images(files(make_images(tmp_path, names)), EIGHT, LIMITS, 3)
    assert greys(list(outcomes)) == list(range(9))


def counted(items: Sequence[ImageItem], read: list[int]) -> Iterator[ImageItem]:
    """The items, with every row that was asked for noted in `read`."""
    for item in items:
        read.append(item.row)
        yield item


@pytest.mark.usefixtures("reused")
def test_look_ahead_is_bounded(tmp_path: Path) -> None:
    items = files(make_images(tmp_path, [str(number) for number in range(60)]))
    read: list[int] = []
    for taken, outcome in enumerate(decode_images(counted(items, read), EIGHT, LIMITS, 2)):
        assert greys([outcome]) == [taken]
        assert len(read) <= min(60, taken + look_ahead(2))
        if taken in (0, 30):
            time.sleep(0.3)  # time in which an unbounded reader would run ahead
            assert len(read) == min(60, taken + look_ahead(2))


def test_bytes_read_ahead_are_bounded(
    tmp_path: Path, trapped_worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slow,) = make_images(tmp_path, ["hang"])
    content = Path(slow).read_bytes()
    monkeypatch.setattr(workers, "READ_AHEAD_BYTES", 3 * len(content))
    read: list[int] = []
    items = [*files([slow]), *(ImageItem(row, "", data=content) for row in range(1, 40))]
    limits = DecodingLimits(seconds=1.5)
    outcomes = decode_images(counted(items, read), EIGHT, limits, 1, ahead=100)
    assert isinstance(next(outcomes), Undecodable)
    assert read[:4] == [0, 1, 2, 3] and len(read) < 12
    assert greys(list(outcomes)) == [0] * 39


@pytest.mark.usefixtures("reused")
def test_bytes_are_decoded_like_files_and_problems_are_passed_on(tmp_path: Path) -> None:
    (path,) = make_images(tmp_path, ["a"])
    data = Path(path).read_bytes()

    def gone() -> bytes:
        raise FileNotFoundError

    items = [
        ImageItem(0, "", data=data),
        ImageItem(1, "", problem="a link that leads out"),
        ImageItem(2, "", data=b""),
        ImageItem(3, "", data=lambda: data),
        ImageItem(4, "", data=gone),
        ImageItem(5, "", data=b"x" * 2000),
    ]
    found = list(decode_images(items, EIGHT, DecodingLimits(max_bytes=1999), 2))
    assert greys(found) == [
        0,
        "a link that leads out",
        "the file is empty",
        0,
        "the file does not exist",
        "the file is larger than the limit of 1999 bytes",
    ]
    (whole,) = decode_images(files([path]), EIGHT, LIMITS, 1)
    assert isinstance(whole, Decoded) and isinstance(found[0], Decoded)
    assert found[0].sha256 == whole.sha256


def test_a_source_that_fails_does_so_after_what_it_gave(tmp_path: Path) -> None:
    def failing() -> Iterator[ImageItem]:
        yield from files(make_images(tmp_path, ["0", "1", "2"]))
        raise BlissError("the network folder went away", "it", "Mount it again")

    outcomes = decode_images(failing(), EIGHT, LIMITS, 2)
    assert greys([next(outcomes), next(outcomes), next(outcomes)]) == [0, 1, 2]
    with pytest.raises(BlissError, match="the network folder went away"):
        next(outcomes)


@pytest.mark.parametrize("end", ["close", "exception", "interrupt", "forgotten"])
def test_leaving_early_ends_everything_at_once(
    tmp_path: Path, trapped_worker: Path, end: str, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = make_images(tmp_path, ["0", *[f"hang{number}" for number in range(9)]])
    outcomes = decode_images(files(paths), EIGHT, LIMITS, 3)
    assert greys([next(outcomes)]) == [0]
    assert len(new_children()) >= 1
    started = time.monotonic()
    if end == "close":
        outcomes.close()  # type: ignore[attr-defined]
    elif end == "exception":
        with pytest.raises(ZeroDivisionError, match="from the consumer"):
            outcomes.throw(ZeroDivisionError("from the consumer"))  # type: ignore[attr-defined]
    elif end == "interrupt":
        threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            next(outcomes)
    else:
        del outcomes
        gc.collect()
    assert new_children() == []
    assert time.monotonic() - started < 3
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_cannot_start_is_an_error_not_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "broken.py"
    script.write_text("import sys; print('no codec here', file=sys.stderr); sys.exit(7)")
    monkeypatch.setattr(workers, "WORKER_COMMAND", (sys.executable, str(script)))
    outcomes = decode_images(files(make_images(tmp_path, ["a"])), EIGHT, LIMITS, 2)
    with pytest.raises(BlissError, match="ended 3 times in a row") as caught:
        next(outcomes)
    assert caught.value.given == (
        "the image decoder process ended 3 times in a row before it was ready "
        "(exit status 7; no codec here)"
    )
    monkeypatch.setattr(workers, "WORKER_COMMAND", (str(tmp_path / "absent"),))
    with pytest.raises(BlissError, match=r"could not be started \(No such file"):
        next(decode_images(files(make_images(tmp_path, ["a"])), EIGHT, LIMITS, 1))


def test_a_worker_that_never_says_it_is_ready_is_given_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(600)")
    monkeypatch.setattr(workers, "WORKER_COMMAND", command)
    monkeypatch.setattr(workers, "START_SECONDS", 0.2)
    monkeypatch.setattr(workers, "END_SECONDS", 0.2)
    with pytest.raises(BlissError, match=r"\(no answer in 0\.2 s; it wrote no error\)"):
        next(decode_images(files(make_images(tmp_path, ["a"])), EIGHT, LIMITS, 1))


def test_wrong_arguments_are_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="workers is 0"):
        decode_images([], EIGHT, LIMITS, 0)
    assert list(decode_images([], EIGHT, LIMITS)) == []


def test_default_workers_are_between_one_and_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (6, 6), (200, 8)):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False
        )
        assert workers.default_workers() == expected


def run_script(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, timeout=30
    )


def test_the_worker_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'torchvision', 'open_clip', 'faiss', 'datasets', 'pyarrow'}"
    source = (
        f"import sys, blissaudit.indexer.images.decode_worker; print({heavy} & set(sys.modules))"
    )
    assert run_script(source).stdout == "set()\n"


SCRIPT = """
import sys
from blissaudit.corpora.images.source import ImageItem
from blissaudit.indexer.images.workers import decode_images
from blissaudit.indexer.images.decoding import *
pre = Preprocessing((8, 8), "bicubic", "squash", (0.5,) * 3, (0.5,) * 3)
items = [ImageItem(row, path, file=path) for row, path in enumerate(sys.argv[1:])]
outcomes = decode_images(items, pre, DecodingLimits(), 2)
print(next(outcomes).pixels[0, 0, 0])
"""


def test_a_script_without_main_guard_may_stop_halfway(tmp_path: Path) -> None:
    paths = make_images(tmp_path, [str(number) for number in range(50)])
    started = time.monotonic()
    done = run_script(SCRIPT, *paths)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)
    assert time.monotonic() - started < 8


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX process groups")
def test_ctrl_c_in_a_terminal_leaves_no_worker_and_no_stray_output(tmp_path: Path) -> None:
    paths = make_images(tmp_path, [str(number) for number in range(50)])
    source = SCRIPT + "sys.stdout.flush()\nimport time\ntime.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", source, *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "0\n"
    workers = psutil.Process(parent.pid).children()
    assert workers != []
    os.killpg(parent.pid, signal.SIGINT)  # a terminal signals the whole group
    stdout, stderr = parent.communicate(timeout=20)
    assert stdout == ""
    assert stderr.count("Traceback") == 1 and stderr.endswith("KeyboardInterrupt\n")
    assert not any(worker.is_running() for worker in workers)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    paths = make_images(tmp_path, [str(number) for number in range(50)])
    source = SCRIPT + "sys.stdout.flush()\nimport time\ntime.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", source, *paths], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "0\n"
        workers = psutil.Process(parent.pid).children()
        parent.kill()
    gone, alive = psutil.wait_procs(workers, timeout=5)
    assert alive == [] and gone != []


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_a_hanging_worker_without_a_parent_ends_by_itself(
    tmp_path: Path, trapped_worker: Path
) -> None:
    trap = tmp_path / "trapped.py"
    trap.write_text(TRAPPED_WORKER.replace("real =", "decode_worker._ORPHAN_SECONDS = 0.2\nreal ="))
    process = workers.launch(workers.WORKER_COMMAND, subprocess.DEVNULL)
    limits = DecodingLimits(seconds=0.2)
    assert workers.exchange(process, b"") == ({"ready": True}, bytearray())
    assert workers.exchange(process, image_request("hang", EIGHT, limits)) is None
    assert workers.cause_of_death(process) == f"signal {int(signal.SIGALRM)}"
    workers.kill(process)


@pytest.mark.usefixtures("reused")
def test_no_time_limit_is_possible(tmp_path: Path) -> None:
    endless = DecodingLimits(seconds=float("inf"))
    outcomes = decode_images(files(make_images(tmp_path, ["0", "1"])), EIGHT, endless, 1)
    assert greys(list(outcomes)) == [0, 1]


def test_frames_keep_any_text_and_end_cleanly(tmp_path: Path) -> None:
    header = {"reason": "naïve \udcff 日本", "shape": [1, 2]}
    whole = frame_bytes(header, b"\x00\xff") + frame_bytes({}, b"")
    (tmp_path / "frames").write_bytes(whole)
    with open(tmp_path / "frames", "rb") as file:
        assert read_frame(file) == (header, bytearray(b"\x00\xff"))
        assert read_frame(file) == ({}, bytearray())
        assert read_frame(file) is None
    for size in (3, 12, len(whole) - 11):
        (tmp_path / "frames").write_bytes(whole[:size])
        with open(tmp_path / "frames", "rb") as file:
            assert read_frame(file) is None, size
