"""`kill -9` at random moments while all real texts are indexed: byte-identical to one run.

Every text of BLISS_TEST_DATA/texts, each file through the reader of its format, goes into one index
with the demo model. It is built once without interruption. Then the same command is started,
killed and started again until it ends by itself: while the plan is made, then every few parts, at
a random moment or while a certain file is being written, and while the manifest is. All files but
the log of timings must have the same checksums, and the counts must be those of a plain loop over
all texts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blissaudit.artefacts import sha256_of
from blissaudit.corpora.captions import PAPER_PROMPT, CaptionRules, normalise_caption
from blissaudit.corpora.registry import TextSource, add_presets, open_corpus
from blissaudit.corpora.sources import CorpusOptions

SPECS = (
    "{}/flavors.txt",
    "{}/coco_captions_val2017.json",
    "flickr8k-captions",
    "wordnet-words",
    "{}/laion-words.txt",
    "{}/laion-bigrams.txt",
    "{}/neglabel-selected-10k.txt",
)
READ = 375_735
"""Texts there, synsets split into words."""
HERE = ".bliss-*.tmp"
"""The folder of a file that is being written."""
IN_PLAN = (
    f"plan/{HERE}/staged.parquet",
    f"plan/{HERE}/spill",
    f"plan/{HERE}/plan_*",
    f"plan/{HERE}/plan.json",
)
IN_PARTS = (
    None,
    f"text_emb/{HERE}/*.npy",
    None,
    f"captions/{HERE}/*.bin",
    None,
    f"metadata/{HERE}/*.parquet",
    f"parts/{HERE}/*.json",
)
AT_THE_END = f"{HERE}/manifest.json"
"""Files whose being written is the moment to kill; None: a random moment."""
APART, LAST = 6, 5
"""At most so many parts between two kills; with so few parts left, the manifest is waited for."""


def take(texts: Path, folder: Path, each: int) -> Path:
    """A folder with the first `each` records of every file; all of them with 0."""
    if not each:
        return texts
    for path in texts.iterdir():
        if path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:each]
            content = "\n".join(lines) + "\n"
            (folder / path.name).write_text(content, encoding="utf-8", errors="surrogateescape")
        elif path.suffix == ".json":
            annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"][:each]
            (folder / path.name).write_text(json.dumps({"annotations": annotations}))
    return folder


def start(specs: Sequence[str], output: Path, part_rows: int) -> subprocess.Popen[bytes]:
    """One `bliss index build`, in a process of its own."""
    command = ["index", "build", *specs, "--model", "demo", "-o", str(output)]
    command += ["--part-rows", str(part_rows), "--licence", "not stated"]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "blissaudit", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_work(process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait until a run holds its output folder: what comes before is importing."""
    lock = output / ".bliss.lock"
    while process.poll() is None:
        if lock.exists() and lock.read_text() == str(process.pid):
            return
        time.sleep(0.002)


@dataclass(frozen=True)
class Moment:
    """When to kill: so many parts are there, such a file is, and so many seconds have gone by."""

    parts: int
    pattern: str | None
    seconds: float


def next_moment(
    output: Path, stages: list[str], rng: np.random.Generator, in_plan: Sequence[str]
) -> Moment | None:
    """The next moment for a run that was killed in `stages` so far; None: let it end.

    `in_plan` are the files to wait for while the plan is made: few texts need not all of them.
    """
    record, pattern = output / "plan" / "plan.json", IN_PARTS[int(rng.integers(len(IN_PARTS)))]
    seconds = rng.uniform(0, 0.3) if pattern is None else 0.0
    if record.exists():
        done, whole = parts_of(output), len(json.loads(record.read_text())["parts"])
        if whole - done <= LAST:
            ended = any(stage == "at the end" for stage in stages)
            return None if ended else Moment(whole, AT_THE_END, 0.0)
        return Moment(done + int(rng.integers(APART)), pattern, seconds)
    if len(stages) < len(in_plan):
        return Moment(0, in_plan[len(stages)], 0.0)
    if len(stages) < len(in_plan) + 2:
        return Moment(0, None, rng.uniform(0, 0.5))
    return Moment(1 + int(rng.integers(APART)), pattern, seconds)


def parts_of(output: Path) -> int:
    """How many parts are there."""
    return len(list((output / "parts").glob("part_*.json")))


