"""Killed, out of room or two at once, then the same command: the same bytes and no other file.

One audit of rendered images in small parts is run without interruption. Then audits of the same
collection are started and killed, each started again until it ends by itself: by turns at a moment
drawn evenly from the first seven tenths of that run's time (a continued run is shorter), and in
the middle of retrieval, when a number of its parts drawn at random is on disk. From `bliss audit`
differ the part sizes (100 images each) and a pause of 20 ms in every part of the retrieval, which
is over too soon here to be met by chance.

Other audits find the disk full when a file drawn at random is to be synced; others are started
twice at once. Then nothing temporary may be left, and the same command must end as the first run
did. At the end an output folder has the files and folders of the uninterrupted run, and no others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from blissaudit.demo.scenes import all_captions, render_scene, sample_scene

KINDS = ("apple", "boat", "house", "clock")
SCENES = 80
COMMAND = """
import errno, functools, os, sys, time
from blissaudit import cli
from blissaudit.audit import retrieval
from blissaudit.commands import audit
from blissaudit.indexer.images import embedding as image_embedding
image_embedding.EmbedOptions = functools.partial(image_embedding.EmbedOptions, part_rows=100)
search = retrieval.search_index
retrieval.batch_rows = lambda captions: 100
retrieval.search_index = lambda *given: (time.sleep(0.02), search(*given))[1]
left, sync = [int(os.environ.get("FULL_AFTER", -1))], os.fsync
def fsync(file):
    if left[0] == 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    left[0] -= 1
    sync(file)
os.fsync = fsync
sys.exit(cli.run(sys.argv[1:]))
"""
FILES = ("scores.parquet", "failures.csv", "images/manifest.json")


def make_collection(root: Path, total: int, rng: np.random.Generator) -> None:
    """Class folders of `total` images, every tenth cut short."""
    drawn = [render_scene(sample_scene(rng, KINDS[n % len(KINDS)]), 64) for n in range(SCENES)]
    for number in range(total):
        path = root / KINDS[number % len(KINDS)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn[number % SCENES].rotate(number // SCENES).save(path)
        if number % 10 == 3:
            path.write_bytes(path.read_bytes()[:300])


def start(images: Path, index: Path, output: Path, full_after: int = -1) -> subprocess.Popen[bytes]:
    """One audit, in a process of its own, for which the disk is full after so many files."""
    arguments = ["audit", str(images), "--index", str(index), "-o", str(output)]
    command = [sys.executable, "-P", "-c", COMMAND, *arguments]
    # A cache of its own: nothing is to be taken over from the run that was not interrupted.
    environment = {**os.environ, "BLISS_CACHE": f"{output}-cache"}
    environment["FULL_AFTER"] = str(full_after)
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )


def wait_for_work(process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until a run holds its output folder: what comes before is importing."""
    lock = output / ".bliss.lock"
    while process.poll() is None:
        if lock.exists() and lock.read_text() == str(process.pid):
            return
        time.sleep(0.005)


def contents(output: Path) -> list[bytes]:
    """What must be the same."""
    return [(output / name).read_bytes() for name in FILES]


def names(output: Path) -> set[str]:
    """Every file and folder of an output folder."""
    return {str(path.relative_to(output)) for path in output.rglob("*")}


def out_of_room(images: Path, index: Path, output: Path, after: int) -> str:
    """An audit that finds the disk full, then the same command; what was wrong, or ""."""
    process = start(images, index, output, after)
    _, errors = process.communicate()
    if process.returncode == 1 and b"No space left on device" not in errors:
        return errors.decode(errors="replace")[-300:]
    left = [name for name in names(output) if ".bliss" in name] if output.exists() else []
    process = start(images, index, output)
    _, errors = process.communicate()
    if process.returncode or left:
        return f"{left} {errors.decode(errors='replace')[-300:]}"
    return ""


def two_at_once(images: Path, index: Path, output: Path) -> tuple[list[int], str]:
    """The exit codes of two audits at once in one folder, and what was wrong, or ""."""
    both = [start(images, index, output) for _ in range(2)]
    errors = [process.communicate()[1].decode(errors="replace") for process in both]
    codes = sorted(process.returncode for process in both)
    refused = any("another bliss run" in each for each in errors)
    fine = codes == [0, 0] or (codes == [0, 1] and refused)
    return codes, "" if fine else "\n".join(each[-300:] for each in errors)


