"""`--engine ray` against one process: the same index and images, whatever is killed meanwhile.

Texts of the demo's world and rendered images, some broken, go through `bliss index build` and
`bliss audit` (embedding, search and scores) with either engine, on a Ray cluster of this machine;
`ray_search.py` measures search and scores alone on several machines. Then the index is built again
while workers of every stage are killed, and while the command itself is killed and run again.
Differences are counted in units of the last place of float16. Seconds are of whole commands: those
of Ray hold its start and the loading of the model in another process, which small work does not
repay on one machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from blissaudit.demo.scenes import all_captions
from killed_audits import make_collection

PART_ROWS = 1000
STAGES = ("_read", "_prepare", "_Encode")
"""As Ray names the processes of each stage, in the order in which work passes them."""
LOADED_SECONDS = 3.0
"""Processor time after which an encoder has most likely loaded its model."""
END_SECONDS = 120.0


def bliss(*arguments: object) -> subprocess.Popen[bytes]:
    """One command, in a process of its own."""
    command = [sys.executable, "-P", "-m", "blissaudit", *map(str, arguments)]
    # A cache of its own: the image embeddings of another command would be taken over.
    cache = Path(os.environ["BLISS_CACHE"]) / str(time.monotonic_ns())
    environment = {**os.environ, "BLISS_CACHE": str(cache)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end; an error, or anything but its own words on stderr, ends the benchmark."""
    _, errors = process.communicate()
    text = errors.decode(errors="replace")
    if process.returncode or "Traceback" in text or "raylet" in text:
        sys.exit(f"exit status {process.returncode}: {text[-500:]}")


def timed(*arguments: object) -> float:
    """Seconds of one command."""
    start = time.perf_counter()
    finish(bliss(*arguments))
    return time.perf_counter() - start


def vectors(folder: Path, kind: str) -> np.ndarray:
    """float [n, d], all that a folder of embeddings holds."""
    paths = (folder / f"{kind}_emb").glob("*.npy")
    in_order = sorted(paths, key=lambda path: int(path.stem.rsplit("_", 1)[1]))
    return np.concatenate([np.load(path) for path in in_order])


def ulps(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, in units of the last place of float16."""
    spacing = np.spacing(np.abs(other).astype(np.float16)).astype(np.float64)
    return float((np.abs(one.astype(np.float64) - other.astype(np.float64)) / spacing).max())


def same_files(one: Path, other: Path) -> bool:
    """Whether two indexes hold the same files, byte for byte, but for the log of timings."""
    both = [
        {str(path.relative_to(root)): path.read_bytes()
         for path in root.rglob("*") if path.is_file()}
        for root in (one, other)
    ]  # fmt: skip
    return both[0] == both[1]


def workers(process: psutil.Process, stage: str) -> list[psutil.Process]:
    """The processes that do one stage's work for a running command."""
    found = []
    for child in process.children(recursive=True):
        try:
            if f"({stage})" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def kill_workers(running: subprocess.Popen[bytes], stages: Sequence[str]) -> list[str]:
    """Kill one worker of each stage as soon as it is seen at work; the stages that lost one."""
    command, lost = psutil.Process(running.pid), []
    while len(lost) < len(stages) and running.poll() is None:
        for stage in stages:
            found = [] if stage in lost else workers(command, stage)
            if found and (stage != "_Encode" or found[0].cpu_times().user > LOADED_SECONDS):
                found[0].kill()
                lost.append(stage)
    return lost


def kill_command(running: subprocess.Popen[bytes], parts: int, output: Path) -> str:
    """Kill the command itself once it has stored some parts; "" where Ray's processes then end."""
    command = psutil.Process(running.pid)
    while running.poll() is None and len(list((output / "parts").glob("*.json"))) < parts:
        time.sleep(0.01)
    children = command.children(recursive=True)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    start = time.perf_counter()
    while left := sum(map(is_running, children)):
        if time.perf_counter() - start > END_SECONDS:
            return f"{left} of {len(children)} processes did not end in {END_SECONDS:g} s"
        time.sleep(0.5)
    return ""


def is_running(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has reaped has."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=1000)
    chosen = parser.parse_args()
    met = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BLISS_CACHE"] = str(folder / "cache")
        every = sorted(all_captions())
        texts = [f"{every[i % len(every)]} {i // len(every)}" for i in range(chosen.texts)]
        captions, images = folder / "captions.txt", folder / "images"
        captions.write_text("\n".join(texts), encoding="utf-8")
        make_collection(images, chosen.images, np.random.default_rng(0))
        build = ("index", "build", captions, "--model", "demo", "--part-rows", PART_ROWS, "-o")
        seconds = timed(*build, folder / "local")
        print(f"index of {chosen.texts} texts, one process: {seconds:.1f} s")
        seconds = timed(*build, folder / "ray", "--engine", "ray")
        print(f"index of {chosen.texts} texts, Ray, one encoder: {seconds:.1f} s")

        killed = bliss(*build, folder / "killed", "--engine", "ray")
        died = kill_workers(killed, STAGES[1:])
        finish(killed)
        print(f"the same, a worker killed of each of: {', '.join(died)}")

        stopped = bliss(*build, folder / "stopped", "--engine", "ray")
        ended = kill_command(stopped, chosen.texts // PART_ROWS // 3, folder / "stopped")
        kept = len(list((folder / "stopped" / "parts").glob("*.json")))
        finish(bliss(*build, folder / "stopped", "--engine", "ray"))
        print(f"the same, the command killed with {kept} parts stored and run again")
        met += [not ended, "_Encode" in died]
        print(
            f"=> Ray ends by itself when the command is killed: {told(not ended)} {ended}".rstrip()
        )
        for other in ("ray", "killed", "stopped"):
            same = same_files(folder / "local", folder / other)
            apart = ulps(vectors(folder / other, "text"), vectors(folder / "local", "text"))
            met += [same, apart <= 1]
            print(f"=> {other}: every file byte-identical: {told(same)}; {apart:.2g} ulp apart")

        audit = ("audit", images, "--index", folder / "local", "--report", "none", "-o")
        seconds = timed(*audit, folder / "here")
        print(f"audit of {chosen.images} images, every tenth broken, one process: {seconds:.1f} s")
        seconds = timed(*audit, folder / "there", "--engine", "ray")
        print(f"audit of {chosen.images} images, every tenth broken, Ray: {seconds:.1f} s")
        killed = bliss(*audit, folder / "lost", "--engine", "ray")
        died = kill_workers(killed, STAGES)
        finish(killed)
        print(f"the same, a worker killed of each of: {', '.join(died)}")
        met.append("_Encode" in died)
        for each in ("there", "lost"):
            here = vectors(folder / "here" / "images", "img")
            apart = ulps(vectors(folder / each / "images", "img"), here)
            failures = [(folder / f / "failures.csv").read_bytes() for f in (each, "here")]
            scores = [(folder / f / "scores.parquet").read_bytes() for f in (each, "here")]
            met += [apart <= 1, failures[0] == failures[1], scores[0] == scores[1]]
            print(
                f"=> {each}: image embeddings within 1 ulp of float16 ({apart:.2g}): "
                f"{told(apart <= 1)}; the same failures.csv: {told(failures[0] == failures[1])}; "
                f"the same scores.parquet: {told(scores[0] == scores[1])}"
            )
    return int(not all(met))


def told(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
