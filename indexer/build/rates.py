"""How fast each stage of a build is, and which one the others wait for.

`build.log.jsonl`: how long each stage of a building took, one JSON object a line.

Nothing else depends on it: it differs from run to run, and no checksum covers it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STAGES = ("reading", "tokenising", "encoding", "writing")
WAITS_FOR_NOTHING = 0.05
"""An encoder that waits for less than this share of its time is what limits the build."""


@dataclass
class Stage:
    """What one stage has done: items, and seconds in which it worked, summed over its workers."""

    items: int = 0
    seconds: float = 0.0
    workers: int = 1

    @property
    def rate(self) -> float | None:
        """Items a second with all its workers busy; None before the first."""
        return self.items / self.seconds * self.workers if self.seconds and self.items else None


@dataclass
class StageRates:
    """Filled in by the stages of a build, which may be in several threads."""

    stages: dict[str, Stage] = field(default_factory=lambda: {name: Stage() for name in STAGES})
    waited: float = 0.0
    """Seconds in which the encoder had nothing to encode."""
    notes: list[str] = field(default_factory=list)
    """What went otherwise than planned and did no harm."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, stage: str, items: int, seconds: float) -> None:
        """Count work that one worker of a stage has done."""
        with self.lock:
            self.stages[stage].items += items
            self.stages[stage].seconds += seconds

    @contextmanager
    def timing(self, stage: str, items: int) -> Iterator[None]:
        """Count what is done inside as `items` of a stage, unless it fails."""
        start = time.perf_counter()
        yield
        self.add(stage, items, time.perf_counter() - start)

    def note(self, line: str) -> None:
        """Keep a line for the report."""
        with self.lock:
            self.notes.append(line)

    def wait(self, seconds: float) -> None:
        """Count seconds of an idle encoder."""
        with self.lock:
            self.waited += seconds

    def set_workers(self, stage: str, workers: int) -> None:
        """How many workers a stage has; its rate is that of all of them."""
        with self.lock:
            self.stages[stage].workers = max(1, workers)

    def facts(self) -> dict[str, Any]:
        """All of it as JSON, for a log."""
        stages = {
            name: {
                "items": stage.items,
                "busy_seconds": round(stage.seconds, 3),
                "workers": stage.workers,
                "per_second": None if stage.rate is None else round(stage.rate, 1),
            }
            for name, stage in self.stages.items()
        }
        return {
            "stages": stages,
            "encoder_waited": round(self.waited, 3),
            "limit": self.limit(),
            "notes": list(self.notes),
        }

    def share_waited(self) -> float:
        """The share of its time in which the encoder had nothing to encode."""
        return self.waited / (self.waited + self.stages["encoding"].seconds or 1.0)

    def limit(self) -> str | None:
        """The stage that sets the pace; None where nothing was encoded."""
        rates = {name: stage.rate for name, stage in self.stages.items() if stage.rate is not None}
        if "encoding" not in rates:
            return None
        if self.share_waited() <= WAITS_FOR_NOTHING:
            return "encoding"
        return min(rates, key=rates.__getitem__)

    def report(self) -> list[str]:
        """One line with every rate and the limit, and one if the encoder had to wait."""
        rates = [
            f"{name} {_readable(stage.rate)}/s"
            + (f" ({stage.workers} processes)" if stage.workers > 1 else "")
            for name, stage in self.stages.items()
            if stage.rate is not None
        ]
        limit = self.limit()
        if limit is None:
            return list(self.notes)
        named = "the encoder" if limit == "encoding" else limit
        share = self.share_waited()
        return [
            f"{', '.join(rates)}: {named} limits",
            *([f"the encoder waited {share:.0%} of the time"] if share > WAITS_FOR_NOTHING else []),
            *self.notes,
        ]


def _readable(rate: float | None) -> str:
    """Three digits are what such a rate is good for."""
    assert rate is not None
    return f"{float(f'{rate:.3g}'):,.{0 if rate >= 100 else 1}f}"


LOG = "build.log.jsonl"


@contextmanager
def timed(folder: Path, stage: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Log how long a stage took once it ends well; facts can be added to what this yields.

    Where `rows` is among them, their rate is logged too.
    """
    start = time.perf_counter()
    yield facts
    seconds = time.perf_counter() - start
    if "rows" in facts:
        facts["rows_per_second"] = round(facts["rows"] / max(seconds, 1e-9), 1)
    log(folder, {"stage": stage, "seconds": round(seconds, 4), **facts})


def log(folder: Path, entry: dict[str, Any]) -> None:
    """Append one entry; a log that cannot be written is no reason to stop."""
    line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry})
    with suppress(OSError), open(folder / LOG, "a", encoding="utf-8") as file:
        file.write(line + "\n")