def finish(process: subprocess.Popen[bytes], after: float | None) -> tuple[bool, str]:
    """Kill a process after some seconds, or let it end; whether it was killed, and its stderr."""
    try:
        _, errors = process.communicate(timeout=after)
        return False, errors.decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        return True, errors.decode(errors="replace")


def kill_in_retrieval(process: subprocess.Popen[bytes], output: Path, parts: int) -> bool:
    """Kill a process once that many parts of its retrieval are on disk; whether it was killed."""
    while process.poll() is None:
        if hit_parts(output) >= parts and not (output / FILES[0]).exists():
            process.kill()
            process.communicate()
            return True
        time.sleep(0.002)
    return False


def hit_parts(output: Path) -> int:
    """How many parts of the retrieval are whole on disk."""
    return len(list((output / "hits").glob("*.json")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--full", type=int, default=6, help="audits that find the disk full")
    parser.add_argument("--twice", type=int, default=3, help="audits started twice at once")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BLISS_CACHE"] = str(folder / "cache")
        captions, index, images = folder / "captions.txt", folder / "index", folder / "images"
        captions.write_text("\n".join(sorted(all_captions())[::20]), encoding="utf-8")
        build = ["index", "build", str(captions), "--model", "demo", "-o", str(index)]
        command = [sys.executable, "-P", "-m", "blissaudit", *build]
        subprocess.run(command, check=True, capture_output=True)
        make_collection(images, chosen.images, rng)
        process = start(images, index, folder / "whole")
        wait_for_work(process, folder / "whole")
        begun = time.monotonic()
        _, errors = finish(process, None)
        if process.returncode:
            print(errors)
            return 1
        working = time.monotonic() - begun
        whole, there = contents(folder / "whole"), names(folder / "whole")
        print(
            f"{chosen.images} images in parts of 100: {working:.1f} s without interruption, from "
            "loading the model to the last file"
        )
        kills = runs = 0
        same = True
        parts: list[int] = []
        retrieved: list[int] = []
        while kills < chosen.kills:
            output, killed = folder / f"run-{runs}", True
            while killed:
                process = start(images, index, output)
                wait_for_work(process, output)
                before, errors = hit_parts(output), ""
                killed = False
                if kills < chosen.kills and kills % 2:
                    wanted = rng.integers(before + 1, max(before + 2, chosen.images // 120))
                    killed = kill_in_retrieval(process, output, int(wanted))
                    retrieved += [hit_parts(output)] * killed
                if not killed:
                    moment = rng.uniform(0, 0.7) * working if kills < chosen.kills else None
                    killed, errors = finish(process, moment)
                kills += killed
                if killed:
                    parts.append(len(list((output / "images" / "img_emb").glob("*.npy"))))
                if "Traceback" in errors or (not killed and not (output / FILES[0]).exists()):
                    print(f"run {runs}: {errors[-300:]}")
                    return 1
            same = same and contents(output) == whole and names(output) == there
            runs += 1
        print(f"killed {kills} times in {runs} audits, with {parts} parts embedded")
        print(f"{len(retrieved)} of the kills in retrieval, with {retrieved} parts of it on disk")
        synced = chosen.images // 100 * 4
        for number in range(chosen.full):
            output, after = folder / f"full-{number}", int(rng.integers(synced))
            wrong = out_of_room(images, index, output, after)
            same = same and not wrong and contents(output) == whole and names(output) == there
            print(f"disk full after {after} files: {wrong or 'the same command goes on'}")
        for number in range(chosen.twice):
            codes, wrong = two_at_once(images, index, folder / f"two-{number}")
            same = same and not wrong and contents(folder / f"two-{number}") == whole
            same = same and names(folder / f"two-{number}") == there
            print(f"two at once: exit codes {codes}{wrong}")
    met = "met" if same and kills >= chosen.kills and retrieved else "MISSED"
    print(f"=> {', '.join(FILES)} byte-identical to the uninterrupted run's, no other file: {met}")
    return 0 if met == "met" else 1


if __name__ == "__main__":
    sys.exit(main())