def kill(process: subprocess.Popen[bytes], output: Path, moment: Moment) -> bool:
    """Kill a run at a moment; whether it came before the run's own end."""
    while process.poll() is None:
        if parts_of(output) >= moment.parts and (
            moment.pattern is None or next(output.glob(moment.pattern), None) is not None
        ):
            time.sleep(moment.seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return process.returncode == -signal.SIGKILL
        time.sleep(0.0005)
    return False


def stage_of(output: Path) -> str:
    """How far a killed run had come."""
    if (output / "manifest.json").exists():
        return "after the manifest"
    if not (output / "plan" / "plan.json").exists():
        return "in the plan"
    parts = len(list((output / "parts").glob("part_*.json")))
    whole = len(json.loads((output / "plan" / "plan.json").read_text())["parts"])
    return "at the end" if parts == whole else "in the parts"


def checksums(output: Path) -> dict[str, str]:
    """SHA-256 of every file but the log, and every folder."""
    return {
        str(path.relative_to(output)): sha256_of(path) if path.is_file() else ""
        for path in sorted(output.rglob("*"))
    }


def counted(sources: Sequence[TextSource]) -> tuple[int, int]:
    """Texts read and distinct captions kept, by a plain loop over all of them in memory."""
    rules, seen, read = CaptionRules(), set(), 0
    for source in sources:
        for batch in source.batches(4096):
            read += len(batch.texts)
            seen.update(normalise_caption(text, rules) for text in batch.texts)
    return read, len({text for text in seen if 1 <= len(text) <= 2000})


def name_corpora(texts: Path, file: Path) -> None:
    """Names for the two files whose columns have to be chosen."""
    files = {"flickr8k-captions": "flickr8k.token.txt", "wordnet-words": "wordnet_words.txt"}
    presets = [
        {"name": name, "spec": str(texts / each), "licence": "not published", "column": "2"}
        for name, each in files.items()
    ]
    presets[1] |= {"split_cells": ",", "prompt": PAPER_PROMPT}
    file.write_text(json.dumps({"presets": presets}))
    add_presets(file)


def same_captions(texts: Path) -> bool:
    """Whether the dataset folder holds the captions of the token file, through its own reader."""
    rules = CaptionRules()
    found = [
        sorted(
            normalise_caption(text, rules)
            for batch in open_corpus(str(texts / spec), CorpusOptions(column)).batches(4096)
            for text in batch.texts
        )
        for spec, column in (("flickr8k-dataset", None), ("flickr8k.token.txt", "2"))
    ]
    return found[0] == found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=0, help="records of each file; 0: all")
    parser.add_argument("--part-rows", type=int, default=8192)
    parser.add_argument("--kills", type=int, default=24)
    chosen = parser.parse_args()
    data = Path(os.environ["BLISS_TEST_DATA"]) / "texts"
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BLISS_CACHE"] = str(folder / "cache")
        (folder / "texts").mkdir()
        texts = take(data, folder / "texts", chosen.each)
        os.environ["BLISS_CONFIG"] = str(folder / "settings")
        name_corpora(texts, folder / "presets.json")
        specs = [spec.format(texts) for spec in SPECS]
        process = start(specs, folder / "whole", chosen.part_rows)
        wait_for_work(process, folder / "whole")
        begun = time.monotonic()
        _, errors = process.communicate()
        working = time.monotonic() - begun
        if process.returncode:
            print(errors.decode(errors="replace"))
            return 1
        whole = checksums(folder / "whole")
        manifest = json.loads((folder / "whole" / "manifest.json").read_text())
        counts = manifest["counts"]
        print(
            f"{counts['read']:,} texts of {len(specs)} files, {counts['kept']:,} kept, "
            f"{len(manifest['parts'])} parts: {working:.1f} s without interruption"
        )
        for source in manifest["sources"]:
            there = ", ".join(
                f"{value:,} {key}" for key, value in source["counts"].items() if value
            )
            print(f"  {source['name']}: {there}")
        stages: list[str] = []
        runs, same, in_plan = 0, True, list(IN_PLAN)
        while len(stages) < chosen.kills:
            output, mine = folder / f"run-{runs}", list[str]()
            killed = True
            while killed:
                enough = len(stages) + len(mine) >= chosen.kills and "at the end" in stages + mine
                moment = None if enough else next_moment(output, mine, rng, in_plan)
                process = start(specs, output, chosen.part_rows)
                wait_for_work(process, output)
                killed = moment is not None and kill(process, output, moment)
                _, errors = process.communicate()
                if killed:
                    mine.append(stage_of(output))
                elif process.returncode or b"Traceback" in errors:
                    print(f"run {runs}: {errors.decode(errors='replace')[-500:]}")
                    return 1
                elif moment is not None and moment.pattern in in_plan:
                    in_plan.remove(moment.pattern)
            same = same and checksums(output) == whole
            stages += mine
            runs += 1
        where = ", ".join(f"{count} {stage}" for stage, count in sorted(Counter(stages).items()))
        print(f"killed {len(stages)} times in {runs} builds: {where}")
        read, distinct = counted([open_corpus(spec) for spec in specs])
        parts = re.findall(r"text_emb_\d+\.npy", " ".join(whole))
    summed = all(
        each["read"] == sum(value for key, value in each.items() if key != "read")
        for each in (counts, *(source["counts"] for source in manifest["sources"]))
    )
    exact = summed and (counts["read"], counts["kept"]) == (read, distinct)
    exact = exact and (chosen.each > 0 or read == READ) and len(parts) == len(manifest["parts"])
    print(f"a plain loop reads {read:,} texts, {distinct:,} of them distinct and not empty")
    for what, met in (
        (
            "all files byte-identical to the uninterrupted build's",
            same and len(stages) >= chosen.kills,
        ),
        ("read = dropped by reason + kept, and as the plain loop counts", exact),
        ("the dataset folder holds the token file's captions", same_captions(data)),
    ):
        print(f"=> {what}: {'met' if met else 'MISSED'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
