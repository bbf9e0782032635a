"""Every light command N times, three at a time: exit codes 0, 1 or 2 and no traceback.

Light commands end soon after they read a table, when a reader's thread may still run and abort the
process (exit code 134). Each is run on one small audit and one small index, as it would be typed,
in rounds of all commands, until each has run N times or the time is over. Each is a fork of a
process that has imported the libraries and read nothing: importing takes most of the time of such a
command. A fork ends as any process does, and starts readers' threads of its own. With --spawned
each is a process that imports them itself.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from blissaudit.audit import open_run
from blissaudit.audit.review.apply import COLUMNS
from blissaudit.audit.review.photographs import wanted_images
from blissaudit.demo.scenes import all_captions, render_scene, sample_scene

KINDS = ("apple", "boat", "house")
EACH = 8
FINE = {0, 1, 2}


SERVER = """
import gc, json, os, sys
import datasets, faiss, numpy, PIL.Image, pyarrow.compute, pyarrow.parquet
from blissaudit import audit, cli, corpora, indexer
for name in ("open_run", "clean", "find_like", "save_report", "compare_runs", "save_dataset"):
    getattr(audit, name)
indexer.open_index, indexer.verify_index
gc.collect()
gc.freeze()  # a fork that ends does not look through what it has imported
for line in sys.stdin:
    words, log = json.loads(line)
    child = os.fork()
    if not child:
        file = os.open(log, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.argv = ["bliss", *words]
        cli.main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def bliss(*words: object) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own."""
    command = [sys.executable, "-P", "-m", "blissaudit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def make_world(folder: Path) -> None:
    """A collection, captions, an index, two audits and a file of decisions."""
    rng = np.random.default_rng(0)
    for kind in KINDS:
        (folder / "images" / kind).mkdir(parents=True)
        for number in range(EACH):
            image = render_scene(sample_scene(rng, kind), 48)
            image.save(folder / "images" / kind / f"{number}.png")
    captions = "\n".join(sorted(all_captions())[::20])
    (folder / "captions.txt").write_text(captions, encoding="utf-8")
    index, images = folder / "index", folder / "images"
    steps: tuple[tuple[object, ...], ...] = (
        ("index", "build", folder / "captions.txt", "--model", "demo", "-o", index),
        ("audit", images, "--index", index, "-o", folder / "run"),
        ("audit", images, "--index", index, "-o", folder / "other", "--k", 5),
    )
    for step in steps:
        done = bliss(*step)
        if done.returncode:
            raise SystemExit(done.stderr)
    with open(folder / "decisions.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row, path, content in wanted_images(open_run(folder / "run"))[:3]:
            writer.writerow((row, path, content, "remove", ""))


def commands(folder: Path) -> dict[str, tuple[object, ...]]:
    """The words of each light command; {} is a new path for each time."""
    run, other, index = folder / "run", folder / "other", folder / "index"
    decide = ("apply", folder / "decisions.csv", "--run", run)
    return {
        "apply": decide,
        "apply --list": (*decide, "--list", "{}.csv"),
        "apply --copy": (*decide, "--copy", "{}"),
        "find --image": ("find", run, "--image", "apple/0.png"),
        "report": ("report", run, "-o", "{}.html"),
        "diff": ("diff", run, other),
        "export": ("export", run, "--save-to-disk", "{}"),
        "corpora list": ("corpora", "list"),
        "corpora peek": ("corpora", "peek", folder / "captions.txt"),
        "index info": ("index", "info", index),
        "index verify": ("index", "verify", index),
        "apply, a run that is none": ("apply", folder / "decisions.csv", "--run", index),
    }


class Server:
    """A process that has imported the libraries, and runs each command in a fork of itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, words: list[str]) -> tuple[int, str]:
        """(exit code, what it printed)."""
        log = self.folder / f"{self.process.pid}.log"
        log.unlink(missing_ok=True)
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([words, str(log)]), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline())
        return code, log.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        """End the process."""
        self.process.communicate()


def timed_run(
    words: tuple[object, ...], target: Path, servers: queue.Queue[Server]
) -> tuple[int, bool, float]:
    """(exit code, whether it ended as no command may, seconds)."""
    given = [str(word).replace("{}", str(target)) for word in words]
    begun = time.monotonic()
    if servers.maxsize:
        server = servers.get()
        code, printed = server.run(given)
        servers.put(server)
    else:
        done = bliss(*given)
        code, printed = done.returncode, done.stderr
    wrong = "Traceback" in printed or "error in bliss itself" in printed
    for path in (target, target.with_suffix(".csv"), target.with_suffix(".html")):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return code, wrong, time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="of each command")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no round after that")
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--spawned", action="store_true")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    codes: dict[str, Counter[int]] = {}
    seconds: dict[str, list[float]] = {}
    wrong = 0
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(chosen.at_once) as pool:
        folder = Path(name)
        os.environ |= {
            "BLISS_CACHE": str(folder / "cache"),
            "BLISS_CONFIG": str(folder / "settings"),
        }
        make_world(folder)
        servers: queue.Queue[Server] = queue.Queue(0 if chosen.spawned else chosen.at_once)
        for _ in range(servers.maxsize):
            servers.put(Server(folder))
        begun, load = time.monotonic(), os.getloadavg()[0]
        listed = commands(folder)
        for turn in range(chosen.runs):
            if time.monotonic() - begun > chosen.seconds:
                break
            targets = [folder / f"{turn}-{n}" for n in range(len(listed))]
            made = pool.map(timed_run, listed.values(), targets, [servers] * len(listed))
            for command, (code, bad, took) in zip(listed, made, strict=True):
                codes.setdefault(command, Counter())[code] += 1
                seconds.setdefault(command, []).append(took)
                wrong += bad
            if turn % 50 == 49:
                print(f"  {turn + 1} of each, {wrong} wrong", file=sys.stderr, flush=True)
        took = time.monotonic() - begun
        while not servers.empty():
            servers.get().end()
    print(
        f"{'Spawned' if chosen.spawned else 'Forked'}, {chosen.at_once} at a time, {took:.0f} s, "
        f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after"
    )
    for command, found in codes.items():
        each = ", ".join(f"{code}: {count}" for code, count in sorted(found.items()))
        print(f"  {command:<26} exit codes {each}; median {np.median(seconds[command]):.1f} s")
    fine = not wrong and all(set(found) <= FINE for found in codes.values())
    times = min(map(lambda found: found.total(), codes.values()))
    print(f"=> {times} runs of each, no exit code but 0, 1 or 2: {'met' if fine else 'MISSED'}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
